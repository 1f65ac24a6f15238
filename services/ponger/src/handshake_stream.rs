//! Limits what a client may send before its handshake is complete, and so what it makes us buffer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use chassis::tls::limits::MAX_CHAIN_BYTES;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Bytes that a client may send before its handshake is found to be complete: the largest certificate
/// chain; a `ClientHello`, which has about 2 KiB with a post-quantum key share; and the first record
/// with a request, which may follow at once (RFC 8446, section 5.1: at most 16 KiB).
pub const MAX_HANDSHAKE_BYTES: usize = MAX_CHAIN_BYTES + 8 * 1024 + 16 * 1024;

/// A TCP stream that fails when a handshake takes more than [`MAX_HANDSHAKE_BYTES`].
#[derive(Debug)]
pub struct HandshakeStream {
    tcp: TcpStream,
    /// How much may still be read; `None` after the handshake.
    remaining: Option<usize>,
}

impl HandshakeStream {
    /// A stream whose handshake begins.
    pub fn new(tcp: TcpStream) -> Self {
        Self { tcp, remaining: Some(MAX_HANDSHAKE_BYTES) }
    }

    /// Ends the limit.
    pub fn end_handshake(&mut self) {
        self.remaining = None;
    }

    /// The TCP stream.
    pub fn into_inner(self) -> TcpStream {
        self.tcp
    }
}

impl AsyncRead for HandshakeStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.remaining == Some(0) {
            let error = "the client sent too much before its handshake was complete";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        let count = buffer.filled().len() - before;
        if let Some(remaining) = &mut self.remaining {
            *remaining = remaining.saturating_sub(count);
        }
        read
    }
}

impl AsyncWrite for HandshakeStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
