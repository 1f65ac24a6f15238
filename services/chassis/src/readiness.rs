//! Whether a service lives, and whether it is ready: two questions, answered apart.
//!
//! Alive is who answers at all: liveness depends on no peer and does not fail while draining.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use crate::tls::{
    clock::{Seconds, now, until},
    reload::Current,
};

/// What keeps a service from being ready. Ready is who has no obstacle.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

impl Readiness {
    /// A service that is not ready because it is starting.
    pub fn starting() -> Self {
        let health = Self::default();
        health.set("starting", true);
        health
    }

    /// Says whether `obstacle` keeps the service from being ready.
    pub fn set(&self, obstacle: &'static str, present: bool) {
        let mut obstacles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if present {
            obstacles.insert(obstacle);
        } else {
            obstacles.remove(obstacle);
        }
    }

    /// Is not ready from now on as long as our own certificate has expired: every peer refuses it.
    pub fn follow(&self, mut current: Current) {
        let health = self.clone();
        actix_rt::spawn(async move {
            loop {
                let end =
                    current.get().leaf.as_ref().map_or(Seconds::MAX, |leaf| leaf.facts.not_after);
                health.set("our own certificate has expired", end < now());
                // A sleep does not see that the clock was set, so it is never a long one.
                let pause = until(end.saturating_add(1))
                    .clamp(Duration::from_millis(100), Duration::from_secs(60));
                tokio::select! {
                    () = current.changed() => {}
                    () = sleep(pause) => {}
                }
            }
        });
    }

    /// What keeps the service from being ready.
    pub fn obstacles(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}
