//! The rounds of all lines, interleaved: each round measures every peer once.

use std::time::Instant;

use anyhow::Result;

use crate::{
    client::{Client, Groups, KeepAlive},
    credentials::{Credentials, Setup},
    line::Line,
    measure::{Effort, Metric, Outcome, measure},
    peer::Peer,
    server::Server,
};

/// The results of one line.
#[derive(Clone, Debug)]
pub struct LineResult {
    /// The line.
    pub line: Line,
    /// One for each peer, in their order.
    pub cells: Vec<Cell>,
}

/// The results of one peer on one line.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    /// For each metric, the values of all rounds.
    pub values: Vec<(Metric, Vec<f64>)>,
    /// Why there are none.
    pub missing: Option<String>,
    /// Whether that is a failure.
    pub failed: bool,
}

impl Cell {
    /// The values of `metric`.
    pub fn values_of(&self, metric: Metric) -> &[f64] {
        let found = self.values.iter().find(|(other, _)| *other == metric);
        found.map_or(&[], |(_, values)| values)
    }

    fn record(&mut self, outcome: Result<Outcome>) {
        match outcome {
            Ok(Outcome::Values(values)) => {
                for (metric, value) in values {
                    match self.values.iter_mut().find(|(other, _)| *other == metric) {
                        Some((_, values)) => values.push(value),
                        None => self.values.push((metric, vec![value])),
                    }
                }
            }
            Ok(Outcome::Unsupported(why)) => self.missing = Some(why.to_owned()),
            Err(error) => {
                // Some rounds are not all rounds.
                *self = Self {
                    missing: Some(format!("failed: {error:#}")),
                    failed: true,
                    ..Self::default()
                };
            }
        }
    }
}

/// Starts `peer` once, and returns what it negotiates.
///
/// # Errors
/// When it does not start or answer.
pub async fn probe(peer: &Peer) -> Result<String> {
    let setup = Setup::MINIMAL;
    let credentials = Credentials::create(&setup)?;
    let server = Server::start(peer, &setup, &credentials).await?;
    let client = Client::new(&credentials, Groups::Hybrid)?;
    let mut connection = client.connect(server.address).await?;
    connection.ping(KeepAlive::Yes).await?;
    Ok(client.negotiated(&connection))
}

/// Measures all `lines` on all `peers`, in `rounds`.
///
/// # Errors
/// When certificates cannot be written. What fails in a peer is part of the results.
pub async fn run(
    lines: Vec<Line>,
    peers: &[Peer],
    rounds: usize,
    effort: &Effort,
) -> Result<Vec<LineResult>> {
    let count = lines.len();
    let mut results = Vec::with_capacity(count);
    for (at, line) in lines.into_iter().enumerate() {
        eprintln!("[{}/{count}] {}: {}", at + 1, line.name, line.title);
        let credentials = Credentials::create(&line.setup)?;
        let mut cells = vec![Cell::default(); peers.len()];
        let rounds = line.rounds(rounds);
        for round in 0..rounds {
            // Each round begins with another peer.
            for index in (0..peers.len()).map(|index| (index + round) % peers.len()) {
                let (peer, cell) = (&peers[index], &mut cells[index]);
                if cell.missing.is_some() {
                    continue;
                }
                let start = Instant::now();
                cell.record(
                    measure(line.measurement, peer, &line.setup, &credentials, effort).await,
                );
                report_progress(peer, cell, round + 1, rounds, start);
            }
        }
        results.push(LineResult { line, cells });
    }
    Ok(results)
}

fn report_progress(peer: &Peer, cell: &Cell, round: usize, rounds: usize, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let value = match (&cell.missing, cell.values.first()) {
        (Some(why), _) => why.clone(),
        (None, Some((metric, values))) => {
            let last = values.last().copied().unwrap_or_default();
            format!("{}: {}", metric.name, crate::stats::format_number(last))
        }
        (None, None) => String::new(),
    };
    eprintln!("  round {round}/{rounds} {}: {value} ({seconds:.1} s)", peer.name);
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::measure::RATE;

    #[test]
    fn keeps_no_values_of_a_peer_that_fails_in_a_round() {
        let mut cell = Cell::default();
        cell.record(Ok(Outcome::Values(vec![(RATE, 1.0)])));
        cell.record(Ok(Outcome::Values(vec![(RATE, 2.0)])));
        assert_eq!(cell.values_of(RATE), [1.0, 2.0]);
        cell.record(Err(anyhow!("no pong")));
        assert_eq!(cell.values_of(RATE), [0.0; 0]);
        assert_eq!(cell.missing.as_deref(), Some("failed: no pong"));
        assert!(cell.failed);
    }
}
