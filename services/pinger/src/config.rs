//! pinger's configuration.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use awc::http::{Uri, uri::Scheme};
use chassis::{
    config::{self, HumanDuration, MinTlsVersion},
    error::ConfigError,
    tls::{
        cert::CertKeyPaths,
        client::{ClientTls, ExpectedServer},
        clock::Clock,
        identity::{Build, Identity, IdentitySources},
        peer_id::SpiffeId,
        trust::TrustSource,
        x509::Role,
    },
    traces::Traces,
};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::expect::{Expect, REJECTIONS};

/// pinger's configuration: the original project's keys, and further ones in the same style.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, expecting = "keys below it")]
pub struct Config {
    /// Ping over plain HTTP, without TLS. Otherwise pinger requires an `https` URL.
    pub insecure: bool,
    /// The server, and how both ends authenticate.
    pub ponger: Ponger,
    /// The response that counts as a pong.
    pub expect: Expect,
    /// Longest pause before a ping; each pause is random, from zero to this.
    pub interval: HumanDuration,
    /// Maximum duration of a ping, from name resolution to the end of the response.
    pub timeout: HumanDuration,
    /// Maximum time to connect to one of ponger's addresses before the next one is tried.
    pub connect_timeout: HumanDuration,
    /// Time after which a pong is slow: logged as a warning with its slowest phase, and counted; `0s` disables this.
    pub slow_after: HumanDuration,
    /// Number of pings, of all endpoints together, after which pinger exits; 0 is unlimited.
    pub count: u32,
    /// After a signal to stop, how long a ping in flight may take to finish.
    pub drain_timeout: HumanDuration,
    /// The probe that verifies that ponger rejects untrusted clients.
    pub rejection_probe: RejectionProbe,
    /// Name of the node that pinger runs on, for its log and its page.
    pub node: Option<String>,
    /// How certificate, key and trust bundle are reloaded.
    pub identity: config::Identity,
    /// The admin listener.
    pub metrics: config::Metrics,
    /// What is logged, and in which format.
    pub log: config::Log,
    /// Where traces are exported to.
    pub otel: config::Otel,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            insecure: false,
            ponger: Ponger::default(),
            expect: Expect::default(),
            interval: HumanDuration::seconds(1),
            timeout: HumanDuration::seconds(5),
            connect_timeout: HumanDuration::seconds(2),
            // A lost SYN is sent again after a second.
            slow_after: HumanDuration::seconds(1),
            count: 0,
            drain_timeout: HumanDuration::seconds(10),
            rejection_probe: RejectionProbe::default(),
            node: None,
            identity: config::Identity::default(),
            metrics: config::Metrics::default(),
            log: config::Log::default(),
            otel: config::Otel::default(),
        }
    }
}

/// The server, and how both ends authenticate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, expecting = "keys below it")]
pub struct Ponger {
    /// URL of ponger, such as `https://ponger:8080`, with any path and query; without a path, `/ping` is requested.
    pub url: Option<String>,
    /// PEM file with the CA certificates that ponger's certificate must chain to. Default: those of the system.
    pub accept_cert: Option<PathBuf>,
    /// PEM file with pinger's certificate chain: the leaf first, then its intermediates.
    pub client_certificate: Option<PathBuf>,
    /// PEM file with the private key of the certificate.
    pub client_private_key: Option<PathBuf>,
    /// SPIFFE ID that ponger's certificate must have, in addition to the DNS name.
    pub server_id: Option<String>,
    /// DNS name that ponger's certificate must have. Default: the host of the URL.
    pub server_name: Option<String>,
    /// Which addresses behind the host are pinged: whichever accepts a connection first (`one`), or each by itself (`all`).
    pub endpoints: EndpointSelection,
    /// With `endpoints: all`, how often the host is resolved again, at most once a second.
    pub resolve_interval: HumanDuration,
    /// Oldest TLS version that is accepted.
    pub min_tls_version: MinTlsVersion,
    /// How long an idle connection is kept for the next ping; with `0s`, each ping opens a new one.
    pub keep_alive: HumanDuration,
}

impl Default for Ponger {
    fn default() -> Self {
        Self {
            url: None,
            accept_cert: None,
            client_certificate: None,
            client_private_key: None,
            server_id: None,
            server_name: None,
            endpoints: EndpointSelection::One,
            // As long as Kubernetes' DNS lets others cache its answers.
            resolve_interval: HumanDuration::seconds(5),
            min_tls_version: MinTlsVersion::default(),
            keep_alive: HumanDuration::default(),
        }
    }
}

/// Which addresses behind ponger's host are pinged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointSelection {
    /// The first that accepts a connection.
    One,
    /// Each.
    All,
}

/// The probe that verifies that ponger rejects untrusted clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, expecting = "keys below it")]
pub struct RejectionProbe {
    /// How often pinger verifies that ponger rejects untrusted clients, at most once a second; `0s` disables it.
    pub interval: HumanDuration,
    /// Credentials that ponger must reject: `no_certificate`, and `invalid_signature` if pinger has a certificate.
    pub credentials: Vec<ProbeCredential>,
    /// Report pinger as not ready while ponger accepts untrusted clients.
    pub not_ready: bool,
}

