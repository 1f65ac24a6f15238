//! Warnings before certificates expire: daily, and hourly on the last day.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rustls::pki_types::UnixTime;

use super::{
    clock::{duration_until, format_rfc3339},
    x509::Validity,
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The longest default lead time, for certificates that are valid for years, such as roots.
const MAX_LEAD_TIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// How many certificates are remembered.
const MAX_REMEMBERED: usize = 64;

/// What there is to warn of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    Expiring(Duration),
    Expired,
}

/// Whether a warning is due at `now` that a certificate expires: `lead_time` before; by default, in the
/// last third of its validity, at most 30 days.
pub fn expires_soon(lead_time: Option<Duration>, validity: Validity, now: UnixTime) -> bool {
    let Validity { not_before, not_after } = validity;
    let default = (duration_until(not_after, not_before) / 3).min(MAX_LEAD_TIME);
    // The last second is part of the validity (RFC 5280, 4.1.2.5).
    now > not_after || duration_until(not_after, now) <= lead_time.unwrap_or(default)
}

/// Warns of certificates that expire, no more often than is useful.
#[derive(Debug, Default)]
pub struct ExpiryMonitor {
    lead_time: Option<Duration>,
    /// When each certificate was last warned about, by its expiry, and whether it had expired then:
    /// a peer's replicas have certificates of their own, and take turns.
    warned: BTreeMap<UnixTime, (bool, Instant)>,
}

impl ExpiryMonitor {
    /// Warns when [`expires_soon`] says so.
    pub fn new(lead_time: Option<Duration>) -> Self {
        Self { lead_time, warned: BTreeMap::new() }
    }

    /// Logs a warning about `certificate` if one is due.
    pub fn check(
        &mut self,
        certificate: &str,
        not_before: UnixTime,
        not_after: UnixTime,
        now: UnixTime,
    ) {
        let Some(expiry) = self.due(not_before, not_after, now, Instant::now()) else { return };
        let at = format_rfc3339(not_after);
        match expiry {
            Expiry::Expired => {
                tracing::error!(certificate, expired = at, "Certificate has expired");
            }
            Expiry::Expiring(left) => {
                let left = humantime::format_duration(left).to_string();
                tracing::warn!(certificate, expires = at, left, "Certificate expires soon");
            }
        }
    }

    /// Logs a warning about a certificate of our own chain that does not decide when that expires, if
    /// one is due.
    pub(super) fn check_other(&mut self, subject: &str, validity: Validity, now: UnixTime) {
        let Validity { not_before, not_after } = validity;
        let Some(expiry) = self.due(not_before, not_after, now, Instant::now()) else { return };
        let (subject, at) = (format!("own chain: {subject}"), format_rfc3339(not_after));
        match expiry {
            Expiry::Expired => tracing::warn!(
                certificate = subject,
                expired = at,
                "Certificate has expired, which no peer needs"
            ),
            Expiry::Expiring(left) => {
                let left = humantime::format_duration(left).to_string();
                tracing::warn!(
                    certificate = subject,
                    expires = at,
                    left,
                    "Certificate expires soon"
                );
            }
        }
    }

