//! A TLS client that knows no more than it is given: for knocking at ponger's door.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, pki_types::ServerName};
use testkit::Issued;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{metrics::get, place::Stream};

/// What came of knocking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// ponger answered, with this status and body.
    Said(u16, String),
    /// The handshake or the connection ended before an answer, with these words.
    Refused(String),
}

impl Answer {
    /// Whether it is what the pair is about.
    pub fn is_pong(&self) -> bool {
        *self == Self::Said(200, "pong".into())
    }
}

/// A client that remembers its TLS sessions, so that it may try to resume one.
#[derive(Clone)]
pub struct Client(TlsConnector);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// One that trusts `roots`, and shows `certificate`.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn new(roots: &str, certificate: Option<&Issued>) -> Result<Self> {
        let mut store = RootCertStore::empty();
        for root in rustls_pemfile::certs(&mut roots.as_bytes()) {
            store.add(root?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store);
        let config = match certificate {
            None => config.with_no_client_auth(),
            Some(issued) => {
                let chain = rustls_pemfile::certs(&mut issued.chain.as_bytes())
                    .collect::<Result<Vec<_>, _>>()?;
                let key = rustls_pemfile::private_key(&mut issued.key.as_bytes())?;
                config.with_client_auth_cert(chain, key.context("a key")?)?
            }
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Asks for `/ping` over `stream`, once, of a ponger that must be `name`.
    ///
    /// # Errors
    /// When it does not trust ponger.
    pub async fn knock(&self, stream: Stream, name: &str) -> Result<Answer> {
        let stream = match self.0.connect(ServerName::try_from(name.to_owned())?, stream).await {
            Ok(stream) => stream,
            Err(error) => {
                let ours = error
                    .get_ref()
                    .and_then(|error| error.downcast_ref::<rustls::Error>())
                    .is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)));
                return match ours {
                    true => Err(error).context("the stranger does not trust ponger"),
                    false => Ok(Answer::Refused(error.to_string())),
                };
            }
        };
        // With TLS 1.3 a client learns only when it reads that its certificate was refused.
        Ok(match get(stream, name, "/ping").await {
            Ok((status, body)) => Answer::Said(status, body),
            Err(error) => Answer::Refused(error.to_string()),
        })
    }

    /// Opens a connection that is kept.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn open(&self, stream: Stream, name: &str) -> Result<Kept> {
        Ok(Kept(self.0.connect(ServerName::try_from(name.to_owned())?, stream).await?))
    }
}

/// A connection that is asked more than once.
pub struct Kept(TlsStream<Stream>);

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

impl Kept {
    /// Whether it came about by a session of before, without certificates.
    pub fn is_resumed(&self) -> bool {
        self.0.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether it is still good for a pong.
    pub async fn is_good(&mut self) -> bool {
        let asked = async {
            self.0.write_all(b"GET /ping HTTP/1.1\r\nHost: ponger\r\n\r\n").await?;
            self.0.flush().await?;
            let (mut answer, mut some) = (Vec::new(), [0; 1024]);
            // Up to the end of the connection, or of the body that is wanted, or to a refusal.
            loop {
                let read = self.0.read(&mut some).await?;
                answer.extend(some.iter().take(read));
                let pong = answer.ends_with(b"\r\n\r\npong");
                if read == 0 || pong || answer.starts_with(b"HTTP/1.1 4") {
                    return std::io::Result::Ok(pong && answer.starts_with(b"HTTP/1.1 200"));
                }
            }
        };
        matches!(tokio::time::timeout(Duration::from_secs(10), asked).await, Ok(Ok(true)))
    }
}

/// Asks for `/ping` over `stream` as a client that trusts `root`, expects `name`, and shows
/// `certificate`.
///
/// # Errors
/// When the client itself cannot be made, or does not trust ponger.
pub async fn knock(
    stream: Stream,
    root: &str,
    name: &str,
    certificate: Option<&Issued>,
) -> Result<Answer> {
    Client::new(root, certificate)?.knock(stream, name).await
}
