//! A private folder with certificates of a throw-away authority, and both configurations.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use testkit::{Ca, Leaf};
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
        let [certificate, key, roots] =
            ["ponger/tls.crt", "ponger/tls.key", "ca.crt"].map(|name| self.yaml(name));
        self.write(
            "ponger.yaml",
            &format!(
                "service:
  host: 127.0.0.1
  port: {port}
  tlsCertificate: {certificate}
  tlsPrivateKey: {key}
  clientCa: {roots}
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
        let [certificate, key, roots] =
            ["pinger/tls.crt", "pinger/tls.key", "ca.crt"].map(|name| self.yaml(name));
        let interval = humantime::format_duration(interval);
        self.write(
            "pinger.yaml",
            &format!(
                "ponger:
  url: https://localhost:{port}
  acceptCert: {roots}
  clientCertificate: {certificate}
  clientPrivateKey: {key}
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
        let [certificate, key, roots] =
            ["you/tls.crt", "you/tls.key", "ca.crt"].map(|name| self.shell(name));
        let fate = if self.keep { "stays" } else { "goes when this ends" };
        format!(
            "ponger answers at https://localhost:{port}/ping, pinger asks: TLS 1.3, both show certificates.
Certificates and configurations: {folder} ({fate}).
Ask from a second terminal, with a certificate of your own:

  curl --cacert {roots} --cert {certificate} --key {key} https://localhost:{port}/ping

Ctrl-C ends it.
"
        )
    }

    /// Removes the folder, unless it is to be kept; then it says where it is.
    pub(crate) fn clear(self) -> io::Result<Option<PathBuf>> {
        if self.keep {
            return Ok(Some(self.folder.path().to_owned()));
        }
        self.folder.close().map(|()| None)
    }

    /// The path of a file in the folder, in single quotes as YAML has them.
    fn yaml(&self, name: &str) -> String {
        format!("'{}'", self.folder.path().join(name).display().to_string().replace('\'', "''"))
    }

    /// The path of a file in the folder, as a shell takes it.
    fn shell(&self, name: &str) -> String {
        let path = self.folder.path().join(name).display().to_string();
        if path.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-".contains(letter)) {
            return path;
        }
        format!("'{}'", path.replace('\'', "'\\''"))
    }

    fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = Path::join(self.folder.path(), name);
        fs::write(&path, text)?;
        Ok(path)
    }
}
