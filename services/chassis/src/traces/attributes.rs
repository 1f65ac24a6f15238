//! Attributes that spans of both services have, by the names of OpenTelemetry's semantic conventions.

use std::net::SocketAddr;

use opentelemetry::KeyValue;

use crate::tls::handshake_info::HandshakeInfo;

/// The address of the other end of a connection.
pub fn peer_address(address: SocketAddr) -> [KeyValue; 2] {
    [
        KeyValue::new("network.peer.address", address.ip().to_string()),
        KeyValue::new("network.peer.port", i64::from(address.port())),
    ]
}

/// What a handshake negotiated.
pub fn handshake(info: HandshakeInfo) -> [KeyValue; 3] {
    [
        KeyValue::new("tls.protocol.version", info.version.trim_start_matches("TLSv")),
        KeyValue::new("tls.cipher", info.cipher),
        KeyValue::new("tls.curve", info.group),
    ]
}
