//! A private folder with certificates of a throw-away authority, and both configurations.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use devpki::{Ca, Leaf};
use tempfile::TempDir;
use time::Duration as Validity;

/// Who may ping, beside pinger: the person at the terminal.
const YOU: &str = "spiffe://cluster.local/ns/local/sa/you";

/// The folder (mode 0700), which goes with this value unless it is kept.
#[derive(Debug)]
pub(crate) struct Stage {
    folder: TempDir,
    keep: bool,
}

impl Stage {
    /// Makes the folder and the certificates in it. The authority's key is never written.
    pub(crate) fn set(keep: bool) -> io::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("ping-pong-")
            .permissions(fs::Permissions::from_mode(0o700))
            .disable_cleanup(keep)
            .tempdir()?;
        let ca = Ca::new("ping-pong local, throw-away");
        fs::write(folder.path().join("ca.crt"), ca.pem())?;
        let a_day = |leaf: Leaf| leaf.valid(-Validity::MINUTE, Validity::hours(23));
        for (name, leaf) in [
            ("ponger", Leaf::ponger("local").ip([127, 0, 0, 1].into())),
            ("pinger", Leaf::pinger("local").client_only()),
            ("you", Leaf::new().uri(YOU).client_only()),
        ] {
            let folder = folder.path().join(name);
            fs::create_dir(&folder)?;
            ca.issue(&a_day(leaf)).write(&folder)?;
        }
        Ok(Self { folder, keep })
    }

    /// Writes ponger's configuration.
    pub(crate) fn ponger(&self, port: u16) -> io::Result<PathBuf> {
        let folder = self.folder.path().display();
        self.write(
            "ponger.yaml",
            &format!(
                "service:
  host: 127.0.0.1
  port: {port}
  tlsCertificate: {folder}/ponger/tls.crt
  tlsPrivateKey: {folder}/ponger/tls.key
  clientCa: {folder}/ca.crt
  allowedClients:
    - spiffe://cluster.local/ns/local/sa/pinger
    - {YOU}
  drainDelay: 0s

metrics:
  host: 127.0.0.1
  port: 0
"
            ),
        )
    }

    /// Writes pinger's configuration, for a ponger on `port`.
    pub(crate) fn pinger(&self, port: u16, interval: Duration, count: u32) -> io::Result<PathBuf> {
        let folder = self.folder.path().display();
        let interval = humantime::format_duration(interval);
        self.write(
            "pinger.yaml",
            &format!(
                "ponger:
  url: https://localhost:{port}
  acceptCert: {folder}/ca.crt
  clientCertificate: {folder}/pinger/tls.crt
  clientPrivateKey: {folder}/pinger/tls.key
  serverId: spiffe://cluster.local/ns/local/sa/ponger

interval: {interval}
count: {count}

metrics:
  host: 127.0.0.1
  port: 0
"
            ),
        )
    }

    /// What runs where, and how to take part.
    pub(crate) fn introduction(&self, port: u16) -> String {
        let folder = self.folder.path().display();
        let fate = if self.keep { "stays" } else { "goes when this ends" };
        format!(
            "ponger answers at https://localhost:{port}/ping, pinger asks: TLS 1.3, both show certificates.
Certificates and configurations: {folder} ({fate}).
Ask from a second terminal, with a certificate of your own:

  curl --cacert {folder}/ca.crt --cert {folder}/you/tls.crt --key {folder}/you/tls.key https://localhost:{port}/ping

Ctrl-C ends it.
"
        )
    }

    /// Removes the folder, unless it is to be kept.
    pub(crate) fn clear(self) {
        if self.keep {
            println!("Certificates and configurations stay in {}", self.folder.path().display());
        } else if let Err(error) = self.folder.close() {
            eprintln!("local: the folder with the certificates could not be removed: {error}");
        }
    }

    fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = Path::join(self.folder.path(), name);
        fs::write(&path, text)?;
        Ok(path)
    }
}
