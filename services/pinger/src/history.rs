//! What the page shows of the past, in memory of fixed size: the latest pings, the success of the last
//! hour, the last failures, and the certificates that ponger presented last.

mod success;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use chassis::{failure::FailureReason, tls::handshake_info::HandshakeInfo};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use self::success::Seconds;
pub use self::success::Success;
use crate::{
    client::Outcome,
    phase::{Phase, Trace},
};

/// How many pings are kept: an hour of them at the default interval, whose pauses are half a second on
/// average. A [`PingRecord`] is of fixed size, and they take about half a megabyte.
pub const MAX_PINGS: usize = 7200;

/// How many failures are kept with their causes.
pub const MAX_FAILURES: usize = 20;

/// How much of a cause is kept, in characters.
const MAX_CAUSE: usize = 500;

/// One ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingRecord {
    /// When it began, in milliseconds since 1970.
    pub began: u64,
    /// The address that it was connected to, or had to be; `None` if it did not get that far.
    pub endpoint: Option<SocketAddr>,
    /// Why it was lost; `None` for a pong.
    pub reason: Option<FailureReason>,
    /// How long it took, in microseconds.
    pub duration: u32,
    /// How long each phase took, in microseconds and in the order of [`Phase::ALL`]; zero for one that it
    /// did not go through.
    pub phases: [u32; Phase::ALL.len()],
}

/// A lost ping with its cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureRecord {
    /// The ping.
    pub ping: PingRecord,
    /// Its number in the log.
    pub seq: u64,
    /// Why it was lost.
    pub reason: FailureReason,
    /// The phase in which it was lost.
    pub phase: Phase,
    /// What happened, for a person.
    pub cause: String,
}

/// The last handshake with ponger that was completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What was negotiated.
    pub handshake: HandshakeInfo,
    /// The certificate chain that ponger presented, its own certificate first.
    pub chain: Arc<[CertificateDer<'static>]>,
}

/// The history, shared by all clones.
#[derive(Clone, Debug)]
pub struct History(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    data: Mutex<Data>,
    /// Changes with each ping.
    changed: watch::Sender<()>,
    start: Instant,
}

#[derive(Debug)]
struct Data {
    /// How many pings there were.
    total: u64,
    pings: VecDeque<PingRecord>,
    seconds: Seconds,
    failures: VecDeque<FailureRecord>,
    peer: Option<Peer>,
}

impl Default for History {
    fn default() -> Self {
        let data = Data {
            total: 0,
            pings: VecDeque::with_capacity(MAX_PINGS),
            seconds: Seconds::default(),
            failures: VecDeque::with_capacity(MAX_FAILURES),
            peer: None,
        };
        Self(Arc::new(Inner {
            data: Mutex::new(data),
            changed: watch::Sender::new(()),
            start: Instant::now(),
        }))
    }
}

impl History {
    /// Adds the ping number `seq`, which ended now.
    pub fn record(&self, seq: u64, outcome: &Outcome) {
        let Outcome { result, endpoint, duration, trace } = outcome;
        let mut phases = [0; Phase::ALL.len()];
        for (phase, time) in &trace.times {
            if let Some(at) = Phase::ALL.iter().position(|known| known == phase) {
                phases[at] = micros(*time);
            }
        }
        let ping = PingRecord {
            began: milliseconds_since_1970().saturating_sub(millis(*duration)),
            endpoint: trace.info.as_ref().and_then(|info| info.address).or(*endpoint),
            reason: result.as_ref().err().map(|failure| failure.reason),
            duration: micros(*duration),
            phases,
        };
        {
            let mut data = self.lock();
            data.total += 1;
            push(&mut data.pings, ping, MAX_PINGS);
            data.seconds.add(self.0.start.elapsed().as_secs(), result.is_ok());
            if let Err(failure) = result {
                let cause = failure.cause.chars().take(MAX_CAUSE).collect();
                let phase = trace.phase;
                let failure = FailureRecord { ping, seq, reason: failure.reason, phase, cause };
                push(&mut data.failures, failure, MAX_FAILURES);
            }
            data.record_peer(trace);
        }
        self.0.changed.send_replace(());
    }

    /// Tells of each ping.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// At most `limit` pings after the first `position` of all, the oldest first, and the position
    /// after them. Those that are no longer kept are left out.
    pub fn pings_after(&self, position: u64, limit: usize) -> (Vec<PingRecord>, u64) {
        let data = self.lock();
        let kept = data.pings.len();
        let missed = usize::try_from(data.total.saturating_sub(position)).unwrap_or(usize::MAX);
        let pings = data.pings.range(kept - missed.min(kept)..);
        let left = pings.len().saturating_sub(limit);
        (pings.take(limit).copied().collect(), data.total - left as u64)
    }

