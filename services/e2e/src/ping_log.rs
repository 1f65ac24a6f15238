//! The pings in pinger's log, and statistics of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Result, ensure};

/// The pings in the log of one pinger, by their sequence numbers.
#[derive(Clone, Debug, Default)]
pub struct PingLog {
    sent: BTreeSet<u64>,
    pongs: BTreeSet<u64>,
    lost: BTreeMap<u64, String>,
}

impl PingLog {
    /// Parses log lines; lines that are not about a ping are skipped.
    pub fn parse(lines: &[String]) -> Self {
        let mut log = Self::default();
        for line in lines {
            let Some(seq) = field(line, "seq").and_then(|seq| seq.parse().ok()) else {
                continue;
            };
            if line.contains("Sent ping") {
                log.sent.insert(seq);
            } else if line.contains("Got pong") {
                log.pongs.insert(seq);
            } else if line.contains("Lost ping") {
                log.lost.insert(seq, field(line, "reason").unwrap_or_default().to_owned());
            }
        }
        log
    }

    /// Returns the outcome of each ping in order: `pong`, or the reason of its loss.
    pub fn outcomes(&self) -> Vec<String> {
        let mut outcomes = self.lost.clone();
        outcomes.extend(self.pongs.iter().map(|seq| (*seq, "pong".to_owned())));
        outcomes.into_values().collect()
    }

    /// Returns how many pings were lost.
    pub fn lost(&self) -> usize {
        self.lost.len()
    }

    /// Returns how many pings have an outcome.
    pub fn completed(&self) -> usize {
        self.pongs.len() + self.lost.len()
    }

    /// Returns the last ping that has an outcome.
    pub fn last_completed(&self) -> Option<u64> {
        self.pongs.last().copied().max(self.lost.keys().last().copied())
    }

    /// Removes the pings up to and including `seq`.
    #[must_use]
    pub fn after(mut self, seq: Option<u64>) -> Self {
        if let Some(seq) = seq {
            self.sent.retain(|sent| *sent > seq);
            self.pongs.retain(|sent| *sent > seq);
            self.lost.retain(|sent, _| *sent > seq);
        }
        self
    }

    fn has_outcome(&self, seq: u64) -> bool {
        self.pongs.contains(&seq) || self.lost.contains_key(&seq)
    }
}

/// Returns the value of a field in a line of text.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let (_, rest) = line.split_once(&format!(" {name}="))?;
    rest.split_whitespace().next().map(|value| value.trim_matches('"'))
}

/// The outcomes of pings, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PingStats {
    /// Pings that were answered.
    pub pongs: usize,
    /// Pings that were lost, by reason.
    pub lost: BTreeMap<String, usize>,
    /// Pings without an outcome in the log, and gaps in the sequence.
    pub unaccounted: usize,
}

impl PingStats {
    /// Adds the pings of one pinger; of a running one, the last ping may still be in flight.
    pub fn add(&mut self, log: &PingLog, running: bool) {
        self.pongs += log.pongs.len();
        for reason in log.lost.values() {
            *self.lost.entry(reason.clone()).or_default() += 1;
        }
        let unanswered = log.sent.iter().filter(|seq| !log.has_outcome(**seq)).count();
        let (Some(first), Some(last)) = (log.sent.first(), log.sent.last()) else { return };
        let in_flight = running && !log.has_outcome(*last);
        let span = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
        self.unaccounted += unanswered - usize::from(in_flight) + span - log.sent.len();
    }

    /// Returns how many pings were lost, for any reason.
    pub fn lost_total(&self) -> usize {
        self.lost.values().sum()
    }

    /// Checks that pings were sent and none was lost.
    ///
    /// # Errors
    /// When one was lost.
    pub fn ensure_none_lost(&self) -> Result<&Self> {
        ensure!(self.pongs > 0, "no ping was sent");
        ensure!(self.lost.is_empty() && self.unaccounted == 0, "{self}");
        Ok(self)
    }
}

impl fmt::Display for PingStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = self.lost_total() + self.unaccounted;
        write!(f, "{} pings, {lost} lost", self.pongs + lost)?;
        let mut reasons: Vec<_> =
            self.lost.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        if self.unaccounted > 0 {
            reasons.push(format!("unaccounted {}", self.unaccounted));
        }
        if !reasons.is_empty() {
            write!(f, " ({})", reasons.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(lines: &[&str], running: bool) -> PingStats {
        let lines: Vec<_> = lines.iter().map(|line| format!("T  INFO {line}")).collect();
        let mut stats = PingStats::default();
        stats.add(&PingLog::parse(&lines), running);
        stats
    }

    #[test]
    fn counts_each_outcome_once() {
        let stats = stats(
            &[
                "Sent ping seq=1",
                "Got pong seq=1 latency_ms=2.1",
                "Sent ping seq=2",
                "Lost ping seq=2 reason=\"reset\" cause=\"x\"",
            ],
            false,
        );
        assert_eq!((stats.pongs, stats.lost["reset"], stats.unaccounted), (1, 1, 0));
        assert!(stats.ensure_none_lost().is_err());
    }

    #[test]
    fn counts_gap_in_sequence_as_loss() {
        let lines = ["Sent ping seq=1", "Got pong seq=1", "Sent ping seq=3", "Got pong seq=3"];
        assert_eq!(stats(&lines, true).unaccounted, 1);
    }

    #[test]
    fn counts_missing_outcome_as_loss_unless_in_flight() {
        let lines = ["Sent ping seq=1", "Sent ping seq=2", "Got pong seq=2", "Sent ping seq=3"];
        assert_eq!(stats(&lines, true).unaccounted, 1);
        assert_eq!(stats(&lines, false).unaccounted, 2);
    }
}
