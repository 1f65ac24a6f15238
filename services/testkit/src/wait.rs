//! Waiting for a condition. No test waits for a fixed time.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a condition is waited for before the test fails: long, since it costs nothing where the
/// condition holds, and machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

const INTERVAL: Duration = Duration::from_millis(10);

/// Polls `condition` until it returns something.
///
/// # Panics
/// After [`PATIENCE`], naming `what` was waited for.
#[track_caller]
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "timed out waiting for: {what}");
        thread::sleep(INTERVAL);
    }
}

/// [`wait_until`] for asynchronous code, on tokio.
///
/// # Panics
/// After [`PATIENCE`], naming `what` was waited for.
pub async fn wait_until_async<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    match tokio::time::timeout(PATIENCE, polling).await {
        Ok(value) => value,
        Err(_) => panic!("timed out waiting for: {what}"),
    }
}
