//! Recognizes pinger's rejection probe, whose handshakes are meant to fail, so that an alert on failed
//! handshakes is about other clients.
//!
//! A probe cannot prove what it is, since it comes without a valid certificate: any client may offer its
//! protocol name. So being recognized changes nothing but the log level and the counter of a failure that
//! was already decided. It takes an address from which an authorized client connected lately, and few
//! more failures are recognized than pinger causes. What is hidden that way is still counted, and an
//! alert compares it with what pinger counts.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chassis::failure::FailureReason;

/// How long ago a client of the same address may have been authorized.
const MEMORY: Duration = Duration::from_secs(10 * 60);

/// How many addresses are remembered.
const MAX_ADDRESSES: usize = 1024;

/// How many probes are recognized of an address in [`INTERVAL`]. pinger has two credentials, and
/// probes with each at most once a second; two rounds of it may be seen in one interval.
const MAX_PROBES: u32 = 4;

/// The time that [`MAX_PROBES`] is for.
const INTERVAL: Duration = Duration::from_secs(1);

/// The reasons for which ponger rejects the two credentials of a probe.
pub(crate) const REASONS: [FailureReason; 2] =
    [FailureReason::TlsNoCertificate, FailureReason::TlsUntrusted];

/// Addresses from which authorized clients connected lately.
#[derive(Debug, Default)]
pub struct ProbeFilter(Mutex<BTreeMap<IpAddr, Origin>>);

#[derive(Debug)]
struct Origin {
    authorized: Instant,
    /// When the current interval began, and the probes in it.
    interval: Instant,
    probes: u32,
}

impl ProbeFilter {
    /// Remembers that a client with an allowed certificate connected from `address`.
    pub fn record_authorized(&self, address: IpAddr, now: Instant) {
        let mut origins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(origin) = origins.get_mut(&address) {
            origin.authorized = now;
            return;
        }
        if origins.len() >= MAX_ADDRESSES
            && let Some((oldest, _)) = origins.iter().min_by_key(|(_, origin)| origin.authorized)
        {
            let oldest = *oldest;
            origins.remove(&oldest);
        }
        origins.insert(address, Origin { authorized: now, interval: now, probes: 0 });
    }

    /// Whether a failure of a client at `address` that says it is a rejection probe is taken for one.
    pub fn accepts(&self, address: IpAddr, reason: FailureReason, now: Instant) -> bool {
        let mut origins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(origin) = origins.get_mut(&address) else { return false };
        if !REASONS.contains(&reason) || now.duration_since(origin.authorized) > MEMORY {
            return false;
        }
        if now.duration_since(origin.interval) >= INTERVAL {
            (origin.interval, origin.probes) = (now, 0);
        }
        origin.probes += 1;
        origin.probes <= MAX_PROBES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureReason::{TlsExpired, TlsNoCertificate, TlsUntrusted};

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn accepts_as_many_probes_as_pinger_sends_from_the_address_of_an_authorized_client() {
        let (filter, start) = (ProbeFilter::default(), Instant::now());
        filter.record_authorized(address(1), start);
        assert!(!filter.accepts(address(2), TlsNoCertificate, start));
        assert!(!filter.accepts(address(1), TlsExpired, start));
        for seconds in 0..3 {
            let now = start + Duration::from_secs(seconds);
            for reason in [TlsNoCertificate, TlsUntrusted, TlsUntrusted, TlsNoCertificate] {
                assert!(filter.accepts(address(1), reason, now));
            }
            assert!(!filter.accepts(address(1), TlsUntrusted, now));
        }
    }

    #[test]
    fn forgets_an_address_unless_a_client_of_it_is_authorized_again() {
        let (filter, start) = (ProbeFilter::default(), Instant::now());
        let accepts = |now| filter.accepts(address(1), TlsUntrusted, now);
        filter.record_authorized(address(1), start);
        assert!(accepts(start + MEMORY));
        assert!(!accepts(start + MEMORY + INTERVAL));
        filter.record_authorized(address(1), start + MEMORY);
        assert!(accepts(start + MEMORY + 2 * INTERVAL));
    }

    #[test]
    fn remembers_a_limited_number_of_addresses() {
        let (filter, start) = (ProbeFilter::default(), Instant::now());
        for number in 0..=u32::try_from(MAX_ADDRESSES).unwrap() {
            let now = start + Duration::from_millis(number.into());
            filter.record_authorized(address(number), now);
        }
        assert_eq!(filter.0.lock().unwrap().len(), MAX_ADDRESSES);
        let now = start + INTERVAL;
        assert!(!filter.accepts(address(0), TlsUntrusted, now));
        assert!(filter.accepts(address(1), TlsUntrusted, now));
    }
}
