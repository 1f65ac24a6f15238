//! What a handshake negotiated.

use rustls::{CommonState, HandshakeKind, ProtocolVersion};

/// The outcome of a handshake, as closed sets of labels: every value comes from our own cryptography
/// provider, so no peer can add one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandshakeInfo {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
    /// The key-exchange group, such as `X25519MLKEM768`.
    pub group: &'static str,
    /// `full` or `resumed`.
    pub kind: &'static str,
}

impl HandshakeInfo {
    /// Reads it from a connection whose handshake is complete.
    pub fn from_connection(connection: &CommonState) -> Self {
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
