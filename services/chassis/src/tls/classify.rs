//! TLS errors as failures: the reason from the closed list, and what to do about it in words.

use std::{fmt, io, net::IpAddr};

use rustls::{AlertDescription, CertificateError, Error, pki_types::UnixTime};

use super::{
    clock::format_rfc3339,
    limits::ChainTooLarge,
    peer_id::{PeerIdError, sanitize},
    unsupported::WEAK_SIGNATURE,
};
use crate::failure::{Failure, FailureReason, find_source};

/// How many of a certificate's names are quoted, and how many characters of each: a certificate may
/// have thousands of either.
const MAX_NAMES: usize = 4;
const MAX_NAME_LENGTH: usize = 80;

/// Errors that webpki has and rustls has no variant for.
const WEBPKI_ERRORS: &[(&str, &str)] = &[
    (
        "CaUsedAsEndEntity",
        "says CA:TRUE, so it cannot identify a server or client; use one that a CA in the trust bundle issued, or a self-signed one with basicConstraints CA:FALSE that is in the trust bundle itself (`openssl req -x509` adds CA:TRUE unless its configuration has an x509_extensions section)",
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
        "has a critical extension that is not supported; reissue it without that extension",
    ),
    ("MaximumSignatureChecksExceeded", TOO_INTRICATE),
    ("MaximumPathBuildCallsExceeded", TOO_INTRICATE),
    ("MaximumPathDepthExceeded", TOO_INTRICATE),
    ("MaximumNameConstraintComparisonsExceeded", TOO_INTRICATE),
    ("UnsupportedCertVersion", "is not X.509 version 3; reissue it with its names as a SAN"),
];

const TOO_INTRICATE: &str = "has a chain that takes too long to verify; leave out of it what does not lead from the certificate to its root";

/// Classifies an error of an established connection, during its handshake or after it. `peer` is what
/// the other end is called in the cause.
///
/// In TLS 1.3 a client learns that its certificate was rejected only when it first reads, so alerts
/// count as rejections whenever they arrive.
pub fn from_io(peer: &str, error: &io::Error) -> Failure {
    let Some(error) = find_source::<Error>(error) else {
        let is_invalid = error.kind() == io::ErrorKind::InvalidData;
        let reason = if is_invalid { FailureReason::TlsProtocol } else { FailureReason::Reset };
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Failure::new(reason, format!("{peer} closed the connection"))
            }
            io::ErrorKind::ConnectionReset => {
                Failure::new(reason, format!("{peer} reset the connection"))
            }
            _ => Failure::new(reason, error),
        };
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

/// Whether `error` is an alert by which the peer rejects the certificate of this end, or that it
/// presented none (RFC 8446, section 6.2).
pub fn is_certificate_rejection(error: &io::Error) -> bool {
    use AlertDescription as Alert;
    let Some(Error::AlertReceived(alert)) = find_source::<Error>(error) else { return false };
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
            | Alert::CertificateRequired
    )
}

fn protocol(peer: &str, error: &Error) -> String {
    match error {
        Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            format!("{peer} did not speak TLS (is it plain HTTP?)")
        }
        Error::PeerIncompatible(
            rustls::PeerIncompatible::SupportedVersionsExtensionRequired
            | rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13
            | rustls::PeerIncompatible::Tls12NotOffered
            | rustls::PeerIncompatible::Tls12NotOfferedOrEnabled
            | rustls::PeerIncompatible::Tls13RequiredForQuic,
        ) => format!("{peer} does not support a TLS version that is allowed here (minTlsVersion)"),
        Error::PeerIncompatible(what) => {
            format!("{peer} does not support what is needed here: {}", words(what))
        }
        Error::InvalidMessage(
            rustls::InvalidMessage::CertificatePayloadTooLarge
            | rustls::InvalidMessage::HandshakePayloadTooLarge,
        ) => format!(
            "{peer} sent a handshake message of more than 64 KiB; is its certificate chain that long?"
        ),
        Error::InvalidMessage(what) => {
            format!("{peer} sent a TLS message that is not well-formed: {}", words(what))
        }
        Error::PeerMisbehaved(what) => {
            format!("{peer} does not keep to the TLS protocol: {}", words(what))
        }
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            format!("{peer} sent a TLS message that was not expected then")
        }
        other => format!("TLS with {peer} failed: {other}"),
    }
}

