//! What two peers agreed upon in a handshake, in words from closed sets.

use rustls::{CommonState, HandshakeKind, ProtocolVersion};

/// The outcome of a handshake. Every value comes from what our own cryptography knows, so no peer
/// can add one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
    /// The key-exchange group, such as `X25519MLKEM768`.
    pub group: &'static str,
    /// `full` or `resumed`.
    pub kind: &'static str,
}

impl Session {
    /// Reads what `connection` has agreed upon.
    pub fn of(connection: &CommonState) -> Self {
        Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            group: connection
                .negotiated_key_exchange_group()
                .and_then(|group| group.name().as_str())
                .unwrap_or("none"),
            kind: match connection.handshake_kind() {
                Some(HandshakeKind::Resumed) => "resumed",
                _ => "full",
            },
        }
    }
}
