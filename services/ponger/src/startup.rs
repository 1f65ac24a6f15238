//! ponger as a whole: bind, reveal the ports, run until asked to stop, drain.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix_web::{App, middleware::from_fn, web::Data};
use anyhow::{Context as _, bail};
use chassis::{
    admin::Admin,
    bind::bind,
    readiness::Readiness,
    listener::{Gate, Limits},
    metrics::{IdentityMetrics, Metrics},
    signals::{self, Stop},
    telemetry,
    tls::{
        reload::{Current, Follower, follow_sources},
        cert::Purpose,
        server::{self, Ask},
    },
    error::ConfigError,
};
use tracing_actix_web::TracingLogger;

use crate::{
    config::Config,
    authz::{Door, Rule, guard},
    routes::{self, OneLine},
};

/// ponger, bound and not yet running.
#[derive(Debug)]
pub struct Application {
    listener: TcpListener,
    admin: Admin,
    gate: Arc<Gate>,
    door: Data<Door>,
    health: Readiness,
    draining: Arc<AtomicBool>,
    identity: Option<(Follower, Current)>,
    clients: &'static str,
    drain_delay: Duration,
    drain_timeout: Duration,
}

impl Application {
    /// Reads and verifies the identity, and binds both listeners. `file` is where `config` came
    /// from; its allowed names are read again with the identity.
    ///
    /// # Errors
    /// When anything cannot be used.
    pub fn build(config: &Config, file: Option<&Path>) -> anyhow::Result<Self> {
        let metrics = Metrics::new(crate::NAME, env!("CARGO_PKG_VERSION"));
        let identity_metrics = IdentityMetrics::new(&metrics);
        let health = Readiness::starting();
        let identity = if config.insecure {
            None
        } else {
            Some(follow_identity(config, file, identity_metrics.clone())?)
        };
        let tls = match &identity {
            Some((_, current)) => {
                let tls = server::config(current, config.ask(), config.service.min_tls_version)?;
                Some((Arc::new(tls), current.clone()))
            }
            None => None,
        };
        let rule = match &identity {
            Some((_, current)) if current.get().roots().is_some() => Rule::Admitted {
                current: current.clone(),
                anonymous: config.service.allow_anonymous,
            },
            _ => Rule::Everyone,
        };
        let limits = Limits {
            handshake: config.service.handshake_timeout.0,
            request: config.service.request_timeout.0,
            idle: config.service.idle_timeout.0,
            connections: config.service.max_connections as usize,
        }
        .within_descriptors()?;
        let listener =
            bind(config.service.host, config.service.port, "service.host and service.port")?;
        let admin = Admin::bind(&config.metrics, metrics.clone(), health.clone())?;
        let draining = Arc::new(AtomicBool::new(false));
        Ok(Self {
            listener,
            admin,
            gate: Gate::new(crate::NAME, tls, limits, &metrics, identity_metrics),
            door: Data::new(Door::new(rule, Arc::clone(&draining), &metrics)),
            health,
            draining,
            identity,
            clients: match config.ask() {
                Ask::Required => "must show a certificate",
                Ask::Optional => "may show a certificate",
                Ask::No => "are not asked who they are",
            },
            drain_delay: config.service.drain_delay.0,
            drain_timeout: config.service.drain_timeout.0,
        })
    }

    /// Where the service listens.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where the admin listener listens.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.address()
    }

    /// Serves until `stop` is asked for, then drains: not ready, answers with `Connection: close`
    /// for the drain delay, then ends each connection after its request. A second signal ends at
    /// once.
    ///
    /// # Errors
    /// When a listener cannot be used, or what was in flight did not end in time.
    pub async fn run_until_stopped(self, mut stop: Stop) -> anyhow::Result<()> {
        let (address, admin_address) = (self.address()?, self.admin_address()?);
        let door = self.door.clone();
        let server = self
            .gate
            .serve(crate::NAME, self.listener, move || {
                App::new()
                    .app_data(door.clone())
                    .wrap(from_fn(guard))
                    .wrap(TracingLogger::<OneLine>::new())
                    .configure(routes::configure)
            })
            .context("the listener")?;
        let (server_handle, admin_handle) =
            (server.handle(), self.admin.run().context("the admin listener")?);
        actix_rt::spawn(server);
        let tls = self.identity.is_some();
        match self.identity {
            Some((follower, current)) => {
                signals::on_hangup(move || follower.look())?;
                self.health.follow(current);
            }
            None => {
                signals::on_hangup(|| {})?;
                telemetry::remind_of_insecurity();
            }
        }
        self.health.set("starting", false);
        tracing::info!(%address, admin = %admin_address, tls, clients = self.clients, "Listening");

        let signal = stop.requested().await;
        tracing::info!(signal, "Stopping: draining");
        self.health.set("draining", true);
        self.draining.store(true, Ordering::Release);
        let drained = async {
            actix_rt::time::sleep(self.drain_delay).await;
            server_handle.pause().await;
            self.gate.drain(self.drain_timeout).await
        };
        let left = tokio::select! {
            left = drained => left,
            signal = stop.requested() => bail!("a second {signal}: stopped without draining"),
        };
        server_handle.stop(false).await;
        admin_handle.stop(false).await;
        if left > 0 {
            tracing::warn!(connections = left, "Stopped: some connections did not end in time");
        } else {
            tracing::info!("Stopped: all connections have ended");
        }
        Ok(())
    }
}

fn follow_identity(
    config: &Config,
    file: Option<&Path>,
    metrics: IdentityMetrics,
) -> Result<(Follower, Current), ConfigError> {
    let again = file.map(Path::to_owned);
    let allowed = move || Ok(Config::load(again.as_deref())?.sources()?.allowed);
    follow_sources(&config.identity, Purpose::Server, config.sources()?, file.unwrap_or(Path::new(chassis::config::DEFAULT_FILE)), allowed, metrics)
}
