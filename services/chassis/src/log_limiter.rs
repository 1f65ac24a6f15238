//! Saying something at most once in a while, however often it happens.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets one through at a time, and counts those that it held back.
#[derive(Debug)]
pub struct LogLimiter {
    pause: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl LogLimiter {
    /// Lets one through every `pause`.
    pub const fn every(pause: Duration) -> Self {
        Self { pause, state: Mutex::new((None, 0)) }
    }

    /// `Some(held back since the last)` when it is time to speak again.
    pub fn pass(&self) -> Option<u64> {
        let (last, held) = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < self.pause) {
            *held += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(held))
    }
}
