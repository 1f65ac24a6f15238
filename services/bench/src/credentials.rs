//! Certificates for one server and its clients, in a directory that is removed with them.

use std::{
    io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use testkit::{Ca, CertDir, Issued, Leaf};

/// What a line changes; the default is the least of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// What the server logs for each request.
    pub logging: Logging,
    /// Roots in the trust bundles of both sides.
    pub roots: usize,
    /// Certificates in the chains of both sides, the root not counted.
    pub chain: usize,
    /// Clients that the server allows by name.
    pub allowed: usize,
    /// Connections that the server must be able to hold.
    pub connections: usize,
}

/// What a server logs for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logging {
    /// Nothing.
    None,
    /// One line of text.
    Text,
    /// One line of JSON.
    Json,
}

impl Setup {
    /// The least of everything.
    pub const MINIMAL: Self =
        Self { logging: Logging::None, roots: 1, chain: 1, allowed: 1, connections: 1 };
}

/// The SPIFFE ID of the clients.
pub const CLIENT_ID: &str = "spiffe://cluster.local/ns/bench/sa/pinger";

/// A directory with the certificates of a throw-away CA: `server` and `client`, each with
/// `tls.crt`, `tls.key` and `ca.crt`.
#[derive(Debug)]
pub struct Credentials {
    dir: TempDir,
    server: CertDir,
    issuer: Ca,
    /// The client's certificate chain and key.
    pub client: Issued,
    /// The roots that both sides trust, as PEM.
    pub roots: String,
}

impl Credentials {
    /// Issues the certificates for `setup` and writes them.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn create(setup: &Setup) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("ping-pong-bench-").tempdir()?;
        let root = Ca::new("bench root");
        let others = (1..setup.roots).map(|n| Ca::new(&format!("bench root {n}")).pem().to_owned());
        let roots = others.chain([root.pem().to_owned()]).collect();
        let issuer = (1..setup.chain)
            .fold(root, |above, n| above.intermediate(&format!("bench intermediate {n}")));
        let server = CertDir::create(dir.path().join("server"))?;
        let client = issuer.issue(&Leaf::pinger("bench").client_only());
        let credentials = Self { dir, server, issuer, client, roots };
        credentials.renew()?;
        let client = CertDir::create(credentials.dir.path().join("client"))?;
        client.replace(&credentials.with_roots(&credentials.client))?;
        Ok(credentials)
    }

    /// Replaces the server's certificate and key.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn renew(&self) -> io::Result<()> {
        let issued = self.issuer.issue(&Leaf::ponger("bench"));
        self.server.replace(&self.with_roots(&issued))
    }

    fn with_roots<'a>(&'a self, issued: &'a Issued) -> [(&'static str, &'a [u8]); 3] {
        let [certificate, key] = issued.files();
        [certificate, key, ("ca.crt", self.roots.as_bytes())]
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The paths of certificate, key and roots of `server` or `client`.
    pub fn files(&self, side: &str) -> [PathBuf; 3] {
        ["tls.crt", "tls.key", "ca.crt"].map(|name| self.dir().join(side).join(name))
    }
}

/// The names of the allowed clients, [`CLIENT_ID`] the last of them.
pub fn allowed_clients(count: usize) -> Vec<String> {
    let others = (1..count).map(|n| format!("spiffe://cluster.local/ns/bench/sa/client-{n}"));
    others.chain([CLIENT_ID.to_owned()]).collect()
}
