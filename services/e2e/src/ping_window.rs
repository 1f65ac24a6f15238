//! All pings between two moments, counted twice: by pinger's metrics, and by the sequence numbers in
//! its log, where a ping without an outcome leaves a gap.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::{
    environment::Environment,
    metrics::Samples,
    model::Service,
    ping_log::{PingLog, PingStats},
    wait::until,
};

/// The pings since a moment.
#[derive(Debug)]
pub struct PingWindow {
    /// For each pinger, the last ping that had an outcome. The one in flight is in the window.
    last_before: BTreeMap<String, Option<u64>>,
}

impl PingWindow {
    /// Opens a window now.
    ///
    /// # Errors
    /// When pinger does not respond, or its log lacks pings that it counted.
    pub async fn open(env: &impl Environment) -> Result<Self> {
        logs_cover(env, &read_counters(env).await?).await?;
        let last_before =
            read_logs(env).into_iter().map(|(name, log)| (name, log.last_completed())).collect();
        Ok(Self { last_before })
    }

    /// Closes the window now, and returns the statistics of its pings.
    ///
    /// # Errors
    /// When pinger does not respond, or its log and metrics differ.
    pub async fn close(self, env: &impl Environment) -> Result<PingStats> {
        let counters = read_counters(env).await?;
        logs_cover(env, &counters).await?;
        let mut stats = PingStats::default();
        for (name, log) in read_logs(env) {
            let running = counters.get(&name);
            if let Some(counted) = running {
                ensure!(
                    as_f64(log.lost()) >= counted.lost,
                    "{name} counted {} lost pings, but its log has {}",
                    counted.lost,
                    log.lost()
                );
            }
            let log = log.after(self.last_before.get(&name).copied().flatten());
            stats.add(&log, running.is_some());
        }
        Ok(stats)
    }
}

/// What one pinger's metrics say.
struct Counters {
    completed: f64,
    lost: f64,
}

async fn read_counters(env: &impl Environment) -> Result<BTreeMap<String, Counters>> {
    let count = |samples: Samples| {
        let completed = samples.sum("pinger_pings_total", &[]);
        Counters { completed, lost: completed - samples.pongs() }
    };
    let metrics = env.metrics(Service::Pinger).await?;
    Ok(metrics.into_iter().map(|(name, samples)| (name, count(samples))).collect())
}

/// Waits until the logs have all pings that the metrics have.
async fn logs_cover(env: &impl Environment, counters: &BTreeMap<String, Counters>) -> Result<()> {
    until("pinger's log has every counted ping", 30, async || {
        let logs = read_logs(env);
        for (name, Counters { completed, .. }) in counters {
            let logged = logs.get(name).map_or(0, PingLog::completed);
            if as_f64(logged) < *completed {
                return Ok(Err(format!("{name}: {logged} of {completed} pings")));
            }
        }
        Ok(Ok(()))
    })
    .await
}

fn read_logs(env: &impl Environment) -> BTreeMap<String, PingLog> {
    let logs = env.logs(Service::Pinger).into_iter();
    logs.map(|(name, lines)| (name, PingLog::parse(&lines))).collect()
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 pings")]
fn as_f64(pings: usize) -> f64 {
    pings as f64
}
