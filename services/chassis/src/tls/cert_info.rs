//! What a certificate says, for a person: every text is bounded and printable.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::{
    asn1_rs::{Oid, oid},
    certificate::X509Certificate,
    extensions::GeneralName,
    objects::{oid_registry, oid2sn},
    prelude::FromDer as _,
    public_key::PublicKey,
    x509::X509Name,
};

use super::{
    clock::format_rfc3339,
    peer_id::{PeerId, SubjectAltNames, sanitize},
    x509::{Validity, parse},
};

/// How many names of one kind are kept; a certificate may have thousands.
const MAX_NAMES: usize = 8;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertInfo {
    /// The holder's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// Serial number, in hexadecimal.
    pub serial: String,
    /// The first second of its validity, as RFC 3339 text.
    pub not_before: String,
    /// The last second of its validity, as RFC 3339 text.
    pub not_after: String,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// IP addresses.
    pub ip_addresses: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// How many names of these kinds were left out.
    pub more_names: usize,
    /// Its SPIFFE ID, if it has one that identifies its holder.
    pub spiffe_id: Option<String>,
    /// The public key, such as `ECDSA P-256` or `RSA 2048`.
    pub key: String,
    /// The algorithm of the issuer's signature, such as `ecdsa-with-SHA256`.
    pub signature: String,
    /// Whether it says CA:TRUE.
    pub is_ca: bool,
}

impl CertInfo {
    /// Reads a certificate.
    ///
    /// # Errors
    /// Why it cannot be read; completes "the certificate ...".
    pub fn from_der(der: &CertificateDer<'_>) -> Result<Self, String> {
        parse(der).map(|certificate| Self::from_parsed(&certificate))
    }

    pub(super) fn from_parsed(certificate: &X509Certificate<'_>) -> Self {
        let validity = Validity::from_parsed(certificate);
        let names = SubjectAltNames::from_parsed(certificate).unwrap_or_default();
        let spiffe_id = names.peer_ids().ok().and_then(|ids| match ids.into_iter().next() {
            Some(PeerId::Spiffe(id)) => Some(id.to_string()),
            _ => None,
        });
        let (dns_names, more_dns) = bounded(&names.dns);
        let (uris, more_uris) = bounded(&names.uris);
        let (ip_addresses, more_addresses) = bounded(&ip_addresses(certificate));
        Self {
            subject: printable_name(certificate.subject()),
            issuer: printable_name(certificate.issuer()),
            serial: sanitize(&certificate.raw_serial_as_string().replace(':', "")).into_owned(),
            not_before: format_rfc3339(validity.not_before),
            not_after: format_rfc3339(validity.not_after),
            dns_names,
            ip_addresses,
            uris,
            more_names: more_dns + more_uris + more_addresses,
            spiffe_id,
            key: key(certificate),
            signature: algorithm_name(&certificate.signature_algorithm.algorithm),
            is_ca: certificate.is_ca(),
        }
    }
}

/// The distinguished name in `der`.
pub(super) fn distinguished_name(der: &[u8]) -> String {
    match X509Name::from_der(der) {
        Ok(([], name)) => printable_name(&name),
        _ => "(a name that cannot be read)".to_owned(),
    }
}

/// A distinguished name, printable; some certificates have an empty one.
pub(super) fn printable_name(name: &X509Name<'_>) -> String {
    match name.to_string().as_str() {
        "" => "(no name)".to_owned(),
        text => sanitize(text).into_owned(),
    }
}

/// The first of `names`, printable, and how many there are beside them.
fn bounded(names: &[String]) -> (Vec<String>, usize) {
    let more = names.len().saturating_sub(MAX_NAMES);
    let kept = names.iter().take(MAX_NAMES).map(|name| sanitize(name).into_owned());
    (kept.collect(), more)
}

fn ip_addresses(certificate: &X509Certificate<'_>) -> Vec<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::IPAddress(bytes) => {
                let v4 = || <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from);
                let v6 = || <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from);
                let address = v4().or_else(v6).map(|address| address.to_string());
                Some(address.unwrap_or_else(|| "(an address that cannot be read)".to_owned()))
            }
            _ => None,
        })
        .collect()
}

fn key(certificate: &X509Certificate<'_>) -> String {
    let algorithm = &certificate.public_key().algorithm;
    let curve = || algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(_)) => match curve() {
            Some(curve) => format!("ECDSA {}", curve_name(&curve)),
            None => "ECDSA, explicit parameters".to_owned(),
        },
        _ if algorithm.algorithm == oid!(1.3.101.112) => "Ed25519".to_owned(),
        _ if algorithm.algorithm == oid!(1.3.101.113) => "Ed448".to_owned(),
        _ => algorithm_name(&algorithm.algorithm),
    }
}

fn curve_name(curve: &Oid<'_>) -> String {
    let names = [
        (oid!(1.2.840.10045.3.1.7), "P-256"),
        (oid!(1.3.132.0.34), "P-384"),
        (oid!(1.3.132.0.35), "P-521"),
    ];
    let known = names.into_iter().find(|(id, _)| id == curve);
    known.map_or_else(|| algorithm_name(curve), |(_, name)| name.to_owned())
}

/// The name of an algorithm as OpenSSL prints it, or its number.
fn algorithm_name(id: &Oid<'_>) -> String {
    oid2sn(id, oid_registry())
        .map_or_else(|_| sanitize(&id.to_id_string()).into_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use testkit::{Ca, Leaf};

    use super::*;

    fn info(leaf: &Leaf) -> CertInfo {
        CertInfo::from_der(&Ca::new("root").issue(leaf).chain_der()[0]).unwrap()
    }

    #[test]
    fn reads_names_validity_key_and_issuer() {
        let leaf = Leaf::ponger("test").common_name("ponger").ip([127, 0, 0, 1].into());
        let info = info(&leaf.ip([0, 0, 0, 0, 0, 0, 0, 1].into()));
        assert_eq!((info.subject.as_str(), info.issuer.as_str()), ("CN=ponger", "CN=root"));
        assert_eq!(info.ip_addresses, ["127.0.0.1", "::1"]);
        assert_eq!(info.dns_names[..2], ["ponger", "ponger.test"]);
        assert_eq!(info.spiffe_id.as_deref(), Some("spiffe://cluster.local/ns/test/sa/ponger"));
        assert_eq!(
            (info.key.as_str(), info.signature.as_str()),
            ("ECDSA P-256", "ecdsa-with-SHA256")
        );
        assert!(info.not_before < info.not_after && info.not_after.ends_with('Z'), "{info:?}");
        assert!(!info.is_ca && info.more_names == 0);
    }

    #[test]
    fn text_of_a_peer_is_bounded_and_cannot_control_a_terminal() {
        let mut leaf = Leaf::new().common_name(&format!("\x1b[2J\u{202e}{}", "x".repeat(1000)));
        for number in 0..100 {
            leaf = leaf.uri(&format!("a\x07{number}"));
        }
        let info = info(&leaf);
        assert!(info.subject.starts_with("CN=\\u{1b}[2J\\u{202e}xxx"), "{info:?}");
        assert!(info.subject.len() < 300, "{info:?}");
        assert_eq!((info.uris.len(), info.more_names), (MAX_NAMES, 100 - MAX_NAMES));
        assert_eq!((info.uris[0].as_str(), info.spiffe_id.as_ref()), ("a\\u{7}0", None));
    }
}
