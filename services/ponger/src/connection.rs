//! An open connection: who its peer is, its deadlines, and when it closes.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use chassis::tls::{
    credentials::ConnectionCredentials, handshake_info::HandshakeInfo, peer_id::PeerId,
    server::ServerTls,
};
use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::server::TlsStream;

use crate::{
    handshake::HandshakeStream,
    limits::{ConnectionPermit, Limits},
    policy::Decision,
    request_span::RequestTracer,
};

/// How long a peer may take to read its last response once its connection is closing.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection without a request is read from after the service began to stop: a request
/// may be on its way.
const SHUTDOWN_READ_GRACE: Duration = Duration::from_millis(200);

/// How much is read before a response is written, in bytes: it bounds the head of a request.
pub const MAX_UNANSWERED_BYTES: usize = 16 * 1024;

/// The other end of a connection. Handlers get it by `request.conn_data::<Rc<Peer>>()`.
#[derive(Debug)]
pub struct Peer {
    /// The address that the connection comes from.
    pub address: Option<SocketAddr>,
    /// What the handshake negotiated; `None` without TLS.
    pub handshake: Option<HandshakeInfo>,
    /// The first ID in the client's certificate, whether it is allowed or not; `None` without one. The
    /// others are not kept: a certificate may have thousands of names.
    pub id: Option<PeerId>,
    /// Whether its requests are allowed.
    pub decision: Decision,
    /// Whether it is taken for pinger's rejection probe, which is meant to be denied.
    pub is_probe: bool,
    /// The certificates of both ends; `None` without TLS.
    pub credentials: Option<ConnectionCredentials<ServerTls>>,
    /// Creates the spans of its requests; `None` if traces are not exported.
    pub tracer: Option<RequestTracer>,
}

impl Peer {
    /// Whether the certificates of both ends are still valid. Handlers check it at each request, since
    /// several may have been read before the connection could be closed.
    pub fn is_valid(&self) -> bool {
        self.credentials.as_ref().is_none_or(ConnectionCredentials::is_valid)
    }

    async fn until_revoked(&self) {
        match &self.credentials {
            Some(credentials) => credentials.until_revoked().await,
            None => std::future::pending().await,
        }
        tracing::info!(
            peer = self.id.as_ref().map(PeerId::as_str),
            "Closing connection: peer credentials are no longer valid"
        );
    }
}

/// Why a connection takes no more requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CloseReason {
    Shutdown,
    Revoked,
    Idle,
}

impl CloseReason {
    /// Whether nothing more is read. At a shutdown, a request may be on its way.
    fn ends_reading(self) -> bool {
        self != Self::Shutdown
    }
}

/// The bytes of a connection.
pub enum Stream {
    /// TLS.
    Tls(Box<TlsStream<HandshakeStream>>),
    /// Plain TCP.
    Plain(TcpStream),
}

/// A connection as actix sees it: a stream that ends when the service stops, when the peer's
/// certificate is revoked, or when the peer is too slow. The request in flight is still answered.
pub struct ServerIo {
    stream: Stream,
    peer: Rc<Peer>,
    watchdog: Watchdog,
    closing: Option<CloseReason>,
    shutdown_grace: Option<Pin<Box<Sleep>>>,
    /// Whether something was read since something was last written.
    in_request: bool,
    /// How many bytes that was.
    unanswered: usize,
    /// Whether a whole head was, so that the next request waits for the response. actix would accept as
    /// many requests as it can read, and needs some 6 KiB for each.
    head_passed: bool,
    head_end: HeadEnd,
    /// What was read behind the end of a head.
    next_request: Vec<u8>,
    /// Whether the peer does not read what was last written to it.
    write_blocked: bool,
    /// Whether reading waits for a write.
    read_waits: bool,
    limits: Limits,
    _permit: ConnectionPermit,
}

