//! Whether a service is ready. Liveness is another question, and answered by any answer at all: it
//! depends on no peer and does not fail while draining.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use crate::tls::{clock::Clock, metrics::Unit, reload::IdentityWatch};

type Check = Box<dyn Fn() -> bool + Send + Sync>;

/// The reasons for which a service is not ready. Without any, it is.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Inner>);

#[derive(Default)]
struct Inner {
    reasons: Mutex<BTreeSet<&'static str>>,
    checks: RwLock<Vec<(&'static str, Check)>>,
    warnings: RwLock<Vec<(&'static str, Check)>>,
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.not_ready_reasons()).finish()
    }
}

impl Readiness {
    /// A service that is not ready because it is starting.
    pub fn starting() -> Self {
        let readiness = Self::default();
        readiness.set("starting", true);
        readiness
    }

    /// Sets whether `reason` keeps the service from being ready.
    pub fn set(&self, reason: &'static str, present: bool) {
        let mut reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if present {
            reasons.insert(reason);
        } else {
            reasons.remove(reason);
        }
    }

    /// Evaluates `is_present` at each probe: whether `reason` keeps the service from being ready.
    pub fn add_check(
        &self,
        reason: &'static str,
        is_present: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        add(&self.0.checks, reason, Box::new(is_present));
    }

    /// As [`Readiness::add_check`], for what a person should know and the service can bear.
    pub fn add_warning(
        &self,
        warning: &'static str,
        is_present: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        add(&self.0.warnings, warning, Box::new(is_present));
    }

    /// Not ready while our own certificate has expired, since every peer rejects it, or while nothing
    /// reloads it; with a warning while files on disk are rejected.
    pub fn watch_identity<T: Send + Sync + 'static>(
        &self,
        identity: &IdentityWatch<T>,
        clock: &Clock,
    ) {
        let (watch, clock) = (identity.clone(), clock.clone());
        self.add_check("own certificate has expired", move || {
            watch.current().own_expired(clock.now())
        });
        let watch = identity.clone();
        self.add_check("certificates are no longer reloaded", move || !watch.is_reloading());
        for (unit, warning) in [
            (Unit::Certificate, "the certificate on disk is rejected, the previous one is in use"),
            (Unit::TrustBundle, "the trust bundle on disk is rejected, the previous one is in use"),
        ] {
            let watch = identity.clone();
            self.add_warning(warning, move || watch.is_rejected(unit));
        }
    }

    /// Why the service is not ready.
    pub fn not_ready_reasons(&self) -> Vec<&'static str> {
        let reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.iter().copied().chain(present(&self.0.checks)).collect()
    }

    /// What a person should know of a service that may be ready.
    pub fn warnings(&self) -> Vec<&'static str> {
        present(&self.0.warnings)
    }
}

fn add(checks: &RwLock<Vec<(&'static str, Check)>>, text: &'static str, check: Check) {
    checks.write().unwrap_or_else(PoisonError::into_inner).push((text, check));
}

fn present(checks: &RwLock<Vec<(&'static str, Check)>>) -> Vec<&'static str> {
    let checks = checks.read().unwrap_or_else(PoisonError::into_inner);
    checks.iter().filter(|(_, is_present)| is_present()).map(|(text, _)| *text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_without_reasons_and_shares_them_with_clones() {
        assert!(Readiness::default().not_ready_reasons().is_empty());
        let readiness = Readiness::starting();
        let clone = readiness.clone();
        clone.set("draining", true);
        clone.set("draining", true);
        clone.add_check("always", || true);
        clone.add_check("never", || false);
        assert_eq!(readiness.not_ready_reasons(), ["draining", "starting", "always"]);
        clone.set("starting", false);
        clone.set("absent", false);
        assert_eq!(readiness.not_ready_reasons(), ["draining", "always"]);
    }
}
