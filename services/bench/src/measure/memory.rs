//! Kept connections that are idle after one ping each.

use anyhow::Result;

use super::{MEMORY, Metric, Outcome, Subject, lower, mebibytes};
use crate::{
    client::{Client, Groups, KeepAlive},
    load,
    server::Server,
};

/// Anonymous memory of one connection: the difference to the server without any, divided by their number.
/// Not of the proportional set size, which shrinks when another process of the same program starts.
pub(crate) const CONNECTION_BYTES: Metric = lower("bytes a connection");

pub(super) async fn measure(
    Subject { peer, setup, credentials }: Subject<'_>,
    connections: usize,
) -> Result<Outcome> {
    let client = Client::new(credentials, Groups::Hybrid)?;
    let server = Server::start(peer, setup, credentials).await?;
    let before = server.process.memory()?.anonymous;
    let mut open = load::open(&client, server.address, connections).await?;
    for connection in &mut open {
        connection.ping(KeepAlive::Yes).await?;
    }
    let after = server.process.memory()?;
    Ok(Outcome::Values(vec![
        (MEMORY, mebibytes(after.proportional)),
        (CONNECTION_BYTES, after.anonymous.saturating_sub(before) as f64 / connections as f64),
    ]))
}
