//! Limits how often a log line is written, however often its event happens.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Allows one line in an interval, and counts those it suppressed.
#[derive(Debug)]
pub struct LogLimiter {
    similar_to: &'static str,
    reason: Option<&'static str>,
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When a line was allowed last.
    last: Option<Instant>,
    /// How many were suppressed since.
    suppressed: u64,
}

impl State {
    fn is_over(&self, interval: Duration) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= interval)
    }
}

impl LogLimiter {
    /// Allows one line every `interval`. They are similar to `similar_to`, and have this `reason`, where
    /// there are several.
    pub const fn new(
        similar_to: &'static str,
        reason: Option<&'static str>,
        interval: Duration,
    ) -> Self {
        let state = Mutex::new(State { last: None, suppressed: 0 });
        Self { similar_to, reason, interval, state }
    }

    /// `Some(suppressed since the last line)` when a line may be written.
    pub fn try_acquire(&self) -> Option<u64> {
        let mut state = self.lock();
        if !state.is_over(self.interval) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(Instant::now());
        Some(std::mem::take(&mut state.suppressed))
    }

    /// Logs how many lines were suppressed, once the interval is over: there may be no further line
    /// that says so.
    pub fn report(&self) {
        if self.lock().is_over(self.interval) {
            self.report_now();
        }
    }

    /// As [`LogLimiter::report`], without waiting for the end of the interval.
    pub fn report_now(&self) {
        let suppressed = std::mem::take(&mut self.lock().suppressed);
        if suppressed > 0 {
            tracing::warn!(
                similar_to = self.similar_to,
                reason = self.reason,
                suppressed,
                "Further log lines were suppressed"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn allows_one_line_and_counts_the_suppressed() {
        let limiter = LogLimiter::new("lines", None, HOUR);
        assert_eq!(limiter.try_acquire(), Some(0));
        assert_eq!(limiter.try_acquire(), None);
        let unlimited = LogLimiter::new("lines", None, Duration::ZERO);
        assert_eq!((unlimited.try_acquire(), unlimited.try_acquire()), (Some(0), Some(0)));
    }

    #[test]
    fn allows_one_line_of_many_threads_and_reports_what_it_suppressed() {
        let limiter = LogLimiter::new("lines", None, HOUR);
        let allowed = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| limiter.try_acquire())).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).count()
        });
        assert_eq!(allowed, 1);
        limiter.lock().last = None;
        assert_eq!(limiter.try_acquire(), Some(7));
    }

    #[test]
    fn reports_what_it_suppressed_once_and_after_the_interval() {
        testkit::log::capture(&["chassis"]);
        let thread = std::thread::Builder::new().name("reports-suppressed".into());
        let reports = || testkit::log::lines("reports-suppressed");
        let run = thread.spawn(move || {
            let limiter = LogLimiter::new("TLS handshake failed", Some("tls_expired"), HOUR);
            limiter.report();
            for _ in 0..4 {
                limiter.try_acquire();
            }
            limiter.report();
            assert_eq!(reports(), [""; 0]);
            limiter.lock().last = None;
            limiter.report();
            limiter.report_now();
        });
        run.unwrap().join().unwrap();
        let reports = reports();
        let [line] = &reports[..] else { panic!("one line: {reports:?}") };
        let fields = "similar_to=\"TLS handshake failed\" reason=\"tls_expired\" suppressed=3";
        assert!(line.contains(" WARN ") && line.contains(fields), "{line}");
    }
}
