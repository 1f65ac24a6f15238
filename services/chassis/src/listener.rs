//! The way of a connection into a service: TCP, a place below the cap, TLS, then HTTP/1.1 by actix.
//!
//! actix's own TLS acceptor does not say why a handshake failed, cannot close a connection whose
//! peer was withdrawn, and limits concurrent handshakes rather than connections. So the acceptor
//! is ours, and actix is given [`Conn`], a stream that ends when it must.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use actix_http::{HttpService, Request, Response, body::BoxBody, error::DispatchError};
use actix_server::Server;
use actix_service::{
    IntoServiceFactory, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config,
};
use actix_web::{body::MessageBody, dev::AppConfig};
use prometheus::{IntCounter, IntGauge};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    sync::{Notify, watch},
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    metrics::{HandshakeMetrics, IdentityMetrics, Metrics},
    failure::{Failure, FailureReason},
    log_limiter::LogLimiter,
    tls::{
        clock::{Seconds, now, until},
        credentials::Credentials,
        reload::Current,
        identity::Identity,
        peer_id::{Name, WrongId},
        session::Session,
    },
    error::ConfigError,
};

/// How long, and how much, a listener puts up with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A handshake may take this long.
    pub handshake: Duration,
    /// The head of a request may take this long.
    pub request: Duration,
    /// A kept connection may be idle for this long.
    pub idle: Duration,
    /// So many connections may be open.
    pub connections: usize,
}

impl Limits {
    /// Lowers the cap on connections to what the limit of descriptors allows, so that the cap is met
    /// first and the process always has some to spare.
    ///
    /// # Errors
    /// When there are too few to serve anyone.
    pub fn within_descriptors(mut self) -> Result<Self, ConfigError> {
        let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let Some(limit) = limits.current.and_then(|limit| usize::try_from(limit).ok()) else {
            return Ok(self);
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        // Standard streams, listeners, watchers and the admin listener, and a few for each worker.
        let spare = SPARE_DESCRIPTORS + 4 * workers;
        let most = limit.saturating_sub(spare);
        if most == 0 {
            return Err(ConfigError::new(
                "the limit of open files (`ulimit -n`)",
                format!("{limit} leaves no connection, as {spare} are kept in reserve"),
            )
            .hint("raise it"));
        }
        if most < self.connections {
            tracing::warn!(limit, connections = most, "Open files are limited, so are connections");
            self.connections = most;
        }
        Ok(self)
    }
}

const SPARE_DESCRIPTORS: usize = 32;

/// How long a withdrawn peer may take to read the answer to its last request.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// How long a request may be on its way when the service stops.
const GRACE: Duration = Duration::from_millis(200);

/// A listener's state, shared by all of its workers.
pub struct Gate {
    tls: Option<(TlsAcceptor, Current)>,
    limits: Limits,
    open: AtomicUsize,
    closed: Notify,
    stopping: watch::Sender<bool>,
    metrics: GateMetrics,
    shed_log: LogLimiter,
    failure_log: Vec<(FailureReason, LogLimiter)>,
}

struct GateMetrics {
    open: IntGauge,
    shed: IntCounter,
    handshakes: HandshakeMetrics,
    identity: IdentityMetrics,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate of `service` that lets connections in by TLS, or by plain TCP where `tls` is `None`.
    pub fn new(
        service: &str,
        tls: Option<(Arc<rustls::ServerConfig>, Current)>,
        limits: Limits,
        metrics: &Metrics,
        identity: IdentityMetrics,
    ) -> Arc<Self> {
        let metrics = GateMetrics {
            open: metrics.gauge(
                &format!("{service}_connections"),
                "Open connections, those in a handshake included.",
            ),
            shed: metrics.counter(
                &format!("{service}_connections_shed_total"),
                "Connections closed at once because the cap on connections was reached.",
            ),
            handshakes: HandshakeMetrics::new(metrics),
            identity,
        };
        Arc::new(Self {
            tls: tls.map(|(config, current)| (TlsAcceptor::from(config), current)),
            limits,
            open: AtomicUsize::new(0),
            closed: Notify::new(),
            stopping: watch::channel(false).0,
            metrics,
            shed_log: LogLimiter::every(Duration::from_secs(1)),
            failure_log: FailureReason::ALL
                .iter()
                .map(|reason| (*reason, LogLimiter::every(Duration::from_secs(1))))
                .collect(),
        })
    }

