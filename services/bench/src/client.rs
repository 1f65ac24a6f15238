//! A connection of the load generator: TLS 1.3 with a client certificate, and HTTP/1.1 by hand, so
//! that it costs little beside the server.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustls::{
    ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::aws_lc_rs::{default_provider, kx_group::X25519},
    pki_types::ServerName,
    sign::CertifiedKey,
    version::TLS13,
};
use testkit::client::TlsClient;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::credentials::Credentials;

/// How long each step of a connection may take: long, for valgrind on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest response that is read.
const MAX_RESPONSE: usize = 2048;

/// The key exchange groups that a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// X25519MLKEM768 first, and others for servers that do not have it.
    Hybrid,
    /// X25519 alone.
    X25519,
}

/// Opens connections that are never resumed.
#[derive(Clone)]
pub struct Client {
    connector: TlsConnector,
    server_name: ServerName<'static>,
    certificate: Arc<CertResolver>,
}

impl Client {
    /// A client with the certificate of `credentials`.
    ///
    /// # Errors
    /// Never for certificates of [`Credentials::create`].
    pub fn new(credentials: &Credentials, groups: Groups) -> Result<Self> {
        let mut provider = default_provider();
        if groups == Groups::X25519 {
            provider.kx_groups = vec![X25519];
        }
        let client = TlsClient::new(&credentials.roots, None)
            .with_provider(provider)
            .with_versions(&[&TLS13]);
        let certificate = Arc::new(CertResolver {
            key: credentials.client.certified_key(),
            asked: AtomicBool::new(false),
        });
        let mut config = ClientConfig::clone(&client.config());
        config.resumption = Resumption::disabled();
        config.client_auth_cert_resolver = Arc::clone(&certificate) as _;
        Ok(Self {
            connector: Arc::new(config).into(),
            server_name: ServerName::try_from("localhost")?,
            certificate,
        })
    }

    /// Opens a connection and completes the handshake.
    ///
    /// # Errors
    /// When the server cannot be reached, or does not complete the handshake.
    pub async fn connect(&self, address: SocketAddr) -> Result<Connection> {
        limited("the handshake", async {
            let tcp = TcpStream::connect(address).await.context("connect")?;
            tcp.set_nodelay(true)?;
            let name = self.server_name.clone();
            let stream = self.connector.connect(name, tcp).await.context("handshake")?;
            Ok(Connection { stream })
        })
        .await
    }

    /// What was negotiated on `connection`, and whether any server has asked for the certificate.
    pub fn negotiated(&self, connection: &Connection) -> String {
        let tls = connection.stream.get_ref().1;
        let version = tls.protocol_version().map(|version| format!("{version:?}"));
        let suite = tls.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
        let group = tls.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
        let asked = self.certificate.asked.load(Ordering::Relaxed);
        let certificate = if asked { "client certificate" } else { "NO client certificate" };
        let parts = [version, suite, group].map(Option::unwrap_or_default);
        format!("{}, {certificate}", parts.join(", "))
    }
}

/// Presents one certificate, and records that a server asked for it.
#[derive(Debug)]
struct CertResolver {
    key: Arc<CertifiedKey>,
    asked: AtomicBool,
}

impl ResolvesClientCert for CertResolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whether the server is asked to keep the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Yes.
    Yes,
    /// No: it closes the connection after the response.
    No,
}

impl KeepAlive {
    /// A request with the headers of pinger.
    fn request(self) -> &'static [u8] {
        match self {
            Self::Yes => {
                b"GET /ping HTTP/1.1\r\nHost: localhost\r\nUser-Agent: ping-pong\r\nAccept: */*\r\n\r\n"
            }
            Self::No => {
                b"GET /ping HTTP/1.1\r\nHost: localhost\r\nUser-Agent: ping-pong\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            }
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
}

impl Connection {
    /// Sends a ping, and reads its pong.
    ///
    /// # Errors
    /// When the response is another one, or does not arrive.
    pub async fn ping(&mut self, keep_alive: KeepAlive) -> Result<()> {
        limited("the response", self.exchange(keep_alive)).await
    }

    async fn exchange(&mut self, keep_alive: KeepAlive) -> Result<()> {
        self.stream.write_all(keep_alive.request()).await.context("request")?;
        self.stream.flush().await.context("request")?;
        let mut response = [0; MAX_RESPONSE];
        let mut read = 0;
        while !is_complete(&response[..read])? {
            ensure!(read < MAX_RESPONSE, "the response is longer than {MAX_RESPONSE} bytes");
            let count = self.stream.read(&mut response[read..]).await.context("response")?;
            ensure!(count > 0, "the connection ended before the response");
            read += count;
        }
        Ok(())
    }

    /// Closes it with a TLS alert, as clients should.
    ///
    /// # Errors
    /// When it is broken.
    pub async fn close(mut self) -> Result<()> {
        limited("the end of the connection", async { Ok(self.stream.shutdown().await?) }).await
    }
}

/// Awaits a step of a connection, which is named by `step`.
async fn limited<T>(step: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(TIMEOUT, work)
        .await
        .with_context(|| format!("{step} does not come within {} s", TIMEOUT.as_secs()))?
}

/// Whether `response` is a whole pong; an error if it becomes none.
fn is_complete(response: &[u8]) -> Result<bool> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(response)? else { return Ok(false) };
    ensure!(parsed.code == Some(200), "status {:?}", parsed.code);
    let length = parsed
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok())
        .context("no Content-Length in the response")?;
    let body = &response[head..];
    if body.len() < length {
        return Ok(false);
    }
    ensure!(body.len() == length, "more than one response");
    ensure!(body.trim_ascii() == b"pong", "the response is not pong");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_a_whole_pong_and_nothing_else() {
        let pong = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npong";
        for end in 0..pong.len() {
            assert!(!is_complete(&pong[..end]).expect("a prefix"), "{end}");
        }
        assert!(is_complete(pong).expect("a pong"));
        assert!(
            is_complete(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npong\n").expect("a pong")
        );
        for bad in [
            &b"HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\npong"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nping",
            b"HTTP/1.1 200 OK\r\n\r\npong",
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npongHTTP/1.1",
            b"SSH-2.0-OpenSSH\r\n",
        ] {
            assert!(is_complete(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
