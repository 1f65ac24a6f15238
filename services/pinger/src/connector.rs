//! The way to ponger: resolve, connect, TLS. Each phase is timed, each failure judged where it
//! happens.
//!
//! awc is given a connector of our own. It speaks HTTP over what it takes for a plain stream; that
//! the stream is TLS is our matter, since only so can resolving, connecting, the handshake and
//! ponger's processing be told apart, can the alert of a refusal be read, and can Nagle's algorithm
//! be switched off, for which awc has no option.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use actix_rt::net::{ActixStream, Ready, TcpStream};
use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::http::Uri;
use chassis::{
    failure::{Failure, FailureReason},
    tls::{credentials::Credentials, reload::Current, session::Session},
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::lookup_host,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Where a ping is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The name is looked up.
    #[default]
    Resolve,
    /// A TCP connection is made.
    Connect,
    /// The handshake is made.
    Tls,
    /// The request was sent, and ponger works on it.
    Processing,
    /// The answer is coming in.
    Transfer,
}

impl Phase {
    /// The reason for which a ping is lost whose time runs out in this phase.
    pub const fn timed_out(self) -> FailureReason {
        match self {
            Self::Resolve => FailureReason::Resolve,
            Self::Connect => FailureReason::ConnectTimeout,
            Self::Tls => FailureReason::TlsTimeout,
            Self::Processing | Self::Transfer => FailureReason::RequestTimeout,
        }
    }

    /// The name that stands in logs and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Processing => "processing",
            Self::Transfer => "transfer",
        }
    }
}

/// What is known of a connection's other end.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The address that answered.
    pub address: Option<SocketAddr>,
    /// What the handshake agreed upon; `None` without TLS.
    pub session: Option<Session>,
    /// What the connection was opened with.
    pub credentials: Credentials,
}

/// What is noted of one ping on its way.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Where it is, or where it ended.
    pub phase: Phase,
    /// How long each phase took that it went through.
    pub times: Vec<(Phase, Duration)>,
    /// The connection that it took.
    pub facts: Option<Facts>,
    /// Whether that connection was there before.
    pub kept: bool,
    /// The addresses that were tried in vain, each with its cause.
    pub tried: Vec<String>,
    /// The first thing that failed on the way.
    pub failure: Option<Failure>,
    began: Option<Instant>,
}

impl Trace {
    fn enter(&mut self, phase: Phase) {
        self.leave();
        self.phase = phase;
        self.began = Some(Instant::now());
    }

    /// Ends the phase of this moment.
    pub fn leave(&mut self) {
        if let Some(began) = self.began.take() {
            self.times.push((self.phase, began.elapsed()));
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }
}

/// What a handshake takes.
#[derive(Clone)]
pub struct Tls {
    /// Makes the handshake.
    pub connector: TlsConnector,
    /// The name that ponger's certificate must be for.
    pub name: ServerName<'static>,
    /// Our identity, of this moment.
    pub current: Current,
}

/// awc's connector, and the notes on the one ping that is under way.
#[derive(Clone)]
pub struct Wire(Rc<Inner>);

struct Inner {
    host: String,
    port: u16,
    tls: Option<Tls>,
    connect_timeout: Duration,
    trace: RefCell<Trace>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("host", &self.0.host)
            .field("port", &self.0.port)
            .finish_non_exhaustive()
    }
}

impl Wire {
    /// The way to `host` and `port`, by TLS unless `tls` is `None`.
    pub fn new(host: String, port: u16, tls: Option<Tls>, connect_timeout: Duration) -> Self {
        Self(Rc::new(Inner { host, port, tls, connect_timeout, trace: RefCell::default() }))
    }

    /// Begins the notes on a new ping.
    pub fn begin(&self) {
        *self.0.trace.borrow_mut() = Trace::default();
    }

    /// The notes on the ping under way, or on the last one.
    pub fn trace(&self) -> Trace {
        let mut trace = self.0.trace.borrow_mut();
        trace.leave();
        trace.clone()
    }

