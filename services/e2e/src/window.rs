//! Every ping from one moment to another, counted twice: by pinger's own metrics, and by the
//! sequence numbers in its log, where a ping that nobody speaks of leaves a gap.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Result, ensure};

use crate::{
    place::{Place, Service},
    wait::{seconds, until},
};

/// What one pinger's log says of its pings.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    sent: BTreeSet<u64>,
    pongs: BTreeSet<u64>,
    lost: BTreeMap<u64, String>,
}

impl Ledger {
    /// Reads a log.
    pub fn read(lines: &[String]) -> Self {
        let mut ledger = Self::default();
        for line in lines {
            let Some(seq) = field(line, "seq").and_then(|seq| seq.parse().ok()) else {
                continue;
            };
            if line.contains("Sent ping") {
                ledger.sent.insert(seq);
            } else if line.contains("Got pong") {
                ledger.pongs.insert(seq);
            } else if let Some(reason) = field(line, "reason") {
                ledger.lost.insert(seq, reason.to_owned());
            }
        }
        ledger
    }

    /// What came of each ping, in order.
    pub fn outcomes(&self) -> Vec<String> {
        let mut all: BTreeMap<u64, String> = self.lost.clone();
        all.extend(self.pongs.iter().map(|seq| (*seq, "pong".to_owned())));
        all.into_values().collect()
    }

    fn ended(&self) -> usize {
        self.pongs.len() + self.lost.len()
    }

    fn last_ended(&self) -> Option<u64> {
        self.pongs.last().copied().max(self.lost.keys().last().copied())
    }

    fn last(&self) -> Option<u64> {
        self.sent.last().copied()
    }

    /// Only what was sent after `seq`.
    fn after(mut self, seq: Option<u64>) -> Self {
        if let Some(seq) = seq {
            self.sent.retain(|sent| *sent > seq);
            self.pongs.retain(|sent| *sent > seq);
            self.lost.retain(|sent, _| *sent > seq);
        }
        self
    }
}

/// The value of a field in a line of text; what was lost is quoted there.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let (_, rest) = line.split_once(&format!(" {name}="))?;
    rest.split_whitespace().next().map(|value| value.trim_matches('"'))
}

/// A window that was opened.
#[derive(Debug)]
pub struct Window {
    /// For each pinger: the last ping of which it had said what came of it. The one under way is
    /// this window's.
    last: BTreeMap<String, Option<u64>>,
}

impl Window {
    /// Opens one.
    ///
    /// # Errors
    /// When pinger does not answer, or its log does not come.
    pub async fn open(place: &Place) -> Result<Self> {
        caught_up(place, &counted(place).await?).await?;
        let last =
            ledgers(place).into_iter().map(|(name, ledger)| (name, ledger.last_ended())).collect();
        Ok(Self { last })
    }

    /// Closes it.
    ///
    /// # Errors
    /// When pinger does not answer, its log does not come, or the two accounts differ.
    pub async fn close(self, place: &Place) -> Result<Tally> {
        let now = counted(place).await?;
        caught_up(place, &now).await?;
        let mut tally = Tally::default();
        for (name, ledger) in ledgers(place) {
            let lives = now.contains_key(&name);
            if let Some((_, lost)) = now.get(&name) {
                #[expect(clippy::cast_precision_loss, reason = "so many pings there are not")]
                let named = ledger.lost.len() as f64;
                ensure!(
                    named >= *lost,
                    "{name} counted {lost} lost pings, and its log names {named}"
                );
            }
            // What was lost by its opening is not this window's.
            let ledger = ledger.after(self.last.get(&name).copied().flatten());
            tally.add(&ledger, lives);
        }
        Ok(tally)
    }
}

async fn counted(place: &Place) -> Result<BTreeMap<String, (f64, f64)>> {
    let metrics = place.metrics(Service::Pinger).await?;
    let count = |samples: &crate::metrics::Samples| {
        let pongs = samples.sum("pinger_pings_total", &[("result", "pong")]);
        (pongs, samples.sum("pinger_pings_total", &[]) - pongs)
    };
    Ok(metrics.iter().map(|(name, samples)| (name.clone(), count(samples))).collect())
}

