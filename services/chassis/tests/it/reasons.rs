//! Which failure is which reason, and what is said of it.

use std::{io, sync::Arc, thread, time::Duration};

use chassis::{
    log_limiter::LogLimiter,
    readiness::Readiness,
    reason::{Failure, FailureReason, find_in_chain},
    tls::peer_id::WrongId,
};
use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible,
    pki_types::{ServerName, UnixTime},
};

use crate::support::eventually;

fn of_stream(error: Error) -> Failure {
    Failure::of_stream("ponger", &io::Error::other(error))
}

fn of_certificate(error: CertificateError) -> Failure {
    of_stream(error.into())
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> CertificateError {
    CertificateError::Other(OtherError(Arc::new(error)))
}

fn for_names(names: &[&str]) -> CertificateError {
    CertificateError::NotValidForNameContext {
        expected: ServerName::try_from("ponger").expect("a name"),
        presented: names.iter().map(|name| (*name).to_owned()).collect(),
    }
}

#[test]
fn an_error_of_connecting_is_told_apart() {
    let address = "127.0.0.1:8443".parse().expect("an address");
    for (kind, reason) in [
        (io::ErrorKind::ConnectionRefused, FailureReason::ConnectRefused),
        (io::ErrorKind::HostUnreachable, FailureReason::ConnectUnreachable),
        (io::ErrorKind::NetworkUnreachable, FailureReason::ConnectUnreachable),
        (io::ErrorKind::NetworkDown, FailureReason::ConnectUnreachable),
        (io::ErrorKind::AddrNotAvailable, FailureReason::ConnectUnreachable),
        (io::ErrorKind::TimedOut, FailureReason::ConnectTimeout),
        (io::ErrorKind::ConnectionReset, FailureReason::Reset),
        (io::ErrorKind::ConnectionAborted, FailureReason::Reset),
        (io::ErrorKind::PermissionDenied, FailureReason::ConnectUnreachable),
        (io::ErrorKind::InvalidInput, FailureReason::ConnectFailed),
        (io::ErrorKind::Other, FailureReason::ConnectFailed),
    ] {
        let failure = Failure::of_connect(address, &kind.into());
        assert_eq!(failure.reason, reason, "{kind}");
        assert!(failure.cause.starts_with("127.0.0.1:8443: "), "{failure}");
        assert_eq!(failure.to_string(), format!("{}: {}", reason.label(), failure.cause));
    }
}

#[test]
fn an_error_of_the_socket_is_a_reset() {
    for kind in [
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::BrokenPipe,
        io::ErrorKind::TimedOut,
    ] {
        assert_eq!(
            Failure::of_stream("ponger", &kind.into()).reason,
            FailureReason::Reset,
            "{kind}"
        );
    }
}

#[test]
fn what_is_wrong_with_a_certificate_is_told_apart_with_a_cure() {
    let (now, then) = (
        UnixTime::since_unix_epoch(Duration::from_secs(2)),
        UnixTime::since_unix_epoch(Duration::from_secs(1)),
    );
    for (error, reason, said) in [
        (CertificateError::Expired, FailureReason::TlsExpired, "has expired, or one above it"),
        (
            CertificateError::ExpiredContext { time: now, not_after: then },
            FailureReason::TlsExpired,
            "has expired at 1970-01-01T00:00:01Z, or one above it in its chain has; renew that one",
        ),
        (
            CertificateError::NotValidYet,
            FailureReason::TlsNotYetValid,
            "is not valid yet, or one above",
        ),
        (
            CertificateError::NotValidYetContext { time: then, not_before: now },
            FailureReason::TlsNotYetValid,
            "is not valid yet before 1970-01-01T00:00:02Z, or one above it in its chain is not; compare the clocks",
        ),
        (
            CertificateError::NotValidForName,
            FailureReason::TlsWrongName,
            "is for another name; reissue",
        ),
        (
            for_names(&["other"]),
            FailureReason::TlsWrongName,
            "is for another name than ponger (other); reissue it for the name that is asked for",
        ),
        (
            for_names(&["ä".repeat(80).as_str(), "ö".repeat(81).as_str()]),
            FailureReason::TlsWrongName,
            &format!("than ponger ({}, {}...); ", "ä".repeat(80), "ö".repeat(80)),
        ),
        (for_names(&[]), FailureReason::TlsWrongName, "than ponger (no name); reissue"),
        (
            for_names(&["a", "b", "c", "d"]),
            FailureReason::TlsWrongName,
            "than ponger (a, b, c, d); ",
        ),
        (
            for_names(&["a", "b", "c", "d", "e", "f"]),
            FailureReason::TlsWrongName,
            "than ponger (a, b, c, d and 2 more); ",
        ),
        (
            CertificateError::UnknownIssuer,
            FailureReason::TlsUntrusted,
            "is not one that a trust root vouches for; if it is to be trusted, add the root",
        ),
        (other(io::Error::other("CaUsedAsEndEntity")), FailureReason::TlsUntrusted, "says CA:TRUE"),
        (
            other(io::Error::other("a mystery")),
            FailureReason::TlsUntrusted,
            "is not accepted: a mystery",
        ),
        (CertificateError::BadSignature, FailureReason::TlsUntrusted, "does not hold"),
        (CertificateError::InvalidPurpose, FailureReason::TlsUntrusted, "is for another purpose"),
        (
            CertificateError::UnhandledCriticalExtension,
            FailureReason::TlsUntrusted,
            "critical extension",
        ),
        (CertificateError::BadEncoding, FailureReason::TlsUntrusted, "is not well-formed; "),
        (CertificateError::Revoked, FailureReason::TlsUntrusted, "is not accepted: "),
    ] {
        let failure = of_certificate(error);
        assert_eq!(failure.reason, reason, "{failure}");
        assert!(failure.cause.starts_with("ponger's certificate "), "{failure}");
        assert!(failure.cause.contains(said), "{failure}");
    }
    let failure = of_certificate(other(WrongId::Several(2)));
    assert_eq!(failure.reason, FailureReason::TlsWrongId);
    assert!(failure.cause.starts_with("ponger is someone else: its certificate has 2 URIs"));
}

#[test]
fn an_alert_is_a_refusal_and_says_what_it_means() {
    for (alert, said) in [
        (AlertDescription::CertificateRequired, "certificate_required: it wants a certificate"),
        (AlertDescription::UnknownCA, "unknown_ca: it does not trust the root"),
        (AlertDescription::CertificateExpired, "certificate_expired: it finds that"),
        (AlertDescription::BadCertificate, "bad_certificate: it does not accept"),
        (AlertDescription::UnsupportedCertificate, "unsupported_certificate: it does not accept"),
        (AlertDescription::CertificateUnknown, "certificate_unknown: it does not accept"),
        (AlertDescription::ProtocolVersion, "protocol_version: it speaks no TLS version"),
        (AlertDescription::HandshakeFailure, "handshake_failure: it found nothing in common"),
        (AlertDescription::AccessDenied, "access_denied: it does not let this identity in"),
        (AlertDescription::InternalError, "internal_error: see its log"),
    ] {
        let failure = of_stream(Error::AlertReceived(alert));
        assert_eq!(failure.reason, FailureReason::TlsRefusedByPeer);
        let whole = format!("ponger refused the handshake with the alert {said}");
        assert!(failure.cause.starts_with(&whole), "{failure}");
    }
}

#[test]
fn a_farewell_is_no_refusal() {
    for alert in [AlertDescription::CloseNotify, AlertDescription::UserCanceled] {
        let failure = of_stream(Error::AlertReceived(alert));
        assert_eq!(failure.reason, FailureReason::Reset);
        assert_eq!(failure.cause, "ponger closed the connection");
    }
}

#[test]
fn everything_else_of_tls_is_a_matter_of_the_protocol() {
    for error in [
        Error::InvalidMessage(InvalidMessage::InvalidContentType),
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
        Error::HandshakeNotComplete,
        Error::DecryptError,
        Error::NoApplicationProtocol,
    ] {
        let failure = of_stream(error);
        assert_eq!(failure.reason, FailureReason::TlsProtocol, "{failure}");
        assert!(failure.cause.starts_with("ponger does not speak the TLS that is spoken here: "));
    }
    let failure = of_stream(Error::NoCertificatesPresented);
    assert_eq!(failure.reason, FailureReason::TlsNoCertificate);
    assert_eq!(failure.cause, "ponger showed no certificate");
}

#[test]
fn an_error_is_found_wherever_it_is_in_the_chain() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);
    let inner = io::Error::other(io::Error::other(Error::DecryptError));
    let outer = Outer(inner);
    assert_eq!(find_in_chain::<Error>(&outer), Some(&Error::DecryptError));
    assert!(find_in_chain::<Outer>(&outer).is_some());
    assert!(find_in_chain::<WrongId>(&outer).is_none());
    assert!(find_in_chain::<Error>(&io::Error::from(io::ErrorKind::Other)).is_none());
}

