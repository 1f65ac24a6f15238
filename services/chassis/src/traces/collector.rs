//! Sends spans to a collector: OTLP over HTTP/1.1, in TLS unless it is on this machine.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    config::{Collector, Otel},
    error::ConfigError,
    tls::{
        classify,
        client::{ClientTls, ExpectedServer},
        clock::Clock,
        identity::{Build, Identity, IdentitySources},
        x509::Role,
    },
};

/// How long sending a batch may take, from resolving the name to the response.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of a response's head is read, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// A client of one collector. Each batch has a connection of its own, with the certificates that are on
/// disk at that time: nothing needs to be reloaded, and nothing outlives its certificates.
pub(super) struct CollectorClient {
    collector: Collector,
    tls: Option<(IdentitySources, Box<Build<ClientTls>>)>,
    clock: Clock,
}

impl std::fmt::Debug for CollectorClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CollectorClient")
            .field("collector", &self.collector)
            .finish_non_exhaustive()
    }
}

impl CollectorClient {
    /// Creates a client of the collector that `settings` name; `None` if they name none.
    ///
    /// # Errors
    /// When its URL or the certificates cannot be used.
    pub(super) fn new(settings: &Otel, clock: Clock) -> Result<Option<Self>, ConfigError> {
        let Some(collector) = settings.collector()? else { return Ok(None) };
        let tls = match collector.server_name.clone() {
            None => None,
            Some(name) => {
                let (server, tls_clock) = (ExpectedServer { name, id: None }, clock.clone());
                let build: Box<Build<ClientTls>> = Box::new(move |own, trust, now| {
                    ClientTls::build(own, trust, &server, rustls::ALL_VERSIONS, &tls_clock, now)
                });
                Some((settings.sources()?, build))
            }
        };
        let client = Self { collector, tls, clock };
        client.load_identity().map_err(|error| error.name_key(&settings.files()))?;
        Ok(Some(client))
    }

    /// Where it sends to.
    pub(super) fn endpoint(&self) -> &Uri {
        &self.collector.url
    }

    /// Sends one batch. An error says why it was not accepted.
    pub(super) async fn send(&self, body: Vec<u8>) -> Result<(), String> {
        match timeout(SEND_TIMEOUT, self.exchange(body)).await {
            Ok(sent) => sent,
            Err(_) => Err(format!("no response in {SEND_TIMEOUT:?}")),
        }
    }

    async fn exchange(&self, body: Vec<u8>) -> Result<(), String> {
        let identity = self.load_identity().map_err(|error| error.to_string())?;
        let tcp = self.connect().await?;
        let Some(identity) = identity else { return self.post(tcp, body).await };
        let stream = TlsConnector::from(Arc::clone(&identity.tls.config))
            .connect(identity.tls.server_name.clone(), tcp)
            .await
            .map_err(|error| classify::from_io("the collector", &error).cause)?;
        self.post(stream, body).await
    }

    fn load_identity(&self) -> Result<Option<Identity<ClientTls>>, ConfigError> {
        let load = |(sources, build): &(IdentitySources, Box<Build<ClientTls>>)| {
            Identity::load(sources, Role::Client, &self.clock, &**build)
        };
        self.tls.as_ref().map(load).transpose()
    }

    /// Connects to the first address that accepts; without TLS, only to those of this machine.
    async fn connect(&self) -> Result<TcpStream, String> {
        let (host, port) = (self.collector.host.as_str(), self.collector.port);
        let addresses = lookup_host((host, port)).await.map_err(|e| format!("{host}: {e}"))?;
        let is_allowed = |address: &SocketAddr| self.tls.is_some() || address.ip().is_loopback();
        let mut cause = format!("{host}: it has no address of this machine");
        for address in addresses.filter(is_allowed) {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => cause = format!("{address}: {error}"),
            }
        }
        Err(cause)
    }

    async fn post(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        body: Vec<u8>,
    ) -> Result<(), String> {
        let url = &self.collector.url;
        let request = Request::post(url.path())
            .header(HOST, url.authority().map_or("", |authority| authority.as_str()))
            .header(USER_AGENT, concat!("ping-pong/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| describe(&error))?;
        // The connection ends when its sender is dropped.
        let respond = async move { sender.send_request(request).await.map(|r| r.status()) };
        let (status, _) = tokio::join!(respond, connection);
        match status.map_err(|error| describe(&error))? {
            StatusCode::OK => Ok(()),
            status => Err(format!("the collector answered with status {status}")),
        }
    }
}

/// What failed and why, for a person.
fn describe(error: &hyper::Error) -> String {
    use std::error::Error as _;
    let Some(source) = error.source() else { return error.to_string() };
    match source.downcast_ref::<io::Error>() {
        // In TLS 1.3, a client learns that it was rejected only when it reads the response.
        Some(source) => classify::from_io("the collector", source).cause,
        None => format!("{error}: {source}"),
    }
}
