//! pinger's configuration.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use awc::http::{Uri, uri::Scheme};
use chassis::{
    config::{self, MinTlsVersion, HumanDuration},
    tls::{
        identity::{Identity, Sources, Trusted},
        cert::{LeafFiles, Purpose},
        peer_id::{Name, SpiffeId},
    },
    error::ConfigError,
};
use rustls::pki_types::ServerName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// pinger's configuration: the original's keys, and ours in their style.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Ping by plain HTTP. Without it, pinger takes only `https` URLs.
    pub insecure: bool,
    /// Who is pinged, and how each end proves who it is.
    pub ponger: Ponger,
    /// The longest pause before a ping; each pause is random, uniformly from zero to this.
    pub interval: HumanDuration,
    /// How long a ping may take in all.
    pub timeout: HumanDuration,
    /// How long the connection to one of ponger's addresses may take, before the next is tried.
    pub connect_timeout: HumanDuration,
    /// End after so many pings; 0 goes on for ever.
    pub count: u32,
    /// How long a ping in flight may take to end after a signal to stop.
    pub drain_timeout: HumanDuration,
    /// Proving that strangers are refused.
    pub refusal: Refusal,
    /// How the identity on disk is followed.
    pub identity: config::Identity,
    /// The admin listener.
    pub metrics: config::Metrics,
    /// What is logged.
    pub log: config::Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            insecure: false,
            ponger: Ponger::default(),
            interval: HumanDuration::seconds(1),
            timeout: HumanDuration::seconds(5),
            connect_timeout: HumanDuration::seconds(2),
            count: 0,
            drain_timeout: HumanDuration::seconds(10),
            refusal: Refusal::default(),
            identity: config::Identity::default(),
            metrics: config::Metrics::default(),
            log: config::Log::default(),
        }
    }
}

/// Who is pinged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ponger {
    /// Where ponger is, such as `https://ponger:8080`; `/ping` is added where it has no path.
    pub url: Option<String>,
    /// PEM file of the roots that vouch for ponger, and only they; without it, the system's.
    pub accept_cert: Option<PathBuf>,
    /// PEM file of pinger's certificate: the leaf, then its intermediates.
    pub client_certificate: Option<PathBuf>,
    /// PEM file of the certificate's private key.
    pub client_private_key: Option<PathBuf>,
    /// The SPIFFE ID that ponger must have, beside the URL's DNS name. Read again with the identity.
    pub server_id: Option<String>,
    /// The DNS name that ponger's certificate must be for, where that is not the URL's host, as through a port-forward.
    pub server_name: Option<String>,
    /// The oldest TLS version that is spoken.
    pub min_tls_version: MinTlsVersion,
    /// How long an idle connection is kept for the next ping; with zero, every ping goes the whole way.
    pub keep_alive: HumanDuration,
}

/// Knocking as a stranger, who must be refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Refusal {
    /// How often pinger knocks as a stranger: with no certificate, and with one of nobody's; zero is never.
    pub interval: HumanDuration,
    /// Not ready as long as a stranger was let in.
    pub not_ready: bool,
}

/// ponger's URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or address, without brackets.
    pub host: String,
    /// Port, the scheme's own if the URL has none.
    pub port: u16,
    /// What is asked for.
    pub path: String,
    /// The name that ponger's certificate must be for; `None` for plain HTTP.
    pub tls: Option<ServerName<'static>>,
}

