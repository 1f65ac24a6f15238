//! ponger as a whole: bind, reveal the ports, run until asked to stop, drain.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use actix_web::{App, web::Data};
use anyhow::{Context as _, bail};
use chassis::{
    admin::Admin,
    bind::bind,
    error::SecondSignal,
    metrics::Metrics,
    process::RunningServer,
    readiness::Readiness,
    signals::Signals,
    telemetry,
    tls::{
        clock::Clock,
        identity::IdentitySummary,
        metrics::IdentityMetrics,
        reload::{ReloadHandle, spawn_reloader},
        x509::Role,
    },
    traces::Traces,
};
use tracing_actix_web::TracingLogger;

use crate::{
    access_log::AccessLog,
    authz::{Authorizer, authorize},
    config::Config,
    faults::{self, Faults},
    limits::{Limits, clamp_to_fd_limit, worker_count},
    request_span::RequestTracer,
    routes,
    server::Server,
};

/// What errors call ponger's listener.
const LISTENER: &str = "the listener";

/// How many allowed clients the log names.
const MAX_LISTED: usize = 8;

/// ponger, bound and not yet running.
#[derive(Debug)]
pub struct Application {
    listener: TcpListener,
    admin: Admin,
    metrics: Metrics,
    server: Arc<Server>,
    authorizer: Data<Authorizer>,
    /// `None` unless they are enabled.
    faults: Option<Data<Faults>>,
    readiness: Readiness,
    draining: Arc<AtomicBool>,
    reload: Option<ReloadHandle>,
    traces: Option<Traces>,
    summary: IdentitySummary,
    allowed_clients: String,
    client_auth: &'static str,
    drain_delay: Duration,
    drain_timeout: Duration,
}

impl Application {
    /// Loads and verifies the certificates, and binds both listeners.
    ///
    /// # Errors
    /// When the configuration, a certificate or an address cannot be used.
    pub fn build(config: &Config) -> anyhow::Result<Self> {
        Self::build_with_clock(config, Clock::system())
    }

    /// As [`Application::build`], verifying certificates by the time of `clock`.
    ///
    /// # Errors
    /// As there.
    pub fn build_with_clock(config: &Config, clock: Clock) -> anyhow::Result<Self> {
        let metrics = Metrics::new(crate::NAME, env!("CARGO_PKG_VERSION"));
        let identity_metrics = IdentityMetrics::new(&metrics);
        let readiness = Readiness::starting();
        let (reload, identity) = if config.insecure {
            (None, None)
        } else {
            let settings = config.identity.reload_settings(crate::NAME, &clock);
            let (handle, identity) = spawn_reloader(
                settings,
                config.sources()?,
                Role::Server,
                identity_metrics.clone(),
                config.tls_builder(&clock),
            )
            .map_err(|error| error.name_key(&config.files()))?;
            readiness.watch_identity(&identity, &clock);
            (Some(handle), Some(identity))
        };
        let summary = identity.as_ref().map(|identity| identity.current().summary(clock.now()));
        let summary = summary.unwrap_or_default();
        let service = &config.service;
        let listener = bind(service.host, service.port, "service.host and service.port")?;
        let mut admin = Admin::bind(&config.metrics, metrics.clone(), readiness.clone())?;
        let faults = Data::new(Faults::new(&metrics));
        let faults = config.faults.then_some(faults);
        if let Some(faults) = faults.clone() {
            warn_of_faults(&readiness, &faults);
            admin = admin.with_routes(move |routes| faults::api::configure(routes, faults.clone()));
        }
        let draining = Arc::new(AtomicBool::new(false));
        let version = env!("CARGO_PKG_VERSION");
        let traces = Traces::start(&config.otel, crate::NAME, version, &metrics, &clock)?;
        let server = Server::new(
            identity,
            config.policy()?,
            limits(config),
            clock,
            &metrics,
            identity_metrics,
            traces.as_ref().map(|traces| RequestTracer::new(traces.tracer())),
        );
        Ok(Self {
            listener,
            admin,
            server,
            faults,
            authorizer: Data::new(Authorizer::new(Arc::clone(&draining), &metrics)),
            metrics,
            readiness,
            draining,
            reload,
            traces,
            summary,
            allowed_clients: first_of(&service.allowed_clients),
            client_auth: config.client_auth().label(),
            drain_delay: service.drain_delay.0,
            drain_timeout: service.drain_timeout.0,
        })
    }