/// The name of an error, which a library has for programs only, in words: `NoCipherSuitesInCommon`.
fn words(error: &impl fmt::Debug) -> String {
    let name = format!("{error:?}");
    let name = name.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default();
    snake_case(name).replace('_', " ")
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
            WEAK_SIGNATURE.into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is for another purpose; reissue it with the extendedKeyUsage serverAuth for a server, clientAuth for a client".into()
        }
        CertificateError::BadEncoding => "is not well-formed; reissue it".into(),
        CertificateError::UnhandledCriticalExtension => {
            "has a critical extension that is not supported; reissue it without that extension".into()
        }
        CertificateError::Other(other) if other.0.is::<ChainTooLarge>() => other.to_string(),
        CertificateError::Other(other) => {
            let text = other.0.to_string();
            let known = WEBPKI_ERRORS.iter().find(|(name, _)| text.contains(name));
            known.map_or_else(|| format!("is not accepted: {text}"), |(_, ours)| (*ours).to_owned())
        }
        other => format!("is not accepted: {}", words(other)),
    }
}

fn expired(not_after: Option<UnixTime>) -> String {
    let at = not_after.map(|time| format!(" at {}", format_rfc3339(time))).unwrap_or_default();
    format!("or one above it in the chain expired{at}; renew it")
}

fn not_valid_yet(not_before: Option<UnixTime>) -> String {
    let until =
        not_before.map_or("yet".to_owned(), |time| format!("before {}", format_rfc3339(time)));
    format!("or one above it in the chain is not valid {until}; compare the clocks")
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

/// A name, printable and without the words of webpki around it: `DnsName("ponger")`.
fn shorten(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    let name = inner.unwrap_or(name).trim_matches('"');
    if let Ok(address) = name.parse::<IpAddr>() {
        return address.to_string();
    }
    let name = sanitize(name);
    match name.char_indices().nth(MAX_NAME_LENGTH) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.into_owned(),
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
        AlertDescription::NoApplicationProtocol => {
            "it does not speak HTTP/1.1, the only protocol that is offered (ALPN)"
        }
        AlertDescription::UnrecognisedName => "it does not serve the name that was asked for (SNI)",
        _ => "see its log",
    };
    format!("{peer} rejected the handshake with the alert {}: {meaning}", alert_name(alert))
}

/// The name of an alert as RFC 8446, section 6, spells it: `unknown_ca`.
fn alert_name(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "unknown_ca".into(),
        AlertDescription::UnrecognisedName => "unrecognized_name".into(),
        AlertDescription::Unknown(code) => format!("number {code}"),
        known => snake_case(&format!("{known:?}")),
    }
}

