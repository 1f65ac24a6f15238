//! Connects to ponger: resolve, connect, TLS. Each phase is timed, each failure classified where it
//! happens.
//!
//! awc is given a connector of our own and speaks HTTP over what it takes for a plain stream. TLS is
//! below it, because only then can resolving, connecting, the handshake and ponger's processing be
//! told apart, a rejection's alert be read, and Nagle's algorithm be switched off, for which awc has
//! no option.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    io, mem,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use actix_rt::net::{ActixStream, Ready, TcpStream};
use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use actix_web::web::Bytes;
use awc::http::Uri;
use chassis::{
    failure::{Failure, FailureReason},
    tls::{
        classify, client::ClientTls, clock::Clock, credentials::ConnectionCredentials,
        handshake_info::HandshakeInfo, reload::IdentityWatch, untrusted::observe_issuer,
    },
};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    first_bytes::FirstBytes,
    phase::{Attempt, ConnectionInfo, Phase, Response, Trace, Untrusted},
    resolver::Resolver,
    response_head::Start,
    tcp_info::TcpInfo,
};

/// How the head of a response begins whose body ends with the connection, for awc.
const HTTP_1_0: &[u8] = b"HTTP/1.0";

/// awc's connector, with the trace of the one ping that is under way.
#[derive(Clone)]
pub struct PingConnector(Rc<Inner>);

struct Inner {
    /// What failures call the server.
    peer: &'static str,
    host: String,
    port: u16,
    tls: Option<ConnectorTls>,
    connect_timeout: Duration,
    trace: RefCell<Trace>,
    /// The socket of the ping under way, for what is asked about it when its time has run out.
    socket: RefCell<Option<Rc<OwnedFd>>>,
}

/// What a handshake needs.
#[derive(Clone, Debug)]
pub struct ConnectorTls {
    /// The configuration of the handshake, where it is not the identity's own.
    pub config: Option<Arc<ClientConfig>>,
    /// Our identity, and ponger's expected name.
    pub identity: IdentityWatch<ClientTls>,
    /// The time by which certificates are verified.
    pub clock: Clock,
}

impl fmt::Debug for PingConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PingConnector")
            .field("host", &self.0.host)
            .field("port", &self.0.port)
            .finish_non_exhaustive()
    }
}

impl PingConnector {
    /// Creates a connector to `host` and `port`, over TLS unless `tls` is `None`.
    pub fn new(
        host: String,
        port: u16,
        tls: Option<ConnectorTls>,
        connect_timeout: Duration,
    ) -> Self {
        Self::to_peer("ponger", host, port, tls, connect_timeout)
    }

    /// As [`PingConnector::new`]; failures call the server `peer`.
    pub fn to_peer(
        peer: &'static str,
        host: String,
        port: u16,
        tls: Option<ConnectorTls>,
        connect_timeout: Duration,
    ) -> Self {
        let (trace, socket) = (RefCell::default(), RefCell::default());
        Self(Rc::new(Inner { peer, host, port, tls, connect_timeout, trace, socket }))
    }