    /// Serves `app` on `listener`, in as many workers as there are processors.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn serve<A, I, S, B>(
        self: &Arc<Self>,
        name: &str,
        listener: TcpListener,
        app: A,
    ) -> io::Result<Server>
    where
        A: Fn() -> I + Send + Clone + 'static,
        I: IntoServiceFactory<S, Request>,
        S: ServiceFactory<Request, Config = AppConfig> + 'static,
        S::Error: Into<Response<BoxBody>> + 'static,
        S::InitError: fmt::Debug,
        S::Response: Into<Response<B>> + 'static,
        S::Service: 'static,
        B: MessageBody + 'static,
    {
        let gate = Arc::clone(self);
        Ok(Server::build()
            .disable_signals()
            // The cap is ours: actix would leave those above its own waiting in the backlog.
            .max_concurrent_connections(usize::MAX >> 4)
            .listen(name, listener, move || {
                let accept = Arc::clone(&gate);
                let app = map_config(app().into_factory(), |()| AppConfig::default());
                fn_service(move |stream: TcpStream| Arc::clone(&accept).accept(stream)).and_then(
                    HttpService::build()
                        .keep_alive(gate.limits.idle)
                        .client_request_timeout(gate.limits.request)
                        .client_disconnect_timeout(Duration::from_secs(2))
                        .on_connect_ext(|conn: &Conn, data| {
                            data.insert(Rc::clone(&conn.peer));
                        })
                        .h1(app),
                )
            })?
            .run())
    }

    /// Ends kept connections once they are idle, and those with a request after its answer; waits
    /// for that, and says how many are left after `patience`.
    pub async fn drain(&self, patience: Duration) -> usize {
        self.stopping.send_replace(true);
        let _ = timeout(patience, async {
            loop {
                let closed = self.closed.notified();
                if self.open.load(Ordering::Acquire) == 0 {
                    break;
                }
                closed.await;
            }
        })
        .await;
        self.open.load(Ordering::Acquire)
    }

    async fn accept(
        self: Arc<Self>,
        stream: TcpStream,
    ) -> Result<(Conn, Option<SocketAddr>), DispatchError> {
        let address = stream.peer_addr().ok();
        let Some(place) = Place::take(&self) else {
            self.metrics.shed.inc();
            if let Some(held) = self.shed_log.pass() {
                tracing::warn!(
                    cap = self.limits.connections,
                    more = held,
                    "Too many connections, shedding"
                );
            }
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        };
        // Without it, an answer that is written in two pieces waits for an acknowledgement (Nagle).
        let _ = stream.set_nodelay(true);
        let Some((acceptor, current)) = &self.tls else {
            let peer = Peer { address, session: None, names: None, opened: None };
            return Ok((Conn::new(&self, Stream::Plain(stream), peer, place), address));
        };
        // Seen before the handshake: what changes during it is judged again after it.
        let mut current = current.clone();
        let own = current.mark_seen();
        let handshake = timeout(self.limits.handshake, acceptor.accept(stream).into_fallible());
        let stream = match handshake.await {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, stream))) => {
                self.refused(address, &Failure::of_stream("the client", &error));
                linger(stream).await;
                return Err(error.into());
            }
            Err(_) => {
                self.refused(
                    address,
                    &Failure::new(
                        FailureReason::TlsTimeout,
                        "the client did not finish its handshake in time",
                    ),
                );
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
        };
        let connection = stream.get_ref().1;
        let session = Session::of(connection);
        let credentials = Credentials::new(connection.peer_certificates(), &own);
        let names = credentials.names().cloned();
        let label = names.as_ref().map_or("none".to_owned(), |names| {
            current.get().label(names.as_deref().unwrap_or_default())
        });
        self.metrics.handshakes.done(&session, &label);
        let was_admitted = credentials.are_admitted(&own);
        // Nobody who is not let in has a say in what is measured.
        if was_admitted && let Some((_, end)) = credentials.leaf_validity() {
            self.metrics.identity.peer(end);
        }
        let opened = Some(Opened { credentials, was_admitted, current, held: RefCell::default() });
        let peer = Peer { address, session: Some(session), names, opened };
        let conn = Conn::new(&self, Stream::Tls(Box::new(stream)), peer, place);
        Ok((conn, address))
    }

    fn refused(&self, address: Option<SocketAddr>, failure: &Failure) {
        self.metrics.handshakes.failed(failure.reason);
        // Who connects and goes away, as load balancers and port scanners do, is not worth a line.
        if failure.reason == FailureReason::Reset {
            tracing::debug!(
                peer = address.map(tracing::field::display),
                cause = failure.cause,
                "Connection ended in its handshake"
            );
            return;
        }
        let throttle = self.failure_log.iter().find(|(reason, _)| *reason == failure.reason);
        if let Some(more) = throttle.and_then(|(_, throttle)| throttle.pass()) {
            tracing::warn!(
                peer = address.map(tracing::field::display),
                reason = failure.reason.label(),
                cause = failure.cause,
                more,
                "Handshake failed"
            );
        }
    }
}

