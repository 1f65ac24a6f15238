//! The variables that tell a peer its port and its certificates. `--peer` commands get them too.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// The port on 127.0.0.1.
pub const PORT: &str = "PORT";
/// PEM file with the certificate chain.
pub const CERTIFICATE: &str = "TLS_CERTIFICATE";
/// PEM file with the private key.
pub const PRIVATE_KEY: &str = "TLS_PRIVATE_KEY";
/// PEM file with the roots that the other side's certificate must chain to.
pub const ROOTS: &str = "ROOTS";
/// What is logged for each request: `none`, `text` or `json`.
pub const LOG: &str = "LOG";
/// The number of pings after which a client exits.
pub const COUNT: &str = "COUNT";

/// Returns the number in a variable.
///
/// # Errors
/// When it is not set or not a number.
pub fn number<N: std::str::FromStr>(name: &str) -> Result<N> {
    let text = env::var(name).context(name.to_owned())?;
    text.parse().ok().with_context(|| format!("{name}: `{text}` is not a number"))
}

/// Reads the certificate chain, the private key and the roots that the variables name.
///
/// # Errors
/// When a variable is not set, or its file cannot be used.
pub fn credentials()
-> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Arc<RootCertStore>)> {
    let file = |name: &str| env::var_os(name).map(PathBuf::from).context(name.to_owned());
    let key = file(PRIVATE_KEY)?;
    let key = PrivateKeyDer::from_pem_file(&key).with_context(|| key.display().to_string())?;
    let mut roots = RootCertStore::empty();
    for root in certificates(&file(ROOTS)?)? {
        roots.add(root)?;
    }
    Ok((certificates(&file(CERTIFICATE)?)?, key, Arc::new(roots)))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .with_context(|| file.display().to_string())
}

/// The cryptography of the peers in Rust: as the services', X25519MLKEM768 first.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
