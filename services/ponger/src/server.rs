//! Accepts connections: the connection limit, the TLS handshake, then HTTP/1.1 by actix.
//!
//! actix's own TLS acceptor does not say why a handshake failed, cannot close a connection whose
//! peer's root was removed, and limits concurrent handshakes rather than connections. So this module
//! accepts connections itself, and passes them to actix as [`ServerIo`], a stream that can be closed.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpService, Request, Response, body::BoxBody, error::DispatchError};
use actix_service::{
    IntoServiceFactory, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config,
};
use actix_web::{body::MessageBody, dev::AppConfig};
use chassis::{
    failure::{Failure, FailureReason},
    log_limiter::LogLimiter,
    metrics::Metrics,
    tls::{
        classify,
        clock::Clock,
        credentials::ConnectionCredentials,
        handshake_info::HandshakeInfo,
        metrics::{HandshakeMetrics, IdentityMetrics},
        reload::IdentityWatch,
        server::ServerTls,
    },
};
use prometheus::{IntCounter, IntGauge};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    connection::{Peer, ServerIo, Stream},
    handshake_stream::HandshakeStream,
    limits::{ConnectionPermit, Limits, worker_count},
    policy::Policy,
};

/// How long a handshake may still take after the service began to stop.
const SHUTDOWN_HANDSHAKE_GRACE: Duration = Duration::from_millis(500);

/// How often a drain checks whether all connections are closed.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What all connections share.
pub struct Server {
    tls: Option<IdentityWatch<ServerTls>>,
    policy: Policy,
    limits: Limits,
    clock: Clock,
    permits: Arc<Semaphore>,
    shutdown: watch::Sender<bool>,
    metrics: ServerMetrics,
    limit_log: LogLimiter,
    handshake_log: BTreeMap<FailureReason, LogLimiter>,
}

