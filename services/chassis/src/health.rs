//! Whether a service lives, and whether it is ready: two questions, answered apart.
//!
//! Alive is who answers at all: liveness depends on no peer and does not fail while draining.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// What keeps a service from being ready. Ready is who has no obstacle.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeSet<&'static str>>>);

impl Health {
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

    /// What keeps the service from being ready.
    pub fn obstacles(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}
