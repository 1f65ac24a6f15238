//! ponger's configuration.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use chassis::{
    config::{self, HumanDuration, MinTlsVersion},
    error::ConfigError,
    tls::{
        cert::CertKeyPaths,
        clock::Clock,
        identity::{Build, Identity, IdentitySources},
        peer_id::PeerId,
        server::{ClientAuth, ServerTls},
        trust::TrustSource,
        x509::Role,
    },
    traces::Traces,
};
use serde::{Deserialize, Serialize};

use crate::{faults, policy::Policy};

/// ponger's configuration: the original project's keys, and further ones in the same style.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, expecting = "keys below it")]
pub struct Config {
    /// Serve plain HTTP, without TLS. Otherwise ponger requires a certificate.
    pub insecure: bool,
    /// Serve `/faults` on the admin listener, by which pings can be made to fail for a limited time.
    pub faults: bool,
    /// The TLS listener and its clients.
    pub service: Service,
    /// How certificate, key and trust bundle are reloaded.
    pub identity: config::Identity,
    /// The admin listener.
    pub metrics: config::Metrics,
    /// What is logged, and in which format.
    pub log: config::Log,
    /// Where traces are exported to.
    pub otel: config::Otel,
}

/// The TLS listener and its clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, expecting = "keys below it")]
pub struct Service {
    /// IP address ponger binds; `::` accepts IPv6 and IPv4.
    pub host: IpAddr,
    /// Port ponger listens on.
    pub port: u16,
    /// PEM file with the certificate chain: the leaf first, then its intermediates.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with the private key of the certificate.
    pub tls_private_key: Option<PathBuf>,
    /// PEM file with the CA certificates that client certificates must chain to.
    pub client_ca: Option<PathBuf>,
    /// Whether clients are asked for a certificate. Default: `required` if `clientCa` is set, otherwise `none`.
    pub client_auth: Option<ClientAuth>,
    /// Allowed clients: SPIFFE IDs, or DNS names for certificates without a URI SAN. Default: any client trusted by `clientCa`.
    pub allowed_clients: Vec<String>,
    /// With `clientAuth: optional`, allow clients without a certificate.
    pub allow_anonymous: bool,
    /// Oldest TLS version that is accepted.
    pub min_tls_version: MinTlsVersion,
    /// Maximum duration of a TLS handshake.
    pub handshake_timeout: HumanDuration,
    /// Maximum time to receive the head of a request.
    pub request_timeout: HumanDuration,
    /// How long a keep-alive connection may be idle.
    pub idle_timeout: HumanDuration,
    /// Maximum number of open connections; further ones are closed at once.
    pub max_connections: u32,
    /// After a signal to stop, how long requests are still answered, with `Connection: close`.
    pub drain_delay: HumanDuration,
    /// How long requests in flight may take to finish after that.
    pub drain_timeout: HumanDuration,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::UNSPECIFIED.into(),
            port: 8443,
            tls_certificate: None,
            tls_private_key: None,
            client_ca: None,
            client_auth: None,
            allowed_clients: Vec::new(),
            allow_anonymous: false,
            min_tls_version: MinTlsVersion::default(),
            handshake_timeout: HumanDuration::seconds(10),
            request_timeout: HumanDuration::seconds(10),
            idle_timeout: HumanDuration::seconds(60),
            max_connections: 10_000,
            drain_delay: HumanDuration::seconds(1),
            drain_timeout: HumanDuration::seconds(10),
        }
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

    /// Reads and verifies the certificates and keys as well.
    ///
    /// # Errors
    /// The first fault that is found.
    pub fn preflight(&self) -> Result<(), ConfigError> {
        if !self.insecure {
            let clock = Clock::system();
            Identity::load(&self.sources()?, Role::Server, &clock, &*self.tls_builder(&clock))
                .map_err(|error| error.name_key(&self.files()))?;
        }
        Traces::preflight(&self.otel, &Clock::system())
    }

    /// The keys that name files of the identity, and those files.
    pub fn files(&self) -> [(&'static str, Option<&Path>); 3] {
        let service = &self.service;
        [
            ("service.tlsCertificate", service.tls_certificate.as_deref()),
            ("service.tlsPrivateKey", service.tls_private_key.as_deref()),
            ("service.clientCa", service.client_ca.as_deref()),
        ]
    }

    /// Where the certificates are.
    ///
    /// # Errors
    /// When the certificate or its key is not configured.
    pub fn sources(&self) -> Result<IdentitySources, ConfigError> {
        let service = &self.service;
        let (Some(certificate), Some(key)) =
            (service.tls_certificate.clone(), service.tls_private_key.clone())
        else {
            return Err(ConfigError::new(
                "service.tlsCertificate and service.tlsPrivateKey",
                "one is set without the other",
            )
            .hint("set both to PEM files"));
        };
        Ok(IdentitySources {
            own: Some(CertKeyPaths { certificate, key }),
            trust: service.client_ca.clone().map_or(TrustSource::Disabled, TrustSource::Bundle),
        })
    }

    /// Builds the TLS side from the certificates, by the time of `clock`.
    pub fn tls_builder(&self, clock: &Clock) -> Box<Build<ServerTls>> {
        let (client_auth, clock) = (self.client_auth(), clock.clone());
        let versions = self.service.min_tls_version.protocol_versions();
        Box::new(move |own, trust, now| {
            ServerTls::build(own, trust, client_auth, versions, &clock, now)
        })
    }

    /// Which clients are authorized.
    ///
    /// # Errors
    /// When an allowed ID is not valid.
    pub fn policy(&self) -> Result<Policy, ConfigError> {
        let service = &self.service;
        if self.insecure || service.client_ca.is_none() {
            return Ok(Policy::AllowAll);
        }
        let ids = service.allowed_clients.iter().map(|id| allowed_id(id));
        let allowed = (!service.allowed_clients.is_empty()).then(|| ids.collect()).transpose()?;
        Ok(Policy::RequirePeer { allowed, allow_anonymous: service.allow_anonymous })
    }

    /// Whether clients are asked for a certificate.
    pub fn client_auth(&self) -> ClientAuth {
        let has_ca = self.service.client_ca.is_some();
        let default = if has_ca { ClientAuth::Required } else { ClientAuth::None };
        self.service.client_auth.unwrap_or(default)
    }

    /// Rejects values and combinations of keys that cannot be meant: a key without effect could leave
    /// the service more open than its configuration reads.
    fn validate(&self) -> Result<(), ConfigError> {
        self.metrics.validate()?;
        self.identity.validate()?;
        self.otel.validate()?;
        let service = &self.service;
        let error =
            |keys: &str, reason: &str, hint: &str| Err(ConfigError::new(keys, reason).hint(hint));
        let (host, admin) = (service.host, self.metrics.host);
        let same_host = host == admin || host.is_unspecified() || admin.is_unspecified();
        if same_host && service.port == self.metrics.port && service.port != 0 {
            return error(
                "service.port",
                "it equals metrics.port",
                "choose another port for one of them",
            );
        }
        if self.faults && self.metrics.endpoint == faults::api::PATH {
            let reason = "`faults: true` serves something else at that path";
            return error("metrics.endpoint", reason, "use a path such as `/metrics`");
        }
        if !(1..=1_000_000).contains(&service.max_connections) {
            return error(
                "service.maxConnections",
                "it is out of range",
                "expected a number from 1 to 1000000",
            );
        }
        for (key, duration) in [
            ("service.handshakeTimeout", service.handshake_timeout),
            ("service.requestTimeout", service.request_timeout),
            ("service.idleTimeout", service.idle_timeout),
        ] {
            if duration.0.is_zero() {
                return error(key, "it is zero", "use a duration such as `10s`");
            }
        }
        let has_tls = service.tls_certificate.is_some() || service.tls_private_key.is_some();
        let has_allowed = !service.allowed_clients.is_empty();
        if self.insecure {
            let has_client_auth = service.client_ca.is_some() || service.client_auth.is_some();
            if has_tls || has_client_auth || has_allowed || service.allow_anonymous {
                let reason = "`insecure: true` conflicts with the TLS settings";
                return error("insecure", reason, "remove one of them");
            }
            return Ok(());
        }
        if !has_tls {
            return error(
                "service.tlsCertificate and service.tlsPrivateKey",
                "required unless insecure is true",
                "set them to PEM files, or set `insecure: true` to serve plain HTTP",
            );
        }
        let asks = self.client_auth() != ClientAuth::None;
        let set_ca = "set service.clientCa to a PEM file with the clients' CA certificates";
        if asks && service.client_ca.is_none() {
            return error("service.clientAuth", "requires service.clientCa", set_ca);
        }
        if !asks && service.client_ca.is_some() {
            let reason = "has no effect with service.clientAuth: none";
            return error("service.clientCa", reason, "remove one of them");
        }
        if !asks && has_allowed {
            return error(
                "service.allowedClients",
                "has no effect without service.clientCa",
                set_ca,
            );
        }
        if service.allow_anonymous && self.client_auth() != ClientAuth::Optional {
            let reason = "has no effect without service.clientAuth: optional";
            return error("service.allowAnonymous", reason, "remove it, or set the other");
        }
        self.policy()?;
        self.sources().map(|_| ())
    }
}

fn allowed_id(id: &str) -> Result<PeerId, ConfigError> {
    id.trim().parse().map_err(|error| {
        ConfigError::new(format!("service.allowedClients: `{id}`"), error)
            .hint("use the SPIFFE ID or DNS name in the client's certificate, such as spiffe://cluster.local/ns/ping-pong/sa/pinger")
    })
}

#[cfg(test)]
mod tests;
