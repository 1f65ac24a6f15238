//! Warnings before a certificate ends: daily, and hourly on its last day.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::clock::{Seconds, now, utc};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many certificates' warnings are remembered.
const MOST_REMEMBERED: usize = 64;

/// What is to be said of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Soon(Duration),
    Past,
}

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
        match self.due(now(), Instant::now(), not_before, not_after) {
            Some(Ending::Past) => {
                tracing::error!(certificate = whose, expired = %utc(not_after), "Certificate has expired");
            }
            Some(Ending::Soon(left)) => {
                let left = humantime::format_duration(left);
                tracing::warn!(certificate = whose, expires = %utc(not_after), %left, "Certificate expires soon");
            }
            None => {}
        }
    }

    /// What is to be said at `now`, which is the steady clock's `at`; nothing if it was said of late.
    fn due(
        &mut self,
        now: Seconds,
        at: Instant,
        not_before: Seconds,
        not_after: Seconds,
    ) -> Option<Ending> {
        // Its last second is one of its lifetime (RFC 5280, 4.1.2.5).
        let left = u64::try_from(not_after.saturating_sub(now)).map(Duration::from_secs);
        let expired = left.is_err();
        let ending = left.map_or(Ending::Past, Ending::Soon);
        let left = left.unwrap_or_default();
        let lifetime = u64::try_from(not_after.saturating_sub(not_before)).unwrap_or(0);
        if left > self.before.unwrap_or(Duration::from_secs(lifetime / 3)) {
            return None;
        }
        let pause = if left < DAY { HOUR } else { DAY };
        match self.last.get(&not_after) {
            // One that has just ended is warned about afresh.
            Some((was_expired, last)) if *was_expired == expired && at - *last < pause => None,
            _ => {
                self.last.insert(not_after, (expired, at));
                if self.last.len() > MOST_REMEMBERED {
                    self.last.pop_first();
                }
                Some(ending)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Seconds = 1_795_537_079;
    const MINUTE: Duration = Duration::from_secs(60);

    fn seconds(time: Duration) -> Seconds {
        Seconds::try_from(time.as_secs()).expect("not that long")
    }

    /// What is said of a certificate that ends `left` seconds from now, of a lifetime of `lifetime`.
    fn first_said(before: Option<Duration>, lifetime: Seconds, left: Seconds) -> Option<Ending> {
        let end = NOW + left;
        Warner::new(before).due(NOW, Instant::now(), end - lifetime, end)
    }

    fn soon(seconds: u64) -> Option<Ending> {
        Some(Ending::Soon(Duration::from_secs(seconds)))
    }

    #[test]
    fn a_certificate_is_warned_about_in_the_last_third_of_its_lifetime() {
        assert_eq!(first_said(None, 300, 101), None);
        assert_eq!(first_said(None, 300, 100), soon(100));
        assert_eq!(first_said(None, 300, 0), soon(0), "valid until its last second is over");
        assert_eq!(first_said(None, 300, -1), Some(Ending::Past));
    }

    #[test]
    fn the_time_before_can_be_chosen() {
        assert_eq!(first_said(Some(HOUR), 7200, 3601), None);
        assert_eq!(first_said(Some(HOUR), 7200, 3600), soon(3600));
        assert_eq!(first_said(Some(DAY), 7200, 7200), soon(7200));
    }

    #[test]
    fn it_is_said_daily_and_on_the_last_day_hourly() {
        assert_eq!((HOUR.as_secs(), DAY.as_secs()), (3600, 86_400));
        for (left, pause) in [(3 * DAY, DAY), (DAY, DAY), (DAY - MINUTE, HOUR), (MINUTE, HOUR)] {
            let end = NOW + seconds(left);
            let mut warner = Warner::new(Some(30 * DAY));
            let at = Instant::now();
            let mut due = |after| warner.due(NOW, at + after, 0, end).is_some();
            assert!(due(Duration::ZERO));
            assert!(!due(pause - MINUTE), "{left:?} left");
            assert!(due(pause), "{left:?} left");
            assert!(!due(2 * pause - MINUTE), "{left:?} left");
        }
    }

    #[test]
    fn one_that_has_just_ended_is_said_at_once_and_then_hourly() {
        let mut warner = Warner::new(None);
        let at = Instant::now();
        let mut due = |now, after| warner.due(now, at + after, NOW - 300, NOW);
        assert_eq!(due(NOW, Duration::ZERO), soon(0));
        assert_eq!(due(NOW + 1, MINUTE), Some(Ending::Past));
        assert_eq!(due(NOW + 60, HOUR), None);
        assert_eq!(due(NOW + 3601, HOUR + MINUTE), Some(Ending::Past));
    }

    #[test]
    fn replicas_take_turns_and_each_is_said_once() {
        let mut warner = Warner::new(Some(DAY));
        let at = Instant::now();
        let mut due = |end| warner.due(NOW, at, 0, end).is_some();
        assert!(due(NOW + 1000));
        assert!(due(NOW + 1001), "another certificate");
        assert!(!due(NOW + 1000));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest() {
        let mut warner = Warner::new(Some(DAY));
        let at = Instant::now();
        for end in NOW..NOW + 200 {
            assert!(warner.due(NOW, at, 0, end).is_some());
            assert!(warner.last.len() <= MOST_REMEMBERED);
        }
        assert_eq!(warner.last.len(), MOST_REMEMBERED);
        assert_eq!(warner.due(NOW, at, 0, NOW + 199), None);
    }
}
