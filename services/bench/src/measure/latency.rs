//! New connections, one after the other, beside others that send nothing.

use std::time::Instant;

use anyhow::Result;
use tokio::net::TcpStream;

use super::{Outcome, P50, P99, Subject};
use crate::{
    client::{Client, Groups, KeepAlive},
    load::percentile,
    server::Server,
};

/// How many connections are timed.
const CONNECTIONS: usize = 300;

pub(super) async fn measure(
    Subject { peer, setup, credentials }: Subject<'_>,
    silent: usize,
) -> Result<Outcome> {
    let client = Client::new(credentials, Groups::Hybrid)?;
    let server = Server::start(peer, setup, credentials).await?;
    let mut silent_ones = Vec::with_capacity(silent);
    for _ in 0..silent {
        silent_ones.push(TcpStream::connect(server.address).await?);
    }
    let mut latencies = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let start = Instant::now();
        let mut connection = client.connect(server.address).await?;
        connection.ping(KeepAlive::No).await?;
        latencies.push(u32::try_from(start.elapsed().as_micros())?);
        connection.close().await?;
    }
    latencies.sort_unstable();
    let percentiles = [(P50, 50), (P99, 99)];
    let values = percentiles.map(|(metric, percent)| (metric, percentile(&latencies, percent)));
    Ok(Outcome::Values(values.into()))
}
