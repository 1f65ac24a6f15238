//! pinger as a whole: bind, reveal the port, ping until asked to stop.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use actix_rt::time::{sleep, timeout};
use anyhow::{Context as _, bail};
use chassis::{
    admin::Admin,
    readiness::Readiness,
    metrics::{IdentityMetrics, Metrics},
    signals::{self, Stop},
    telemetry,
    tls::{
        client,
        clock::{Seconds, now, until},
        reload::{Current, Follower, follow_sources},
        cert::Purpose,
    },
    error::ConfigError,
};
use prometheus::IntCounterVec;

use crate::{
    config::{Config, Target},
    client::{Outcome, Pinger},
    record::{Recorder, Summary},
    rejection_probe::{self, Answer, Stranger},
};

/// pinger, bound and not yet running.
#[derive(Debug)]
pub struct Application {
    config: Config,
    target: Target,
    admin: Admin,
    health: Readiness,
    identity: Option<(Follower, Current)>,
    recorder: Recorder,
    checks: IntCounterVec,
}

impl Application {
    /// Reads and verifies the identity, and binds the admin listener. `file` is where `config` came
    /// from; ponger's ID is read again with the identity.
    ///
    /// # Errors
    /// When anything cannot be used.
    pub fn build(config: &Config, file: Option<&Path>) -> anyhow::Result<Self> {
        let target = config.target()?;
        let metrics = Metrics::new(crate::NAME, env!("CARGO_PKG_VERSION"));
        let identity_metrics = IdentityMetrics::new(&metrics);
        let identity = if config.insecure {
            None
        } else {
            Some(follow_identity(config, file, identity_metrics.clone())?)
        };
        let checks = metrics.counters(
            "pinger_refusal_checks_total",
            "Pings as a stranger, by what was expected and what came of it.",
            &["stranger", "expected", "result"],
        );
        for stranger in Stranger::ALL {
            for answer in [Answer::Refused, Answer::Accepted, Answer::Unknown] {
                checks.with_label_values(&[stranger.label(), "refused", answer.label()]);
            }
        }
        let current = identity.as_ref().map(|(_, current)| current.clone());
        let warn_before = config.identity.expiry_warning.map(|span| span.0);
        let recorder =
            Recorder::new(&metrics, identity_metrics, current, warn_before, config.count);
        let health = Readiness::starting();
        let admin = Admin::bind(&config.metrics, metrics, health.clone())?;
        Ok(Self { config: config.clone(), target, admin, health, identity, recorder, checks })
    }

    /// Where the admin listener listens.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.address()
    }

    /// Pings until `stop` is asked for, or until there were as many pings as the configuration
    /// wants. A ping in flight then may end within the drain's time; a second signal ends at once.
    ///
    /// # Errors
    /// When the admin listener cannot be used, or a second signal came.
    pub async fn run_until_stopped(self, mut stop: Stop) -> anyhow::Result<Summary> {
        let Self { config, target, admin, health, identity, mut recorder, checks } = self;
        let admin_address = admin.address()?;
        let admin = admin.run().context("the admin listener")?;
        let mut way = Way { config, target, current: None };
        match identity {
            Some((follower, current)) => {
                signals::on_hangup(move || follower.look())?;
                health.follow(current.clone());
                way.current = Some(current);
            }
            None => {
                signals::on_hangup(|| {})?;
                telemetry::remind_of_insecurity();
            }
        }
        health.set("starting", false);
        tracing::info!(url = way.config.ponger.url, admin = %admin_address, "Pinging");

        let pinging = async {
            if let Some(current) =
                way.current.clone().filter(|_| !way.config.rejection_probe.interval.0.is_zero())
            {
                actix_rt::spawn(knock(
                    way.config.clone(),
                    way.target.clone(),
                    current,
                    checks,
                    health.clone(),
                ));
            }
            ping_until_stopped(&mut way, &mut recorder, &mut stop).await
        };
        pinging.await?;
        let summary = recorder.into_summary();
        tracing::info!("{summary}");
        health.set("draining", true);
        admin.stop(false).await;
        Ok(summary)
    }
}

/// The way to ponger, renewed when the identity is.
struct Way {
    config: Config,
    target: Target,
    current: Option<Current>,
}

impl Way {
    fn pinger(&mut self) -> anyhow::Result<Pinger> {
        let tls = match &mut self.current {
            Some(current) => {
                current.mark_seen();
                let config = client::config(current, self.config.ponger.min_tls_version)?;
                Some((config, current.clone()))
            }
            None => None,
        };
        Ok(Pinger::new(&self.target, tls, &self.config))
    }