    /// Where the service listens.
    ///
    /// # Errors
    /// When the operating system does not return it.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where the admin listener listens.
    ///
    /// # Errors
    /// When the operating system does not return it.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.address()
    }

    /// The metrics of the service, to which others may be added.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Serves until `signals` ask to stop, then drains: not ready, responses with `Connection: close`
    /// for the drain delay, then each connection is closed after its request. A second signal ends
    /// at once.
    ///
    /// # Errors
    /// When a listener cannot be used or ends by itself, or after a second signal.
    pub async fn run_until_stopped(self, mut signals: Signals) -> anyhow::Result<()> {
        let (address, admin_address) = (self.address()?, self.admin_address()?);
        let tls = self.reload.is_some();
        if let Some(reload) = self.reload {
            signals.on_reload(move || reload.reload());
        } else {
            telemetry::warn_insecure_periodically();
        }
        let log_limits = Arc::clone(self.server.log_limits());
        log_limits.report_periodically();
        let (authorizer, shared_limits) = (self.authorizer, Data::from(Arc::clone(&log_limits)));
        let (faults, has_faults) = (self.faults.clone(), self.faults.as_ref().map(|_| true));
        let server = self
            .server
            .serve(self.listener, move || {
                App::new()
                    .app_data(authorizer.clone())
                    .app_data(shared_limits.clone())
                    .wrap_fn(authorize)
                    .wrap(TracingLogger::<AccessLog>::new())
                    .configure(|routes| routes::configure(routes, faults.as_ref()))
            })
            .context(LISTENER)?;
        // First, since connections to the other one could take the descriptors that it needs.
        let mut admin = self.admin.run()?;
        let mut server = RunningServer::spawn(LISTENER, server);
        self.readiness.set("starting", false);
        let client_auth = self.client_auth;
        tracing::info!(
            %address,
            admin = %admin_address,
            tls,
            client_auth,
            faults = has_faults,
            version = env!("CARGO_PKG_VERSION"),
            id = self.summary.id,
            expires = self.summary.expires,
            roots = self.summary.roots,
            allowed_clients = Some(self.allowed_clients).filter(|ids| !ids.is_empty()),
            "Listening"
        );

        let signal = tokio::select! {
            signal = signals.stop() => signal,
            error = server.failed() => return Err(error),
            error = admin.failed() => return Err(error),
        };
        tracing::info!(signal, "Draining");
        self.readiness.set("draining", true);
        self.draining.store(true, Ordering::Release);
        let drained = async {
            actix_rt::time::sleep(self.drain_delay).await;
            server.pause().await;
            self.server.drain(self.drain_timeout).await
        };
        let left = tokio::select! {
            left = drained => left,
            signal = signals.stop() => bail!(SecondSignal { signal, state: "without draining" }),
        };
        server.stop().await;
        if let Some(traces) = self.traces {
            traces.shutdown().await;
        }
        admin.stop().await;
        if left > 0 {
            tracing::warn!(
                connections = left,
                "Drain timeout exceeded, closed remaining connections"
            );
        }
        log_limits.report_now();
        tracing::info!("Stopped");
        Ok(())
    }
}

/// The first [`MAX_LISTED`] of `ids`, and how many more there are.
fn first_of(ids: &[String]) -> String {
    let (named, others) = ids.split_at(ids.len().min(MAX_LISTED));
    let more =
        if others.is_empty() { String::new() } else { format!(", and {} more", others.len()) };
    named.join(", ") + &more
}

fn warn_of_faults(readiness: &Readiness, faults: &Data<Faults>) {
    tracing::warn!(
        "Faults are enabled (`faults: true`): anyone who reaches the admin listener can make pings fail"
    );
    readiness.add_warning("faults are enabled (`faults: true`)", || true);
    let faults = faults.clone();
    readiness.add_warning("a fault is being injected, see /faults", move || {
        faults.current(Instant::now()).is_some()
    });
}

fn limits(config: &Config) -> Limits {
    let service = &config.service;
    let fd_limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let connections = clamp_to_fd_limit(service.max_connections, fd_limit, worker_count());
    if connections < service.max_connections {
        tracing::warn!(
            limit = fd_limit,
            max_connections = connections,
            "maxConnections lowered to fit the file descriptor limit"
        );
    }
    Limits {
        handshake: service.handshake_timeout.0,
        request: service.request_timeout.0,
        idle: service.idle_timeout.0,
        connections,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_the_first_allowed_clients() {
        let listed =
            |count: usize| first_of(&(0..count).map(|n| n.to_string()).collect::<Vec<_>>());
        let eight = "0, 1, 2, 3, 4, 5, 6, 7";
        assert_eq!(
            [0, 1, 8, 10].map(listed),
            ["", "0", eight, &format!("{eight}, and 2 more")].map(str::to_owned)
        );
    }
}
