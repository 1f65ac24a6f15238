//! The time by which certificates are valid or not. Tests set it; everything else takes the system's.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use rustls::{
    pki_types::UnixTime,
    time_provider::{DefaultTimeProvider, TimeProvider},
};

/// Later than every certificate: 9999-12-31T23:59:59Z, which RFC 5280 (4.1.2.5) uses for "no end".
pub const FOREVER: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(253_402_300_799));

/// A source of the current time, shared by all that verify certificates.
#[derive(Clone, Debug)]
pub struct Clock(Arc<dyn TimeProvider>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::new(Arc::new(DefaultTimeProvider))
    }

    /// A clock that asks `provider`.
    pub fn new(provider: Arc<dyn TimeProvider>) -> Self {
        Self(provider)
    }

    /// The current time. A clock that fails reads as the end of time, so that nothing is valid.
    pub fn now(&self) -> UnixTime {
        self.0.current_time().unwrap_or(FOREVER)
    }

    /// This clock as rustls takes it.
    pub fn provider(&self) -> Arc<dyn TimeProvider> {
        Arc::clone(&self.0)
    }
}

/// The time of a certificate's validity, in seconds since 1970. Earlier times read as 1970.
pub fn from_timestamp(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
        .min(FOREVER)
}

/// `time` and `duration` after it, in whole seconds.
pub fn add(time: UnixTime, duration: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(
        time.as_secs().saturating_add(duration.as_secs()),
    ))
}

/// How long it is from `now` to `then`; zero when that has passed.
pub fn duration_until(then: UnixTime, now: UnixTime) -> Duration {
    Duration::from_secs(then.as_secs().saturating_sub(now.as_secs()))
}

/// `time` as RFC 3339 text.
pub fn format_rfc3339(time: UnixTime) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(time.min(FOREVER).as_secs());
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_times_as_rfc_3339_up_to_the_end_of_x509() {
        assert_eq!(format_rfc3339(from_timestamp(0)), "1970-01-01T00:00:00Z");
        assert_eq!(format_rfc3339(from_timestamp(1_795_537_079)), "2026-11-24T16:17:59Z");
        assert_eq!(format_rfc3339(from_timestamp(i64::MAX)), "9999-12-31T23:59:59Z");
        assert_eq!(from_timestamp(-1), from_timestamp(0));
    }

    #[test]
    fn durations_until_the_past_are_zero() {
        let (early, late) = (from_timestamp(10), from_timestamp(13));
        assert_eq!(duration_until(late, early), Duration::from_secs(3));
        assert_eq!(duration_until(early, late), Duration::ZERO);
    }
}
