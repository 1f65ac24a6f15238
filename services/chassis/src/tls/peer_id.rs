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

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, prop_assert_eq, proptest, test_runner::Config};
    use testkit::Leaf;

    use super::*;

    const PINGER: &str = "spiffe://cluster.local/ns/a/sa/pinger";

    fn certificate(leaf: &Leaf) -> CertificateDer<'static> {
        leaf.self_signed().chain_der().remove(0)
    }

    fn peer_ids(leaf: &Leaf) -> Result<Vec<PeerId>, PeerIdError> {
        SubjectAltNames::from_der(&certificate(leaf)).unwrap().peer_ids()
    }

    #[test]
    fn reads_spiffe_ids_of_workloads() {
        let longest = format!("spiffe://{}/{}", "a".repeat(255), "b".repeat(2048 - 265));
        for id in [
            PINGER,
            "spiffe://a/b",
            "spiffe://a.b-c_d.0/E/f.g/h-i/_/0",
            "spiffe://a/...",
            "spiffe://a/.b",
            "spiffe://1.2.3.4/x",
            &longest,
        ] {
            let read: SpiffeId = id.parse().expect(id);
            assert_eq!((read.as_str(), read.to_string().as_str()), (id, id));
            assert_eq!(id.parse(), Ok(PeerId::Spiffe(read)));
        }
    }

    #[test]
    fn rejects_what_is_not_a_spiffe_id_of_a_workload() {
        let too_long = format!("spiffe://a/{}", "b".repeat(2048 - 10));
        let domain_too_long = format!("spiffe://{}/b", "a".repeat(256));
        let texts = "|spiffe|spiffe:|spiffe:/a/b|spiffe://|spiffe:///|spiffe:///b|spiffe://a|\
                     spiffe://a/|spiffe://a//b|spiffe://a/b/|spiffe://a/b//c|spiffe://a/.|\
                     spiffe://a/../b|spiffe://a/b/./c|spiffe://a:8443/b|spiffe://user@a/b|\
                     spiffe://[::1]/b|spiffe://A/b|spiffe://a/b?c|spiffe://a/b#c|spiffe://a/%62|\
                     spiffe://a/b c|spiffe://a/b\0|spiffe://a/b\n|spiffe://a/*|spiffe://*/b|\
                     spiffe://a/ü|spiffe://ü/b|Spiffe://a/b|SPIFFE://a/b| spiffe://a/b|\
                     spiffe://a/b |https://a/b|spiffes://a/b|spiffe//a/b";
        for text in texts.split('|').chain([too_long.as_str(), &domain_too_long]) {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn reads_ids_as_a_configuration_has_them() {
        let dns = |name: &str| Ok(PeerId::Dns(name.to_owned()));
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(" Ponger.NS-1.svc \n".parse(), dns("ponger.ns-1.svc"));
        assert_eq!(format!(" {PINGER} ").parse(), PINGER.parse().map(PeerId::Spiffe));
        for name in ["ponger", "_a.0", &label, &longest] {
            assert_eq!(name.parse(), dns(name));
        }
        let texts = "|.|a.|.a|a..b|*.a|a.*|a b|a/b|ü|a\0|a:b|::1|127.0.0.1|spiffe:a";
        let too_long = ["a".repeat(64), format!("{longest}a"), format!("{longest}.a")];
        for text in texts.split('|').chain(too_long.iter().map(String::as_str)) {
            assert!(text.parse::<PeerId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn reads_subject_alternative_names() {
        let leaf = Leaf::new()
            .common_name("ignored")
            .dns("Ponger")
            .dns("*.ponger")
            .uri("HTTPS://a")
            .ip([127, 0, 0, 1].into())
            .ip([0; 16].into());
        let expected = SubjectAltNames {
            uris: vec!["HTTPS://a".into()],
            dns: vec!["ponger".into(), "*.ponger".into()],
            addresses: 2,
            unreadable: 0,
        };
        assert_eq!(SubjectAltNames::from_der(&certificate(&leaf)), Ok(expected));
        let none = SubjectAltNames::from_der(&certificate(&Leaf::new()));
        assert_eq!(none, Ok(SubjectAltNames::default()));
        assert!(SubjectAltNames::from_der(&vec![0x30, 0].into()).is_err());
    }

    #[test]
    fn identifies_by_the_one_spiffe_id_or_else_by_dns_names() {
        let pinger = PINGER.parse().unwrap();
        assert_eq!(peer_ids(&Leaf::pinger("a").dns("x")), Ok(vec![pinger]));
        let names = ["x", "ponger"].map(|name| PeerId::Dns(name.into()));
        assert_eq!(peer_ids(&Leaf::new().dns("x").dns("PONGER")), Ok(names.into()));
    }

    #[test]
    fn uri_that_is_not_a_spiffe_id_identifies_no_one() {
        let texts = "| |$/|$ | $|$\0|$\0.evil|$?x|$#x|spiffe://cluster.local:443/ns/a|\
                     spiffe://x@cluster.local/ns/a|spiffe://cluster.local//ns/a|$/./x|$/../x|$/%70|\
                     $/*|spiffe://CLUSTER.LOCAL/ns/a|SPIFFE://cluster.local/ns/a|https://a/b|pinger";
        for text in texts.replace('$', PINGER).split('|') {
            // A DNS name does not replace a URI.
            for leaf in [Leaf::new().uri(text), Leaf::new().dns("pinger").uri(text)] {
                let error = PeerIdError::InvalidSpiffeId(sanitize(text).into_owned());
                assert_eq!(peer_ids(&leaf), Err(error));
            }
        }
        let error = peer_ids(&Leaf::new().uri("a\x1b[2j\nb")).unwrap_err().to_string();
        assert!(error.contains("a\\u{1b}[2j\\nb"), "{error:?}");
    }

    #[test]
    fn several_uris_or_no_name_identify_no_one() {
        for second in [PINGER, "spiffe://a/b", "", "https://a"] {
            for leaf in [
                Leaf::new().uri(PINGER).uri(second),
                Leaf::new().uri(second).uri(PINGER),
                Leaf::new().dns("pinger").uri(second).uri(PINGER),
            ] {
                assert_eq!(peer_ids(&leaf), Err(PeerIdError::MultipleUris(2)));
            }
        }
        for leaf in [
            Leaf::new(),
            Leaf::new().common_name("pinger"),
            Leaf::new().common_name(PINGER),
            Leaf::new().ip([127, 0, 0, 1].into()),
        ] {
            assert_eq!(peer_ids(&leaf), Err(PeerIdError::MissingSan));
        }
    }

    #[test]
    fn unreadable_name_identifies_no_one() {
        let invalid_utf8 = |leaf: &Leaf| {
            let mut der = certificate(leaf).to_vec();
            let at = der.windows(4).position(|bytes| bytes == b"b-XX").expect("the name");
            der[at + 2..at + 4].copy_from_slice(b"\xff\xff");
            SubjectAltNames::from_der(&der.into()).unwrap().peer_ids()
        };
        for leaf in [
            Leaf::new().uri("spiffe://a/b-XX"),
            Leaf::new().uri(PINGER).uri("spiffe://a/b-XX"),
            Leaf::new().dns("pinger").dns("b-XX"),
            Leaf::new().uri(PINGER).dns("b-XX"),
        ] {
            assert_eq!(invalid_utf8(&leaf), Err(PeerIdError::Unreadable));
        }
        for dns in [PINGER, "pinger\0", "pinger\0.evil", " pinger", "pinger/", "a:1", "a\x1b\nb"] {
            for leaf in [Leaf::new(), Leaf::new().dns("pinger"), Leaf::new().uri(PINGER)] {
                assert_eq!(peer_ids(&leaf.dns(dns)), Err(PeerIdError::Unreadable), "{dns:?}");
            }
        }
    }

    #[test]
    fn sanitizes_text_for_logs() {
        assert_eq!(sanitize("plain ü"), "plain ü");
        assert_eq!(sanitize("a\nb\x1b[31m\0"), "a\\nb\\u{1b}[31m\\0");
        assert_eq!(sanitize(&"x".repeat(1000)), "x".repeat(256));
    }

    proptest! {
        #![proptest_config(Config { cases: 1000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_text_is_an_id_or_rejected(text in "(spiffe://)?[ -~ü]{0,40}") {
            let printed = sanitize(&text);
            prop_assert!(!printed.contains(char::is_control));
            let id = text.parse::<SpiffeId>();
            if let Ok(id) = &id {
                prop_assert_eq!((id.as_str(), printed.as_ref()), (text.as_str(), text.as_str()));
                prop_assert!(!text.contains(['?', '#', '%', '@', '*', ' ']));
            }
            match text.parse::<PeerId>() {
                Ok(PeerId::Spiffe(read)) => prop_assert_eq!(read.as_str(), text.trim()),
                Ok(PeerId::Dns(name)) => {
                    prop_assert_eq!(&name, &text.trim().to_ascii_lowercase());
                    prop_assert!(name.split('.').all(|label| (1..64).contains(&label.len())));
                }
                Err(_) => prop_assert!(id.is_err()),
            }
        }

        #[test]
        fn reads_every_well_formed_spiffe_id(
            text in "spiffe://[a-z0-9._-]{1,20}(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,9}){1,4}"
        ) {
            prop_assert!(text.parse::<SpiffeId>().is_ok());
        }

        #[test]
        fn ids_that_differ_by_one_letter_differ(at in 0..PINGER.len(), letter in b' '..=b'~') {
            let (mut other, mut less) = (PINGER.to_owned(), PINGER.to_owned());
            other.insert(at, letter.into());
            less.remove(at);
            let mut swapped = less.clone();
            swapped.insert(at, letter.into());
            let allowed: PeerId = PINGER.parse().unwrap();
            for text in [other, less, swapped] {
                if let Ok(id) = text.parse::<SpiffeId>() {
                    prop_assert_eq!(PeerId::Spiffe(id) == allowed, text == PINGER);
                }
            }
        }
    }
}
