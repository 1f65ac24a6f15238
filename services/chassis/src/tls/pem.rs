//! PEM files, and what is wrong with them.
//!
//! The only module that uses rustls-pemfile, which is archived (RUSTSEC-2025-0134) and a thin layer
//! over rustls-pki-types.

use std::path::Path;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_pemfile::Item;

use crate::error::ConfigError;

/// The largest PEM file that is read, in bytes. A bundle of all public CAs has about 250 KiB.
pub const MAX_BYTES: u64 = 1 << 20;

/// Sections in which some tools keep certificates, and which the parser ignores.
const UNSUPPORTED: [&str; 3] = ["TRUSTED CERTIFICATE", "X509 CERTIFICATE", "PKCS7"];

/// The certificates in the PEM file `path`, in its order, each once; at least one.
///
/// # Errors
/// When the file is cut short, holds no certificate, or holds a private key.
pub fn certificates(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let (certificates, has_key) = read_certificates(path, bytes)?;
    if has_key {
        return Err(ConfigError::new(
            path.display(),
            "it holds a private key, where only certificates belong",
        )
        .hint("keep the key in a file of its own"));
    }
    Ok(certificates)
}

/// Whether `bytes` hold the beginning of a certificate's section.
pub(super) fn has_certificate(bytes: &[u8]) -> bool {
    let begin = b"-----BEGIN CERTIFICATE";
    bytes.windows(begin.len()).any(|window| window == begin)
}

/// As [`certificates`], from a file that holds the private key as well.
///
/// # Errors
/// As there.
pub fn certificates_beside_key(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    Ok(read_certificates(path, bytes)?.0)
}

/// The one private key in the PEM file `path`: PKCS#8, PKCS#1 or SEC1, not encrypted.
///
/// # Errors
/// When the file is cut short, or does not hold exactly one private key.
pub fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let mut keys = items(path, bytes)?.into_iter().filter_map(|item| match item {
        Item::Pkcs1Key(key) => Some(PrivateKeyDer::Pkcs1(key)),
        Item::Pkcs8Key(key) => Some(PrivateKeyDer::Pkcs8(key)),
        Item::Sec1Key(key) => Some(PrivateKeyDer::Sec1(key)),
        _ => None,
    });
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key),
        (Some(_), Some(_)) => {
            Err(ConfigError::new(path.display(), "it holds more than one private key")
                .hint("leave only the one that belongs to the certificate"))
        }
        (None, _) => Err(describe_missing(path, bytes, "private key")),
    }
}

/// The certificates, and whether a private key is beside them.
fn read_certificates(
    path: &Path,
    bytes: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, bool), ConfigError> {
    let items = items(path, bytes)?;
    if let Some(label) = labels(bytes).find(|label| UNSUPPORTED.contains(label)) {
        return Err(ConfigError::new(
            path.display(),
            format!("it holds a section `{label}`, which is not supported"),
        )
        .hint("convert it to CERTIFICATE (`openssl x509`, or `openssl pkcs7 -print_certs`)"));
    }
    let (mut certificates, mut has_key) = (Vec::new(), false);
    for item in items {
        match item {
            Item::X509Certificate(der) if certificates.contains(&der) => {}
            Item::X509Certificate(der) => certificates.push(der),
            Item::Pkcs1Key(_) | Item::Pkcs8Key(_) | Item::Sec1Key(_) => has_key = true,
            _ => {}
        }
    }
    if certificates.is_empty() {
        return Err(describe_missing(path, bytes, "certificate"));
    }
    Ok((certificates, has_key))
}

fn items(path: &Path, bytes: &[u8]) -> Result<Vec<Item>, ConfigError> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    check_boundaries(path, bytes)?;
    rustls_pemfile::read_all(&mut &*bytes).collect::<Result<_, _>>().map_err(|_| {
        // The header of such a key is not base64.
        let old = b"Proc-Type: 4,ENCRYPTED";
        if bytes.windows(old.len()).any(|window| window == old) {
            encrypted(path)
        } else {
            damaged(path, "a section in it is not base64")
        }
    })
}

/// Rejects a file that was cut within a section or within a boundary line (RFC 7468, section 2),
/// which the parser would skip as text. Other text outside of sections is allowed.
fn check_boundaries(path: &Path, bytes: &[u8]) -> Result<(), ConfigError> {
    // Nothing but whole labels is quoted: the rest may be a key.
    let mut open = None;
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let text = line.trim_ascii_start();
        if !text.starts_with(b"-----BEGIN") && !text.starts_with(b"-----END") {
            continue;
        }
        // The parser would skip an indented boundary: it is not a whole one here either.
        let line = line.trim_ascii_end();
        match (label(line, b"-----BEGIN "), label(line, b"-----END "), open.take()) {
            (Some(label), None, None) => open = Some(label),
            (None, Some(label), Some(begun)) if label == begun => {}
            _ => {
                let place = format!("line {}: not a whole boundary of a section", number + 1);
                return Err(damaged(path, &place));
            }
        }
    }
    if let Some(label) = open {
        return Err(damaged(path, &format!("`{label}` has no end")));
    }
    let last = bytes.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    if !last.is_empty() && b"-----BEGIN ".starts_with(last) {
        return Err(damaged(path, "its last line is the start of a section"));
    }
    Ok(())
}

/// The label of the section whose boundary of this `kind` is `line`: upper-case words.
fn label<'l>(line: &'l [u8], kind: &[u8]) -> Option<&'l str> {
    let label = line.strip_prefix(kind)?.strip_suffix(b"-----")?;
    let fits = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    let label = label.iter().all(fits).then(|| std::str::from_utf8(label).ok())??;
    (label.len() <= 40).then_some(label)
}

/// The labels of the sections of a file whose [`items`] could be read.
fn labels(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| label(line.trim_ascii(), b"-----BEGIN "))
}

fn damaged(path: &Path, reason: &str) -> ConfigError {
    ConfigError::new(path.display(), format!("it is cut short or damaged ({reason})"))
        .hint("write it again, and replace it as a whole (write a new file, then rename it)")
}

fn encrypted(path: &Path) -> ConfigError {
    ConfigError::new(path.display(), "its private key is encrypted").hint(
        "decrypt it (`openssl pkey -in FILE -out NEW`): a service cannot ask for a passphrase",
    )
}

/// Says what a file holds instead of a `wanted`.
fn describe_missing(path: &Path, bytes: &[u8], wanted: &str) -> ConfigError {
    let labels = Vec::from_iter(labels(bytes));
    let error = |reason: String| ConfigError::new(path.display(), reason);
    if labels.iter().any(|label| label.contains("ENCRYPTED")) {
        return encrypted(path);
    }
    if bytes.is_empty() {
        error(format!("it is empty; it must hold a {wanted} as PEM"))
    } else if bytes.starts_with(&[0x30]) {
        error(format!("it holds no {wanted} as PEM: it looks like DER"))
            .hint("convert it with `openssl x509 -inform der` or `openssl pkey -inform der`")
    } else if labels.is_empty() {
        error(format!("it holds no {wanted}: it is not PEM"))
    } else {
        error(format!("it holds no {wanted}, only: {}", labels.join(", ")))
            .hint("check that the certificate's and the key's paths are not swapped")
    }
}
