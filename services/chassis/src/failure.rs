//! The one closed list of reasons for which a connection, a handshake or a ping fails.
//!
//! The same [`FailureReason`] goes from the socket to the log field, the metric label and the summary at
//! the end. No peer can add to it.

mod certificate;

pub(crate) use certificate::of_webpki;

use std::{error::Error, fmt, io, net::SocketAddr};

use rustls::AlertDescription;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Why something failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum FailureReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl FailureReason {
            /// Every reason, in the order of a ping's way.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name that stands in logs, labels and summaries.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }
        }
    };
}

reasons! {
    /// The name could not be resolved to an address.
    Resolve = "resolve",
    /// The host answered that nothing listens on the port.
    ConnectRefused = "connect_refused",
    /// There is no way to the host.
    ConnectUnreachable = "connect_unreachable",
    /// Nobody answered in time.
    ConnectTimeout = "connect_timeout",
    /// The connection could not be made for another cause, such as no free descriptor.
    ConnectFailed = "connect_failed",
    /// The peer's certificate is not one that a trust root vouches for.
    TlsUntrusted = "tls_untrusted",
    /// The peer's certificate has expired.
    TlsExpired = "tls_expired",
    /// The peer's certificate is not valid yet.
    TlsNotYetValid = "tls_not_yet_valid",
    /// The peer's certificate is for another DNS name.
    TlsWrongName = "tls_wrong_name",
    /// The peer's certificate carries another SPIFFE ID, none, or more than one.
    TlsWrongId = "tls_wrong_id",
    /// The client showed no certificate.
    TlsNoCertificate = "tls_no_certificate",
    /// The peer refused the handshake with an alert.
    TlsRefusedByPeer = "tls_refused_by_peer",
    /// What the peer sent is not the TLS that is spoken here.
    TlsProtocol = "tls_protocol",
    /// The handshake took too long.
    TlsTimeout = "tls_timeout",
    /// The peer knows who this is and does not let it in: status 403.
    Denied = "denied",
    /// The response has another status than 200.
    Status = "status",
    /// The response is not `pong`.
    Body = "body",
    /// The connection ended before the answer was whole.
    Reset = "reset",
    /// The answer did not come in time.
    RequestTimeout = "request_timeout",
    /// The service stopped before the answer came.
    Shutdown = "shutdown",
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A failure: its reason, and the cause in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which of the closed list it is.
    pub reason: FailureReason,
    /// What happened, for a person.
    pub cause: String,
}

impl Failure {
    /// A failure for `reason`.
    pub fn new(reason: FailureReason, cause: impl fmt::Display) -> Self {
        Self { reason, cause: cause.to_string() }
    }

    /// Judges an error of opening a TCP connection to `address`.
    pub fn of_connect(address: SocketAddr, error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::ConnectionRefused => FailureReason::ConnectRefused,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
            // A rule on the way, or here, forbids it.
            | io::ErrorKind::PermissionDenied => FailureReason::ConnectUnreachable,
            io::ErrorKind::TimedOut => FailureReason::ConnectTimeout,
            // It was accepted, and ended before it could be used.
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => FailureReason::Reset,
            _ => FailureReason::ConnectFailed,
        };
        Self::new(reason, format!("{address}: {error}"))
    }

    /// Judges an error of an established connection, in its handshake or after it. `peer` is the
    /// word for who is at the other end.
    ///
    /// In TLS 1.3 a client learns only when it first reads that its certificate was refused, so
    /// alerts count as refusals whenever they come.
    pub fn of_stream(peer: &str, error: &io::Error) -> Self {
        match find_in_chain::<rustls::Error>(error) {
            Some(error) => Self::of_tls(peer, error),
            None => Self::new(FailureReason::Reset, error),
        }
    }

    fn of_tls(peer: &str, error: &rustls::Error) -> Self {
        use rustls::Error as Tls;
        match error {
            Tls::InvalidCertificate(error) => {
                let (reason, cause) = certificate::judge(peer, error);
                Self::new(reason, cause)
            }
            Tls::NoCertificatesPresented => {
                Self::new(FailureReason::TlsNoCertificate, format!("{peer} showed no certificate"))
            }
            // Not refusals: the peer has said that it is done.
            Tls::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => {
                Self::new(FailureReason::Reset, format!("{peer} closed the connection"))
            }
            Tls::AlertReceived(alert) => {
                Self::new(FailureReason::TlsRefusedByPeer, of_alert(peer, *alert))
            }
            other => Self::new(
                FailureReason::TlsProtocol,
                format!("{peer} does not speak the TLS that is spoken here: {other}"),
            ),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.cause)
    }
}

impl Error for Failure {}

/// The first `E` among `error` and its sources, looking into what [`io::Error`] wraps.
pub fn find_in_chain<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // `io::Error::source` skips the very error that it wraps.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// What an alert of `peer` means for this side.
fn of_alert(peer: &str, alert: AlertDescription) -> String {
    let meaning = match alert {
        AlertDescription::CertificateRequired => "it wants a certificate, and none was shown",
        AlertDescription::UnknownCA => {
            "it does not trust the root of the certificate that was shown"
        }
        AlertDescription::CertificateExpired => {
            "it finds that the certificate that was shown has expired (or is not valid yet)"
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => {
            "it does not accept the certificate that was shown"
        }
        AlertDescription::ProtocolVersion => "it speaks no TLS version that is allowed here",
        AlertDescription::HandshakeFailure => {
            "it found nothing in common to speak, or wants a certificate"
        }
        AlertDescription::AccessDenied => "it does not let this identity in",
        _ => "see its log",
    };
    format!("{peer} refused the handshake with the alert {}: {meaning}", alert_name(alert))
}

/// The name of an alert as RFC 8446 section 6 spells it: `unknown_ca`.
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
    fn labels_are_distinct_and_fit_for_prometheus() {
        let mut labels: Vec<_> = FailureReason::ALL.iter().map(|reason| reason.label()).collect();
        assert!(
            labels.iter().all(|label| {
                label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            })
        );
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), FailureReason::ALL.len());
    }

    #[test]
    fn the_reference_has_every_reason() {
        let reference = include_str!("../../README.md");
        for reason in FailureReason::ALL {
            assert!(reference.contains(&format!("| `{reason}` |")), "{reason}");
        }
    }

    #[test]
    fn alerts_have_the_names_of_the_rfc() {
        assert_eq!(alert_name(AlertDescription::CertificateRequired), "certificate_required");
        assert_eq!(alert_name(AlertDescription::UnknownCA), "unknown_ca");
        assert_eq!(alert_name(AlertDescription::BadCertificate), "bad_certificate");
    }

    #[test]
    fn a_tls_error_is_found_inside_an_io_error_inside_an_io_error() {
        let tls = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        let error = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
        assert_eq!(Failure::of_stream("ponger", &error).reason, FailureReason::TlsRefusedByPeer);
    }
}
