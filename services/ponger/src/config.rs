//! ponger's configuration.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use chassis::{
    config::{self, MinTlsVersion, HumanDuration},
    tls::{
        identity::{Identity, Sources, Trusted},
        cert::{LeafFiles, Purpose},
        peer_id::Name,
        server::Ask,
    },
    error::ConfigError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// ponger's configuration: the original's keys, and ours in their style.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Serve plain HTTP. Without it, ponger does not start without a certificate.
    pub insecure: bool,
    /// What is served.
    pub service: Service,
    /// How the identity on disk is followed.
    pub identity: config::Identity,
    /// The admin listener.
    pub metrics: config::Metrics,
    /// What is logged.
    pub log: config::Log,
}

/// What is served, and to whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Service {
    /// Address that is bound; `::` serves IPv6 and IPv4.
    pub host: IpAddr,
    /// Port of the service.
    pub port: u16,
    /// PEM file of the certificate: the leaf, then its intermediates.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file of the certificate's private key.
    pub tls_private_key: Option<PathBuf>,
    /// PEM file of the roots that vouch for clients. With it, clients must show a certificate.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show a certificate; without it `required` where `clientCa` is set, else `none`.
    pub client_auth: Option<ClientAuth>,
    /// Who is let in: SPIFFE IDs, or DNS names for certificates without a URI; without it, everyone `clientCa` vouches for. Read again with the identity.
    pub allowed_clients: Option<Vec<String>>,
    /// With `clientAuth: optional`, let in clients that show no certificate.
    pub allow_anonymous: bool,
    /// The oldest TLS version that is spoken.
    pub min_tls_version: MinTlsVersion,
    /// How long a handshake may take.
    pub handshake_timeout: HumanDuration,
    /// How long the head of a request may take.
    pub request_timeout: HumanDuration,
    /// How long a kept connection may be idle.
    pub idle_timeout: HumanDuration,
    /// How many connections may be open; those above are closed at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: u32,
    /// How long requests are still answered, with `Connection: close`, after a signal to stop.
    pub drain_delay: HumanDuration,
    /// How long requests in flight may take to end after that.
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
            allowed_clients: None,
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

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
#[expect(missing_docs, reason = "the names say it, and docs would become part of the schema")]
pub enum ClientAuth {
    Required,
    Optional,
    None,
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
            Identity::load(&self.sources()?, Purpose::Server)?;
        }
        Ok(())
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
                "both are required",
            )
            .hint("name the PEM files of the certificate and its key"));
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
        let ids = service.allowed_clients.as_ref();
        let allowed = ids.map(|ids| ids.iter().map(|id| allowed_id(id)).collect()).transpose()?;
        Ok(Policy::RequirePeer { allowed, allow_anonymous: service.allow_anonymous })
    }

    /// Whether clients are asked for a certificate.
    pub fn client_auth(&self) -> ClientAuth {
        self.service.client_auth.map_or_else(
            || {
                if self.service.client_ca.is_some() {
                    ClientAuth::Required
                } else {
                    ClientAuth::None
                }
            },
            Into::into,
        )
    }

    /// The same for a log.
    pub fn client_auth_label(&self) -> &'static str {
        match self.client_auth() {
            ClientAuth::Required => "required",
            ClientAuth::Optional => "optional",
            ClientAuth::None => "none",
        }
    }

    /// Refuses keys that exclude each other: one of them would silently have no effect, and the
    /// service would be more open than whoever wrote them thinks.
    fn agree(&self) -> Result<(), ConfigError> {
        self.metrics.check()?;
        self.identity.check()?;
        let service = &self.service;
        let has_tls = service.tls_certificate.is_some() || service.tls_private_key.is_some();
        let asks = self.ask() != Ask::No;
        let clash =
            |keys: &str, cause: &str, cure: &str| Err(ConfigError::new(keys, cause).hint(cure));
        if self.insecure {
            if has_tls
                || service.client_ca.is_some()
                || service.client_auth.is_some()
                || service.allowed_clients.is_some()
                || service.allow_anonymous
            {
                return clash(
                    "insecure",
                    "it asks for plain HTTP, and other keys ask for TLS",
                    "leave out the one or the others",
                );
            }
            return Ok(());
        }
        if !has_tls {
            return clash(
                "service.tlsCertificate and service.tlsPrivateKey",
                "without them there is no TLS, and ponger serves nothing else by itself",
                "name the PEM files of the certificate and its key, or write `insecure: true` to serve plain HTTP",
            );
        }
        if asks && service.client_ca.is_none() {
            return clash(
                "service.clientAuth",
                "clients are asked for a certificate, and no root vouches for any",
                "name the PEM file of the clients' roots with service.clientCa",
            );
        }
        if !asks && service.client_ca.is_some() {
            return clash(
                "service.clientCa",
                "it has no effect with service.clientAuth: none",
                "leave out the one or the other",
            );
        }
        if !asks && service.allowed_clients.is_some() {
            return clash(
                "service.allowedClients",
                "it has no effect as long as clients are not asked for a certificate",
                "name the PEM file of the clients' roots with service.clientCa",
            );
        }
        if service.allow_anonymous && self.ask() != Ask::Optional {
            return clash(
                "service.allowAnonymous",
                "it has no effect without service.clientAuth: optional",
                "leave out the one, or write the other",
            );
        }
        for (key, span) in [
            ("service.handshakeTimeout", service.handshake_timeout),
            ("service.requestTimeout", service.request_timeout),
            ("service.idleTimeout", service.idle_timeout),
        ] {
            if span.0.is_zero() {
                return clash(
                    key,
                    "it is zero, which would leave no time at all",
                    "give it some, such as `10s`",
                );
            }
        }
        self.sources().map(|_| ())
    }
}

fn allowed_name(name: &str) -> Result<Name, ConfigError> {
    name.parse().map_err(|error| {
        ConfigError::new(format!("service.allowedClients: `{name}`"), error)
            .hint("write it as the client's certificate has it, such as spiffe://cluster.local/ns/ping-pong/sa/pinger")
    })
}

#[cfg(test)]
mod tests;
