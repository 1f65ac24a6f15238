//! Pings on kept connections while the server's certificate is replaced again and again.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use tokio::time::sleep;

use super::{Better, Effort, Metric, Outcome, P99, Subject, lower};
use crate::{
    client::{Client, Groups, KeepAlive},
    load::{self, Load},
    server::Server,
};

pub(super) const CONNECTIONS: usize = 16;

/// Time between two replacements.
const INTERVAL: Duration = Duration::from_millis(500);

const P99_RATIO: Metric = lower("p99 during reloads over before");
const LOST: Metric = Metric { name: "lost pings", better: Better::Neither };

pub(super) async fn measure(
    Subject { peer, setup, credentials }: Subject<'_>,
    effort: &Effort,
) -> Result<Outcome> {
    if !peer.reloads() {
        return Ok(Outcome::Unsupported("does not reload"));
    }
    let client = Client::new(credentials, Groups::Hybrid)?;
    let server = Server::start(peer, setup, credentials).await?;
    let Effort { warm_up, duration, .. } = *effort;
    let load = Load { connections: CONNECTIONS, keep_alive: KeepAlive::Yes, warm_up, duration };
    let before = load::run(&client, &server, load).await?;
    let reloading = async {
        loop {
            credentials.renew()?;
            server.process.signal(Signal::HUP)?;
            sleep(INTERVAL).await;
        }
    };
    let during = tokio::select! {
        counts = load::run(&client, &server, load) => counts?,
        error = reloading => return error,
    };
    let ratio = during.percentile(99) / before.percentile(99);
    Ok(Outcome::Values(vec![
        (P99_RATIO, ratio),
        (P99, during.percentile(99)),
        (LOST, during.lost as f64),
    ]))
}