    /// What failures call the server.
    pub fn peer(&self) -> &'static str {
        self.0.peer
    }

    /// Begins the trace of a new ping.
    pub fn begin(&self) {
        *self.0.trace.borrow_mut() = Trace::default();
    }

    /// The trace of the ping under way, whose current phase ends.
    pub fn trace(&self) -> Trace {
        let mut trace = self.0.trace.borrow_mut();
        trace.leave();
        trace.clone()
    }

    /// As [`PingConnector::trace`], when the ping has ended: of its trace only the connection is kept.
    pub(crate) fn take_trace(&self) -> Trace {
        let mut trace = self.0.trace.borrow_mut();
        trace.leave();
        let info = trace.info.clone();
        let taken = mem::take(&mut *trace);
        trace.info = info;
        taken
    }

    /// Reads the trace of the ping under way, or of the last one.
    pub(crate) fn with_trace<T>(&self, read: impl FnOnce(&Trace) -> T) -> T {
        read(&self.0.trace.borrow())
    }

    /// Ends the ping under way.
    pub(crate) fn end(&self) {
        // Kept any longer, the socket would keep the connection open.
        *self.0.socket.borrow_mut() = None;
    }

    /// What to check, if the other end acknowledges nothing of what the ping under way has sent.
    pub(crate) fn unacknowledged(&self) -> Option<String> {
        let info = TcpInfo::new(self.0.socket.borrow().as_ref()?);
        (info.unacknowledged > 0 && info.unanswered_retransmits > 0).then(|| {
            format!(
                "what was sent is not acknowledged, though it was sent {} times: check the MTU and firewalls on the way",
                u32::from(info.unanswered_retransmits) + 1
            )
        })
    }

    /// Records the response.
    pub(crate) fn record_response(&self, response: Response) {
        self.0.trace.borrow_mut().response = Some(response);
    }

    /// Records the body of the response.
    pub(crate) fn record_body(&self, body: Bytes) {
        if let Some(response) = &mut self.0.trace.borrow_mut().response {
            response.body = Some(body);
        }
    }

    async fn connect(self) -> Result<Stream, Failure> {
        let inner = &self.0;
        // A kept connection that was closed is no failure of this ping.
        *inner.trace.borrow_mut() = Trace::default();
        inner.trace.borrow_mut().enter(Phase::Resolve);
        let addresses = Resolver::system().resolve(&inner.host, inner.port).await?;
        inner.trace.borrow_mut().addresses.clone_from(&addresses);
        inner.trace.borrow_mut().enter(Phase::Connect);
        let tcp = self.connect_any(&addresses).await?;
        // awc leaves it on, and then a request waits for an acknowledgement (Nagle).
        let _ = tcp.set_nodelay(true);
        let socket = tcp.as_fd().try_clone_to_owned().ok().map(Rc::new);
        self.0.socket.borrow_mut().clone_from(&socket);
        let mut info = ConnectionInfo {
            address: tcp.peer_addr().ok(),
            syn_retransmits: TcpInfo::new(&tcp).retransmits,
            ..ConnectionInfo::default()
        };
        let Some(tls) = &inner.tls else {
            inner.trace.borrow_mut().info = Some(info.clone());
            return Ok(Stream::new(Kind::Plain(tcp), socket, info, self));
        };
        inner.trace.borrow_mut().enter(Phase::Tls);
        let used = tls.identity.current();
        let config = tls.config.as_ref().unwrap_or(&used.tls.config);
        let handshake = TlsConnector::from(Arc::clone(config))
            .connect(used.tls.server_name.clone(), FirstBytes::new(tcp))
            .into_fallible();
        let (stream, issuer) = observe_issuer(handshake).await;
        inner.trace.borrow_mut().untrusted =
            issuer.zip(used.trust.as_ref()).map(|(issuer, trust)| Untrusted {
                issuer,
                trusted_roots: trust.root_names(tls.clock.now()),
            });
        let stream = stream.map_err(|(error, tcp)| self.classify_handshake(&error, &tcp))?;
        let connection = stream.get_ref().1;
        info.handshake = Some(HandshakeInfo::from_connection(connection));
        info.credentials = Some(Rc::new(ConnectionCredentials::new(
            connection.peer_certificates().unwrap_or_default(),
            &used,
            tls.identity.clone(),
            tls.clock.clone(),
        )));
        inner.trace.borrow_mut().leave();
        inner.trace.borrow_mut().info = Some(info.clone());
        Ok(Stream::new(Kind::Tls(Box::new(stream)), socket, info, self))
    }

    fn classify_handshake(&self, error: &io::Error, tcp: &FirstBytes) -> Failure {
        let peer = self.0.peer;
        let Some(line) = tcp.line_without_tls() else {
            let ended = match error.kind() {
                io::ErrorKind::UnexpectedEof => "closed",
                io::ErrorKind::ConnectionReset => "reset",
                _ => return classify::from_io(peer, error),
            };
            let cause = format!("{peer} {ended} the connection during the TLS handshake");
            return Failure::new(FailureReason::Reset, cause);
        };
        let protocol = if line.starts_with("HTTP/") { ", but plain HTTP" } else { "" };
        Failure::new(
            FailureReason::TlsProtocol,
            format!("{peer} did not speak TLS{protocol}: it sent `{line}`"),
        )
    }

    /// Tries each address in turn, and records each that failed.
    async fn connect_any(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
        for address in addresses {
            let began = Instant::now();
            let connected = timeout(self.0.connect_timeout, TcpStream::connect(address)).await;
            let result = match connected {
                Ok(connected) => connected.map_err(|error| Failure::from_connect(*address, &error)),
                Err(_) => Err(Failure::new(
                    FailureReason::ConnectTimeout,
                    format!("{address}: no answer in {:?}", self.0.connect_timeout),
                )),
            };
            self.0.trace.borrow_mut().attempts.push(Attempt {
                address: *address,
                duration: began.elapsed(),
                failure: result.as_ref().err().cloned(),
            });
            if let Ok(stream) = result {
                return Ok(stream);
            }
        }
        let trace = self.0.trace.borrow();
        let reason = trace.failed_attempts().last().map(|failure| failure.reason);
        let causes: Vec<_> =
            trace.failed_attempts().map(|failure| failure.cause.as_str()).collect();
        Err(Failure::new(reason.unwrap_or(FailureReason::ConnectFailed), causes.join("; ")))
    }
}