/// A credential that ponger must reject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeCredential {
    /// No certificate.
    NoCertificate,
    /// pinger's own certificate with an invalid signature.
    InvalidSignature,
}

impl ProbeCredential {
    /// Every credential.
    pub const ALL: [Self; 2] = [Self::NoCertificate, Self::InvalidSignature];

    /// The name in configurations, logs and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::InvalidSignature => "invalid_signature",
        }
    }
}

impl Default for RejectionProbe {
    fn default() -> Self {
        Self {
            interval: HumanDuration::default(),
            credentials: ProbeCredential::ALL.to_vec(),
            not_ready: false,
        }
    }
}

/// The parts of ponger's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or address, without brackets.
    pub host: String,
    /// Port; that of the scheme if the URL has none.
    pub port: u16,
    /// Path and query of the request.
    pub path: String,
    /// The address to connect to; `None` for whichever of the host accepts a connection.
    pub endpoint: Option<SocketAddr>,
    /// The name that ponger's certificate must have; `None` for plain HTTP.
    pub server_name: Option<ServerName<'static>>,
}

impl Target {
    /// Host and port as in a URL, where an IPv6 address has brackets.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The URL that is requested.
    pub fn url(&self) -> String {
        let scheme = if self.server_name.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Config {
    /// Reads and validates `file` and the environment.
    ///
    /// # Errors
    /// The first fault that is found.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        config::load(crate::NAME, file, std::env::vars_os(), Self::validate)
    }

    /// As [`Config::load`], with what `change` changes in it before it is validated. With `is_complete`,
    /// there need be neither file nor environment, and a file is only read if it is named.
    ///
    /// # Errors
    /// The first fault that is found.
    pub fn load_changed(
        file: Option<&Path>,
        is_complete: bool,
        change: impl FnOnce(&mut Self),
    ) -> Result<Self, ConfigError> {
        let (name, environment) = (crate::NAME, std::env::vars_os());
        let mut config: Self = if is_complete {
            config::load_named(name, file, environment)?
        } else {
            config::load(name, file, environment, |_| Ok(()))?
        };
        change(&mut config);
        config.validate()?;
        Ok(config)
    }

    /// Reads and verifies the certificates and keys as well.
    ///
    /// # Errors
    /// The first fault that is found.
    pub fn preflight(&self) -> Result<(), ConfigError> {
        if !self.insecure {
            let clock = Clock::system();
            Identity::load(&self.sources()?, Role::Client, &clock, &*self.tls_builder(&clock)?)
                .map_err(|error| error.name_key(&self.files()))?;
        }
        Traces::preflight(&self.otel, &Clock::system())
    }

    /// The keys that name files of the identity, and those files.
    pub fn files(&self) -> [(&'static str, Option<&Path>); 3] {
        let ponger = &self.ponger;
        [
            ("ponger.clientCertificate", ponger.client_certificate.as_deref()),
            ("ponger.clientPrivateKey", ponger.client_private_key.as_deref()),
            ("ponger.acceptCert", ponger.accept_cert.as_deref()),
        ]
    }

    /// Where the certificates are.
    ///
    /// # Errors
    /// When one of certificate and key is not set.
    pub fn sources(&self) -> Result<IdentitySources, ConfigError> {
        let ponger = &self.ponger;
        let own = CertKeyPaths::from_config(
            ponger.client_certificate.as_deref(),
            ponger.client_private_key.as_deref(),
            "ponger.clientCertificate and ponger.clientPrivateKey",
        )?;
        let trust = ponger.accept_cert.clone().map_or(TrustSource::Native, TrustSource::Bundle);
        Ok(IdentitySources { own, trust })
    }

    /// Builds the TLS side from the certificates, by the time of `clock`.
    ///
    /// # Errors
    /// When the URL is plain HTTP, or ponger's ID is not a SPIFFE ID.
    pub fn tls_builder(&self, clock: &Clock) -> Result<Box<Build<ClientTls>>, ConfigError> {
        let name = self
            .target()?
            .server_name
            .ok_or_else(|| ConfigError::new("ponger.url", "an `http` URL needs no certificates"))?;
        let (server, clock) = (ExpectedServer { name, id: self.server_id()? }, clock.clone());
        let versions = self.ponger.min_tls_version.protocol_versions();
        Ok(Box::new(move |own, trust, now| {
            ClientTls::build(own, trust, &server, versions, &clock, now)
        }))
    }

    fn server_id(&self) -> Result<Option<SpiffeId>, ConfigError> {
        let Some(id) = &self.ponger.server_id else { return Ok(None) };
        id.trim().parse().map(Some).map_err(|error| {
            ConfigError::new(format!("ponger.serverId: `{id}`"), error)
                .hint("use the SPIFFE ID in ponger's certificate, such as spiffe://cluster.local/ns/ping-pong/sa/ponger")
        })
    }

    /// Parses ponger's URL.
    ///
    /// # Errors
    /// When it is not set, or not a URL that pinger can use.
    pub fn target(&self) -> Result<Target, ConfigError> {
        let Some(text) = &self.ponger.url else {
            return Err(ConfigError::new("ponger.url", "required")
                .hint("set it to a URL such as `https://ponger:8080`"));
        };
        // Without a user and password.
        let shown = text.rsplit_once('@').map_or(text.clone(), |(_, host)| format!("***@{host}"));
        let bad = |cause: &str| {
            ConfigError::new("ponger.url", format!("`{shown}` {cause}"))
                .hint("use a URL such as `https://ponger:8080`")
        };
        let url: Uri =
            text.trim().parse().map_err(|error| bad(&format!("is not a URL ({error})")))?;
        let scheme = url.scheme().ok_or_else(|| bad("has no scheme"))?;
        let authority = url.authority().ok_or_else(|| bad("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("contains a user, and pinger authenticates by its certificate"));
        }
        if text.contains('#') {
            return Err(bad("contains a fragment, which no server is sent"));
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
        let server_name = if *scheme == Scheme::HTTPS {
            if self.insecure {
                return Err(ConfigError::new(
                    "insecure",
                    "`insecure: true` conflicts with the `https` URL in ponger.url",
                )
                .hint("remove it, or use an `http` URL"));
            }
            Some(match &self.ponger.server_name {
                Some(name) => ServerName::try_from(name.clone()).map_err(|_| {
                    ConfigError::new("ponger.serverName", format!("`{name}` is not a DNS name"))
                        .hint("use a DNS name in ponger's certificate, such as `ponger`")
                })?,
                None => ServerName::try_from(host.clone())
                    .map_err(|_| bad("has a host that is neither a DNS name nor an IP address"))?,
            })
        } else if *scheme == Scheme::HTTP {
            if !self.insecure {
                return Err(ConfigError::new(
                    "ponger.url",
                    format!("`{shown}` is plain HTTP, which requires insecure: true"),
                )
                .hint("use an `https` URL, or set `insecure: true`"));
            }
            None
        } else {
            return Err(bad("has a scheme other than `https`"));
        };
        // A URL without a path has the path `/` to its parser.
        let path = match url.path_and_query() {
            Some(path) if text.trim().ends_with(path.as_str()) => path.to_string(),
            _ => "/ping".to_owned(),
        };
        Ok(Target { host, port, path, endpoint: None, server_name })
    }

    /// Rejects values and combinations of keys that cannot be meant.
    fn validate(&self) -> Result<(), ConfigError> {
        self.metrics.validate()?;
        self.identity.validate()?;
        self.expect.validate()?;
        self.otel.validate()?;
        self.target()?;
        let error =
            |keys: &str, reason: &str, hint: &str| Err(ConfigError::new(keys, reason).hint(hint));
        let (ponger, probe) = (&self.ponger, &self.rejection_probe);
        let has_tls = ponger.accept_cert.is_some()
            || ponger.client_certificate.is_some()
            || ponger.client_private_key.is_some()
            || ponger.server_id.is_some()
            || ponger.server_name.is_some()
            || !probe.interval.0.is_zero();
        if self.insecure && has_tls {
            let reason = "`insecure: true` conflicts with the TLS settings";
            return error("insecure", reason, "remove one of them");
        }
        if self.connect_timeout.0.is_zero() {
            return error("connectTimeout", "it is zero", "use a duration such as `2s`");
        }
        if self.timeout < self.connect_timeout {
            let reason = format!("it is shorter than connectTimeout, {}", self.connect_timeout);
            return error("timeout", &reason, "increase it, or decrease connectTimeout");
        }
        if ponger.resolve_interval < HumanDuration::seconds(1) {
            let reason = "it is shorter than 1s, and each resolution costs DNS a query";
            return error("ponger.resolveInterval", reason, "use a duration such as `5s`");
        }
        if !probe.interval.0.is_zero() && probe.interval < HumanDuration::seconds(1) {
            let reason = "it is shorter than 1s, and each probe costs ponger a TLS handshake";
            return error("rejectionProbe.interval", reason, "use a duration such as `30s`");
        }
        let credentials = &probe.credentials;
        if credentials.iter().enumerate().any(|(at, one)| credentials[..at].contains(one)) {
            let reason = "it names a credential twice";
            return error("rejectionProbe.credentials", reason, "remove one of them");
        }
        // By default, what can be presented is.
        if *credentials == [ProbeCredential::InvalidSignature]
            && ponger.client_certificate.is_none()
        {
            let reason = "`invalid_signature` is pinger's own certificate, and it has none";
            let hint = "set ponger.clientCertificate, or use `no_certificate`";
            return error("rejectionProbe.credentials", reason, hint);
        }
        if !probe.interval.0.is_zero() && REJECTIONS.contains(&self.expect.status) {
            let reason = "the rejection probe takes this status for a rejection";
            let hint = "expect another one, or remove rejectionProbe.interval";
            return error("expect.status", reason, hint);
        }
        if probe.not_ready && probe.interval.0.is_zero() {
            let reason = "has no effect without rejectionProbe.interval";
            return error("rejectionProbe.notReady", reason, "set the interval, such as `30s`");
        }
        self.server_id()?;
        self.sources().map(|_| ())
    }
}

#[cfg(test)]
mod tests;
