//! Identities of peers, as their certificates state them.
//!
//! A service's identity is its SPIFFE ID, the one URI among its certificate's subject alternative
//! names (SPIFFE X.509-SVID, section 2: exactly one URI). A certificate without a URI is identified
//! by its DNS names. IDs are compared as a whole: nothing matches by prefix, suffix or wildcard.

use std::{borrow::Cow, fmt, str::FromStr};

use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

/// A SPIFFE ID of a workload: `spiffe://trust-domain/path`.
///
/// The rules are those of the SPIFFE-ID specification, section 2: a lower-case trust domain, a path
/// of at least one segment (a workload's ID has one), no port, user, query, fragment or escape, at
/// most 2048 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(String);

impl SpiffeId {
    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SpiffeId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > 2048 {
            return Err("a SPIFFE ID has at most 2048 bytes");
        }
        let rest = text.strip_prefix("spiffe://").ok_or("a SPIFFE ID starts with `spiffe://`")?;
        let (domain, path) = rest.split_once('/').ok_or("a workload's SPIFFE ID has a path")?;
        let in_domain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if domain.is_empty() || domain.len() > 255 || !domain.bytes().all(in_domain) {
            return Err("its trust domain must be lower-case letters, digits, `.`, `-` and `_`");
        }
        let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        for segment in path.split('/') {
            if matches!(segment, "" | "." | "..") || !segment.bytes().all(in_path) {
                return Err(
                    "its path must be segments of letters, digits, `.`, `-` and `_`, none empty, `.` or `..`",
                );
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// The identity of a peer: its SPIFFE ID, or a DNS name where it has none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerId {
    /// The one URI of the certificate.
    Spiffe(SpiffeId),
    /// One of the DNS names of a certificate without a URI, in lower case.
    Dns(String),
}

impl PeerId {
    /// The ID as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Spiffe(id) => id.as_str(),
            Self::Dns(name) => name,
        }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(id) => id.fmt(f),
            // A certificate may have any text in it.
            Self::Dns(name) => f.write_str(&sanitize(name)),
        }
    }
}

impl FromStr for PeerId {
    type Err = &'static str;

    /// Reads a name as a configuration has it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.contains(':') {
            return text.parse().map(Self::Spiffe);
        }
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let is_address = text.parse::<std::net::IpAddr>().is_ok();
        if text.len() <= 253 && !is_address && text.split('.').all(label) {
            Ok(Self::Dns(text.to_ascii_lowercase()))
        } else {
            Err("it is neither a SPIFFE ID (`spiffe://...`) nor a DNS name (without wildcards)")
        }
    }
}

fn is_dns_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte)
}

/// A certificate's subject alternative names (RFC 5280, 4.2.1.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectAltNames {
    /// Every URI, whether a SPIFFE ID or not.
    pub uris: Vec<String>,
    /// Every DNS name, in lower case.
    pub dns: Vec<String>,
    /// How many IP addresses there are.
    pub addresses: usize,
    /// How many names cannot be read.
    pub unreadable: usize,
}

impl SubjectAltNames {
    /// Reads the subject alternative names of `certificate`.
    ///
    /// # Errors
    /// When it is not a certificate, or has the extension twice.
    pub fn from_der(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        Self::from_parsed(&certificate)
    }

    pub(super) fn from_parsed(certificate: &X509Certificate<'_>) -> Result<Self, String> {
        let mut names = Self::default();
        let extension =
            certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
                // RFC 5280, 4.2.1.6: no DNS name has other characters. One that spells a SPIFFE ID
                // would look like it in a log.
                GeneralName::DNSName(name) if name.bytes().all(is_dns_character) => {
                    names.dns.push(name.to_ascii_lowercase());
                }
                GeneralName::DNSName(_) => names.unreadable += 1,
                GeneralName::IPAddress(_) => names.addresses += 1,
                GeneralName::Invalid(..) => names.unreadable += 1,
                _ => {}
            }
        }
        Ok(names)
    }

    /// The IDs by which the holder may be authorized: its one SPIFFE ID, or else its DNS names.
    ///
    /// # Errors
    /// When there are several URIs, one that is not a SPIFFE ID, a name that cannot be read, or none:
    /// such a certificate identifies no one.
    pub fn peer_ids(&self) -> Result<Vec<PeerId>, PeerIdError> {
        match self.uris.as_slice() {
            // An unreadable name might have been a second URI.
            _ if self.unreadable > 0 => Err(PeerIdError::Unreadable),
            [] if self.dns.is_empty() => Err(PeerIdError::MissingSan),
            [] => Ok(self.dns.iter().cloned().map(PeerId::Dns).collect()),
            [uri] => match uri.parse() {
                Ok(id) => Ok(vec![PeerId::Spiffe(id)]),
                Err(_) => Err(PeerIdError::InvalidSpiffeId(sanitize(uri).into_owned())),
            },
            uris => Err(PeerIdError::MultipleUris(uris.len())),
        }
    }
}

/// Why a certificate's holder is not the expected one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdError {
    /// No URI and no DNS name.
    #[error("the certificate has neither a URI nor a DNS name")]
    MissingSan,
    /// A name that cannot be read.
    #[error("the certificate has a name that cannot be read")]
    Unreadable,
    /// More than one URI.
    #[error("the certificate has {0} URIs; a SPIFFE ID must be the only one")]
    MultipleUris(usize),
    /// A URI that is not a SPIFFE ID.
    #[error("the certificate's URI `{0}` is not a SPIFFE ID")]
    InvalidSpiffeId(String),
    /// Another ID than the expected one.
    #[error("peer ID `{found}` does not match expected `{wanted}`")]
    Mismatch {
        /// The ID in the certificate.
        found: String,
        /// The expected ID.
        wanted: String,
    },
    /// An ID that is not among the allowed ones.
    #[error("peer ID `{0}` is not among the allowed IDs")]
    NotAllowed(String),
}

/// `text` with control characters escaped and cut to 256 characters, for logs and terminals.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    const MAX_LENGTH: usize = 256;
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && !b"\\\"'".contains(&byte);
    if text.len() <= MAX_LENGTH && text.bytes().all(is_plain) {
        return Cow::Borrowed(text);
    }
    text.chars().take(MAX_LENGTH).flat_map(char::escape_debug).collect()
}