    /// What to warn of at `now`, which is `instant` by the monotonic clock; `None` if that was done
    /// recently.
    fn due(
        &mut self,
        not_before: UnixTime,
        not_after: UnixTime,
        now: UnixTime,
        instant: Instant,
    ) -> Option<Expiry> {
        if !expires_soon(self.lead_time, Validity { not_before, not_after }, now) {
            return None;
        }
        let expired = now > not_after;
        let left = duration_until(not_after, now);
        let pause = if left < DAY { HOUR } else { DAY };
        match self.warned.get(&not_after) {
            Some((was_expired, last)) if *was_expired == expired && instant - *last < pause => None,
            _ => {
                self.warned.insert(not_after, (expired, instant));
                if self.warned.len() > MAX_REMEMBERED {
                    self.warned.pop_first();
                }
                Some(if expired { Expiry::Expired } else { Expiry::Expiring(left) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::clock::from_timestamp;

    const NOW: i64 = 1_795_537_079;
    const MINUTE: Duration = Duration::from_secs(60);

    /// What is due for a certificate of `lifetime` seconds, `left` seconds before it expires.
    fn first_due(lead_time: Option<Duration>, lifetime: i64, left: i64) -> Option<Expiry> {
        let end = NOW + left;
        let [begin, end, now] = [end - lifetime, end, NOW].map(from_timestamp);
        ExpiryMonitor::new(lead_time).due(begin, end, now, Instant::now())
    }

    fn expiring(seconds: u64) -> Option<Expiry> {
        Some(Expiry::Expiring(Duration::from_secs(seconds)))
    }

    #[test]
    fn warns_in_the_last_third_of_the_lifetime() {
        assert_eq!(first_due(None, 300, 101), None);
        assert_eq!(first_due(None, 300, 100), expiring(100));
        assert_eq!(first_due(None, 300, 0), expiring(0), "the last second is valid");
        assert_eq!(first_due(None, 300, -1), Some(Expiry::Expired));
    }

    #[test]
    fn warns_at_most_thirty_days_before_by_default() {
        let (day, years) = (24 * 3600, 20 * 365 * 24 * 3600);
        assert_eq!(first_due(None, years, 31 * day), None);
        assert_eq!(first_due(None, years, 30 * day), expiring(30 * 24 * 3600));
    }

    #[test]
    fn lead_time_can_be_configured() {
        assert_eq!(first_due(Some(HOUR), 7200, 3601), None);
        assert_eq!(first_due(Some(HOUR), 7200, 3600), expiring(3600));
        assert_eq!(first_due(Some(DAY), 7200, 7200), expiring(7200));
    }

    #[test]
    fn repeats_daily_and_on_the_last_day_hourly() {
        for (left, pause) in [(3 * DAY, DAY), (DAY, DAY), (DAY - MINUTE, HOUR), (MINUTE, HOUR)] {
            let [begin, now] = [0, NOW].map(from_timestamp);
            let end = crate::tls::clock::add(now, left);
            let mut monitor = ExpiryMonitor::new(Some(30 * DAY));
            let start = Instant::now();
            let mut due = |after| monitor.due(begin, end, now, start + after).is_some();
            assert!(due(Duration::ZERO));
            assert!(!due(pause - MINUTE), "{left:?} left");
            assert!(due(pause), "{left:?} left");
            assert!(!due(2 * pause - MINUTE), "{left:?} left");
        }
    }

    #[test]
    fn reports_expiry_at_once_and_then_hourly() {
        let mut monitor = ExpiryMonitor::new(None);
        let start = Instant::now();
        let mut due = |now, after| {
            let [begin, end, now] = [NOW - 300, NOW, now].map(from_timestamp);
            monitor.due(begin, end, now, start + after)
        };
        assert_eq!(due(NOW, Duration::ZERO), expiring(0));
        assert_eq!(due(NOW + 1, MINUTE), Some(Expiry::Expired));
        assert_eq!(due(NOW + 60, HOUR), None);
        assert_eq!(due(NOW + 3601, HOUR + MINUTE), Some(Expiry::Expired));
    }

    #[test]
    fn warns_once_for_each_replicas_certificate_and_remembers_a_bounded_number() {
        let mut monitor = ExpiryMonitor::new(Some(DAY));
        let start = Instant::now();
        let mut due = |end| {
            let [begin, end, now] = [0, end, NOW].map(from_timestamp);
            monitor.due(begin, end, now, start).is_some()
        };
        for end in NOW..NOW + 200 {
            assert!(due(end));
        }
        assert!(!due(NOW + 199));
        assert_eq!(monitor.warned.len(), MAX_REMEMBERED);
    }
}
