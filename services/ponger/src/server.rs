//! Accepts connections: the connection limit, the TLS handshake, then HTTP/1.1 by actix.
//!
//! actix's own TLS acceptor does not say why a handshake failed, cannot close a connection whose
//! peer's root was removed, and limits concurrent handshakes rather than connections. So this module
//! accepts connections itself, and passes them to actix as [`ServerIo`], a stream that can be closed.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_http::{HttpService, KeepAlive, Request, Response, body::BoxBody, error::DispatchError};
use actix_service::{
    IntoServiceFactory, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config,
};
use actix_web::{body::MessageBody, dev::AppConfig};
use chassis::{
    failure::{Failure, FailureReason},
    metrics::Metrics,
    tls::{
        classify,
        clock::Clock,
        credentials::ConnectionCredentials,
        handshake_info::HandshakeInfo,
        identity::Identity,
        metrics::{HandshakeMetrics, IdentityMetrics},
        reload::IdentityWatch,
        server::ServerTls,
        untrusted::observe_issuer,
    },
};
use prometheus::{IntCounter, IntCounterVec, IntGauge};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use crate::{
    connection::{Peer, ServerIo, Stream},
    handshake::{self, Accepted},
    limits::{ConnectionPermit, Limits, worker_count},
    log_limits::LogLimits,
    policy::{Decision, Policy},
    rejection_probe::{self, ProbeFilter},
    request_span::RequestTracer,
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
    probe_filter: ProbeFilter,
    metrics: ServerMetrics,
    tracer: Option<RequestTracer>,
    log_limits: Arc<LogLimits>,
}

struct ServerMetrics {
    open: IntGauge,
    rejected: IntCounter,
    handshakes: HandshakeMetrics,
    probes: IntCounterVec,
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
        tracer: Option<RequestTracer>,
    ) -> Arc<Self> {
        let probes = metrics.int_counter_vec(
            "ponger_rejection_probes_total",
            "Failed handshakes of pinger's rejection probe, which are meant to fail, by reason.",
            &["reason"],
        );
        for reason in rejection_probe::REASONS {
            probes.with_label_values(&[reason.label()]);
        }
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
            probes,
            identity,
        };
        Arc::new(Self {
            tls,
            policy,
            limits,
            clock,
            permits: Arc::new(Semaphore::new(limits.connections as usize)),
            shutdown: watch::channel(false).0,
            probe_filter: ProbeFilter::default(),
            metrics,
            tracer,
            log_limits: Arc::default(),
        })
    }

    /// The limits of log lines, which requests share with connections.
    pub fn log_limits(&self) -> &Arc<LogLimits> {
        &self.log_limits
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
                // Boxed: actix keeps room for it, twice, in each connection as long as that lives.
                fn_service(move |stream: TcpStream| Box::pin(Arc::clone(&accepting).accept(stream)))
                    .and_then(
                        HttpService::build()
                            // `ServerIo` limits how long it is idle, without a timer for each request.
                            .keep_alive(KeepAlive::Os)
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
                let peer = Peer {
                    address,
                    handshake: None,
                    id: None,
                    decision,
                    is_probe: false,
                    credentials: None,
                    tracer: self.tracer.clone(),
                };
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
            if let Some(suppressed) = self.log_limits.connections.try_acquire() {
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
        let accepting = observe_issuer(handshake::accept(stream, Arc::clone(&used.tls.config)));
        let accepting = timeout(self.limits.handshake, accepting);
        let mut shutdown = self.shutdown.subscribe();
        let accepted = tokio::select! {
            accepted = accepting => accepted,
            // A connection that was opened and not used, as browsers do, must not delay the stop.
            () = async {
                let _ = shutdown.wait_for(|stopping| *stopping).await;
                sleep(SHUTDOWN_HANDSHAKE_GRACE).await;
            } => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let (mut stream, claims_to_be_probe) = match accepted {
            Ok((Accepted { result: Ok(stream), claims_to_be_probe }, _)) => {
                (stream, claims_to_be_probe)
            }
            Ok((Accepted { claims_to_be_probe, result: Err((error, stream)) }, issuer)) => {
                let failure = classify::from_io("the client", &error);
                if claims_to_be_probe && self.is_rejection_probe(address, failure.reason) {
                    self.record_rejection_probe(address, &failure);
                } else {
                    self.record_handshake_failure(address, &failure, issuer.as_deref(), &used);
                }
                if let Some(stream) = stream {
                    handshake::lingering_close(stream).await;
                }
                return Err(error);
            }
            Err(_) => {
                let cause = "the client did not complete its handshake in time";
                let failure = Failure::new(FailureReason::TlsTimeout, cause);
                self.record_handshake_failure(address, &failure, None, &used);
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
        if let (Decision::PeerId(_), Some(address)) = (&decision, address) {
            self.probe_filter.record_authorized(address.ip(), Instant::now());
        }
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
            is_probe: claims_to_be_probe
                && decision == Decision::NoCertificate
                && self.is_rejection_probe(address, FailureReason::TlsNoCertificate),
            decision,
            credentials: Some(credentials),
            tracer: self.tracer.clone(),
        };
        Ok((Stream::Tls(Box::new(stream)), peer))
    }

    fn is_rejection_probe(&self, address: Option<SocketAddr>, reason: FailureReason) -> bool {
        address
            .is_some_and(|address| self.probe_filter.accepts(address.ip(), reason, Instant::now()))
    }

    fn record_rejection_probe(&self, address: Option<SocketAddr>, failure: &Failure) {
        self.metrics.probes.with_label_values(&[failure.reason.label()]).inc();
        tracing::debug!(
            address = address.map(tracing::field::display),
            reason = failure.reason.label(),
            cause = failure.cause,
            "Rejection probe rejected"
        );
    }

    /// Records a failed handshake under `used`; `issuer` is that of a certificate that no root verifies.
    fn record_handshake_failure(
        &self,
        address: Option<SocketAddr>,
        failure: &Failure,
        issuer: Option<&str>,
        used: &Identity<ServerTls>,
    ) {
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
        if let Some(suppressed) = self.log_limits.try_acquire_handshake(reason) {
            let trust = used.trust.as_ref().filter(|_| issuer.is_some());
            tracing::warn!(
                address = address.map(tracing::field::display),
                reason = reason.label(),
                cause,
                issuer,
                trusted_roots = trust.map(|trust| trust.root_names(self.clock.now())),
                suppressed,
                "TLS handshake failed"
            );
        }
    }
}
