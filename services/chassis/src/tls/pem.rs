//! PEM files, and what is wrong with them.
//!
//! The only module that uses rustls-pemfile, which is archived (RUSTSEC-2025-0134) and a thin layer
//! over rustls-pki-types. It gets the certificates only: it leaves copies of what it reads in memory
//! that is free.

use std::path::{Path, PathBuf};

use base64::{Engine as _, decoded_len_estimate, prelude::BASE64_STANDARD};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use rustls_pemfile::Item;
use zeroize::Zeroizing;

use crate::{error::ConfigError, files::FileContents};

/// The largest PEM file that is read, in bytes. A bundle of all public CAs has about 250 KiB.
pub const MAX_BYTES: u64 = 1 << 20;

/// Sections in which some tools keep certificates, and which the parser ignores.
const UNSUPPORTED: [&str; 3] = ["TRUSTED CERTIFICATE", "X509 CERTIFICATE", "PKCS7"];

/// What is read, and what is rejected. Sections with other labels are of no concern here.
const LABELS: [&str; 8] = [
    "CERTIFICATE",
    "PRIVATE KEY",
    "RSA PRIVATE KEY",
    "EC PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    UNSUPPORTED[0],
    UNSUPPORTED[1],
    UNSUPPORTED[2],
];

/// How boundary lines begin.
const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";

const NOT_BASE64: &str = "a section in it is not base64";

/// Reads certificates and keys.
pub(super) fn read(paths: impl IntoIterator<Item = PathBuf>) -> Vec<FileContents> {
    paths.into_iter().map(|path| FileContents::read(path, MAX_BYTES)).collect()
}

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
/// The caller must wipe it, as rustls does when it loads it.
///
/// # Errors
/// When the file is cut short, or does not hold exactly one private key.
pub fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let mut keys = items(path, bytes)?.into_iter().filter_map(|item| match item {
        SectionItem::Key(kind, text) => Some((kind, text)),
        SectionItem::Certificate(_) => None,
    });
    match (keys.next(), keys.next()) {
        (Some((kind, text)), None) => decode_key(path, kind, text),
        (Some(_), Some(_)) => {
            Err(ConfigError::new(path.display(), "it holds more than one private key")
                .hint("leave only the one that belongs to the certificate"))
        }
        (None, _) => Err(describe_missing(path, bytes, "private key")),
    }
}

/// Decodes the base64 `text` of a key, and leaves no copy of it.
fn decode_key(
    path: &Path,
    kind: KeyKind,
    text: &[u8],
) -> Result<PrivateKeyDer<'static>, ConfigError> {
    // Each with room for all of it, so that it never moves.
    let mut base64 = Zeroizing::new(Vec::with_capacity(text.len()));
    base64.extend(text.iter().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; decoded_len_estimate(base64.len())]);
    let length = BASE64_STANDARD.decode_slice(&*base64, &mut der).map_err(|_| {
        // The header of such a key is not base64.
        let old = b"Proc-Type:4,ENCRYPTED";
        if base64.starts_with(old) { encrypted(path) } else { damaged(path, NOT_BASE64) }
    })?;
    der.truncate(length);
    let der = std::mem::take(&mut *der);
    Ok(match kind {
        KeyKind::Pkcs1 => PrivatePkcs1KeyDer::from(der).into(),
        KeyKind::Pkcs8 => PrivatePkcs8KeyDer::from(der).into(),
        KeyKind::Sec1 => PrivateSec1KeyDer::from(der).into(),
    })
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
            SectionItem::Certificate(der) if certificates.contains(&der) => {}
            SectionItem::Certificate(der) => certificates.push(der),
            SectionItem::Key(..) => has_key = true,
        }
    }
    if certificates.is_empty() {
        return Err(describe_missing(path, bytes, "certificate"));
    }
    Ok((certificates, has_key))
}

