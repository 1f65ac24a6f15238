//! What both environments share: the services, and the extra ones that a scenario starts beside them.

use std::fmt;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::{Issued, Leaf};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::ping_log::PingLog;

/// A bidirectional connection of any kind.
pub type Stream = Box<dyn ReadWrite>;

/// What can be read from and written to.
pub trait ReadWrite: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> ReadWrite for T {}

/// One of the two services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The server.
    Ponger,
    /// The client.
    Pinger,
}

impl Service {
    /// Both services, the server first.
    pub const BOTH: [Self; 2] = [Self::Ponger, Self::Pinger];

    /// Returns the name of its program, image, Deployment and Service.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ponger => "ponger",
            Self::Pinger => "pinger",
        }
    }

    /// Returns the contents of its certificate in `namespace`.
    pub fn leaf(self, namespace: &str) -> Leaf {
        match self {
            Self::Ponger => Leaf::ponger(namespace),
            Self::Pinger => Leaf::pinger(namespace),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the SPIFFE ID of a service account.
pub fn spiffe_id(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

/// An extra pinger that sends a few pings and exits.
#[derive(Clone, Debug, Default)]
pub struct OneShotPinger {
    /// A unique name.
    pub name: String,
    /// Its namespace in a cluster, if not that of the services.
    pub namespace: Option<String>,
    /// Its label `app.kubernetes.io/name` in a cluster.
    pub app: Option<&'static str>,
    /// The URL to ping.
    pub url: String,
    /// The client certificate.
    pub leaf: Option<Issued>,
    /// The trust bundle; without one, the URL is plain HTTP.
    pub roots: Option<String>,
    /// The expected ID of the server.
    pub server_id: Option<String>,
    /// How many pings are sent.
    pub count: u32,
}

impl OneShotPinger {
    /// Returns its configuration, with the certificate files in `dir`.
    pub fn config(&self, dir: &str) -> Value {
        let mut ponger = json!({ "url": self.url });
        if self.leaf.is_some() {
            ponger["clientCertificate"] = format!("{dir}/tls.crt").into();
            ponger["clientPrivateKey"] = format!("{dir}/tls.key").into();
        }
        if self.roots.is_some() {
            ponger["acceptCert"] = format!("{dir}/ca.crt").into();
        }
        if let Some(id) = &self.server_id {
            ponger["serverId"] = id.as_str().into();
        }
        json!({
            "insecure": self.roots.is_none(),
            "ponger": ponger,
            "count": self.count,
            "interval": "500ms",
        })
    }

    /// Returns the outcome of each ping in order, from its whole log.
    ///
    /// # Errors
    /// When pings are missing in the log.
    pub fn outcomes(&self, log: &[String]) -> Result<Vec<String>> {
        let outcomes = PingLog::parse(log).outcomes();
        ensure!(
            outcomes.len() == self.count as usize,
            "{} has logged {} of {} pings: {}",
            self.name,
            outcomes.len(),
            self.count,
            log.join("\n")
        );
        Ok(outcomes)
    }
}

/// An extra ponger beside the real one, to be rejected by pinger or to accept any client.
#[derive(Clone, Debug)]
pub struct RoguePonger {
    /// A unique name; in a cluster also that of its Service.
    pub name: &'static str,
    /// Its namespace in a cluster, if not that of the services.
    pub namespace: Option<String>,
    /// The server certificate.
    pub leaf: Issued,
    /// The roots that client certificates are verified with; without, none are requested.
    pub client_roots: Option<String>,
}

impl RoguePonger {
    /// Returns its configuration, with the certificate files in `dir`.
    pub fn config(&self, dir: &str) -> Value {
        let mut service = json!({
            "tlsCertificate": format!("{dir}/tls.crt"),
            "tlsPrivateKey": format!("{dir}/tls.key"),
        });
        if self.client_roots.is_some() {
            service["clientCa"] = format!("{dir}/ca.crt").into();
        }
        json!({ "service": service })
    }
}
