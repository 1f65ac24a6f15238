//! TLS errors as failures: the reason from the closed list, and what to do about it in words.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, pki_types::UnixTime};

use super::{clock::format_rfc3339, limits::ChainTooLarge, peer_id::PeerIdError};
use crate::failure::{Failure, FailureReason, find_source};

/// How many of a certificate's names are quoted, and how many characters of each: a certificate may
/// have thousands of either.
const MAX_NAMES: usize = 4;
const MAX_NAME_LENGTH: usize = 80;

/// Errors that webpki has and rustls has no variant for.
const WEBPKI_ERRORS: &[(&str, &str)] = &[
    (
        "CaUsedAsEndEntity",
        "says CA:TRUE, so it cannot identify a server or client; reissue it with basicConstraints CA:FALSE (`openssl req -x509` adds CA:TRUE unless its configuration has an x509_extensions section)",
    ),
    (
        "EndEntityUsedAsCa",
        "was issued by a certificate that is not a CA's; reissue it from one that says CA:TRUE",
    ),
    (
        "NameConstraintViolation",
        "has a name that its CA may not issue for (nameConstraints); reissue it for an allowed name",
    ),
    (
        "PathLenConstraintViolated",
        "has more intermediates above it than its CA allows (pathlen); issue it higher up",
    ),
    (
        "UnsupportedCriticalExtension",
        "has a critical extension that is not supported; reissue it without",
    ),
    ("UnsupportedCertVersion", "is not X.509 version 3; reissue it with its names as a SAN"),
];

/// Classifies an error of an established connection, during its handshake or after it. `peer` is what
/// the other end is called in the cause.
///
/// In TLS 1.3 a client learns that its certificate was rejected only when it first reads, so alerts
/// count as rejections whenever they arrive.
pub fn from_io(peer: &str, error: &io::Error) -> Failure {
    let Some(error) = find_source::<Error>(error) else {
        let is_invalid = error.kind() == io::ErrorKind::InvalidData;
        let reason = if is_invalid { FailureReason::TlsProtocol } else { FailureReason::Reset };
        return Failure::new(reason, error);
    };
    match error {
        Error::InvalidCertificate(error) => {
            let (reason, cause) = certificate(peer, error);
            Failure::new(reason, cause)
        }
        Error::NoCertificatesPresented => Failure::new(
            FailureReason::TlsNoCertificate,
            format!("{peer} presented no certificate"),
        ),
        // Not rejections: the peer has closed the connection.
        Error::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => {
            Failure::new(FailureReason::Reset, format!("{peer} closed the connection"))
        }
        Error::AlertReceived(received) => {
            Failure::new(FailureReason::TlsRefusedByPeer, alert(peer, *received))
        }
        other => Failure::new(FailureReason::TlsProtocol, protocol(peer, other)),
    }
}

fn protocol(peer: &str, error: &Error) -> String {
    match error {
        Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            format!("{peer} did not answer with TLS (is it plain HTTP?)")
        }
        Error::PeerIncompatible(
            rustls::PeerIncompatible::SupportedVersionsExtensionRequired
            | rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13
            | rustls::PeerIncompatible::Tls12NotOffered
            | rustls::PeerIncompatible::Tls12NotOfferedOrEnabled
            | rustls::PeerIncompatible::Tls13RequiredForQuic,
        ) => format!("{peer} does not support a TLS version that is allowed here (minTlsVersion)"),
        other => format!("TLS with {peer} failed: {other}"),
    }
}

/// The reason and the cause, with a hint, of rejecting `peer`'s certificate.
fn certificate(peer: &str, error: &CertificateError) -> (FailureReason, String) {
    let reason = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            FailureReason::TlsExpired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            FailureReason::TlsNotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            FailureReason::TlsWrongName
        }
        CertificateError::Other(other) if other.0.is::<PeerIdError>() => FailureReason::TlsWrongId,
        _ => FailureReason::TlsUntrusted,
    };
    if reason == FailureReason::TlsWrongId
        && let CertificateError::Other(other) = error
    {
        return (reason, format!("{peer} has another identity: {other}"));
    }
    (reason, format!("{peer}'s certificate {}", describe(error)))
}

