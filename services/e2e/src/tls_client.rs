//! A TLS client that presents any certificate, to probe ponger with.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::{HandshakeKind, pki_types::ServerName};
use testkit::Issued;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{http, model::Stream};

/// The outcome of one request for `/ping`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// ponger responded with this status and body.
    Response(u16, String),
    /// The handshake or the connection ended before a response, with this error.
    Rejected(String),
}

impl ProbeOutcome {
    /// Whether ponger responded with `pong`.
    pub fn is_pong(&self) -> bool {
        *self == Self::Response(200, "pong".into())
    }
}

/// A client that stores TLS sessions, so that it would resume one if ponger allowed that.
pub struct TlsClient(TlsConnector);

impl TlsClient {
    /// Creates a client that trusts `roots` and presents `certificate`.
    pub fn new(roots: &str, certificate: Option<&Issued>) -> Self {
        Self(testkit::client::TlsClient::new(roots, certificate).config().into())
    }

    /// Requests `/ping` once over `stream` from the server `name`.
    ///
    /// # Errors
    /// When the client rejects the server's certificate.
    pub async fn probe(&self, stream: Stream, name: &str) -> Result<ProbeOutcome> {
        let stream = match self.0.connect(ServerName::try_from(name.to_owned())?, stream).await {
            Ok(stream) => stream,
            Err(error) => {
                let cause = error.get_ref().and_then(|error| error.downcast_ref());
                return match cause {
                    Some(rustls::Error::InvalidCertificate(_)) => {
                        Err(error).context("the client does not trust ponger")
                    }
                    _ => Ok(ProbeOutcome::Rejected(error.to_string())),
                };
            }
        };
        // With TLS 1.3 a client learns only by reading that its certificate was rejected.
        Ok(match http::get(stream, name, "/ping").await {
            Ok((status, body)) => ProbeOutcome::Response(status, body),
            Err(error) => ProbeOutcome::Rejected(error.to_string()),
        })
    }

    /// Opens a connection for several requests.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn connect(&self, stream: Stream, name: &str) -> Result<PersistentConnection> {
        let name = ServerName::try_from(name.to_owned())?;
        Ok(PersistentConnection(self.0.connect(name, stream).await?))
    }
}

/// A connection for several requests.
pub struct PersistentConnection(TlsStream<Stream>);

impl PersistentConnection {
    /// Whether the handshake resumed an earlier session, without certificates.
    pub fn is_resumed(&self) -> bool {
        self.0.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Requests `/ping` and returns whether the response was `pong`.
    pub async fn receives_pong(&mut self) -> bool {
        let request = async {
            self.0.write_all(b"GET /ping HTTP/1.1\r\nHost: ponger\r\n\r\n").await?;
            self.0.flush().await?;
            let (mut response, mut buffer) = (Vec::new(), [0; 1024]);
            // Until the end of the connection, the expected body, or an error status.
            loop {
                let read = self.0.read(&mut buffer).await?;
                response.extend(buffer.iter().take(read));
                let pong = response.ends_with(b"\r\n\r\npong");
                if read == 0 || pong || response.starts_with(b"HTTP/1.1 4") {
                    return std::io::Result::Ok(pong && response.starts_with(b"HTTP/1.1 200"));
                }
            }
        };
        matches!(tokio::time::timeout(Duration::from_secs(10), request).await, Ok(Ok(true)))
    }
}

/// Requests `/ping` once over `stream` from the server `name`, with a new client that trusts `roots`
/// and presents `certificate`.
///
/// # Errors
/// When the client rejects the server's certificate.
pub async fn probe(
    stream: Stream,
    roots: &str,
    name: &str,
    certificate: Option<&Issued>,
) -> Result<ProbeOutcome> {
    TlsClient::new(roots, certificate).probe(stream, name).await
}
