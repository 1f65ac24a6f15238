//! Pings of many clients, each as fast as it can.

use anyhow::{Result, ensure};

use super::{
    Effort, GENERATOR_LIMIT, MEMORY, Outcome, P50, P99, RATE, SERVER_CPU, Subject, mebibytes,
};
use crate::{
    client::{Client, Groups, KeepAlive},
    load::{self, Load},
    server::Server,
};

pub(super) async fn measure(
    Subject { peer, setup, credentials }: Subject<'_>,
    connections: usize,
    keep_alive: KeepAlive,
    groups: Groups,
    effort: &Effort,
) -> Result<Outcome> {
    let client = Client::new(credentials, groups)?;
    let server = Server::start(peer, setup, credentials).await?;
    let Effort { warm_up, duration, processors } = *effort;
    let load = Load { connections, keep_alive, warm_up, duration };
    let counts = load::run(&client, &server, load).await?;
    ensure!(counts.lost == 0, "{} pings of {} were lost", counts.lost, counts.latencies.len());
    ensure!(!counts.latencies.is_empty(), "no pong in {duration:?}");
    Ok(Outcome::Values(vec![
        (RATE, counts.rate()),
        (SERVER_CPU, counts.server_cpu_each()),
        (P50, counts.percentile(50)),
        (P99, counts.percentile(99)),
        (MEMORY, mebibytes(counts.server_memory.proportional)),
        (GENERATOR_LIMIT, processors as f64 * 1e6 / counts.own_cpu_each()),
    ]))
}
