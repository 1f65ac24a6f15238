//! Warnings before a certificate ends: daily, and hourly on its last day.

use std::time::{Duration, Instant};

use super::clock::{Seconds, now, until, utc};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Warns of one certificate's end, no more often than is useful.
#[derive(Debug, Default)]
pub struct Warner {
    /// How long before the end; `None` for a third of the lifetime.
    before: Option<Duration>,
    last: Option<(Seconds, bool, Instant)>,
}

impl Warner {
    /// Warns from `before` the end on, or from when a third of the lifetime is left.
    pub fn new(before: Option<Duration>) -> Self {
        Self { before, last: None }
    }

    /// Logs a warning about `whose` certificate if one is due.
    pub fn look(&mut self, whose: &str, not_before: Seconds, not_after: Seconds) {
        if self.is_due(not_before, not_after) {
            let left = humantime::format_duration(until(not_after));
            if not_after <= now() {
                tracing::error!(certificate = whose, expired = %utc(not_after), "Certificate has expired");
            } else {
                tracing::warn!(certificate = whose, expires = %utc(not_after), %left, "Certificate expires soon");
            }
        }
    }

    fn is_due(&mut self, not_before: Seconds, not_after: Seconds) -> bool {
        let left = until(not_after);
        let lifetime = u64::try_from(not_after.saturating_sub(not_before)).unwrap_or(0);
        if left > self.before.unwrap_or(Duration::from_secs(lifetime / 3)) {
            return false;
        }
        let pause = if left < DAY { HOUR } else { DAY };
        let expired = not_after <= now();
        match self.last {
            // A renewed certificate is warned about afresh, and so is one that has just ended.
            Some((end, was_expired, at))
                if (end, was_expired) == (not_after, expired) && at.elapsed() < pause =>
            {
                false
            }
            _ => {
                self.last = Some((not_after, expired, Instant::now()));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_warned_about_in_its_last_third_and_once() {
        let mut warner = Warner::new(None);
        assert!(!warner.is_due(now() - 100, now() + 200));
        assert!(warner.is_due(now() - 300, now() + 100));
        assert!(!warner.is_due(now() - 300, now() + 100));
        assert!(warner.is_due(now() - 300, now() + 99), "another certificate");
    }

    #[test]
    fn an_expired_certificate_is_warned_about() {
        assert!(Warner::new(None).is_due(now() - 300, now() - 1));
    }

    #[test]
    fn the_time_before_can_be_chosen() {
        assert!(Warner::new(Some(DAY)).is_due(now() - 10, now() + 3600));
        assert!(!Warner::new(Some(HOUR)).is_due(now() - 10_000_000, now() + 3700));
    }
}
