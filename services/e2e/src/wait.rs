//! Waiting for a condition, never for a time.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// What a check found: the value that is waited for, or the present state.
pub type Progress<T> = Result<T, String>;

/// Returns `Ok` if the condition is met, and the present state otherwise.
pub fn met(condition: bool, state: impl Display) -> Result<Progress<()>> {
    Ok(if condition { Ok(()) } else { Err(state.to_string()) })
}

/// Repeats `check` until it returns a value.
///
/// # Errors
/// When `check` fails, or after `limit` seconds, with the state that was seen last.
pub async fn until<T>(
    what: &str,
    limit: u64,
    mut check: impl AsyncFnMut() -> Result<Progress<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match check().await? {
            Ok(value) => return Ok(value),
            Err(state) if start.elapsed() > Duration::from_secs(limit) => {
                bail!("timed out after {limit} s waiting until {what}; last state: {state}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
