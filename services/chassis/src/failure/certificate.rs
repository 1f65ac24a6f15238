//! What is wrong with a peer's certificate, in words, and what to do about it.

use rustls::{CertificateError as Wrong, pki_types::UnixTime};

use super::FailureReason;
use crate::tls::{clock::utc, peer_id::WrongId};

/// How many of the names that a certificate is for are told, and how many letters of each: there may
/// be thousands of either.
const MOST_NAMES: usize = 4;
const MOST_LETTERS: usize = 80;

/// What webpki, which calls these by no name of its own, says of a certificate, and what it means.
const OTHERS: &[(&str, &str)] = &[
    (
        "CaUsedAsEndEntity",
        "says CA:TRUE, so it cannot stand for a server or client; reissue it with basicConstraints CA:FALSE (`openssl req -x509` adds CA:TRUE unless its configuration has an x509_extensions section)",
    ),
    (
        "EndEntityUsedAsCa",
        "was issued by a certificate that is not an authority's; reissue it from one that says CA:TRUE",
    ),
    (
        "NameConstraintViolation",
        "has a name that its authority may not issue for (nameConstraints); reissue it for one that is allowed",
    ),
    (
        "PathLenConstraintViolated",
        "has more intermediates above it than its authority allows (pathlen); issue it higher up",
    ),
    (
        "UnsupportedCriticalExtension",
        "has a critical extension that is not known here; reissue it without",
    ),
    ("UnsupportedCertVersion", "is not X.509 version 3; reissue it with its names as a SAN"),
];

/// The reason and the cause, with a cure, of refusing `peer`'s certificate.
pub(super) fn judge(peer: &str, wrong: &Wrong) -> (FailureReason, String) {
    let (reason, said) = match wrong {
        Wrong::Expired => (FailureReason::TlsExpired, expired(None)),
        Wrong::ExpiredContext { not_after, .. } => (FailureReason::TlsExpired, expired(Some(*not_after))),
        Wrong::NotValidYet => (FailureReason::TlsNotYetValid, not_valid_yet(None)),
        Wrong::NotValidYetContext { not_before, .. } => {
            (FailureReason::TlsNotYetValid, not_valid_yet(Some(*not_before)))
        }
        Wrong::NotValidForName => (FailureReason::TlsWrongName, other_name(None)),
        Wrong::NotValidForNameContext { expected, presented } => {
            let names = (expected.to_str().into_owned(), presented.as_slice());
            (FailureReason::TlsWrongName, other_name(Some(names)))
        }
        Wrong::Other(other) => match other.0.downcast_ref::<WrongId>() {
            Some(wrong) => return (FailureReason::TlsWrongId, format!("{peer} is someone else: {wrong}")),
            None => (FailureReason::TlsUntrusted, of_webpki(&other.0.to_string())),
        },
        wrong => (FailureReason::TlsUntrusted, untrusted(wrong)),
    };
    (reason, format!("{peer}'s certificate {said}"))
}

fn seconds(time: UnixTime) -> String {
    utc(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

fn expired(not_after: Option<UnixTime>) -> String {
    let at = not_after.map(|time| format!(" at {}", seconds(time))).unwrap_or_default();
    format!("has expired{at}, or one above it in its chain has; renew that one")
}

fn not_valid_yet(not_before: Option<UnixTime>) -> String {
    let at = not_before.map(|time| format!(" before {}", seconds(time))).unwrap_or_default();
    format!("is not valid yet{at}, or one above it in its chain is not; compare the clocks")
}

/// The name that was asked for, and those that the certificate is for.
fn other_name(names: Option<(String, &[String])>) -> String {
    let told = names.map(|(expected, presented)| {
        let more = presented.len().saturating_sub(MOST_NAMES);
        let names: Vec<String> =
            presented.iter().take(MOST_NAMES).map(|name| shortened(name)).collect();
        let mut told = names.join(", ");
        if more > 0 {
            told = format!("{told} and {more} more");
        }
        if told.is_empty() {
            told = "no name".into();
        }
        format!(" than {expected} ({told})")
    });
    let told = told.unwrap_or_default();
    format!("is for another name{told}; reissue it for the name that is asked for")
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(MOST_LETTERS) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

/// What `said`, which webpki says of a certificate, means.
pub(crate) fn of_webpki(said: &str) -> String {
    let known = OTHERS.iter().find(|(theirs, _)| said.contains(theirs));
    known.map_or_else(|| format!("is not accepted: {said}"), |(_, ours)| (*ours).to_owned())
}

fn untrusted(wrong: &Wrong) -> String {
    match wrong {
        Wrong::UnknownIssuer => {
            "is not one that a trust root vouches for; if it is to be trusted, add the root that issued it to the trust bundle, or have its intermediates sent with it"
        }
        Wrong::BadSignature => {
            "has a signature that does not hold: it is not that of the issuer's key, or that key is RSA of less than 2048 bits; reissue it"
        }
        Wrong::UnsupportedSignatureAlgorithmContext { .. }
        | Wrong::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "is signed in a way that is not accepted, such as by SHA-1; reissue it with SHA-256 or better"
        }
        Wrong::InvalidPurpose | Wrong::InvalidPurposeContext { .. } => {
            "is for another purpose; reissue it with the extendedKeyUsage serverAuth for a server, clientAuth for a client"
        }
        Wrong::BadEncoding => "is not well-formed; reissue it",
        Wrong::UnhandledCriticalExtension => {
            "has a critical extension that is not known here; reissue it without"
        }
        other => return format!("is not accepted: {other}"),
    }
    .to_owned()
}
