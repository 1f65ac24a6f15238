//! A server without clients: how fast it starts, what it holds, how often it wakes up.

use anyhow::Result;
use tokio::time::sleep;

use super::{Effort, MEMORY, Metric, Outcome, Subject, lower, mebibytes};
use crate::server::Server;

/// The wake-ups are counted for this many times the duration of other measurements.
const PERIODS: u32 = 2;

const START: Metric = lower("start to first pong, ms");
pub(crate) const ANONYMOUS: Metric = lower("anonymous memory, MiB");
const WAKE_UPS: Metric = lower("wake-ups a second");

pub(super) async fn measure(
    Subject { peer, setup, credentials }: Subject<'_>,
    effort: &Effort,
) -> Result<Outcome> {
    let server = Server::start(peer, setup, credentials).await?;
    let period = effort.duration * PERIODS;
    sleep(effort.warm_up).await;
    let before = server.process.waits()?;
    sleep(period).await;
    let waits = server.process.waits()? - before;
    let memory = server.process.memory()?;
    Ok(Outcome::Values(vec![
        (START, server.start.as_secs_f64() * 1e3),
        (MEMORY, mebibytes(memory.proportional)),
        (ANONYMOUS, mebibytes(memory.anonymous)),
        (WAKE_UPS, waits as f64 / period.as_secs_f64()),
    ]))
}
