//! What the tests share.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use chassis::{
    error::ConfigError,
    tls::cert::{Leaf, LeafFiles, Purpose},
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tempfile::TempDir;
use testkit::Issued;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, x509::X509Version};

/// A temporary folder.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).expect("a file");
        path
    }

    pub(crate) fn leaf_files(&self) -> LeafFiles {
        LeafFiles { certificate: self.path("tls.crt"), key: self.path("tls.key") }
    }

    /// A refusal, without the path of this folder.
    pub(crate) fn message(&self, error: &ConfigError) -> String {
        error.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

/// Loads a leaf from the texts of its two files.
pub(crate) fn load(chain: &str, key: &str, purpose: Purpose) -> Result<Leaf, String> {
    let folder = Folder::new();
    folder.write("tls.crt", chain);
    folder.write("tls.key", key);
    Leaf::load(&folder.leaf_files(), purpose).map_err(|error| folder.message(&error))
}

pub(crate) fn load_issued(issued: &Issued, purpose: Purpose) -> Result<Leaf, String> {
    load(&issued.chain, &issued.key, purpose)
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain waited for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says on the terminal that a test is skipped; what it prints would be swallowed.
pub(crate) fn skip(test: &str, why: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {why}");
}

/// Runs `openssl` in `folder`; `false`, visibly, where it is not installed or cannot do that.
pub(crate) fn openssl(test: &str, folder: &Folder, arguments: &[&str]) -> bool {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(folder.path(""))
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            skip(test, &format!("openssl: {}", String::from_utf8_lossy(&output.stderr)));
            false
        }
        Err(error) => {
            skip(test, &format!("openssl: {error}"));
            false
        }
    }
}

/// Makes a self-signed certificate of X.509 version 1, `NAME.crt` and `NAME.key`; `false`, visibly,
/// where `openssl` cannot.
pub(crate) fn version_1(test: &str, folder: &Folder, name: &str) -> bool {
    let [key, request, certificate] =
        ["key", "csr", "crt"].map(|extension| format!("{name}.{extension}"));
    let new = ["req", "-new", "-newkey", "ed25519", "-nodes", "-subj", "/CN=old"];
    let sign = ["x509", "-req", "-days", "1", "-in", &request, "-signkey", &key];
    let made = openssl(test, folder, &[&new[..], &["-keyout", &key, "-out", &request]].concat())
        && openssl(test, folder, &[&sign[..], &["-out", &certificate]].concat());
    if !made {
        return false;
    }
    let der = CertificateDer::from_pem_file(folder.path(&certificate)).expect("PEM");
    let (_, certificate) = X509Certificate::from_der(&der).expect("a certificate");
    let is_old = certificate.version() == X509Version::V1;
    if !is_old {
        skip(test, "openssl makes no certificates of version 1");
    }
    is_old
}

/// Runs `body` as a user whom permissions bind. For root, that is a child process, which runs the
/// same `test` again.
pub(crate) fn without_root(test: &str, body: impl FnOnce()) {
    if !rustix::process::geteuid().is_root() {
        return body();
    }
    let nobody = 65534;
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .current_dir("/")
        .uid(nobody)
        .gid(nobody)
        .output();
    match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && said.contains("1 passed"),
                "as nobody: {said}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Err(error) => skip(test, &format!("root cannot become nobody: {error}")),
    }
}

/// The path that stands for no file in messages.
pub(crate) fn nowhere() -> &'static Path {
    Path::new("file.pem")
}

/// So many cases of a property, and no file of those that failed.
pub(crate) fn bounded(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config { cases, failure_persistence: None, ..Default::default() }
}

/// The certificates of a PEM text.
pub(crate) fn chain(text: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().expect("PEM")
}
