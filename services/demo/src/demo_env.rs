//! A private directory with certificates of two throw-away CAs, and both configurations.
//!
//! `ca.crt`, `ponger`, `pinger` and `user` are in use. `first` has the same, `second` those of another
//! root, and `both.crt` both roots: to break, repair and rotate the certificates while the services run.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use testkit::{Ca, Leaf};
use time::Duration as Validity;

/// The ID of the person at the terminal, who may ping too.
const USER_ID: &str = "spiffe://cluster.local/ns/demo/sa/user";

/// The directory (mode 0700), which is removed with this value unless it is kept.
#[derive(Debug)]
pub(crate) struct DemoEnv {
    dir: TempDir,
    keep: bool,
}

impl DemoEnv {
    /// Creates the directory, at `path` or where temporary files are, and the certificates in it. The
    /// CAs' keys are never written.
    pub(crate) fn create(path: Option<&Path>, keep: bool) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.permissions(fs::Permissions::from_mode(0o700)).disable_cleanup(keep);
        let dir = match path {
            None => builder.prefix("ping-pong-").tempdir()?,
            Some(path) => {
                let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let parent = parent.unwrap_or(Path::new("."));
                fs::create_dir_all(parent)?;
                builder.prefix(name).rand_bytes(0).tempdir_in(parent)?
            }
        };
        let roots =
            ["first", "second"].map(|name| Ca::new(&format!("ping-pong demo, {name} root")));
        let both: String = roots.iter().map(Ca::pem).collect();
        fs::write(dir.path().join("both.crt"), both)?;
        for (name, root) in ["first", "second"].iter().zip(&roots) {
            write_certificates(root, &dir.path().join(name))?;
        }
        copy(&dir.path().join("first"), dir.path())?;
        Ok(Self { dir, keep })
    }

    /// Writes ponger's configuration.
    pub(crate) fn ponger_config(&self, port: u16) -> io::Result<PathBuf> {
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
    - spiffe://cluster.local/ns/demo/sa/pinger
    - {USER_ID}
  drainDelay: 0s

metrics:
  host: 127.0.0.1
  port: 0
"
            ),
        )
    }

    /// Writes pinger's configuration, for a ponger on `port`.
    pub(crate) fn pinger_config(
        &self,
        port: u16,
        interval: Duration,
        count: u32,
    ) -> io::Result<PathBuf> {
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
  serverId: spiffe://cluster.local/ns/demo/sa/ponger

interval: {interval}
count: {count}

rejectionProbe:
  interval: 10s

metrics:
  host: 127.0.0.1
  port: 0
"
            ),
        )
    }

    /// What runs where, and how to try it; first, where pinger's page is.
    pub(crate) fn introduction(&self, page: &str, port: u16) -> String {
        let dir = self.dir.path().display();
        let [certificate, key, roots] =
            ["user/tls.crt", "user/tls.key", "ca.crt"].map(|name| self.shell(name));
        let fate = if self.keep { "kept" } else { "removed at the end" };
        format!(
            "Live page: {page}
ponger serves https://localhost:{port}/ping, and pinger pings it: TLS 1.3, both with certificates.
Certificates and configurations: {dir} ({fate}).
Try it from a second terminal, with a certificate of your own:

  curl --cacert {roots} --cert {certificate} --key {key} https://localhost:{port}/ping

Leave out --cert and --key to be rejected. Ctrl-C stops both.
"
        )
    }

    /// Removes the directory, unless it is to be kept; then returns its path.
    pub(crate) fn cleanup(self) -> io::Result<Option<PathBuf>> {
        if self.keep {
            return Ok(Some(self.dir.path().to_owned()));
        }
        self.dir.close().map(|()| None)
    }

    /// The path of a file in the directory, quoted for YAML.
    fn yaml(&self, name: &str) -> String {
        format!("'{}'", self.dir.path().join(name).display().to_string().replace('\'', "''"))
    }

    /// The path of a file in the directory, quoted for a shell.
    fn shell(&self, name: &str) -> String {
        let path = self.dir.path().join(name).display().to_string();
        if path.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-".contains(letter)) {
            return path;
        }
        format!("'{}'", path.replace('\'', "'\\''"))
    }

    fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = Path::join(self.dir.path(), name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

/// Creates `dir` with a root, and with what it issues to each.
fn write_certificates(root: &Ca, dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    fs::write(dir.join("ca.crt"), root.pem())?;
    for (name, leaf) in [
        ("ponger", Leaf::ponger("demo").ip([127, 0, 0, 1].into())),
        ("pinger", Leaf::pinger("demo").client_only()),
        ("user", Leaf::new().uri(USER_ID).client_only()),
    ] {
        let dir = dir.join(name);
        fs::create_dir(&dir)?;
        root.issue(&leaf.valid(-Validity::MINUTE, Validity::hours(23))).write(&dir)?;
    }
    Ok(())
}

/// Copies the files of `from` and its directories into `to`, with their modes.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let (from, to) = (entry?.path(), to);
        let to = to.join(from.file_name().unwrap_or_default());
        if from.is_dir() {
            fs::create_dir(&to)?;
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}
