//! pinger as a whole: bind, reveal the port, ping until asked to stop.

use std::net::SocketAddr;

use chassis::{
    admin::Admin,
    metrics::Metrics,
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

use crate::{
    client_factory::PingClientFactory,
    config::{Config, EndpointSelection},
    endpoints::{Endpoints, Resolution},
    history::History,
    page::{self, snapshot::Source},
    ping_span::PingTracer,
    record::Recorder,
    rejection_probe::{ProbeResults, spawn_rejection_probes},
    resolver::Resolver,
    schedule::ping_until_stopped,
    summary::Summary,
};

/// pinger, bound and not yet running.
#[derive(Debug)]
pub struct Application {
    config: Config,
    admin: Admin,
    metrics: Metrics,
    readiness: Readiness,
    reload: Option<ReloadHandle>,
    clients: PingClientFactory,
    recorder: Recorder,
    probes: ProbeResults,
    resolver: Resolver,
    traces: Option<Traces>,
    summary: IdentitySummary,
}

impl Application {
    /// Loads and verifies the certificates, and binds the admin listener.
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
                Role::Client,
                identity_metrics.clone(),
                config.tls_builder(&clock)?,
            )
            .map_err(|error| error.name_key(&config.files()))?;
            readiness.watch_identity(&identity, &clock);
            (Some(handle), Some(identity))
        };
        let summary = identity.as_ref().map(|identity| identity.current().summary(clock.now()));
        let summary = summary.unwrap_or_default();
        let admin = Admin::bind(&config.metrics, metrics.clone(), readiness.clone())?;
        let (history, probes) = (History::default(), ProbeResults::new(&metrics));
        let page = Source::new(
            config.clone(),
            history.clone(),
            probes.clone(),
            readiness.clone(),
            identity.clone(),
            clock.clone(),
        );
        let clients = PingClientFactory::new(config.clone(), identity, clock.clone())?;
        let version = env!("CARGO_PKG_VERSION");
        let traces = Traces::start(&config.otel, crate::NAME, version, &metrics, &clock)?;
        let target = config.target()?;
        let tracer = traces.as_ref().map(|traces| PingTracer::new(traces.tracer(), &target));
        let recorder = Recorder::new(&metrics, identity_metrics, config, clock, history);
        Ok(Self {
            admin: admin.with_routes(page::routes(page)),
            readiness,
            reload,
            clients,
            recorder: recorder.with_tracer(tracer),
            probes,
            resolver: Resolver::system(),
            traces,
            summary,
            config: config.clone(),
            metrics,
        })
    }

    /// The application, with another resolver for the endpoints than the system's.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = resolver;
        self
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

    /// Pings until `signals` ask to stop, or until `count` pings were sent. A ping in flight may then
    /// end within the drain timeout; a second signal ends at once.
    ///
    /// # Errors
    /// When the admin listener cannot be used or ends by itself, or after a second signal.
    pub async fn run_until_stopped(self, mut signals: Signals) -> anyhow::Result<Summary> {
        let Self {
            config,
            admin,
            readiness,
            reload,
            clients,
            mut recorder,
            probes,
            resolver,
            traces,
            summary,
            ..
        } = self;
        let admin_address = admin.address()?;
        let mut admin = admin.run()?;
        if let Some(reload) = reload {
            signals.on_reload(move || reload.reload());
        } else {
            telemetry::warn_insecure_periodically();
        }
        readiness.set("starting", false);
        tracing::info!(
            url = config.ponger.url,
            admin = %admin_address,
            version = env!("CARGO_PKG_VERSION"),
            id = summary.id,
            expires = summary.expires,
            roots = summary.roots,
            server_id = config.ponger.server_id,
            node = config.node,
            "Pinging"
        );

        let (endpoints, resolution) = match config.ponger.endpoints {
            EndpointSelection::One => (Endpoints::any(), None),
            EndpointSelection::All => {
                (Endpoints::default(), Some(Resolution::new(resolver, &config)?))
            }
        };
        let settings = config.rejection_probe.clone();
        let probing = (!settings.interval.0.is_zero()).then(|| {
            let clients = clients.clone();
            spawn_rejection_probes(clients, endpoints.clone(), settings, probes, &readiness)
        });
        let pinging = tokio::select! {
            ended = ping_until_stopped(
                &clients, &endpoints, resolution, &config, &mut recorder, &mut signals,
            ) => ended,
            error = admin.failed() => Err(error),
        };
        if let Some(probing) = probing {
            probing.abort();
        }
        pinging?;
        let summary = recorder.into_summary();
        tracing::info!("{summary}");
        readiness.set("draining", true);
        if let Some(traces) = traces {
            traces.shutdown().await;
        }
        admin.stop().await;
        Ok(summary)
    }
}
