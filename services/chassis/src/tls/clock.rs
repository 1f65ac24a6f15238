//! Points in time, as certificates have them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01T00:00:00Z.
pub type Seconds = i64;

/// Now.
pub fn now() -> Seconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Seconds::try_from(since.as_secs()).unwrap_or(Seconds::MAX)
}

/// How long it is until `then`; zero when that has passed.
pub fn until(then: Seconds) -> Duration {
    Duration::from_secs(u64::try_from(then.saturating_sub(now())).unwrap_or(0))
}

/// `then` as RFC 3339 text.
pub fn utc(then: Seconds) -> String {
    match u64::try_from(then)
        .ok()
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
    {
        // humantime knows the years up to 9999, as X.509 does.
        Some(time) if then < 253_402_300_800 => humantime::format_rfc3339_seconds(time).to_string(),
        _ => format!("{then} s since 1970"),
    }
}