impl fmt::Debug for ServerIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIo").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl ServerIo {
    pub(crate) fn new(
        stream: Stream,
        peer: Peer,
        limits: Limits,
        mut shutdown: watch::Receiver<bool>,
        permit: ConnectionPermit,
    ) -> Self {
        let peer = Rc::new(peer);
        let watched = Rc::clone(&peer);
        let closing = async move {
            tokio::select! {
                // The sender lives as long as the server.
                _ = shutdown.wait_for(|stopping| *stopping) => CloseReason::Shutdown,
                () = watched.until_revoked() => CloseReason::Revoked,
            }
        };
        // actix's own timeout for the first head comes first, since it sends a response (408).
        let deadline = Instant::now() + limits.request + Duration::from_secs(1);
        Self {
            stream,
            peer,
            watchdog: Watchdog::new(Box::pin(closing), deadline),
            closing: None,
            shutdown_grace: None,
            in_request: false,
            unanswered: 0,
            head_passed: false,
            head_end: HeadEnd::default(),
            next_request: Vec::new(),
            write_blocked: false,
            read_waits: false,
            limits,
            _permit: permit,
        }
    }

    /// The other end.
    pub fn peer(&self) -> &Rc<Peer> {
        &self.peer
    }

    /// Checks, if the watchdog was woken, whether the connection must close or its deadline has
    /// passed.
    fn check(&mut self, cx: &Context<'_>) -> io::Result<()> {
        let reason = match self.watchdog.poll(cx, self.closing.is_none()) {
            None => return Ok(()),
            Some(Event::Close(reason)) => reason,
            Some(Event::Deadline) => {
                let is_idle = !self.in_request && !self.write_blocked;
                if self.reading_ended() || !is_idle {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                CloseReason::Idle
            }
        };
        self.closing = Some(reason);
        if reason.ends_reading() {
            self.watchdog.set_deadline(Instant::now() + CLOSE_TIMEOUT);
        }
        Ok(())
    }

    /// Whether nothing more is read.
    fn reading_ended(&self) -> bool {
        self.closing.is_some_and(CloseReason::ends_reading)
    }

    fn poll_read_stream(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    /// Keeps what comes before the response, which is nothing unless the peer pipelines. The end of
    /// the connection is passed on.
    fn poll_read_ahead(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.poll_read_stream(cx, buffer);
        let ahead = &buffer.filled()[before..];
        if ahead.is_empty() {
            return read;
        }
        self.next_request = ahead.to_vec();
        buffer.set_filled(before);
        self.read_waits = true;
        Poll::Pending
    }

    /// Reads at most to the end of a head.
    fn poll_read_request(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = if self.next_request.is_empty() {
            self.poll_read_stream(cx, buffer)
        } else {
            let length = self.next_request.len().min(buffer.remaining());
            buffer.put_slice(&self.next_request[..length]);
            self.next_request.drain(..length);
            Poll::Ready(Ok(()))
        };
        if let Some(end) = self.head_end.find(&buffer.filled()[before..]) {
            self.head_passed = true;
            self.next_request.splice(..0, buffer.filled()[before + end..].iter().copied());
            buffer.set_filled(before + end);
        }
        if self.next_request.is_empty() {
            self.next_request = Vec::new();
        }
        read
    }

    /// Records whether the peer reads what is written.
    fn note_written<T>(&mut self, cx: &Context<'_>, written: &Poll<io::Result<T>>) {
        self.write_blocked = written.is_pending();
        if !self.write_blocked && std::mem::take(&mut self.read_waits) {
            cx.waker().wake_by_ref();
        }
    }
}

impl AsyncRead for ServerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let io = &mut *self;
        let before = buffer.filled().len();
        io.check(cx)?;
        if io.reading_ended() {
            return Poll::Ready(Ok(()));
        }
        let is_waiting = io.write_blocked || io.unanswered >= MAX_UNANSWERED_BYTES;
        if is_waiting || (io.head_passed && !io.next_request.is_empty()) {
            // A peer that does not read its responses may send no more requests.
            io.read_waits = true;
            return Poll::Pending;
        }
        if io.head_passed {
            return io.poll_read_ahead(cx, buffer);
        }
        let read = io.poll_read_request(cx, buffer);
        let count = buffer.filled().len() - before;
        if count > 0 {
            io.unanswered += count;
            if !io.in_request {
                io.in_request = true;
                io.watchdog.set_deadline(Instant::now() + io.limits.request);
            }
        }
        if read.is_pending() && io.closing == Some(CloseReason::Shutdown) && !io.in_request {
            let grace = io
                .shutdown_grace
                .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + SHUTDOWN_READ_GRACE)));
            return grace.as_mut().poll(cx).map(Ok);
        }
        read
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let io = &mut *self;
        io.check(cx)?;
        let written = match &mut io.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        if matches!(written, Poll::Ready(Ok(1..))) && !io.reading_ended() {
            io.in_request = false;
            io.unanswered = 0;
            io.head_passed = false;
            io.watchdog.set_deadline(Instant::now() + io.limits.idle);
        }
        io.note_written(cx, &written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = &mut *self;
        io.check(cx)?;
        let flushed = match &mut io.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
        };
        io.note_written(cx, &flushed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = &mut *self;
        io.check(cx)?;
        match &mut io.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Finds where the head of a request ends: at an empty line (RFC 9112, section 2.1).
#[derive(Debug, Default)]
struct HeadEnd {
    /// Whether a line has ended, and the one after it is empty so far.
    in_empty_line: bool,
}

impl HeadEnd {
    /// Returns where, in the next `bytes` of the connection.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut end = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            end += line.len();
            let text = line.strip_suffix(b"\n");
            let is_empty = self.in_empty_line && matches!(text.unwrap_or(line), b"" | b"\r");
            if is_empty && text.is_some() {
                self.in_empty_line = false;
                return Some(end);
            }
            self.in_empty_line = is_empty || text.is_some();
        }
        None
    }
}