/// What is read of a file's sections. A key is still base64.
enum SectionItem<'b> {
    Certificate(CertificateDer<'static>),
    Key(KeyKind, &'b [u8]),
}

/// How a key is encoded.
#[derive(Clone, Copy)]
enum KeyKind {
    Pkcs1,
    Pkcs8,
    Sec1,
}

fn items<'b>(path: &Path, bytes: &'b [u8]) -> Result<Vec<SectionItem<'b>>, ConfigError> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut items = Vec::new();
    for Section { label, whole, text } in sections(path, bytes)? {
        items.push(match label {
            "CERTIFICATE" => match rustls_pemfile::read_one_from_slice(whole) {
                Ok(Some((Item::X509Certificate(der), _))) => SectionItem::Certificate(der),
                _ => return Err(damaged(path, NOT_BASE64)),
            },
            "RSA PRIVATE KEY" => SectionItem::Key(KeyKind::Pkcs1, text),
            "PRIVATE KEY" => SectionItem::Key(KeyKind::Pkcs8, text),
            "EC PRIVATE KEY" => SectionItem::Key(KeyKind::Sec1, text),
            _ => continue,
        });
    }
    Ok(items)
}

/// A section of a PEM file.
struct Section<'b> {
    label: &'b str,
    /// With its boundaries.
    whole: &'b [u8],
    /// Without them.
    text: &'b [u8],
}

/// The sections of a file that certificates or keys are in. Rejects one that was cut within such a
/// section or within its boundary line (RFC 7468, section 2), which the parser would skip as text.
/// Everything else is text, which is allowed outside of them: other sections, and lines that look like
/// a boundary.
fn sections<'b>(path: &Path, bytes: &'b [u8]) -> Result<Vec<Section<'b>>, ConfigError> {
    // Nothing but whole labels is quoted: the rest may be a key.
    let (mut sections, mut open, mut next) = (Vec::new(), None, 0);
    for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let (start, end) = (next, next + line.len());
        next = end;
        let line = line.trim_ascii_end();
        match (label(line, BEGIN), label(line, END), open) {
            (Some(label), None, None) if LABELS.contains(&label) => {
                open = Some((label, start, end));
            }
            (None, Some(label), Some((begun, whole, text))) if label == begun => {
                open = None;
                sections.push(Section {
                    label,
                    whole: &bytes[whole..end],
                    text: &bytes[text..start],
                });
            }
            // Of another section.
            (Some(label), None, None) | (None, Some(label), None) if !LABELS.contains(&label) => {}
            (_, _, is_open) => {
                if is_damaged_boundary(line, is_open.is_some()) {
                    let place = format!("line {}: not a whole boundary of a section", number + 1);
                    return Err(damaged(path, &place));
                }
            }
        }
    }
    if let Some((label, ..)) = open {
        return Err(damaged(path, &format!("`{label}` has no end")));
    }
    let last = bytes.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    if !last.is_empty() && BEGIN.starts_with(last) {
        return Err(damaged(path, "its last line is the start of a section"));
    }
    Ok(sections)
}

/// Whether `line`, which is not a boundary that fits, was one: it begins as one of a section that is
/// read, or as any within such a section. The parser would skip an indented boundary, too.
fn is_damaged_boundary(line: &[u8], is_within: bool) -> bool {
    let line = line.trim_ascii_start();
    let [begin, end] = [BEGIN, END].map(<[u8]>::trim_ascii_end);
    let Some(rest) = line.strip_prefix(begin).or_else(|| line.strip_prefix(end)) else {
        return false;
    };
    let begins_as = |label: &str| {
        let whole = format!(" {label}-----");
        whole.as_bytes().starts_with(rest) || rest.starts_with(&whole.as_bytes()[..whole.len() - 4])
    };
    is_within || LABELS.iter().any(|label| begins_as(label))
}

/// The label of the section whose boundary of this `kind` is `line` (RFC 7468, section 3).
fn label<'l>(line: &'l [u8], kind: &[u8]) -> Option<&'l str> {
    let label = line.strip_prefix(kind)?.strip_suffix(b"-----")?;
    let fits = |byte: &u8| *byte == b' ' || byte.is_ascii_graphic();
    let label = label.iter().all(fits).then(|| std::str::from_utf8(label).ok())??;
    (label.len() <= 40 && !label.contains("--")).then_some(label)
}

/// The labels of the sections of a file whose [`items`] could be read.
fn labels(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| label(line.trim_ascii(), BEGIN))
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