fn snake_case(camel_case: &str) -> String {
    let mut name = String::new();
    for letter in camel_case.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use rustls::{
        InvalidMessage, OtherError, PeerIncompatible, PeerMisbehaved, pki_types::ServerName,
    };

    use super::*;

    fn classify(error: impl Into<Error>) -> Failure {
        from_io("ponger", &io::Error::other(error.into()))
    }

    fn other(error: impl std::error::Error + Send + Sync + 'static) -> CertificateError {
        CertificateError::Other(OtherError(Arc::new(error)))
    }

    fn not_for(names: &[&str]) -> CertificateError {
        CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("ponger").unwrap(),
            presented: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn names_what_is_wrong_with_a_certificate_and_what_to_do() {
        use CertificateError as Wrong;
        use FailureReason::{TlsExpired, TlsNotYetValid, TlsUntrusted, TlsWrongName};
        let [time, not_after, not_before] =
            [2, 1, 3].map(|seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        let (a, o) = ("ä".repeat(80), "ö".repeat(80));
        for (error, reason, cause) in [
            (Wrong::Expired, TlsExpired, "or one above it in the chain expired; renew it"),
            (
                Wrong::ExpiredContext { time, not_after },
                TlsExpired,
                "or one above it in the chain expired at 1970-01-01T00:00:01Z; renew it",
            ),
            (Wrong::NotValidYet, TlsNotYetValid, "is not valid yet; compare the clocks"),
            (
                Wrong::NotValidYetContext { time, not_before },
                TlsNotYetValid,
                "is not valid before 1970-01-01T00:00:03Z;",
            ),
            (Wrong::NotValidForName, TlsWrongName, "is for another name; reissue it"),
            (
                not_for(&["DnsName(\"other\")", "IpAddress(0::1)"]),
                TlsWrongName,
                "is not for ponger but for: other, ::1; reissue it",
            ),
            (not_for(&[&a, &(o.clone() + "ö")]), TlsWrongName, &format!("for: {a}, {o}...;")),
            (
                not_for(&["DnsName(\"a\x1b[2J\u{202e}\")"]),
                TlsWrongName,
                "for: a\\u{1b}[2J\\u{202e};",
            ),
            (not_for(&[]), TlsWrongName, "for: no name;"),
            (not_for(&["a", "b", "c", "d"]), TlsWrongName, "for: a, b, c, d;"),
            (not_for(&["a", "b", "c", "d", "e", "f"]), TlsWrongName, "a, b, c, d, and 2 more;"),
            (Wrong::UnknownIssuer, TlsUntrusted, "is not signed by a trusted CA; add its root"),
            (
                other(io::Error::other("CaUsedAsEndEntity")),
                TlsUntrusted,
                "that a CA in the trust bundle issued, or",
            ),
            (
                other(io::Error::other("MaximumSignatureChecksExceeded")),
                TlsUntrusted,
                "has a chain that takes too long to verify; leave out of it",
            ),
            (other(io::Error::other("a mystery")), TlsUntrusted, "is not accepted: a mystery"),
            (Wrong::BadSignature, TlsUntrusted, "has a signature that cannot be verified"),
            (Wrong::InvalidPurpose, TlsUntrusted, "is for another purpose"),
            (Wrong::UnhandledCriticalExtension, TlsUntrusted, "critical extension"),
            (Wrong::BadEncoding, TlsUntrusted, "is not well-formed; "),
            (Wrong::Revoked, TlsUntrusted, "is not accepted: "),
        ] {
            let failure = classify(error);
            assert_eq!(failure.reason, reason, "{failure}");
            assert!(failure.cause.starts_with("ponger's certificate "), "{failure}");
            assert!(failure.cause.contains(cause), "{failure}");
        }
        let failure = classify(other(PeerIdError::MultipleUris(2)));
        assert_eq!(failure.reason, FailureReason::TlsWrongId);
        assert!(failure.cause.starts_with("ponger has another identity: the certificate has 2"));
    }

    #[test]
    fn alert_is_a_rejection_and_explained() {
        for (alert, cause) in [
            (AlertDescription::CertificateRequired, "certificate_required: it requires a"),
            (AlertDescription::UnknownCA, "unknown_ca: it does not trust the root"),
            (AlertDescription::CertificateExpired, "certificate_expired: the presented"),
            (AlertDescription::BadCertificate, "bad_certificate: it does not accept"),
            (AlertDescription::UnsupportedCertificate, "unsupported_certificate: it does not"),
            (AlertDescription::CertificateUnknown, "certificate_unknown: it does not accept"),
            (AlertDescription::DecryptError, "decrypt_error: it does not accept"),
            (AlertDescription::ProtocolVersion, "protocol_version: it supports no TLS version"),
            (AlertDescription::HandshakeFailure, "handshake_failure: it supports none"),
            (AlertDescription::AccessDenied, "access_denied: it denies access"),
            (AlertDescription::InternalError, "internal_error: see its log"),
            (AlertDescription::UnrecognisedName, "unrecognized_name: it does not serve"),
            (AlertDescription::Unknown(238), "number 238: see its log"),
        ] {
            let failure = classify(Error::AlertReceived(alert));
            assert_eq!(failure.reason, FailureReason::TlsRefusedByPeer);
            let start = format!("ponger rejected the handshake with the alert {cause}");
            assert!(failure.cause.starts_with(&start), "{failure}");
        }
        for alert in [AlertDescription::CloseNotify, AlertDescription::UserCanceled] {
            let failure = classify(Error::AlertReceived(alert));
            assert_eq!(failure.reason, FailureReason::Reset);
            assert_eq!(failure.cause, "ponger closed the connection");
        }
    }

    #[test]
    fn other_tls_errors_are_of_the_protocol_and_socket_errors_are_resets() {
        for (error, cause) in [
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                "ponger did not speak TLS (is it plain HTTP?)",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig),
                "ponger does not support a TLS version that is allowed here (minTlsVersion)",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                "ponger does not support what is needed here: no cipher suites in common",
            ),
            (
                Error::InvalidMessage(InvalidMessage::MissingData("ServerHello")),
                "ponger sent a TLS message that is not well-formed: missing data",
            ),
            (
                Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare),
                "ponger does not keep to the TLS protocol: invalid key share",
            ),
            (Error::HandshakeNotComplete, "TLS with ponger failed: "),
            (Error::DecryptError, "TLS with ponger failed: "),
            (Error::NoApplicationProtocol, "TLS with ponger failed: "),
        ] {
            let failure = classify(error);
            assert_eq!(failure.reason, FailureReason::TlsProtocol, "{failure}");
            assert!(failure.cause.starts_with(cause), "{failure}");
        }
        let failure = classify(Error::NoCertificatesPresented);
        assert_eq!(failure.reason, FailureReason::TlsNoCertificate);
        assert_eq!(failure.cause, "ponger presented no certificate");
        for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof] {
            assert_eq!(from_io("ponger", &kind.into()).reason, FailureReason::Reset);
        }
    }

    #[test]
    fn finds_a_tls_error_inside_nested_errors() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let outer = Outer(io::Error::other(io::Error::other(Error::DecryptError)));
        assert_eq!(find_source::<Error>(&outer), Some(&Error::DecryptError));
        assert!(find_source::<Outer>(&outer).is_some());
        assert!(find_source::<PeerIdError>(&outer).is_none());
        let reason = from_io("ponger", &io::Error::other(outer)).reason;
        assert_eq!(reason, FailureReason::TlsProtocol);
    }
}
