//! How many pings were answered, lost and slow, and how long they took.

use std::{
    collections::BTreeMap,
    fmt, mem,
    time::{Duration, Instant},
};

use chassis::failure::FailureReason;
use hdrhistogram::Histogram;

use crate::{client::Outcome, phase::Phase};

/// The time after which the pings of [`RecentPings`] are logged.
const RECENT: Duration = Duration::from_secs(60);

/// The summary of pings.
#[derive(Clone, Debug)]
pub struct Summary {
    pongs: u64,
    lost: BTreeMap<FailureReason, u64>,
    /// Slow pongs, by the phase that took longest.
    slow: BTreeMap<&'static str, u64>,
    /// Latencies of pongs in microseconds, in a histogram of fixed size.
    latencies: Histogram<u32>,
    stop_after: u32,
}

impl Summary {
    /// A summary of no pings yet. An exit code is for those who asked for a number of pings, `stop_after`,
    /// or 0.
    pub fn new(stop_after: u32) -> Self {
        let latencies = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("valid bounds");
        Self { pongs: 0, lost: BTreeMap::new(), slow: BTreeMap::new(), latencies, stop_after }
    }

    /// Adds a ping, with the phase that took longest if it was slow.
    pub fn add(&mut self, outcome: &Outcome, slow_phase: Option<Phase>) {
        if let Some(phase) = slow_phase {
            *self.slow.entry(phase.label()).or_default() += 1;
        }
        match &outcome.result {
            Ok(()) => {
                self.pongs += 1;
                self.latencies.saturating_record(
                    u64::try_from(outcome.duration.as_micros()).unwrap_or(u64::MAX),
                );
            }
            Err(failure) => *self.lost.entry(failure.reason).or_default() += 1,
        }
    }

    /// How many pings were sent.
    pub fn pings(&self) -> u64 {
        self.pongs + self.lost()
    }

    /// How many pongs came back.
    pub fn pongs(&self) -> u64 {
        self.pongs
    }

    /// How many pings were lost.
    pub fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// The latency in milliseconds that `quantile` of the pongs had at most; `None` without a pong.
    fn latency_ms(&self, quantile: f64) -> Option<f64> {
        let micros = Duration::from_micros(self.latencies.value_at_quantile(quantile));
        (self.pongs > 0).then_some(micros.as_secs_f64() * 1e3)
    }

    /// 0, or 1 if a number of pings was asked for and one was lost.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.stop_after > 0 && self.lost() > 0)
    }
}

fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn counts<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let counts: Vec<_> = counts.iter().map(|(key, count)| format!("{key} {count}")).collect();
    counts.join(", ")
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pings, pongs) = (plural(self.pings(), "ping"), plural(self.pongs, "pong"));
        write!(f, "{pings}, {pongs}, {} lost", self.lost())?;
        if !self.lost.is_empty() {
            write!(f, " ({})", counts(&self.lost))?;
        }
        if let (Some(median), Some(p99)) = (self.latency_ms(0.5), self.latency_ms(0.99)) {
            write!(f, "; median {median:.1} ms, p99 {p99:.1} ms")?;
        }
        if !self.slow.is_empty() {
            write!(f, "; {} slow ({})", self.slow.values().sum::<u64>(), counts(&self.slow))?;
        }
        Ok(())
    }
}

/// The pings since the last line about them, where pongs have no line of their own.
#[derive(Clone, Debug)]
pub struct RecentPings {
    summary: Summary,
    began: Instant,
}

impl RecentPings {
    /// No pings since `now`.
    pub fn new(now: Instant) -> Self {
        Self { summary: Summary::new(0), began: now }
    }

    /// Adds a ping, and logs all of the last minute if it has passed.
    pub fn add(&mut self, outcome: &Outcome, slow_phase: Option<Phase>, now: Instant) {
        self.summary.add(outcome, slow_phase);
        if now.duration_since(self.began) >= RECENT {
            let recent = mem::replace(self, Self::new(now)).summary;
            tracing::info!(
                pings = recent.pings(),
                pongs = recent.pongs(),
                lost = recent.lost(),
                reasons = (recent.lost() > 0).then(|| counts(&recent.lost)),
                slow = recent.slow.values().sum::<u64>(),
                median_ms = recent.latency_ms(0.5),
                p99_ms = recent.latency_ms(0.99),
                "Pings of the last minute"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use chassis::failure::Failure;

    use super::*;
    use crate::phase::Trace;

    fn outcome(result: Result<(), Failure>) -> Outcome {
        Outcome {
            result,
            duration: Duration::from_millis(2),
            trace: Trace::default(),
            endpoint: None,
        }
    }

    #[test]
    fn logs_the_pings_of_each_minute() {
        testkit::log::capture(&["pinger"]);
        let start = Instant::now();
        let thread = std::thread::Builder::new().name("recent pings".into());
        let run = move || {
            let mut recent = RecentPings::new(start);
            let second = |second| start + Duration::from_secs(second);
            let lost = outcome(Err(Failure::new(FailureReason::Reset, "")));
            recent.add(&lost, None, second(30));
            recent.add(&outcome(Ok(())), None, second(60));
            recent.add(&outcome(Ok(())), None, second(90));
            recent.add(&outcome(Ok(())), None, second(125));
        };
        thread.spawn(run).unwrap().join().unwrap();
        let lines = testkit::log::lines("recent pings");
        let [first, second] = &lines[..] else { panic!("two lines: {lines:#?}") };
        let fields = "pings=2 pongs=1 lost=1 reasons=\"reset 1\" slow=0 median_ms=2";
        assert!(first.contains("Pings of the last minute ") && first.contains(fields), "{first}");
        assert!(second.contains("pings=2 pongs=2 lost=0 slow=0 median_ms=2"), "{second}");
    }
}