/// Reads and drops what the client still sends, for a moment. If a socket is closed with bytes
/// unread, the kernel resets the connection, and the alert that says why might never arrive.
async fn linger(mut stream: TcpStream) {
    let _ = timeout(Duration::from_secs(1), async {
        stream.shutdown().await?;
        let mut sink = [0; 1024];
        for _ in 0..64 {
            if stream.read(&mut sink).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    })
    .await;
}

/// A place below the cap on connections; given back when dropped.
struct Place(Arc<Gate>);

impl Place {
    fn take(gate: &Arc<Gate>) -> Option<Self> {
        let open = gate.open.fetch_add(1, Ordering::AcqRel) + 1;
        let place = Self(Arc::clone(gate));
        gate.metrics.open.inc();
        // Dropping it gives the place back.
        (open <= gate.limits.connections).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.metrics.open.dec();
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.closed.notify_waiters();
        }
    }
}

/// Who is at the other end of a connection. Handlers find it by `req.conn_data::<Rc<Peer>>()`.
#[derive(Debug)]
pub struct Peer {
    /// Where the connection comes from.
    pub address: Option<SocketAddr>,
    /// What the handshake agreed upon; `None` without TLS.
    pub session: Option<Session>,
    /// Who the client's certificate says that it is; `None` without a certificate.
    pub names: Option<Result<Vec<Name>, WrongId>>,
    opened: Option<Opened>,
}

impl Peer {
    /// Whether what let this peer in still holds: its certificate, its root, its name's place among
    /// the allowed ones, and our own certificate. Asked at each request, since many may have been
    /// read before the connection could be ended.
    pub fn holds(&self) -> bool {
        self.opened.as_ref().is_none_or(Opened::holds)
    }
}

/// What a connection was opened with, and what is held against it.
#[derive(Debug)]
struct Opened {
    credentials: Credentials,
    /// Whether its name was an allowed one, and can so be one no longer.
    was_admitted: bool,
    current: Current,
    /// The identity by which they were found to hold, and until when.
    held: RefCell<Option<(Arc<Identity>, Seconds)>>,
}

impl Opened {
    fn holds(&self) -> bool {
        let (identity, time) = (self.current.get(), now());
        let mut held = self.held.borrow_mut();
        if let Some((by, until)) = held.as_mut()
            && time < *until
        {
            if Arc::ptr_eq(by, &identity) {
                return true;
            }
            // Only our own leaf is another.
            if by.judges_as(&identity) {
                *by = identity;
                return true;
            }
        }
        let holds = self.credentials.hold_for_client(&identity, time)
            && (!self.was_admitted || self.credentials.are_admitted(&identity));
        let next = self.credentials.next_change(&identity, time);
        *held = holds.then_some((identity, next));
        holds
    }

    /// Waits until they hold no longer.
    async fn withdrawn(&self) {
        let mut current = self.current.clone();
        while self.holds() {
            let next = self.credentials.next_change(&current.get(), now());
            // A sleep does not see that the clock was set, so it is never a long one.
            let pause = until(next).clamp(Duration::from_millis(20), Duration::from_secs(60));
            tokio::select! {
                () = current.changed() => {}
                () = sleep(pause) => {}
            }
        }
        let peer = self.credentials.names().and_then(|names| names.as_ref().ok()?.first());
        tracing::info!(
            peer = peer.map(tracing::field::display),
            "Connection ends: what it was opened with holds no longer"
        );
    }
}

/// Why a connection takes no more requests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Stopping,
    Withdrawn,
}

