//! ponger as a process that hundreds of clients connect to.

use std::{fs, net::SocketAddr, process::Command};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use testkit::{Ca, Leaf, client::TlsClient, process::Service, wait_until};

/// Raises the limit of descriptors of this process as far as it may be, and returns it.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Nothing is lost where it cannot be raised.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

pub(crate) struct PongerProcess {
    _dir: tempfile::TempDir,
    ca: Ca,
    pinger: TlsClient,
    pub(crate) service: Service,
    pub(crate) address: SocketAddr,
}

impl PongerProcess {
    /// Starts it with a limit of connections, and with `timeout` for all that a client may take.
    pub(crate) fn start(max_connections: u32, timeout: &str) -> Self {
        raise_descriptor_limit();
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::new("test");
        ca.issue(&Leaf::ponger("test")).write(dir.path()).unwrap();
        fs::write(dir.path().join("ca.crt"), ca.pem()).unwrap();
        let config = dir.path().join("config.yaml");
        let text = format!(
            "service:\n  host: 127.0.0.1\n  port: 0\n  tlsCertificate: tls.crt\n  \
             tlsPrivateKey: tls.key\n  clientCa: ca.crt\n  \
             allowedClients: [spiffe://cluster.local/ns/test/sa/pinger]\n  \
             maxConnections: {max_connections}\n  handshakeTimeout: {timeout}\n  \
             requestTimeout: {timeout}\n  idleTimeout: {timeout}\n  drainDelay: 0s\n\
             metrics: {{host: 127.0.0.1, port: 0}}\n"
        );
        fs::write(config, text).unwrap();
        let service =
            Service::spawn(Command::new(env!("CARGO_BIN_EXE_ponger")).current_dir(dir.path()));
        let address = service.address();
        let pinger = TlsClient::new(ca.pem(), Some(&ca.issue(&Leaf::pinger("test"))));
        Self { _dir: dir, ca, pinger, service, address }
    }

    /// A client with a certificate for `leaf`.
    pub(crate) fn client_with_leaf(&self, leaf: &Leaf) -> TlsClient {
        TlsClient::new(self.ca.pem(), Some(&self.ca.issue(leaf)))
    }

    /// Pings, again if the machine was too slow for a short timeout.
    pub(crate) fn ping(&self) {
        let response = wait_until("a response", || self.pinger.get(self.address, "/ping").ok());
        assert_eq!(response.status, 200);
    }

    pub(crate) fn wait_for_metric(&self, metric: &str, accept: impl Fn(f64) -> bool) {
        wait_until(metric, || self.service.metric(metric).filter(|value| accept(*value)));
    }
}
