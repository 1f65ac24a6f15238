//! One file for each kind of measurement. Each starts what it measures anew, so that no round
//! depends on the one before.

use std::time::Duration;

use anyhow::Result;

use crate::{
    client::{Groups, KeepAlive},
    credentials::{Credentials, Setup},
    peer::Peer,
};

pub(crate) mod instructions;
mod latency;
pub(crate) mod memory;
mod ping;
mod reload;
pub(crate) mod rest;
mod throughput;

/// A kind of measurement, with what a line chooses of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measurement {
    /// Pings of many clients, each as fast as it can.
    Throughput {
        /// Their number.
        connections: usize,
        /// Whether each keeps its connection.
        keep_alive: KeepAlive,
        /// What each offers for the key exchange.
        groups: Groups,
    },
    /// New connections, one after the other.
    Latency {
        /// Connections beside them that send nothing.
        silent: usize,
    },
    /// Pings while the certificate is replaced.
    Reload,
    /// Kept connections that are idle.
    Memory {
        /// Their number.
        connections: usize,
    },
    /// A server without clients.
    Rest,
    /// Pings of a peer's own client.
    Ping,
    /// Instructions and allocations for each request, counted by valgrind.
    Instructions,
}

impl Measurement {
    /// How many connections the server must be able to hold.
    pub fn connections(self) -> usize {
        match self {
            Self::Throughput { connections, .. } | Self::Memory { connections } => connections,
            Self::Latency { silent } => silent,
            Self::Reload => reload::CONNECTIONS,
            Self::Rest | Self::Ping | Self::Instructions => 1,
        }
    }
}

/// How long a measurement takes.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Time before anything is counted.
    pub warm_up: Duration,
    /// Time that is counted.
    pub duration: Duration,
    /// Processors of both ends together.
    pub processors: usize,
}

/// What a value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name and unit.
    pub name: &'static str,
    /// Which values are better.
    pub better: Better,
}

/// Which values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Higher ones.
    Higher,
    /// Lower ones.
    Lower,
    /// It says something about the measurement, not about a peer.
    Neither,
}

const fn higher(name: &'static str) -> Metric {
    Metric { name, better: Better::Higher }
}

const fn lower(name: &'static str) -> Metric {
    Metric { name, better: Better::Lower }
}

/// Pongs a second.
pub const RATE: Metric = higher("pongs a second");
/// CPU time of the server for each pong.
pub const SERVER_CPU: Metric = lower("server CPU a pong, µs");
/// Latency that one pong in a hundred exceeds.
pub const P99: Metric = lower("p99, µs");
/// Latency that one pong in two exceeds.
pub const P50: Metric = lower("p50, µs");
/// How many pongs a second the load generator would get from a server that costs nothing.
pub const GENERATOR_LIMIT: Metric =
    Metric { name: "limit of the load generator, pongs a second", better: Better::Neither };
/// Resident memory.
pub const MEMORY: Metric = lower("memory, MiB");

/// What a measurement gives.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Its values.
    Values(Vec<(Metric, f64)>),
    /// Why this peer has none.
    Unsupported(&'static str),
}

/// Measures `peer` once.
///
/// # Errors
/// When the peer does not start, or does not answer as it should.
pub async fn measure(
    measurement: Measurement,
    peer: &Peer,
    setup: &Setup,
    credentials: &Credentials,
    effort: &Effort,
) -> Result<Outcome> {
    if let Some(why) = peer.unsupported(setup) {
        return Ok(Outcome::Unsupported(why));
    }
    let subject = Subject { peer, setup, credentials };
    match measurement {
        Measurement::Throughput { connections, keep_alive, groups } => {
            throughput::measure(subject, connections, keep_alive, groups, effort).await
        }
        Measurement::Latency { silent } => latency::measure(subject, silent).await,
        Measurement::Reload => reload::measure(subject, effort).await,
        Measurement::Memory { connections } => memory::measure(subject, connections).await,
        Measurement::Rest => rest::measure(subject, effort).await,
        Measurement::Ping => ping::measure(subject).await,
        Measurement::Instructions => instructions::measure(subject).await,
    }
}

/// What is measured, and with which certificates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) setup: &'a Setup,
    pub(crate) credentials: &'a Credentials,
}

/// Bytes in the unit of [`MEMORY`].
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
