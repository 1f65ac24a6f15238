//! The closed list of reasons for which a connection, a handshake or a ping fails.
//!
//! The same [`FailureReason`] goes from the socket to the log field, the metric label and the summary.
//! No peer can add to it. TLS errors are classified by [`crate::tls::classify`]; `hint` says what to do.

mod hint;

use std::{error::Error, fmt, io, net::SocketAddr};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Why something failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum FailureReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl FailureReason {
            /// Every reason, in the order of a ping's phases.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name in logs, labels and summaries.
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
    /// No route leads to the host.
    ConnectUnreachable = "connect_unreachable",
    /// Nothing answered in time.
    ConnectTimeout = "connect_timeout",
    /// The connection failed for another reason, such as no free file descriptor.
    ConnectFailed = "connect_failed",
    /// The peer's certificate is not signed by a trusted CA.
    TlsUntrusted = "tls_untrusted",
    /// The peer's certificate has expired.
    TlsExpired = "tls_expired",
    /// The peer's certificate is not valid yet.
    TlsNotYetValid = "tls_not_yet_valid",
    /// The peer's certificate is for another DNS name.
    TlsWrongName = "tls_wrong_name",
    /// The peer's certificate has another SPIFFE ID, none, or more than one.
    TlsWrongId = "tls_wrong_id",
    /// The client presented no certificate.
    TlsNoCertificate = "tls_no_certificate",
    /// The peer rejected the handshake with an alert.
    TlsRefusedByPeer = "tls_refused_by_peer",
    /// The peer does not speak TLS, or no version or parameters that are allowed here.
    TlsProtocol = "tls_protocol",
    /// The handshake did not complete in time.
    TlsTimeout = "tls_timeout",
    /// The peer denied access to this identity: status 401 or 403.
    Denied = "denied",
    /// The response has another status than the expected one.
    Status = "status",
    /// The response lacks the expected header, or has it with another value.
    Header = "header",
    /// The response has another body than the expected one.
    Body = "body",
    /// The connection ended before the response was complete.
    Reset = "reset",
    /// The response did not arrive in time.
    RequestTimeout = "request_timeout",
    /// The service stopped before the response arrived.
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
    /// Which of the closed list.
    pub reason: FailureReason,
    /// What happened, for a person.
    pub cause: String,
}

impl Failure {
    /// A failure for `reason`.
    pub fn new(reason: FailureReason, cause: impl fmt::Display) -> Self {
        Self { reason, cause: cause.to_string() }
    }

    /// Classifies an error of opening a TCP connection to `address`.
    pub fn from_connect(address: SocketAddr, error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::ConnectionRefused => FailureReason::ConnectRefused,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
            // A firewall rule forbids it.
            | io::ErrorKind::PermissionDenied => FailureReason::ConnectUnreachable,
            io::ErrorKind::TimedOut => FailureReason::ConnectTimeout,
            // It was accepted and closed before it could be used.
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => FailureReason::Reset,
            _ => FailureReason::ConnectFailed,
        };
        Self::new(reason, format!("{address}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.cause)
    }
}

impl Error for Failure {}

/// The first `E` among `error` and its sources, looking into what [`io::Error`] wraps.
pub fn find_source<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_valid_in_prometheus() {
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
    fn classifies_errors_of_connecting() {
        use FailureReason as Reason;
        let address = "127.0.0.1:8443".parse().unwrap();
        for (kind, reason) in [
            (io::ErrorKind::ConnectionRefused, Reason::ConnectRefused),
            (io::ErrorKind::HostUnreachable, Reason::ConnectUnreachable),
            (io::ErrorKind::NetworkUnreachable, Reason::ConnectUnreachable),
            (io::ErrorKind::NetworkDown, Reason::ConnectUnreachable),
            (io::ErrorKind::AddrNotAvailable, Reason::ConnectUnreachable),
            (io::ErrorKind::PermissionDenied, Reason::ConnectUnreachable),
            (io::ErrorKind::TimedOut, Reason::ConnectTimeout),
            (io::ErrorKind::ConnectionReset, Reason::Reset),
            (io::ErrorKind::ConnectionAborted, Reason::Reset),
            (io::ErrorKind::InvalidInput, Reason::ConnectFailed),
            (io::ErrorKind::Other, Reason::ConnectFailed),
        ] {
            let failure = Failure::from_connect(address, &kind.into());
            assert_eq!(failure.reason, reason, "{kind}");
            assert!(failure.cause.starts_with("127.0.0.1:8443: "), "{failure}");
            assert_eq!(failure.to_string(), format!("{reason}: {}", failure.cause));
        }
    }
}