    /// Waits until the connection that `pinger` keeps may no longer be used: the identity was
    /// replaced, or what the connection was opened with does not hold for as long as a ping may take.
    async fn outdated(&mut self, pinger: &Pinger) {
        let (Some(current), Some(name)) = (&mut self.current, &self.target.tls) else {
            return std::future::pending().await;
        };
        let kept = pinger.credentials();
        loop {
            if current.has_changed() {
                return;
            }
            let last_moment = now() + seconds(self.config.timeout.0);
            let identity = current.get();
            let pause = match &kept {
                Some(kept) if !kept.hold_for_server(&identity, name, last_moment) => return,
                Some(kept) => {
                    until(kept.next_change(&identity, last_moment) - (last_moment - now()))
                }
                None => Duration::MAX,
            };
            // A sleep does not see that the clock was set, so it is never a long one.
            tokio::select! {
                () = current.changed() => return,
                () = sleep(pause.clamp(Duration::from_millis(20), Duration::from_secs(60))) => {}
            }
        }
    }
}

/// Whole seconds, rounded up.
fn seconds(duration: Duration) -> Seconds {
    Seconds::try_from(duration.as_secs()).unwrap_or(Seconds::MAX / 4).saturating_add(1)
}

async fn ping_until_stopped(
    way: &mut Way,
    recorder: &mut Recorder,
    stop: &mut Stop,
) -> anyhow::Result<()> {
    let mut pinger = way.pinger()?;
    let mut seq = 0;
    while way.config.count == 0 || seq < u64::from(way.config.count) {
        let pause = sleep(way.config.interval.0.mul_f64(rand::random()));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                // Before a ping that is due: it must not take a connection that is not to be used.
                biased;
                () = way.outdated(&pinger), if pinger.keeps() => pinger = way.pinger()?,
                () = &mut pause => break,
                signal = stop.requested() => {
                    tracing::info!(signal, "Stopping");
                    return Ok(());
                }
            }
        }
        seq += 1;
        tracing::info!(seq, "Sent ping");
        let began = Instant::now();
        let ping = pinger.ping();
        tokio::pin!(ping);
        let outcome: Outcome = tokio::select! {
            outcome = &mut ping => outcome,
            signal = stop.requested() => {
                tracing::info!(signal, "Stopping: waiting for the ping in flight");
                let outcome = tokio::select! {
                    outcome = timeout(way.config.drain_timeout.0, &mut ping) => outcome,
                    signal = stop.requested() => bail!("a second {signal}: stopped without waiting for the ping in flight"),
                };
                recorder.record(seq, &outcome.unwrap_or_else(|_| pinger.broken_off(began)));
                return Ok(());
            }
        };
        recorder.record(seq, &outcome);
    }
    Ok(())
}

/// Knocks as a stranger, again and again.
async fn knock(
    config: Config,
    target: Target,
    current: Current,
    checks: IntCounterVec,
    health: Readiness,
) {
    loop {
        sleep(config.rejection_probe.interval.0).await;
        let mut answers = Vec::new();
        for stranger in Stranger::ALL {
            let tls = match stranger.config(&current, config.ponger.min_tls_version) {
                Ok(tls) => (tls, current.clone()),
                Err(error) => {
                    tracing::error!(%error, stranger = stranger.label(), "A stranger could not be made");
                    continue;
                }
            };
            let outcome = Pinger::once(&target, Some(tls), &config).ping().await;
            answers.push(rejection_probe::record(&checks, stranger, &outcome));
        }
        // Where it could not be found out, what was known stays.
        if answers.contains(&Answer::Accepted) {
            health.set("a stranger was let in", config.rejection_probe.not_ready);
        } else if answers.iter().all(|answer| *answer == Answer::Refused) {
            health.set("a stranger was let in", false);
        }
    }
}

fn follow_identity(
    config: &Config,
    file: Option<&Path>,
    metrics: IdentityMetrics,
) -> Result<(Follower, Current), ConfigError> {
    let again = file.map(Path::to_owned);
    let allowed = move || Ok(Config::load(again.as_deref())?.sources()?.allowed);
    follow_sources(&config.identity, Purpose::Client, config.sources()?, file.unwrap_or(Path::new(chassis::config::DEFAULT_FILE)), allowed, metrics)
}