#[test]
fn a_throttle_lets_one_through_and_counts_the_others() {
    let throttle = LogLimiter::every(Duration::from_secs(3600));
    assert_eq!(throttle.pass(), Some(0));
    for _ in 0..3 {
        assert_eq!(throttle.pass(), None);
    }
    let throttle = LogLimiter::every(Duration::ZERO);
    for _ in 0..3 {
        assert_eq!(throttle.pass(), Some(0));
    }
}

#[test]
fn a_throttle_tells_how_many_it_held_back() {
    let throttle = LogLimiter::every(Duration::from_millis(50));
    assert_eq!(throttle.pass(), Some(0));
    let mut held = 0;
    eventually("its next turn", || match throttle.pass() {
        None => {
            held += 1;
            false
        }
        Some(told) => {
            assert_eq!(told, held);
            true
        }
    });
}

#[test]
fn a_throttle_lets_one_of_many_threads_through() {
    let throttle = LogLimiter::every(Duration::from_secs(3600));
    let through: usize = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| usize::from(throttle.pass().is_some()))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(through, 1);
}

#[test]
fn who_has_no_obstacle_is_ready() {
    assert!(Readiness::default().obstacles().is_empty());
    let health = Readiness::starting();
    assert_eq!(health.obstacles(), ["starting"]);
    let elsewhere = health.clone();
    elsewhere.set("draining", true);
    elsewhere.set("draining", true);
    assert_eq!(health.obstacles(), ["draining", "starting"]);
    elsewhere.set("starting", false);
    elsewhere.set("never there", false);
    assert_eq!(health.obstacles(), ["draining"]);
    elsewhere.set("draining", false);
    assert!(health.obstacles().is_empty());
}
