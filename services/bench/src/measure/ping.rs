//! pinger against a bare client on hyper: CPU time for each ping on a kept connection.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Metric, Outcome, Subject, lower};
use crate::{
    credentials::Credentials,
    peer::Peer,
    server::{ProcessGroup, Server},
};

/// Pings of a short and of a long run: the difference has no start in it.
const PINGS: [u32; 2] = [1_000, 11_000];

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(120);

const CLIENT_CPU: Metric = lower("client CPU a ping, µs");

pub(super) async fn measure(Subject { peer, setup, credentials }: Subject<'_>) -> Result<Outcome> {
    if !peer.has_client() {
        return Ok(Outcome::Unsupported("no client"));
    }
    let server = Server::start(peer, setup, credentials).await?;
    let port = server.address.port();
    let short = cpu_time(peer, credentials, port, PINGS[0]).await?;
    let long = cpu_time(peer, credentials, port, PINGS[1]).await?;
    let each = long.saturating_sub(short).as_secs_f64() * 1e6 / f64::from(PINGS[1] - PINGS[0]);
    Ok(Outcome::Values(vec![(CLIENT_CPU, each)]))
}

async fn cpu_time(
    peer: &Peer,
    credentials: &Credentials,
    port: u16,
    pings: u32,
) -> Result<Duration> {
    let mut command = peer.client(credentials, port, pings)?.context("a client")?;
    let client = ProcessGroup::spawn(&mut command, credentials)?;
    Ok(client.finish(PATIENCE).await?.0)
}
