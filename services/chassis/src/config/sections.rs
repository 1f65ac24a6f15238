//! The sections that both services have.

use std::net::{IpAddr, Ipv4Addr};

use rustls::SupportedProtocolVersion;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::duration::HumanDuration;
use crate::{
    error::ConfigError,
    tls::{clock::Clock, reload::ReloadSettings},
};

/// The admin listener: metrics and probes, over plain HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, expecting = "keys below it")]
pub struct Metrics {
    /// IP address the admin listener binds; `::` accepts IPv6 and IPv4.
    pub host: IpAddr,
    /// Port of the admin listener, which serves metrics, `/livez` and `/readyz` over plain HTTP.
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
    /// Checks that the path of the metrics can be requested, and is not that of a probe.
    ///
    /// # Errors
    /// When it is not such a path.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let endpoint = &self.endpoint;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
        let cause = if !endpoint.starts_with('/') {
            "does not start with `/`"
        } else if matches!(endpoint.as_str(), "/livez" | "/readyz") {
            "is the path of a probe"
        } else if !endpoint.bytes().all(fits) {
            "has characters other than letters, digits, `/`, `-`, `_` and `.`"
        } else {
            return Ok(());
        };
        Err(ConfigError::new("metrics.endpoint", format!("`{endpoint}` {cause}"))
            .hint("use a path such as `/metrics`"))
    }
}

/// How certificate, key and trust bundle are reloaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, expecting = "keys below it")]
pub struct Identity {
    /// How often the files of certificate, key and trust bundle are checked for changes.
    pub poll_interval: HumanDuration,
    /// How long before a certificate expires a warning is logged. Default: a third of its lifetime, at most 30 days.
    pub expiry_warning: Option<HumanDuration>,
}

impl Identity {
    /// How `service` reloads its identity, by the time of `clock`.
    pub fn reload_settings(&self, service: &'static str, clock: &Clock) -> ReloadSettings {
        ReloadSettings {
            service,
            poll_interval: self.poll_interval.0,
            expiry_warning: self.expiry_warning.map(|warning| warning.0),
            clock: clock.clone(),
        }
    }

    /// Checks that there is a pause between two checks of the files.
    ///
    /// # Errors
    /// When there is none.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.poll_interval.0.is_zero() {
            return Err(ConfigError::new("identity.pollInterval", "it is zero")
                .hint("use a duration such as `1s`"));
        }
        Ok(())
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self { poll_interval: HumanDuration::seconds(1), expiry_warning: None }
    }
}

/// What is logged, and in which format.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, expecting = "keys below it")]
pub struct Log {
    /// Format of log lines.
    pub format: LogFormat,
    /// Least severe level that is logged.
    pub level: LogLevel,
    /// Which pings are logged: `all`, or those that `failed`, and by pinger a summary a minute.
    pub pings: LogPings,
    /// Levels of single modules, such as `pinger::record=debug` or `hyper=trace`.
    pub modules: Vec<ModuleLevel>,
}

/// The level of a module and of those below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModuleLevel {
    /// The path of the module.
    pub module: String,
    /// Least severe level that it logs.
    pub level: LogLevel,
}

impl TryFrom<String> for ModuleLevel {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let parse = |text: &str| {
            let (module, level) = text.trim().split_once('=')?;
            let level = LogLevel::deserialize(Json::from(level)).ok()?;
            let module = module.to_owned();
            (!module.is_empty() && module.chars().all(is_path)).then_some(Self { module, level })
        };
        let expected = "expected a module and its level, such as `pinger::record=debug`";
        parse(&text).ok_or_else(|| format!("unknown value `{text}`, {expected}"))
    }
}

impl From<ModuleLevel> for String {
    fn from(ModuleLevel { module, level }: ModuleLevel) -> Self {
        format!(
            "{module}={}",
            serde_json::to_value(level).unwrap_or_default().as_str().unwrap_or_default()
        )
    }
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Which pings are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogPings {
    #[default]
    All,
    Failed,
}

/// Severity of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Oldest TLS version that is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Json")]
#[expect(missing_docs, reason = "the names say it")]
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

impl TryFrom<Json> for MinTlsVersion {
    type Error = String;

    // `1.3` without quotes is a number to YAML.
    fn try_from(value: Json) -> Result<Self, String> {
        match value.to_string().trim_matches('"') {
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            _ => Err(format!("unknown value {value}, expected `1.2` or `1.3`")),
        }
    }
}
