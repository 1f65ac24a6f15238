//! What is measured: one table.

use anyhow::{Result, bail};

use crate::{
    client::{Groups, KeepAlive},
    credentials::{Logging, Setup},
    measure::{MEMORY, Measurement, Metric, RATE, SERVER_CPU},
};

/// One line of the results.
#[derive(Clone, Debug)]
pub struct Line {
    /// The name for `--only`.
    pub name: String,
    /// What is measured.
    pub title: String,
    /// How the server is set up.
    pub setup: Setup,
    /// The kind of measurement.
    pub measurement: Measurement,
    /// Where the line belongs in a picture of how cost grows.
    pub point: Option<Point>,
}

/// A point of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The picture.
    pub picture: &'static str,
    /// What grows.
    pub axis: &'static str,
    /// How much of it there is.
    pub at: usize,
    /// The metrics that the picture shows.
    pub metrics: &'static [Metric],
}

impl Line {
    fn new(name: &str, title: &str, measurement: Measurement, setup: Setup) -> Self {
        let (name, title) = (name.to_owned(), title.to_owned());
        let setup = Setup { connections: measurement.connections(), ..setup };
        Self { name, title, setup, measurement, point: None }
    }

    /// How many of `rounds` it takes: one where every round would count the same.
    pub fn rounds(&self, rounds: usize) -> usize {
        if self.measurement == Measurement::Instructions { 1 } else { rounds }
    }

    /// Whether `selector` is its name, or the first words of it.
    fn is_selected(&self, selector: &str) -> bool {
        let rest = self.name.strip_prefix(selector);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// Clients that keep their connections.
const fn requests(connections: usize) -> Measurement {
    let (keep_alive, groups) = (KeepAlive::Yes, Groups::Hybrid);
    Measurement::Throughput { connections, keep_alive, groups }
}

/// Clients that open a new connection for each request.
const fn handshakes(groups: Groups) -> Measurement {
    Measurement::Throughput { connections: 32, keep_alive: KeepAlive::No, groups }
}

/// All lines.
pub fn all() -> Vec<Line> {
    let logged = |name, title, logging| {
        Line::new(name, title, requests(64), Setup { logging, ..Setup::MINIMAL })
    };
    let line = |name, title, measurement| Line::new(name, title, measurement, Setup::MINIMAL);
    let (one_by_one, beside_silent) =
        (Measurement::Latency { silent: 0 }, Measurement::Latency { silent: 4_000 });
    let idle = |connections| Measurement::Memory { connections };
    let (hybrid, x25519) = (handshakes(Groups::Hybrid), handshakes(Groups::X25519));
    let mut lines = vec![
        logged("requests", "64 kept connections, nothing logged", Logging::None),
        logged("requests-text", "the same, one line of text a request", Logging::Text),
        logged("requests-json", "the same, one line of JSON a request", Logging::Json),
        line("handshakes", "32 clients, a full mutual handshake for each request", hybrid),
        line("handshakes-x25519", "the same, X25519 alone", x25519),
        line("latency", "new connection and first request, one by one", one_by_one),
        line("latency-silent", "the same beside 4,000 silent connections", beside_silent),
        line(
            "reload",
            "kept connections, certificate replaced twice a second",
            Measurement::Reload,
        ),
        line("memory-1000", "1,000 idle connections", idle(1_000)),
        line("memory-5000", "5,000 idle connections", idle(5_000)),
        line("rest", "a server without clients", Measurement::Rest),
        line("ping", "pings on one kept connection", Measurement::Ping),
        line("instructions", "valgrind's counts", Measurement::Instructions),
    ];
    lines.extend(growth());
    lines
}

/// How cost grows.
fn growth() -> Vec<Line> {
    let minimal = Setup::MINIMAL;
    let full = handshakes(Groups::Hybrid);
    let mut lines = Vec::new();
    let mut add = |picture, axis, at: usize, setup, measurement, metrics| {
        let name = format!("growth-{picture}-{at}");
        let line = Line::new(&name, &format!("{axis}: {at}"), measurement, setup);
        lines.push(Line { point: Some(Point { picture, axis, at, metrics }), ..line });
    };
    let cpu = &[SERVER_CPU];
    for at in [1, 10, 100, 1_000, 10_000] {
        add("connections", "kept connections", at, minimal, requests(at), &[RATE, MEMORY]);
    }
    for roots in [1, 10, 100] {
        add("roots", "roots in both bundles", roots, Setup { roots, ..minimal }, full, cpu);
    }
    for allowed in [1, 10, 100, 1_000, 10_000, 100_000] {
        add("names", "allowed clients", allowed, Setup { allowed, ..minimal }, full, cpu);
    }
    for chain in 1..=5 {
        add("chain", "certificates in each chain", chain, Setup { chain, ..minimal }, full, cpu);
    }
    lines
}

/// The lines that any of `selectors` selects; all of them without selectors.
///
/// # Errors
/// When a selector selects none.
pub fn select(selectors: &[String]) -> Result<Vec<Line>> {
    let mut lines = all();
    for selector in selectors {
        if !lines.iter().any(|line| line.is_selected(selector)) {
            bail!("--only: there is no line `{selector}`; --list prints all of them");
        }
    }
    lines.retain(|line| {
        selectors.is_empty() || selectors.iter().any(|selector| line.is_selected(selector))
    });
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(selectors: &[&str]) -> Vec<String> {
        let selectors: Vec<_> = selectors.iter().map(|text| (*text).to_owned()).collect();
        let lines = select(&selectors).expect("lines");
        lines.into_iter().map(|line| line.name).collect()
    }

    #[test]
    fn has_a_name_of_its_own_for_each_line() {
        let all = names(&[]);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn selects_lines_by_their_first_words() {
        assert_eq!(names(&["requests"]), ["requests", "requests-text", "requests-json"]);
        assert_eq!(names(&["memory-5000", "ping"]), ["memory-5000", "ping"]);
        assert_eq!(names(&["growth-roots"]).len(), 3);
        for unknown in ["request", "requests-", ""] {
            assert!(select(&[unknown.to_owned()]).is_err(), "{unknown}");
        }
    }
}