struct ServerMetrics {
    open: IntGauge,
    rejected: IntCounter,
    handshakes: HandshakeMetrics,
    identity: IdentityMetrics,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Server {
    /// Creates a server that speaks TLS, or plain TCP where `tls` is `None`.
    pub fn new(
        tls: Option<IdentityWatch<ServerTls>>,
        policy: Policy,
        limits: Limits,
        clock: Clock,
        metrics: &Metrics,
        identity: IdentityMetrics,
    ) -> Arc<Self> {
        let metrics = ServerMetrics {
            open: metrics.int_gauge(
                "ponger_connections",
                "Open connections, those in a handshake included.",
            ),
            rejected: metrics.int_counter(
                "ponger_connections_rejected_total",
                "Connections closed at once because the connection limit was reached.",
            ),
            handshakes: HandshakeMetrics::new(metrics),
            identity,
        };
        let limiter = || LogLimiter::new(Duration::from_secs(1));
        Arc::new(Self {
            tls,
            policy,
            limits,
            clock,
            permits: Arc::new(Semaphore::new(limits.connections as usize)),
            shutdown: watch::channel(false).0,
            metrics,
            limit_log: limiter(),
            handshake_log: FailureReason::ALL.iter().map(|reason| (*reason, limiter())).collect(),
        })
    }

    /// Serves `app` on `listener`, with a worker for each processor.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn serve<A, I, S, B>(
        self: &Arc<Self>,
        listener: TcpListener,
        app: A,
    ) -> io::Result<actix_server::Server>
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
        let server = Arc::clone(self);
        Ok(actix_server::Server::build()
            .disable_signals()
            .workers(worker_count())
            // actix would leave the connections above its limit in the backlog; ours closes them.
            .max_concurrent_connections(usize::MAX >> 4)
            .listen(crate::NAME, listener, move || {
                let accepting = Arc::clone(&server);
                let app = map_config(app().into_factory(), |()| AppConfig::default());
                fn_service(move |stream: TcpStream| Arc::clone(&accepting).accept(stream)).and_then(
                    HttpService::build()
                        .keep_alive(server.limits.idle)
                        .client_request_timeout(server.limits.request)
                        .client_disconnect_timeout(Duration::from_secs(2))
                        .on_connect_ext(|io: &ServerIo, data| {
                            data.insert(Rc::clone(io.peer()));
                        })
                        .h1(app),
                )
            })?
            .run())
    }

    /// Closes each connection after its request in flight, or at once if it has none, and waits for
    /// that; returns how many are left after `limit`.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.shutdown.send_replace(true);
        let open = || self.limits.connections as usize - self.permits.available_permits();
        // Not by waiting for all permits: a semaphore that is waited for has none for the connections
        // that were accepted just before.
        let closed = async {
            loop {
                sleep(DRAIN_POLL_INTERVAL).await;
                if open() == 0 {
                    break;
                }
            }
        };
        let _ = timeout(limit, closed).await;
        open()
    }

    async fn accept(
        self: Arc<Self>,
        stream: TcpStream,
    ) -> Result<(ServerIo, Option<SocketAddr>), DispatchError> {
        let address = stream.peer_addr().ok();
        let Some(permit) = self.acquire_permit() else {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        };
        // Without it, a response written in two pieces waits for an acknowledgement (Nagle).
        let _ = stream.set_nodelay(true);
        let (stream, peer) = match &self.tls {
            None => {
                let decision = self.policy.decide(None);
                let peer = Peer { address, handshake: None, id: None, decision, credentials: None };
                (Stream::Plain(stream), peer)
            }
            Some(identity) => self.handshake(stream, address, identity).await?,
        };
        let io = ServerIo::new(stream, peer, self.limits, self.shutdown.subscribe(), permit);
        Ok((io, address))
    }

    /// Returns a permit for one connection, unless the limit is reached.
    fn acquire_permit(&self) -> Option<ConnectionPermit> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.metrics.rejected.inc();
            if let Some(suppressed) = self.limit_log.try_acquire() {
                tracing::warn!(
                    limit = self.limits.connections,
                    suppressed,
                    "Connection limit reached, rejecting connections"
                );
            }
            return None;
        };
        Some(ConnectionPermit::new(permit, self.metrics.open.clone()))
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        address: Option<SocketAddr>,
        identity: &IdentityWatch<ServerTls>,
    ) -> Result<(Stream, Peer), io::Error> {
        let used = identity.current();
        let acceptor = TlsAcceptor::from(Arc::clone(&used.tls.config));
        let stream = HandshakeStream::new(stream);
        // Fallible: on an error the stream comes back, so that the alert can be delivered.
        let accepting = timeout(self.limits.handshake, acceptor.accept(stream).into_fallible());
        let mut shutdown = self.shutdown.subscribe();
        let accepted = tokio::select! {
            accepted = accepting => accepted,
            // A connection that was opened and not used, as browsers do, must not delay the stop.
            () = async {
                let _ = shutdown.wait_for(|stopping| *stopping).await;
                sleep(SHUTDOWN_HANDSHAKE_GRACE).await;
            } => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let mut stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, stream))) => {
                self.record_handshake_failure(address, &classify::from_io("the client", &error));
                lingering_close(stream.into_inner()).await;
                return Err(error);
            }
            Err(_) => {
                let cause = "the client did not complete its handshake in time";
                let failure = Failure::new(FailureReason::TlsTimeout, cause);
                self.record_handshake_failure(address, &failure);
                return Err(io::ErrorKind::TimedOut.into());
            }
        };
        let (tcp, connection) = stream.get_mut();
        tcp.end_handshake();
        let handshake = HandshakeInfo::from_connection(connection);
        let credentials = ConnectionCredentials::new(
            connection.peer_certificates().unwrap_or_default(),
            &used,
            identity.clone(),
            self.clock.clone(),
        );
        let ids = credentials.peer_ids();
        let decision = self.policy.decide(ids.as_ref());
        self.metrics.handshakes.record_success(&handshake, self.policy.metric_label(ids.as_ref()));
        // Only an authorized peer may influence what is measured.
        if decision.is_allowed()
            && let Some(validity) = credentials.peer_validity()
        {
            self.metrics.identity.record_peer(validity);
        }
        let peer = Peer {
            address,
            handshake: Some(handshake),
            id: ids.and_then(Result::ok).and_then(|ids| ids.into_iter().next()),
            decision,
            credentials: Some(credentials),
        };
        Ok((Stream::Tls(Box::new(stream)), peer))
    }

    fn record_handshake_failure(&self, address: Option<SocketAddr>, failure: &Failure) {
        self.metrics.handshakes.record_failure(failure.reason);
        let (reason, cause) = (failure.reason, &failure.cause);
        // Load balancers and port scanners connect and disconnect: not worth a line.
        if reason == FailureReason::Reset {
            tracing::debug!(
                address = address.map(tracing::field::display),
                cause,
                "Client disconnected during TLS handshake"
            );
            return;
        }
        if let Some(suppressed) = self.handshake_log.get(&reason).and_then(LogLimiter::try_acquire)
        {
            tracing::warn!(
                address = address.map(tracing::field::display),
                reason = reason.label(),
                cause,
                suppressed,
                "TLS handshake failed"
            );
        }
    }
}

/// Reads and discards what the client still sends, for a moment. If a socket is closed with bytes
/// unread, the kernel resets the connection, and the alert may never arrive.
async fn lingering_close(mut stream: TcpStream) {
    let _ = timeout(Duration::from_secs(1), async {
        stream.shutdown().await?;
        let mut discarded = [0; 1024];
        for _ in 0..64 {
            if stream.read(&mut discarded).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    })
    .await;
}