    async fn connect(self) -> Result<Stream, Failure> {
        let inner = &self.0;
        // A kept connection that turned out to be dead is not this ping's failure.
        *inner.trace.borrow_mut() = Trace::default();
        inner.trace.borrow_mut().enter(Phase::Resolve);
        let addresses = self.resolve().await?;
        inner.trace.borrow_mut().enter(Phase::Connect);
        let tcp = self.connect_any(&addresses).await?;
        // awc leaves it on, and then a request waits for an acknowledgement (Nagle).
        let _ = tcp.set_nodelay(true);
        let mut facts = Facts { address: tcp.peer_addr().ok(), ..Facts::default() };
        let Some(Tls { connector, name, current }) = &inner.tls else {
            inner.trace.borrow_mut().facts = Some(facts.clone());
            return Ok(Stream { kind: Kind::Plain(tcp), facts, wire: self });
        };
        inner.trace.borrow_mut().enter(Phase::Tls);
        let own = current.get();
        let tls = connector
            .connect(name.clone(), tcp)
            .await
            .map_err(|error| Failure::of_stream("ponger", &error))?;
        let connection = tls.get_ref().1;
        facts.session = Some(Session::of(connection));
        facts.credentials = Credentials::new(connection.peer_certificates(), &own);
        inner.trace.borrow_mut().leave();
        inner.trace.borrow_mut().facts = Some(facts.clone());
        Ok(Stream { kind: Kind::Tls(Box::new(tls)), facts, wire: self })
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, Failure> {
        let (host, port) = (&self.0.host, self.0.port);
        let failed =
            |cause: &dyn fmt::Display| Failure::new(FailureReason::Resolve, format!("{host}: {cause}"));
        let found = lookup_host((host.as_str(), port)).await.map_err(|error| failed(&error))?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err(failed(&"the name has no address")) } else { Ok(addresses) }
    }

    /// Tries each address in turn, and names each that failed.
    async fn connect_any(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
        let mut reason = FailureReason::ConnectFailed;
        for address in addresses {
            let failure = match timeout(self.0.connect_timeout, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => Failure::of_connect(*address, &error),
                Err(_) => Failure::new(
                    FailureReason::ConnectTimeout,
                    format!("{address}: no answer in {:?}", self.0.connect_timeout),
                ),
            };
            reason = failure.reason;
            self.0.trace.borrow_mut().tried.push(failure.cause);
        }
        Err(Failure::new(reason, self.0.trace.borrow().tried.join("; ")))
    }
}

impl Service<ConnectInfo<Uri>> for Wire {
    type Response = Connection<Uri, Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    actix_service::always_ready!();

    fn call(&self, request: ConnectInfo<Uri>) -> Self::Future {
        let wire = self.clone();
        Box::pin(async move {
            match wire.clone().connect().await {
                Ok(stream) => Ok(Connection::new(request.request().clone(), stream)),
                Err(failure) => {
                    let error = io::Error::other(failure.clone());
                    wire.0.trace.borrow_mut().fail(failure);
                    Err(ConnectError::Io(error))
                }
            }
        })
    }
}

/// A connection to ponger, which notes when it is written to and read from, and what fails.
pub struct Stream {
    kind: Kind,
    facts: Facts,
    wire: Wire,
}

enum Kind {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match &self.kind {
            Kind::Tls(stream) => stream.get_ref().0,
            Kind::Plain(stream) => stream,
        }
    }

    fn fail(&self, error: &io::Error) {
        self.wire.0.trace.borrow_mut().fail(Failure::of_stream("ponger", error));
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
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.poll_raw_read(cx, buffer);
        match &read {
            Poll::Ready(Err(error)) => self.fail(error),
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                let mut trace = self.wire.0.trace.borrow_mut();
                if trace.phase == Phase::Processing {
                    trace.enter(Phase::Transfer);
                }
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
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
        {
            let mut trace = self.wire.0.trace.borrow_mut();
            if trace.facts.is_none() {
                trace.kept = true;
                trace.facts = Some(self.facts.clone());
            }
            if !matches!(trace.phase, Phase::Processing | Phase::Transfer) {
                trace.enter(Phase::Processing);
            }
        }
        let written = match &mut self.kind {
            Kind::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        if let Poll::Ready(Err(error)) = &written {
            // A server that refuses us in TLS 1.3 may have said why and gone, before we wrote.
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