impl Config {
    /// Reads `file` and the environment.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let config: Self = config::load(crate::NAME, file, std::env::vars_os())?;
        config.agree().map_err(|error| ConfigError::new(file.display(), error))?;
        Ok(config)
    }

    /// Reads and verifies the certificates and keys as well.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !self.insecure {
            Identity::load(&self.sources()?, Purpose::Client)?;
        }
        Ok(())
    }

    /// Where the identity lies, and who ponger must be.
    ///
    /// # Errors
    /// When one of certificate and key is missing, or ponger's ID is none.
    pub fn sources(&self) -> Result<Sources, ConfigError> {
        let ponger = &self.ponger;
        let leaf = match (ponger.client_certificate.clone(), ponger.client_private_key.clone()) {
            (Some(certificate), Some(key)) => Some(LeafFiles { certificate, key }),
            (None, None) => None,
            _ => {
                return Err(ConfigError::new(
                    "ponger.clientCertificate and ponger.clientPrivateKey",
                    "one is there and the other is missing",
                )
                .hint("name the PEM files of both, or of neither"));
            }
        };
        let id = ponger.server_id.as_ref().map(|id| {
            id.trim().parse::<SpiffeId>().map_err(|error| {
                ConfigError::new(format!("ponger.serverId: `{id}`"), error)
                    .hint("write it as ponger's certificate has it, such as spiffe://cluster.local/ns/ping-pong/sa/ponger")
            })
        });
        let allowed = id.transpose()?.map(|id| BTreeSet::from([Name::Spiffe(id)]));
        let roots = ponger.accept_cert.clone().map_or(Trusted::System, Trusted::File);
        Ok(Sources { leaf, roots, allowed })
    }

    /// ponger's URL, taken apart.
    ///
    /// # Errors
    /// When it is missing or no URL that pinger can use.
    pub fn target(&self) -> Result<Target, ConfigError> {
        let Some(text) = &self.ponger.url else {
            return Err(ConfigError::new("ponger.url", "it is missing")
                .hint("say where ponger is, such as `https://ponger:8080`"));
        };
        let bad = |cause: &str| {
            ConfigError::new("ponger.url", format!("`{text}` {cause}"))
                .hint("write it whole, such as `https://ponger:8080`")
        };
        let url: Uri =
            text.trim().parse().map_err(|error| bad(&format!("is not a URL ({error})")))?;
        let scheme = url.scheme().ok_or_else(|| bad("has no scheme"))?;
        let authority = url.authority().ok_or_else(|| bad("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("has a user in it, and pinger shows nothing but its certificate"));
        }
        if url.query().is_some() || text.contains('#') {
            return Err(bad("has a query or fragment in it"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(bad("has no host"));
        }
        let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let port = match authority.as_str().strip_prefix(authority.host()) {
            None | Some("") => default,
            Some(port) => port
                .strip_prefix(':')
                .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|port| port.parse().ok())
                .filter(|port| *port > 0)
                .ok_or_else(|| bad("has no port from 1 to 65535"))?,
        };
        let tls = if *scheme == Scheme::HTTPS {
            if self.insecure {
                return Err(ConfigError::new(
                    "insecure",
                    "it asks for plain HTTP, and ponger.url for TLS",
                )
                .hint("leave out `insecure`, or write an `http` URL"));
            }
            Some(match &self.ponger.server_name {
                Some(name) => ServerName::try_from(name.clone()).map_err(|_| {
                    ConfigError::new("ponger.serverName", format!("`{name}` is no DNS name"))
                        .hint("write a name that stands in ponger's certificate, such as `ponger`")
                })?,
                None => ServerName::try_from(host.clone())
                    .map_err(|_| bad("has a host that no certificate can be for"))?,
            })
        } else if *scheme == Scheme::HTTP {
            if !self.insecure {
                return Err(ConfigError::new(
                    "ponger.url",
                    format!("`{text}` is plain HTTP, and pinger does not fall back to it"),
                )
                .hint("write an `https` URL, or `insecure: true` beside it"));
            }
            None
        } else {
            return Err(bad("has another scheme than `https`"));
        };
        let path = match url.path() {
            "" | "/" => "/ping".to_owned(),
            path => path.to_owned(),
        };
        Ok(Target { host, port, path, tls })
    }

    fn agree(&self) -> Result<(), ConfigError> {
        self.metrics.check()?;
        self.identity.check()?;
        self.target()?;
        let ponger = &self.ponger;
        let has_tls = ponger.accept_cert.is_some()
            || ponger.client_certificate.is_some()
            || ponger.client_private_key.is_some()
            || ponger.server_id.is_some()
            || ponger.server_name.is_some()
            || !self.refusal.interval.0.is_zero();
        if self.insecure && has_tls {
            return Err(ConfigError::new(
                "insecure",
                "it asks for plain HTTP, and other keys ask for TLS",
            )
            .hint("leave out the one or the others"));
        }
        for (key, span) in [("timeout", self.timeout), ("connectTimeout", self.connect_timeout)] {
            if span.0.is_zero() {
                return Err(ConfigError::new(key, "it is zero, which would leave no time at all")
                    .hint("give it some, such as `5s`"));
            }
        }
        if self.refusal.not_ready && self.refusal.interval.0.is_zero() {
            return Err(ConfigError::new(
                "refusal.notReady",
                "it has no effect without refusal.interval",
            )
            .hint("say how often pinger shall knock as a stranger, such as `30s`"));
        }
        self.sources().map(|_| ())
    }
}

#[cfg(test)]
mod tests;
