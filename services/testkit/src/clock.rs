//! A clock for tests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

/// System time plus an offset that a test changes. Clones share the offset.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    offset_ms: Arc<AtomicI64>,
}

impl ManualClock {
    /// A clock that shows system time.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time that it shows, which goes on as system time does.
    pub fn now(&self) -> UnixTime {
        let ms = system_ms() + self.offset_ms.load(Ordering::Acquire);
        UnixTime::since_unix_epoch(Duration::from_millis(ms.try_into().unwrap_or(0)))
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.offset_ms.fetch_add(to_ms(by), Ordering::AcqRel);
    }

    /// Sets it to `time`, from where it goes on.
    pub fn set(&self, time: UnixTime) {
        let ms = to_ms(Duration::from_secs(time.as_secs()));
        self.offset_ms.store(ms - system_ms(), Ordering::Release);
    }
}

impl TimeProvider for ManualClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}

fn system_ms() -> i64 {
    to_ms(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default())
}

fn to_ms(duration: Duration) -> i64 {
    duration.as_millis().try_into().expect("less than 200 million years")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn shows_system_time_until_it_is_advanced() {
        let clock = ManualClock::new();
        let before = UnixTime::now().as_secs();
        let now = clock.now().as_secs();
        assert!((before..=UnixTime::now().as_secs()).contains(&now));
    }

    #[test]
    fn clones_share_what_was_advanced_and_set() {
        let clock = ManualClock::new();
        let shared = clock.clone();
        let before = shared.now().as_secs();
        clock.advance(HOUR);
        assert!(shared.now().as_secs() >= before + 3600);

        clock.set(UnixTime::since_unix_epoch(HOUR));
        let shown = shared.current_time().expect("a time").as_secs();
        // A busy machine may take a while to get here.
        assert!((3600..7200).contains(&shown), "{shown}");
    }
}
