//! The endpoints behind ponger's name: with `endpoints: all`, each of its addresses is pinged.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use chassis::{
    error::ConfigError,
    failure::{Failure, FailureReason},
};
use tokio::time::{sleep, timeout};

use crate::{
    client::Outcome,
    config::{Config, Target},
    phase::{Phase, Trace},
    resolver::Resolver,
};

/// How many endpoints are pinged. Each has metrics of its own, whose number must have a bound.
pub const MAX_ENDPOINTS: usize = 100;

/// The endpoints that are pinged, shared by all clones. `None` stands for whichever address of the name
/// accepts a connection.
#[derive(Clone, Debug, Default)]
pub struct Endpoints(Rc<RefCell<BTreeSet<Option<SocketAddr>>>>);

/// What a resolution has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Addresses that the name did not have before.
    pub added: Vec<SocketAddr>,
    /// Addresses that it no longer has.
    pub removed: Vec<SocketAddr>,
    /// How many addresses are left out.
    pub excess: usize,
}

impl Endpoints {
    /// The one endpoint `None`.
    pub fn any() -> Self {
        Self(Rc::new(RefCell::new(BTreeSet::from([None]))))
    }

    /// The endpoints now.
    pub fn current(&self) -> Vec<Option<SocketAddr>> {
        self.0.borrow().iter().copied().collect()
    }

    /// Whether `endpoint` is one of them.
    pub fn contains(&self, endpoint: Option<SocketAddr>) -> bool {
        self.0.borrow().contains(&endpoint)
    }

    /// Replaces the endpoints by `addresses`, or the lowest of them if there are too many.
    pub fn replace(&self, addresses: Vec<SocketAddr>) -> Change {
        let mut addresses: BTreeSet<_> = addresses.into_iter().map(Some).collect();
        let excess = addresses.len().saturating_sub(MAX_ENDPOINTS);
        if let Some(first) = addresses.iter().nth(MAX_ENDPOINTS).copied() {
            addresses.split_off(&first);
        }
        let previous = self.0.replace(addresses);
        let current = self.0.borrow();
        Change {
            added: current.difference(&previous).copied().flatten().collect(),
            removed: previous.difference(&current).copied().flatten().collect(),
            excess,
        }
    }
}

/// Resolves ponger's name.
#[derive(Clone, Debug)]
pub struct Resolution {
    resolver: Resolver,
    host: String,
    port: u16,
    timeout: Duration,
}

impl Resolution {
    /// Resolves the host in the URL of `config` by `resolver`.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn new(resolver: Resolver, config: &Config) -> Result<Self, ConfigError> {
        let Target { host, port, .. } = config.target()?;
        Ok(Self { resolver, host, port, timeout: config.timeout.0 })
    }

    /// Resolves the name after `pause`; a failure is a ping that was lost.
    ///
    /// # Errors
    /// When the name has no address, or none is found in time.
    pub async fn resolve_after(self, pause: Duration) -> Result<Vec<SocketAddr>, Box<Outcome>> {
        sleep(pause).await;
        let began = Instant::now();
        let mut trace = Trace::default();
        trace.enter(Phase::Resolve);
        let resolved = timeout(self.timeout, self.resolver.resolve(&self.host, self.port)).await;
        let failure = match resolved {
            Ok(Ok(addresses)) => return Ok(addresses),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::new(
                FailureReason::Resolve,
                format!("{}: timed out after {:?}", self.host, self.timeout),
            ),
        };
        trace.leave();
        Err(Box::new(Outcome {
            result: Err(failure),
            duration: began.elapsed(),
            endpoint: None,
            trace,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn addresses(range: std::ops::Range<u32>) -> Vec<SocketAddr> {
        range.map(|ip| SocketAddr::from((Ipv4Addr::from(ip), 8443))).collect()
    }

    #[test]
    fn tells_what_has_changed() {
        let endpoints = Endpoints::default();
        let change = endpoints.replace(addresses(1..4));
        assert_eq!((change.added, change.removed), (addresses(1..4), vec![]));
        let change = endpoints.replace(addresses(2..5));
        assert_eq!((change.added, change.removed), (addresses(4..5), addresses(1..2)));
        assert_eq!(endpoints.replace(addresses(2..5)), Change::default());
    }

    #[test]
    fn the_number_of_endpoints_is_limited() {
        let endpoints = Endpoints::default();
        let change = endpoints.replace(addresses(0..102));
        assert_eq!((change.added, change.excess), (addresses(0..100), 2));
        let kept: Vec<_> = addresses(0..100).into_iter().map(Some).collect();
        assert_eq!(endpoints.current(), kept);
        // Those that were left out follow when there is room.
        let change = endpoints.replace(addresses(1..102));
        assert_eq!((change.added, change.removed), (addresses(100..101), addresses(0..1)));
    }
}
