//! PEM files, and what is wrong with them.
//!
//! The only room that knows rustls-pemfile, which is archived (RUSTSEC-2025-0134) and a thin layer
//! over rustls-pki-types; the project's brief names it.

use std::path::Path;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_pemfile::Item;

use crate::{files, error::ConfigError};

/// A bundle of all public authorities has about 250 KiB: what is larger is not a PEM file of ours.
const LARGEST_FILE: u64 = 1 << 20;

/// Sections in which others keep certificates, and that the parser passes over.
const UNREAD: [&str; 3] = ["TRUSTED CERTIFICATE", "X509 CERTIFICATE", "PKCS7"];

/// The certificates of the PEM file `path`, in its order; at least one.
///
/// # Errors
/// When the file cannot be read, is cut short, holds no certificate, or holds a private key.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    parse_certificates(path, &read(path)?)
}

/// The one private key of the PEM file `path`: PKCS#8, PKCS#1 or SEC1, not encrypted.
///
/// # Errors
/// When the file cannot be read, is cut short, or does not hold exactly one private key.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    parse_private_key(path, &read(path)?)
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    files::read(path, LARGEST_FILE)
        .map_err(|error| error.or_hint("put it there, or name another in the configuration"))
}

/// [`certificates`] of bytes that came from `path`.
///
/// # Errors
/// As there.
pub fn parse_certificates(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let items = items(path, bytes)?;
    if let Some(label) = labels(bytes).find(|label| UNREAD.contains(label)) {
        return Err(ConfigError::new(
            path.display(),
            format!("it holds a section `{label}`, which is not read"),
        )
        .hint("convert it to CERTIFICATE (`openssl x509`, or `openssl pkcs7 -print_certs`)"));
    }
    let mut certificates = Vec::new();
    for item in items {
        match item {
            Item::X509Certificate(der) => certificates.push(der),
            Item::Pkcs1Key(_) | Item::Pkcs8Key(_) | Item::Sec1Key(_) => {
                return Err(ConfigError::new(
                    path.display(),
                    "it holds a private key, where only certificates belong",
                )
                .hint("keep the key in a file of its own"));
            }
            _ => {}
        }
    }
    if certificates.is_empty() {
        return Err(holds_none(path, bytes, "certificate"));
    }
    Ok(certificates)
}

/// [`private_key`] of bytes that came from `path`.
///
/// # Errors
/// As there.
pub fn parse_private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, ConfigError> {
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
        (None, _) => Err(holds_none(path, bytes, "private key")),
    }
}

fn items(path: &Path, bytes: &[u8]) -> Result<Vec<Item>, ConfigError> {
    let cut_short = |cause: &str| {
        ConfigError::new(path.display(), format!("it is cut short or damaged ({cause})"))
            .hint("write it again, and replace it whole (write a new file, then rename it)")
    };
    if bytes.starts_with("\u{feff}".as_bytes()) {
        return Err(ConfigError::new(path.display(), "it begins with a byte order mark")
            .hint("save it as UTF-8 without one"));
    }
    // The parser passes over what it does not know as a section's edge, such as a line that was cut
    // in the middle of it. Whoever wrote it meant it.
    // Nothing of it is quoted but whole labels: it may be a key.
    let mut open = None;
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii_end();
        let words = line.trim_ascii_start();
        if !words.starts_with(b"--") && words != b"-" {
            continue;
        }
        match (label(line, b"-----BEGIN "), label(line, b"-----END "), open.take()) {
            (Some(label), None, None) => open = Some(label),
            (None, Some(label), Some(begun)) if label == begun => {}
            _ => {
                return Err(cut_short(&format!("line {}: no whole edge of a section", number + 1)));
            }
        }
    }
    if let Some(label) = open {
        return Err(cut_short(&format!("`{label}` has no end")));
    }
    rustls_pemfile::read_all(&mut &*bytes).collect::<Result<_, _>>().map_err(|_| {
        // What stands in the header of such a key is no base64.
        let old = b"Proc-Type: 4,ENCRYPTED";
        if bytes.windows(old.len()).any(|window| window == old) {
            encrypted(path)
        } else {
            cut_short("a section in it is not base64")
        }
    })
}

/// The label of a section whose edge of this `kind` is `line`: upper-case words, and no more.
fn label<'l>(line: &'l [u8], kind: &[u8]) -> Option<&'l str> {
    let label = line.strip_prefix(kind)?.strip_suffix(b"-----")?;
    let fits = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    let label = label.iter().all(fits).then(|| std::str::from_utf8(label).ok())??;
    (label.len() <= 40).then_some(label)
}

/// The labels of the sections of a file whose [`items`] could be read.
fn labels(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| label(line.trim_ascii_end(), b"-----BEGIN "))
}

fn encrypted(path: &Path) -> ConfigError {
    ConfigError::new(path.display(), "its private key is encrypted")
        .hint("decrypt it (`openssl pkey -in FILE -out NEW`): no one is there to type a password")
}

/// Says what a file holds that should hold a `wanted`.
fn holds_none(path: &Path, bytes: &[u8], wanted: &str) -> ConfigError {
    let labels = Vec::from_iter(labels(bytes));
    let error = |cause: String| ConfigError::new(path.display(), cause);
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
            .hint("were the certificate's and the key's file confused?")
    }
}
