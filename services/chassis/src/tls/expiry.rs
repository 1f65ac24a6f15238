//! Warnings before a certificate ends: daily, and hourly on its last day.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::clock::{Seconds, now, until, utc};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many certificates' warnings are remembered.
const MOST_REMEMBERED: usize = 64;

/// Warns of certificates' ends, no more often than is useful.
#[derive(Debug, Default)]
pub struct Warner {
    /// How long before the end; `None` for a third of the lifetime.
    before: Option<Duration>,
    /// When each certificate was warned about last, by its end, and whether it had expired: replicas
    /// have certificates of their own, and take turns.
    last: BTreeMap<Seconds, (bool, Instant)>,
}

impl Warner {
    /// Warns from `before` the end on, or from when a third of the lifetime is left.
    pub fn new(before: Option<Duration>) -> Self {
        Self { before, last: BTreeMap::new() }
    }

    /// Logs a warning about `whose` certificate if one is due.
    pub fn look(&mut self, whose: &str, not_before: Seconds, not_after: Seconds) {
        if self.is_due(not_before, not_after) {
            let left = humantime::format_duration(until(not_after));
            if not_after < now() {
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
        let expired = not_after < now();
        match self.last.get(&not_after) {
            // One that has just ended is warned about afresh.
            Some((was_expired, at)) if *was_expired == expired && at.elapsed() < pause => false,
            _ => {
                self.last.insert(not_after, (expired, Instant::now()));
                if self.last.len() > MOST_REMEMBERED {
                    self.last.pop_first();
                }
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
        let now = now();
        assert!(!warner.is_due(now - 100, now + 300));
        assert!(warner.is_due(now - 300, now + 100));
        assert!(!warner.is_due(now - 300, now + 100));
        assert!(warner.is_due(now - 300, now + 99), "another certificate");
        assert!(!warner.is_due(now - 300, now + 100), "replicas take turns");
    }

    #[test]
    fn warnings_are_daily_and_on_the_last_day_hourly() {
        let hours = |hours: u32| HOUR * hours;
        for (left, since, due) in [
            (hours(24 * 3), hours(23), false),
            (hours(24 * 3), hours(25), true),
            (hours(24) + HOUR, hours(2), false),
            (hours(10), hours(2), true),
            (hours(10), HOUR / 2, false),
            (hours(1), hours(2), true),
        ] {
            let mut warner = Warner::new(Some(hours(24 * 30)));
            let end = now() + Seconds::try_from(left.as_secs()).expect("a few days");
            let at = Instant::now().checked_sub(since).expect("a clock that old");
            warner.last.insert(end, (false, at));
            assert_eq!(warner.is_due(0, end), due, "{left:?} left, {since:?} since");
        }
    }

    #[test]
    fn only_so_many_warnings_are_remembered() {
        let mut warner = Warner::new(Some(DAY));
        let first = now() + 1000;
        for end in first..first + 100 {
            assert!(warner.is_due(0, end));
        }
        assert_eq!(warner.last.len(), MOST_REMEMBERED);
        assert!(!warner.is_due(0, first + 99), "the last one is among them");
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

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).expect("a machine that is up for some hours")
    }

    /// A warner that has warned of a certificate that ends in `left`, `time` ago.
    fn warned(left: Duration, expired: bool, time: Duration) -> (Warner, Seconds) {
        let end = now() + Seconds::try_from(left.as_secs()).expect("not that long");
        let mut warner = Warner::new(Some(left + HOUR));
        warner.last.insert(end, (expired, ago(time)));
        (warner, end)
    }

    #[test]
    fn it_is_said_daily_and_on_the_last_day_hourly() {
        let minute = Duration::from_secs(60);
        for (left, time, due) in [
            (3 * DAY, HOUR + minute, false),
            (DAY + minute, HOUR + minute, false),
            (DAY - minute, HOUR + minute, true),
            (DAY - minute, HOUR - minute, false),
        ] {
            let (mut warner, end) = warned(left, false, time);
            assert_eq!(warner.is_due(now() - 10, end), due, "{left:?} left, said {time:?} ago");
        }
    }

    #[test]
    fn one_that_has_just_ended_is_said_at_once_and_then_hourly() {
        let end = now() - 1;
        let mut warner = Warner::new(None);
        warner.last.insert(end, (false, Instant::now()));
        assert!(warner.is_due(now() - 300, end));
        assert!(!warner.is_due(now() - 300, end));
        warner.last.insert(end, (true, ago(HOUR + Duration::from_secs(1))));
        assert!(warner.is_due(now() - 300, end));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut warner = Warner::new(Some(DAY));
        for end in 1..200 {
            assert!(warner.is_due(now() - 300, now() + end));
            assert!(warner.last.len() <= MOST_REMEMBERED);
        }
        assert_eq!(warner.last.len(), MOST_REMEMBERED);
    }

    #[test]
    fn an_hour_and_a_day_are_what_they_are_called() {
        assert_eq!((HOUR.as_secs(), DAY.as_secs()), (3600, 86_400));
    }

    /// A time that was now all through `body`.
    fn within_a_second(mut body: impl FnMut(Seconds)) {
        loop {
            let time = now();
            body(time);
            if now() == time {
                return;
            }
        }
    }

    #[test]
    fn a_time_before_the_end_begins_with_its_first_second() {
        let mut due = false;
        within_a_second(|now| due = Warner::new(Some(HOUR)).is_due(0, now + 3600));
        assert!(due);
        within_a_second(|now| due = Warner::new(Some(HOUR)).is_due(0, now + 3601));
        assert!(!due);
        within_a_second(|now| {
            let mut warner = Warner::new(Some(DAY * 2));
            let at = Instant::now().checked_sub(HOUR * 2).expect("a clock that old");
            warner.last.insert(now + 24 * 3600, (false, at));
            due = warner.is_due(0, now + 24 * 3600);
        });
        assert!(!due, "the last day begins a second later");
    }

    #[test]
    fn a_certificate_that_has_just_ended_is_warned_about_afresh_and_once() {
        let (mut at_its_end, mut after) = (false, false);
        within_a_second(|now| {
            let mut warner = Warner::new(None);
            warner.last.insert(now, (false, Instant::now()));
            at_its_end = warner.is_due(0, now);
            let mut warner = Warner::new(None);
            warner.last.insert(now - 1, (false, Instant::now()));
            after = warner.is_due(0, now - 1) && !warner.is_due(0, now - 1);
        });
        assert!(!at_its_end, "it is valid until its last second is over");
        assert!(after);
    }
}
