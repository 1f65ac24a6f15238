//! Kept connections that are idle after one ping each.

use anyhow::Result;

use super::{MEMORY, Metric, Outcome, Subject, lower, mebibytes};
use crate::{
    client::{Client, Groups, KeepAlive},
    load,
    server::Server,
};

/// Memory of one connection: the difference to the server without any, divided by their number.
pub(crate) const CONNECTION_BYTES: Metric = lower("bytes a connection");

pub(super) async fn measure(
    Subject { peer, setup, credentials }: Subject<'_>,
    connections: usize,
) -> Result<Outcome> {
    let client = Client::new(credentials, Groups::Hybrid)?;
    let server = Server::start(peer, setup, credentials).await?;
    let before = server.process.memory()?.proportional;
    let mut open = load::open(&client, server.address, connections).await?;
    for connection in &mut open {
        connection.ping(KeepAlive::Yes).await?;
    }
    let after = server.process.memory()?.proportional;
    Ok(Outcome::Values(vec![
        (MEMORY, mebibytes(after)),
        (CONNECTION_BYTES, after.saturating_sub(before) as f64 / connections as f64),
    ]))
}
