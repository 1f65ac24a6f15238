//! Waiting for a condition, never for a time.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Asks `check` again and again until it is `Ok(Ok(value))`; `Ok(Err(seen))` is not yet, and `Err`
/// ends it.
///
/// # Errors
/// When `check` fails, or `limit` has passed: then with what was seen last.
pub async fn until<T, F>(what: &str, limit: Duration, mut check: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Result<T, String>>>,
{
    let began = Instant::now();
    loop {
        match check().await? {
            Ok(value) => return Ok(value),
            Err(seen) if began.elapsed() > limit => {
                bail!("not within {} s: {what}; last seen: {seen}", limit.as_secs())
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Seconds, for [`until`].
pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
