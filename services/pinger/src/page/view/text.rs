//! What several sections write: times, hints and numbers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chassis::{failure::FailureReason, tls::clock::format_rfc3339};
use maud::{Markup, html};
use rustls::pki_types::UnixTime;

use crate::history::Success;

/// A hint, with what is in backticks as code.
pub(super) fn hint(reason: FailureReason) -> Markup {
    html! {
        @for (at, part) in reason.hint().split('`').enumerate() {
            @if at % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// An ID, a URL, an address or a reason, which may be broken after a slash or an underscore and before a
/// colon, so that a port stays whole.
pub(super) fn breakable(text: &str) -> Markup {
    html! {
        @for part in text.split_inclusive(['/', '_']) {
            @for (at, part) in part.split(':').enumerate() {
                @if at > 0 && part == "/" { ":" } @else if at > 0 { wbr; ":" }
                (part)
            }
            wbr;
        }
    }
}

/// A time in UTC, which the script shows in the viewer's zone.
pub(super) fn time(at: SystemTime) -> Markup {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = format_rfc3339(UnixTime::since_unix_epoch(since));
    html! { time datetime=(at) { (at.replace('T', " ").replace('Z', " UTC")) } }
}

/// Milliseconds, from microseconds.
pub(super) fn ms(micros: Option<u32>) -> String {
    micros.map_or("–".to_owned(), |micros| format!("{:.1}", f64::from(micros) / 1e3))
}

/// The share of pongs, rounded down: it is 100 % only if no ping was lost.
pub(super) fn percent(success: Success) -> String {
    let hundredths = success.pongs * 10_000 / success.pings().max(1);
    match (hundredths / 100, hundredths % 100) {
        (whole, 0) => format!("{whole} %"),
        (whole, rest) => format!("{whole}.{rest:02} %"),
    }
}

/// The largest unit of a duration, which changes seldom.
pub(super) fn roughly(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let (count, unit) = units
        .into_iter()
        .map(|(length, unit)| (seconds / length, unit))
        .find(|(count, _)| *count > 0)
        .unwrap_or((0, "second"));
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_hundred_percent_only_without_a_loss() {
        let percent = |pongs, lost| percent(Success { pongs, lost });
        assert_eq!(percent(1_000_000, 0), "100 %");
        assert_eq!(percent(1_000_000, 1), "99.99 %");
        assert_eq!(percent(1, 2), "33.33 %");
        assert_eq!(percent(0, 3), "0 %");
    }

    #[test]
    fn says_roughly_how_long_it_is() {
        let roughly = |seconds| roughly(Duration::from_secs(seconds));
        assert_eq!([roughly(0), roughly(1), roughly(59)], ["0 seconds", "1 second", "59 seconds"]);
        assert_eq!([roughly(3599), roughly(90_000)], ["59 minutes", "1 day"]);
    }

    #[test]
    fn breaks_before_a_port_and_after_a_slash_or_an_underscore() {
        let html = |text| breakable(text).into_string();
        assert_eq!(html("https://ponger:8443/a"), "https:/<wbr>/<wbr>ponger<wbr>:8443/<wbr>a<wbr>");
        assert_eq!(html("127.0.0.1:8443"), "127.0.0.1<wbr>:8443<wbr>");
        assert_eq!(html("tls_timeout"), "tls_<wbr>timeout<wbr>");
    }

    #[test]
    fn hints_show_code_as_code_and_escape_the_rest() {
        let html = hint(FailureReason::TlsWrongId).into_string();
        assert!(html.starts_with("Compare <code>ponger.serverId</code> with the URI"), "{html}");
        let html = hint(FailureReason::ConnectFailed).into_string();
        assert!(html.contains("&quot;too many open files&quot;"), "{html}");
    }
}