impl Service<ConnectInfo<Uri>> for PingConnector {
    type Response = Connection<Uri, Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    actix_service::always_ready!();

    fn call(&self, request: ConnectInfo<Uri>) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            match connector.clone().connect().await {
                Ok(stream) => Ok(Connection::new(request.request().clone(), stream)),
                Err(failure) => {
                    let error = io::Error::other(failure.clone());
                    connector.0.trace.borrow_mut().fail(failure);
                    Err(ConnectError::Io(error))
                }
            }
        })
    }
}

/// A connection to ponger, which traces when it is written to and read from, and what fails.
pub struct Stream {
    kind: Kind,
    socket: Option<Rc<OwnedFd>>,
    /// Whether the head of a final response is still awaited.
    awaits_head: bool,
    /// The start of a response that was read, and not yet passed on.
    unread: Vec<u8>,
    /// How many bytes of it the trace has counted.
    counted: usize,
    info: ConnectionInfo,
    connector: PingConnector,
}

enum Kind {
    Tls(Box<TlsStream<FirstBytes>>),
    Plain(TcpStream),
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Stream {
    fn new(
        kind: Kind,
        socket: Option<Rc<OwnedFd>>,
        info: ConnectionInfo,
        connector: PingConnector,
    ) -> Self {
        Self { kind, socket, awaits_head: false, unread: Vec::new(), counted: 0, info, connector }
    }

    fn tcp(&self) -> &TcpStream {
        match &self.kind {
            Kind::Tls(stream) => stream.get_ref().0.tcp(),
            Kind::Plain(stream) => stream,
        }
    }

    fn fail(&self, error: &io::Error) {
        let mut trace = self.connector.0.trace.borrow_mut();
        if trace.failure.is_none() {
            trace.certificate_rejected = classify::is_certificate_rejection(error);
            trace.fail(classify::from_io(self.connector.0.peer, error));
        }
    }

    fn poll_raw_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Kind::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    /// Reads the head of a response, without interim responses before it.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.awaits_head {
            let start = Start::parse(&self.unread);
            match start {
                Start::Interim(length) => drop(self.unread.drain(..length)),
                Start::Final { ends_with_connection } => {
                    self.awaits_head = false;
                    if ends_with_connection {
                        self.unread[..HTTP_1_0.len()].copy_from_slice(HTTP_1_0);
                        self.connector.0.trace.borrow_mut().ends_with_connection = true;
                    }
                }
                Start::Unknown | Start::Incomplete => {
                    if start == Start::Incomplete {
                        let new = &self.unread[self.counted..];
                        self.connector.0.trace.borrow_mut().received(new);
                        self.counted = self.unread.len();
                    }
                    let mut bytes = [0; 1024];
                    let mut chunk = ReadBuf::new(&mut bytes);
                    ready!(self.poll_raw_read(cx, &mut chunk))?;
                    self.awaits_head = !chunk.filled().is_empty();
                    self.unread.extend_from_slice(chunk.filled());
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what was read before, or else from the connection.
    fn poll_read_on(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_head(cx))?;
        if self.unread.is_empty() {
            return self.poll_raw_read(cx, buffer);
        }
        let count = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..count]);
        self.unread.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.poll_read_on(cx, buffer);
        match &read {
            Poll::Ready(Err(error)) => self.fail(error),
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                let received = &buffer.filled()[before..];
                let counted = self.counted.min(received.len());
                self.counted -= counted;
                self.connector.0.trace.borrow_mut().received(&received[counted..]);
            }
            Poll::Ready(Ok(())) => self.connector.0.trace.borrow_mut().is_closed = true,
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let is_request = {
            let mut trace = self.connector.0.trace.borrow_mut();
            if trace.info.is_none() {
                self.connector.0.socket.borrow_mut().clone_from(&self.socket);
                trace.reused = true;
                trace.info = Some(self.info.clone());
            }
            let is_request = !matches!(trace.phase, Phase::Processing | Phase::Transfer);
            if is_request {
                trace.enter(Phase::Processing);
            }
            is_request
        };
        self.awaits_head |= is_request;
        let written = match &mut self.kind {
            Kind::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        if let Poll::Ready(Err(error)) = &written {
            // In TLS 1.3, a server that rejects us may have sent an alert and closed before we wrote.
            let mut scratch = [0; 64];
            if let Poll::Ready(Err(alert)) = self.poll_raw_read(cx, &mut ReadBuf::new(&mut scratch))
            {
                self.fail(&alert);
            }
            self.fail(error);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Plain(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl ActixStream for Stream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(self.tcp(), cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(self.tcp(), cx)
    }
}