    /// How many pings there were.
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    /// The last pings, at most `limit`, the oldest first.
    pub fn latest(&self, limit: usize) -> Vec<PingRecord> {
        let data = self.lock();
        let kept = data.pings.len();
        data.pings.range(kept - limit.min(kept)..).copied().collect()
    }

    /// Calls `visit` with each ping that is kept, the oldest first.
    pub fn for_each(&self, visit: impl FnMut(&PingRecord)) {
        self.lock().pings.iter().for_each(visit);
    }

    /// Pings and pongs of the last `duration`, at most an hour.
    pub fn success(&self, duration: Duration) -> Success {
        self.lock().seconds.last(self.0.start.elapsed().as_secs(), duration.as_secs())
    }

    /// The last failures, the latest first.
    pub fn failures(&self) -> Vec<FailureRecord> {
        self.lock().failures.iter().rev().cloned().collect()
    }

    /// The last handshake with ponger that was completed.
    pub fn peer(&self) -> Option<Peer> {
        self.lock().peer.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Data> {
        self.0.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Data {
    fn record_peer(&mut self, trace: &Trace) {
        let Some(info) = &trace.info else { return };
        let (Some(handshake), Some(credentials)) = (info.handshake, &info.credentials) else {
            return;
        };
        let presented = credentials.peer_chain();
        match &mut self.peer {
            Some(peer) if *peer.chain == *presented => peer.handshake = handshake,
            peer => *peer = Some(Peer { handshake, chain: presented.into() }),
        }
    }
}

/// Appends `item`, and drops the oldest if there were `limit` already.
fn push<T>(items: &mut VecDeque<T>, item: T, limit: usize) {
    if items.len() == limit {
        items.pop_front();
    }
    items.push_back(item);
}

fn milliseconds_since_1970() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use chassis::failure::Failure;

    use super::*;

    fn outcome(result: Result<(), Failure>) -> Outcome {
        let ms = Duration::from_millis;
        let mut trace = Trace::default();
        trace.times = vec![(Phase::Resolve, ms(1)), (Phase::Tls, ms(2))];
        Outcome { result, endpoint: None, duration: ms(3), trace }
    }

    fn failure() -> Failure {
        Failure::new(FailureReason::Reset, "x".repeat(2 * MAX_CAUSE))
    }

    #[test]
    fn keeps_a_fixed_number_of_pings_and_failures() {
        let history = History::default();
        for seq in 1..=MAX_PINGS as u64 + 30 {
            history.record(seq, &outcome(Err(failure())));
        }
        let (pings, next) = history.pings_after(0, usize::MAX);
        assert_eq!((pings.len(), next), (MAX_PINGS, MAX_PINGS as u64 + 30));
        let failures = history.failures();
        assert_eq!((failures.len(), failures[0].seq), (MAX_FAILURES, MAX_PINGS as u64 + 30));
        assert!(failures.iter().all(|failure| failure.cause.len() == MAX_CAUSE));
        // What the reference says: half a megabyte.
        assert!(MAX_PINGS * size_of::<PingRecord>() < 600_000);
    }

    #[test]
    fn hands_out_each_ping_once_and_in_order() {
        let history = History::default();
        assert_eq!(history.pings_after(0, 10), (Vec::new(), 0));
        for seq in 1..=5 {
            history.record(seq, &outcome(if seq == 2 { Err(failure()) } else { Ok(()) }));
        }
        let (first, position) = history.pings_after(0, 2);
        let reasons: Vec<_> = first.iter().map(|ping| ping.reason).collect();
        assert_eq!((reasons, position), (vec![None, Some(FailureReason::Reset)], 2));
        let (rest, position) = history.pings_after(position, 10);
        assert_eq!((rest.len(), position), (3, 5));
        assert_eq!(history.pings_after(5, 10), (Vec::new(), 5));
        // Of an earlier run, which was longer.
        assert_eq!(history.pings_after(1000, 10), (Vec::new(), 5));
        let latest = history.latest(2);
        assert_eq!((latest.len(), history.total()), (2, 5));
        assert_eq!((latest[1].duration, latest[1].phases), (3000, [1000, 0, 2000, 0, 0]));
    }
}