/// What is wrong with a certificate, and what to do about it; completes "the certificate ...".
pub fn describe(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => expired(None),
        CertificateError::ExpiredContext { not_after, .. } => expired(Some(*not_after)),
        CertificateError::NotValidYet => not_valid_yet(None),
        CertificateError::NotValidYetContext { not_before, .. } => not_valid_yet(Some(*not_before)),
        CertificateError::NotValidForName => wrong_name(None),
        CertificateError::NotValidForNameContext { expected, presented } => {
            wrong_name(Some((expected.to_str().into_owned(), presented.as_slice())))
        }
        CertificateError::UnknownIssuer => "is not signed by a trusted CA; add its root to the trust bundle, or have its intermediates sent with it".into(),
        CertificateError::BadSignature => "has a signature that cannot be verified: it was not made by the issuer's key, or that key is RSA of less than 2048 bits; reissue it".into(),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "is signed by an algorithm that is not accepted, such as SHA-1; reissue it with SHA-256 or better".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is for another purpose; reissue it with the extendedKeyUsage serverAuth for a server, clientAuth for a client".into()
        }
        CertificateError::BadEncoding => "is not well-formed; reissue it".into(),
        CertificateError::UnhandledCriticalExtension => {
            "has a critical extension that is not supported; reissue it without".into()
        }
        CertificateError::Other(other) if other.0.is::<ChainTooLarge>() => other.to_string(),
        CertificateError::Other(other) => {
            let text = other.0.to_string();
            let known = WEBPKI_ERRORS.iter().find(|(name, _)| text.contains(name));
            known.map_or_else(|| format!("is not accepted: {text}"), |(_, ours)| (*ours).to_owned())
        }
        other => format!("is not accepted: {other}"),
    }
}

fn expired(not_after: Option<UnixTime>) -> String {
    let at = not_after.map(|time| format!(" at {}", format_rfc3339(time))).unwrap_or_default();
    format!("or one above it in the chain expired{at}; renew it")
}

fn not_valid_yet(not_before: Option<UnixTime>) -> String {
    let at = not_before.map(|time| format!(" before {}", format_rfc3339(time))).unwrap_or_default();
    format!("or one above it in the chain is not valid yet{at}; compare the clocks")
}

/// The expected name, and those in the certificate.
fn wrong_name(names: Option<(String, &[String])>) -> String {
    let Some((expected, presented)) = names else {
        return "is for another name; reissue it for the expected name".into();
    };
    let mut list = presented.iter().take(MAX_NAMES).map(|name| shorten(name)).collect::<Vec<_>>();
    if presented.len() > MAX_NAMES {
        list.push(format!("and {} more", presented.len() - MAX_NAMES));
    }
    let list = if list.is_empty() { "no name".into() } else { list.join(", ") };
    format!("is not for {expected} but for: {list}; reissue it for the expected name")
}

fn shorten(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME_LENGTH) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

/// What an alert of `peer` means for this end.
fn alert(peer: &str, alert: AlertDescription) -> String {
    let meaning = match alert {
        AlertDescription::CertificateRequired => {
            "it requires a certificate, and none was presented"
        }
        AlertDescription::UnknownCA => "it does not trust the root of the presented certificate",
        AlertDescription::CertificateExpired => {
            "the presented certificate has expired (or is not valid yet)"
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::DecryptError => "it does not accept the presented certificate",
        AlertDescription::ProtocolVersion => "it supports no TLS version that is allowed here",
        AlertDescription::HandshakeFailure => {
            "it supports none of the offered parameters, or requires a certificate"
        }
        AlertDescription::AccessDenied => "it denies access to this identity",
        _ => "see its log",
    };
    format!("{peer} rejected the handshake with the alert {}: {meaning}", alert_name(alert))
}

/// The name of an alert as RFC 8446, section 6, spells it: `unknown_ca`.
fn alert_name(alert: AlertDescription) -> String {
    if alert == AlertDescription::UnknownCA {
        return "unknown_ca".into();
    }
    let mut name = String::new();
    for letter in format!("{alert:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_the_names_of_the_rfc() {
        assert_eq!(alert_name(AlertDescription::CertificateRequired), "certificate_required");
        assert_eq!(alert_name(AlertDescription::UnknownCA), "unknown_ca");
        assert_eq!(alert_name(AlertDescription::BadCertificate), "bad_certificate");
    }

    #[test]
    fn finds_a_tls_error_inside_nested_io_errors() {
        let tls = Error::AlertReceived(AlertDescription::CertificateRequired);
        let error = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
        assert_eq!(from_io("ponger", &error).reason, FailureReason::TlsRefusedByPeer);
    }
}
