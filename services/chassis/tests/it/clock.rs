//! Points in time.

use std::time::Duration;

use chassis::tls::clock::{now, until, utc};

#[test]
fn a_time_is_written_as_rfc_3339_where_that_can_be() {
    for (time, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (1_795_537_079, "2026-11-24T16:17:59Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
        (253_402_300_800, "253402300800 s since 1970"),
        (i64::MAX, "9223372036854775807 s since 1970"),
        (-1, "-1 s since 1970"),
    ] {
        assert_eq!(utc(time), text);
    }
}

#[test]
fn what_has_passed_is_no_time_away() {
    assert_eq!(until(now() - 5), Duration::ZERO);
    assert_eq!(until(i64::MIN), Duration::ZERO);
    let left = until(now() + 1000).as_secs();
    assert!((999..=1000).contains(&left), "{left}");
}
