//! The roots of the operating system, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use super::{pem, root::Root};
use crate::{error::ConfigError, files::FileContents};

/// What errors call them together.
pub(super) const SUBJECT: &str = "the system's trust roots";

const FILE: &str = "SSL_CERT_FILE";
const DIR: &str = "SSL_CERT_DIR";

/// Where distributions keep the system's roots in one file.
const SYSTEM_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The files that the roots are in now.
pub(super) fn files() -> Vec<PathBuf> {
    let (file, dirs) = (env::var_os(FILE), env::var_os(DIR));
    if file.is_none() && dirs.is_none() {
        let file = SYSTEM_FILES.iter().map(PathBuf::from).find(|file| file.exists());
        return file.into_iter().collect();
    }
    let dirs = dirs.iter().flat_map(env::split_paths).flat_map(|dir| files_in(&dir));
    file.map(PathBuf::from).into_iter().chain(dirs).collect()
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let is_file = |path: &PathBuf| match fs::metadata(path) {
        Ok(metadata) => !metadata.is_dir(),
        // A link to nothing; other errors are those of reading it.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    let entries = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect();
    let entries: io::Result<Vec<_>> = entries();
    let Ok(mut files) = entries else {
        // Reading it fails for the same reason: a path that ends in a slash is that of a directory.
        return vec![dir.join("")];
    };
    files.retain(is_file);
    files.sort();
    files
}

/// Parses the roots in the `contents` of [`files`].
///
/// A fault in what a variable names is an error. Those of the operating system are as they are: a
/// certificate among them that cannot be a root is ignored.
pub(super) fn parse(contents: &[FileContents]) -> Result<Vec<Root>, ConfigError> {
    let named_file = env::var_os(FILE).map(PathBuf::from);
    let is_named = named_file.is_some() || env::var_os(DIR).is_some();
    let mut roots = Vec::new();
    for file in contents {
        let path = file.path.as_path();
        let variable = if named_file.as_deref() == Some(path) { FILE } else { DIR };
        let name_variable = |error: ConfigError| {
            let key = format!("environment variable {variable}");
            if is_named { error.name_key(&[(&key, Some(path))]) } else { error }
        };
        if path.as_os_str().is_empty() {
            let subject = format!("environment variable {variable}");
            return Err(ConfigError::new(subject, "it is empty").hint("correct it, or unset it"));
        }
        let bytes = file.bytes().map_err(name_variable)?;
        // Such directories also hold revocation lists and notes.
        if is_named && variable == DIR && !pem::has_certificate(bytes) {
            continue;
        }
        for der in pem::certificates(path, bytes).map_err(name_variable)? {
            match Root::from_der(path, der) {
                Ok(root) if roots.contains(&root) => {}
                Ok(root) => roots.push(root),
                Err(error) if is_named => return Err(name_variable(error)),
                Err(_) => {}
            }
        }
    }
    match (roots.is_empty(), is_named) {
        (false, _) => Ok(roots),
        (true, true) => Err(ConfigError::new(
            format!("environment variable {DIR}"),
            "no file in the directories that it names holds a certificate",
        )
        .hint("correct it, or unset it")),
        (true, false) => Err(ConfigError::new(SUBJECT, "there are none").hint(
            "name a trust bundle with ponger.acceptCert or otel.trustBundle, or install the package ca-certificates",
        )),
    }
}
