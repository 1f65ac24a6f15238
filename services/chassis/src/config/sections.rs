//! The sections that both services have.

use std::net::{IpAddr, Ipv4Addr};

use rustls::SupportedProtocolVersion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::HumanDuration;
use crate::error::ConfigError;

/// The plain-HTTP admin listener: metrics and probes, and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Metrics {
    /// Address that the admin listener binds; `::` serves IPv6 and IPv4.
    pub host: IpAddr,
    /// Port of the admin listener: metrics, `/livez` and `/readyz`, by plain HTTP.
    pub port: u16,
    /// Path of the Prometheus metrics.
    pub endpoint: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { host: Ipv4Addr::UNSPECIFIED.into(), port: 2112, endpoint: "/metrics".into() }
    }
}

impl Metrics {
    /// Refuses a path that no request could have, or that a probe has.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), ConfigError> {
        let endpoint = &self.endpoint;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
        let cause = if !endpoint.starts_with('/') {
            "does not start with `/`"
        } else if matches!(endpoint.as_str(), "/livez" | "/readyz") {
            "is the path of a probe"
        } else if !endpoint.bytes().all(fits) {
            "has characters that a path here may not have"
        } else {
            return Ok(());
        };
        Err(ConfigError::new("metrics.endpoint", format!("`{endpoint}` {cause}"))
            .hint("use a path such as `/metrics`"))
    }
}

/// How the identity on disk is followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Identity {
    /// How often the identity's files are read again, should the file system not tell of a change.
    pub poll_interval: HumanDuration,
    /// How long before its end a certificate is warned about; without it, a third of its lifetime.
    pub expiry_warning: Option<HumanDuration>,
}

impl Identity {
    /// Refuses to look at the files without a pause.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.poll_interval.0.is_zero() {
            return Err(ConfigError::new("identity.pollInterval", "it is zero")
                .hint("give it some time, such as `10s`"));
        }
        Ok(())
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self { poll_interval: HumanDuration::seconds(10), expiry_warning: None }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// `text` for people, `json` for machines.
    pub format: LogFormat,
    /// The least severe level that is logged.
    pub level: LogLevel,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
#[expect(missing_docs, reason = "the names say it, and docs would become part of the schema")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// How severe a log line must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
#[expect(missing_docs, reason = "the names say it, and docs would become part of the schema")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// The oldest TLS version that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[expect(missing_docs, reason = "the names say it, and docs would become part of the schema")]
pub enum MinTlsVersion {
    #[serde(rename = "1.2")]
    V1_2,
    #[default]
    #[serde(rename = "1.3")]
    V1_3,
}

impl MinTlsVersion {
    /// The versions to offer and accept.
    pub fn protocol_versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static TLS13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
        match self {
            Self::V1_2 => rustls::ALL_VERSIONS,
            Self::V1_3 => &TLS13,
        }
    }
}
