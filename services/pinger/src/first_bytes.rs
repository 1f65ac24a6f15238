//! A TCP connection that keeps the first bytes that it received: they say what a server speaks that
//! does not speak TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use actix_rt::net::TcpStream;
use chassis::tls::peer_id::sanitize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes are kept.
const MAX_BYTES: usize = 64;

/// The types of TLS records, which are their first byte (RFC 8446, 5.1).
const TLS_CONTENT_TYPES: std::ops::RangeInclusive<u8> = 20..=24;

#[derive(Debug)]
pub(crate) struct FirstBytes {
    tcp: TcpStream,
    bytes: Vec<u8>,
}

impl FirstBytes {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, bytes: Vec::new() }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The first line that was received, printable, if it is no TLS record.
    pub(crate) fn line_without_tls(&self) -> Option<String> {
        if self.bytes.first().is_none_or(|byte| TLS_CONTENT_TYPES.contains(byte)) {
            return None;
        }
        let line = self.bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Some(sanitize(String::from_utf8_lossy(line.trim_ascii_end()).as_ref()).into_owned())
    }
}

impl AsyncRead for FirstBytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        let received = &buffer.filled()[before..];
        let missing = MAX_BYTES - self.bytes.len();
        self.bytes.extend_from_slice(&received[..received.len().min(missing)]);
        read
    }
}

impl AsyncWrite for FirstBytes {
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