/// Waits until the logs have what the metrics had.
async fn caught_up(place: &Place, counted: &BTreeMap<String, (f64, f64)>) -> Result<()> {
    until("pinger's log has what its metrics have", seconds(30), || async {
        let ledgers = ledgers(place);
        for (name, (pongs, lost)) in counted {
            let ended = ledgers.get(name).map_or(0, Ledger::ended);
            #[expect(clippy::cast_precision_loss, reason = "so many pings there are not")]
            if (ended as f64) < pongs + lost {
                return Ok(Err(format!("{name}: {ended} of {} pings", pongs + lost)));
            }
        }
        Ok(Ok(()))
    })
    .await
}

fn ledgers(place: &Place) -> BTreeMap<String, Ledger> {
    let journal = place.journal(Service::Pinger);
    journal.into_iter().map(|(name, lines)| (name, Ledger::read(&lines))).collect()
}

/// What came of a window's pings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many came back.
    pub pongs: usize,
    /// How many did not, by reason.
    pub lost: BTreeMap<String, usize>,
    /// Those that were sent and of which nothing more was said, and gaps in the sequence.
    pub unaccounted: usize,
}

impl Tally {
    fn add(&mut self, ledger: &Ledger, lives: bool) {
        self.pongs += ledger.pongs.len();
        for reason in ledger.lost.values() {
            *self.lost.entry(reason.clone()).or_default() += 1;
        }
        let spoken = |seq: &u64| ledger.pongs.contains(seq) || ledger.lost.contains_key(seq);
        let silent = ledger.sent.iter().filter(|seq| !spoken(seq)).count();
        // The last one of a pinger that lives is under way.
        let under_way = lives && ledger.last().is_some_and(|last| !spoken(&last));
        let gaps = match (ledger.sent.first(), ledger.sent.last()) {
            (Some(first), Some(last)) => {
                usize::try_from(last - first + 1).unwrap_or(usize::MAX) - ledger.sent.len()
            }
            _ => 0,
        };
        self.unaccounted += silent - usize::from(under_way) + gaps;
    }

    /// How many were lost.
    pub fn lost(&self) -> usize {
        self.lost.values().sum()
    }

    /// Sure that none was lost, and that there were some.
    ///
    /// # Errors
    /// When one was.
    pub fn none_lost(&self) -> Result<&Self> {
        ensure!(self.pongs > 0, "no ping was sent");
        ensure!(self.lost.is_empty() && self.unaccounted == 0, "{self}");
        Ok(self)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = self.pongs + self.lost() + self.unaccounted;
        write!(f, "{sent} pings, {} lost", self.lost() + self.unaccounted)?;
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

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn tally(text: &str, lives: bool) -> Tally {
        let mut tally = Tally::default();
        tally.add(&Ledger::read(&lines(text)), lives);
        tally
    }

    #[test]
    fn every_ping_that_is_spoken_of_counts_once() {
        let log = "T  INFO Sent ping seq=1\nT  INFO Got pong seq=1 ms=2.1\nT  INFO Sent ping seq=2\nT  WARN Lost ping seq=2 reason=\"reset\" cause=\"x\"";
        let tally = tally(log, false);
        assert_eq!((tally.pongs, tally.lost["reset"], tally.unaccounted), (1, 1, 0));
        assert!(tally.none_lost().is_err());
    }

    #[test]
    fn a_gap_in_the_sequence_is_a_loss() {
        let log = "T  INFO Sent ping seq=1\nT  INFO Got pong seq=1\nT  INFO Sent ping seq=3\nT  INFO Got pong seq=3";
        assert_eq!(tally(log, true).unaccounted, 1);
    }

    #[test]
    fn silence_is_a_loss_except_for_the_last_ping_of_one_that_lives() {
        let log = "T  INFO Sent ping seq=1\nT  INFO Sent ping seq=2\nT  INFO Got pong seq=2\nT  INFO Sent ping seq=3";
        assert_eq!(tally(log, true).unaccounted, 1);
        assert_eq!(tally(log, false).unaccounted, 2);
    }
}