/// A connection as actix sees it: a stream that reaches its end when the service stops, when what
/// the peer was let in by has ended, or when nothing was answered on it for too long. The request
/// in flight is still answered.
pub struct Conn {
    stream: Stream,
    peer: Rc<Peer>,
    ending: Pin<Box<dyn Future<Output = End>>>,
    ended: Option<End>,
    /// How long a connection without a request is still listened to after the stop.
    grace: Option<Pin<Box<Sleep>>>,
    /// Fires when a request is not whole in time, and when nothing could be written for too long:
    /// whoever sends byte by byte, or never reads its answers, does not hold a place for ever.
    stall: Pin<Box<Sleep>>,
    /// Whether something was read since something was last written.
    in_request: bool,
    /// Whether something was read when this was last asked for it.
    has_read: bool,
    /// Whether the peer did not take what was last written to it.
    blocked: bool,
    /// Whether reading waits for that.
    read_waits: bool,
    limits: Limits,
    _place: Place,
}

enum Stream {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
}

impl Conn {
    fn new(gate: &Gate, stream: Stream, peer: Peer, place: Place) -> Self {
        let mut stopping = gate.stopping.subscribe();
        let peer = Rc::new(peer);
        let ending_peer = Rc::clone(&peer);
        let ending = Box::pin(async move {
            let withdrawn = async {
                match &ending_peer.opened {
                    Some(opened) => opened.withdrawn().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives in the gate, which this connection's place keeps alive.
                _ = stopping.wait_for(|stopping| *stopping) => End::Stopping,
                () = withdrawn => End::Withdrawn,
            }
        });
        let limits = gate.limits;
        // For the first head actix has a time-out of its own, and an answer for it: that comes first.
        let stall = Box::pin(sleep(limits.request + Duration::from_secs(1)));
        Self {
            stream,
            peer,
            ending,
            ended: None,
            grace: None,
            stall,
            in_request: false,
            has_read: false,
            blocked: false,
            read_waits: false,
            limits,
            _place: place,
        }
    }

    /// Gives the peer `time` from now on.
    fn allow(&mut self, time: Duration) {
        self.stall.as_mut().reset(Instant::now() + time);
    }

    /// Looks whether the connection shall end. A withdrawn peer that does not read its last answer is
    /// not waited for.
    fn poll_ending(&mut self, cx: &mut Context<'_>) {
        if self.ended.is_none()
            && let Poll::Ready(end) = self.ending.as_mut().poll(cx)
        {
            self.ended = Some(end);
            if end == End::Withdrawn {
                self.allow(LAST_ANSWER);
            }
        }
    }

    /// Notes whether the peer takes what is written.
    fn note_written<T>(&mut self, cx: &Context<'_>, written: &Poll<io::Result<T>>) {
        self.blocked = written.is_pending();
        if !self.blocked && std::mem::take(&mut self.read_waits) {
            cx.waker().wake_by_ref();
        }
    }

    fn stalled(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.stall.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let conn = &mut *self;
        conn.poll_ending(cx);
        if conn.ended == Some(End::Withdrawn) {
            return Poll::Ready(Ok(()));
        }
        if std::mem::take(&mut conn.has_read) {
            // actix reads until there is no more, and makes a request of all of it before it answers
            // the first. What was read is answered first, so that little piles up.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if conn.blocked {
            // Whoever does not read its answers is not read from: they would pile up here.
            conn.read_waits = true;
            conn.stalled(cx)?;
            return Poll::Pending;
        }
        conn.stalled(cx)?;
        let before = buffer.filled().len();
        let read = match &mut conn.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if buffer.filled().len() > before {
            conn.has_read = true;
            if !conn.in_request {
                conn.in_request = true;
                conn.allow(conn.limits.request);
            }
        }
        // Stopping: a request that has begun is waited for, within the drain's bound; one that may be
        // on its way, for a moment.
        if read.is_pending() && conn.ended == Some(End::Stopping) && !conn.in_request {
            let grace = conn.grace.get_or_insert_with(|| Box::pin(sleep(GRACE)));
            return grace.as_mut().poll(cx).map(Ok);
        }
        read
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_ending(cx);
        let written = match &mut self.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.note_written(cx, &written);
        if self.ended == Some(End::Withdrawn) {
            self.stalled(cx)?;
        } else if let Poll::Ready(Ok(1..)) = written {
            self.in_request = false;
            // For idleness actix has a time-out of its own, which comes first.
            let time = self.limits.idle + self.limits.request;
            self.allow(time);
        } else {
            self.stalled(cx)?;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ending(cx);
        self.stalled(cx)?;
        let flushed = match &mut self.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.note_written(cx, &flushed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stalled(cx)?;
        match &mut self.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
