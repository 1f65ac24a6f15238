//! The TLS handshake. It limits what a client may send before it is complete, and so what it makes us
//! buffer.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use chassis::tls::{REJECTION_PROBE_ALPN, limits::MAX_CHAIN_BYTES};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    LazyConfigAcceptor,
    rustls::{ServerConfig, server::Acceptor},
    server::TlsStream,
};

/// Bytes that a client may send before its handshake is found to be complete: the largest certificate
/// chain; a `ClientHello`, which has about 2 KiB with a post-quantum key share; and the first record
/// with a request, which may follow at once (RFC 8446, section 5.1: at most 16 KiB).
pub const MAX_HANDSHAKE_BYTES: usize = MAX_CHAIN_BYTES + 8 * 1024 + 16 * 1024;

/// The outcome of a handshake.
#[derive(Debug)]
pub struct Accepted {
    /// Whether the client says that it is a rejection probe, as any client can.
    pub claims_to_be_probe: bool,
    /// The stream; or why there is none, and what [`lingering_close`] takes.
    pub result: Result<TlsStream<HandshakeStream>, (io::Error, Option<HandshakeStream>)>,
}

/// Completes the handshake, or sends the alert by which it fails.
pub async fn accept(stream: TcpStream, config: Arc<ServerConfig>) -> Accepted {
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), HandshakeStream::new(stream));
    let start = match (&mut acceptor).await {
        Ok(start) => start,
        Err(error) => {
            let result = Err((error, acceptor.take_io()));
            return Accepted { claims_to_be_probe: false, result };
        }
    };
    let claims_to_be_probe = start
        .client_hello()
        .alpn()
        .is_some_and(|mut protocols| protocols.any(|protocol| protocol == REJECTION_PROBE_ALPN));
    // Fallible: on an error the stream comes back, so that the alert can be delivered.
    let result = start.into_stream(config).into_fallible().await;
    Accepted { claims_to_be_probe, result: result.map_err(|(error, stream)| (error, Some(stream))) }
}

/// Reads and discards what the client still sends, for a moment. If a socket is closed with bytes
/// unread, the kernel resets the connection, and the alert may never arrive.
pub async fn lingering_close(HandshakeStream { mut tcp, .. }: HandshakeStream) {
    let _ = timeout(Duration::from_secs(1), async {
        tcp.shutdown().await?;
        let mut discarded = [0; 1024];
        for _ in 0..64 {
            if tcp.read(&mut discarded).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    })
    .await;
}

/// A TCP stream that fails when a handshake takes more than [`MAX_HANDSHAKE_BYTES`].
#[derive(Debug)]
pub struct HandshakeStream {
    tcp: TcpStream,
    /// How much may still be read; `None` after the handshake.
    remaining: Option<usize>,
}

impl HandshakeStream {
    /// A stream whose handshake begins.
    fn new(tcp: TcpStream) -> Self {
        Self { tcp, remaining: Some(MAX_HANDSHAKE_BYTES) }
    }

    /// Ends the limit.
    pub fn end_handshake(&mut self) {
        self.remaining = None;
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

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bytes)
    }

    // Otherwise each record of the handshake is a system call and a packet of its own.
    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    #[actix_web::test]
    async fn writes_several_records_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = HandshakeStream::new(client);
        let records = [io::IoSlice::new(b"one"), io::IoSlice::new(b"two")];
        assert!(stream.is_write_vectored());
        assert_eq!(stream.write_vectored(&records).await.unwrap(), 6);
    }
}
