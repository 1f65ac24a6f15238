//! How long a client may take, and how many may be connected.

use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::OwnedSemaphorePermit;

/// How long a client may take, and how many may be connected.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For its handshake.
    pub handshake: Duration,
    /// For the head of a request.
    pub request: Duration,
    /// Between two requests on a kept connection.
    pub idle: Duration,
    /// Open connections, those in a handshake included.
    pub connections: u32,
}

/// Each worker needs up to 512 KiB, and a container without a CPU limit sees all of its node's
/// processors.
const MAX_WORKERS: usize = 32;

/// The number of threads that serve connections: one for each processor.
pub fn worker_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS)
}

/// Descriptors that are not for connections: standard streams, listeners, the admin listener's
/// connections, and a few for each worker.
const RESERVED_DESCRIPTORS: u64 = 32;
const DESCRIPTORS_PER_WORKER: u64 = 4;

/// Lowers `connections` to what a limit of open files allows with this number of workers, but not
/// below one: rejecting a connection is better than failing to accept it.
pub fn clamp_to_fd_limit(connections: u32, limit: Option<u64>, workers: usize) -> u32 {
    let Some(limit) = limit else { return connections };
    let reserved = RESERVED_DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers as u64;
    // With very few descriptors, half of them are for connections.
    let available = limit.saturating_sub(reserved).max(limit / 2).max(1);
    connections.min(u32::try_from(available).unwrap_or(u32::MAX))
}

/// Counts as an open connection until it is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    open: IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionPermit {
    pub(crate) fn new(permit: OwnedSemaphorePermit, open: IntGauge) -> Self {
        open.inc();
        Self { open, _permit: permit }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fd_limit_lowers_the_connection_limit_on_any_number_of_cores() {
        assert_eq!(clamp_to_fd_limit(10_000, None, 2), 10_000);
        assert_eq!(clamp_to_fd_limit(10_000, Some(1_048_576), 64), 10_000);
        assert_eq!(clamp_to_fd_limit(10_000, Some(1024), 2), 984);
        assert_eq!(clamp_to_fd_limit(10_000, Some(1024), 64), 736);
        for limit in [0, 1, 16, 64] {
            for workers in [1, 8, 256] {
                let clamped = clamp_to_fd_limit(10_000, Some(limit), workers);
                assert!(clamped >= 1, "starts with {limit} descriptors and {workers} workers");
            }
        }
    }
}