/// Waits for a reason to close a connection, and for its deadline. A connection is polled several
/// times a request, and both events are rare: so they are polled only when their own waker was
/// called, and the timer is not set at each request.
struct Watchdog {
    closing: Pin<Box<dyn Future<Output = CloseReason>>>,
    deadline: Instant,
    /// Fires at the deadline, or earlier if the deadline was moved.
    timer: Pin<Box<Sleep>>,
    waker: Arc<WatchdogWaker>,
}

/// What a watchdog waits for.
enum Event {
    Close(CloseReason),
    Deadline,
}

struct WatchdogWaker {
    woken: AtomicBool,
    connection: AtomicWaker,
}

impl Wake for WatchdogWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.connection.wake();
    }
}

impl Watchdog {
    fn new(closing: Pin<Box<dyn Future<Output = CloseReason>>>, deadline: Instant) -> Self {
        let waker = WatchdogWaker { woken: AtomicBool::new(true), connection: AtomicWaker::new() };
        let timer = Box::pin(sleep_until(deadline));
        Self { closing, deadline, timer, waker: Arc::new(waker) }
    }

    /// Moves the deadline. The timer is set only if it would fire too late, or not at all.
    fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if self.timer.deadline() > deadline || self.timer.is_elapsed() {
            self.timer.as_mut().reset(deadline);
            // A timer that is set must be polled once.
            self.waker.woken.store(true, Ordering::Release);
            self.waker.connection.wake();
        }
    }

    /// Whether the deadline has passed, or, while the connection is `open`, there is a reason to close.
    /// After the deadline, the next event comes only if the deadline is moved.
    fn poll(&mut self, cx: &Context<'_>, open: bool) -> Option<Event> {
        self.waker.connection.register(cx.waker());
        if !self.waker.woken.swap(false, Ordering::AcqRel) {
            return None;
        }
        let waker = Waker::from(Arc::clone(&self.waker));
        let mut cx = Context::from_waker(&waker);
        while self.timer.as_mut().poll(&mut cx).is_ready() {
            if Instant::now() >= self.deadline {
                return Some(Event::Deadline);
            }
            self.timer.as_mut().reset(self.deadline);
        }
        match open.then(|| self.closing.as_mut().poll(&mut cx)) {
            Some(Poll::Ready(reason)) => Some(Event::Close(reason)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use tokio::time::timeout;

    use super::*;

    #[actix_web::test]
    async fn waits_for_a_deadline_that_is_moved_after_it_passed() {
        let mut deadline = Instant::now();
        let mut watchdog = Watchdog::new(Box::pin(pending()), deadline);
        for _ in 0..2 {
            let event = poll_fn(|cx| watchdog.poll(cx, true).map_or(Poll::Pending, Poll::Ready));
            let event = timeout(testkit::PATIENCE, event).await.expect("an event");
            assert!(matches!(event, Event::Deadline));
            assert!(Instant::now() >= deadline);
            deadline = Instant::now() + Duration::from_millis(20);
            watchdog.set_deadline(deadline);
        }
    }

    #[test]
    fn finds_the_end_of_a_head_however_it_is_split() {
        for (head, rest) in [
            ("GET /ping HTTP/1.1\r\nHost: a\r\n\r\n", "GET /"),
            ("GET /ping HTTP/1.1\nHost: a\n\n", ""),
            // One empty line may precede a request (RFC 9112, section 2.2).
            ("\r\nGET /ping HTTP/1.1\r\n\r\n", "\r\n\r\n"),
        ] {
            let bytes = [head, rest].concat().into_bytes();
            for split in 0..=head.len() {
                let mut end = HeadEnd::default();
                let first = end.find(&bytes[..split]);
                let found = first.or_else(|| end.find(&bytes[split..]).map(|at| split + at));
                assert_eq!(found, Some(head.len()), "{head:?} split at {split}");
            }
        }
        let mut end = HeadEnd::default();
        assert_eq!(end.find(b"GET /ping HTTP/1.1\r\nA: \r\r\n B:\r\n"), None);
        assert_eq!(end.find(b"C: 1\r\n\r"), None);
        assert_eq!(end.find(b"\nGET"), Some(1));
    }
}
