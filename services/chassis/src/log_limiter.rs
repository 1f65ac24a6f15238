//! Limits how often a log line is written, however often its event happens.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Allows one line in an interval, and counts those it suppressed.
#[derive(Debug)]
pub struct LogLimiter {
    interval: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl LogLimiter {
    /// Allows one line every `interval`.
    pub const fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::new((None, 0)) }
    }

    /// `Some(suppressed since the last line)` when a line may be written.
    pub fn try_acquire(&self) -> Option<u64> {
        let (last, suppressed) = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < self.interval) {
            *suppressed += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_one_line_and_counts_the_suppressed() {
        let limiter = LogLimiter::new(Duration::from_secs(3600));
        assert_eq!(limiter.try_acquire(), Some(0));
        assert_eq!(limiter.try_acquire(), None);
        let unlimited = LogLimiter::new(Duration::ZERO);
        assert_eq!((unlimited.try_acquire(), unlimited.try_acquire()), (Some(0), Some(0)));
    }

    #[test]
    fn allows_one_line_of_many_threads_and_reports_what_it_suppressed() {
        let limiter = LogLimiter::new(Duration::from_secs(3600));
        let allowed = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| limiter.try_acquire())).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).count()
        });
        assert_eq!(allowed, 1);
        limiter.state.lock().unwrap().0 = None;
        assert_eq!(limiter.try_acquire(), Some(7));
    }
}
