//! Durations as people write them.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Units that read as one thing only: `M` and `month` are left out, and so is every long form.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// A duration with its unit, such as `250ms`, `10s` or `1h 30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Json", into = "String")]
pub struct HumanDuration(pub Duration);

impl HumanDuration {
    /// The longest: more is a typing error, and overflows the clocks of some systems.
    const MAX: Self = Self::seconds(365 * 24 * 3600);

    /// Returns a duration of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, nanos) in UNITS {
            let (count, left) = (rest / nanos, rest % nanos);
            if count > 0 {
                write!(f, "{count}{unit}{}", if left > 0 { " " } else { "" })?;
            }
            rest = left;
        }
        Ok(())
    }
}

impl From<HumanDuration> for String {
    fn from(duration: HumanDuration) -> Self {
        duration.to_string()
    }
}

impl TryFrom<Json> for HumanDuration {
    type Error = String;

    fn try_from(value: Json) -> Result<Self, String> {
        let known = |text: &&str| {
            let mut units =
                text.split(|c: char| !c.is_alphabetic()).filter(|unit| !unit.is_empty());
            units.all(|unit| UNITS.iter().any(|(known, _)| unit == *known))
        };
        let duration =
            value.as_str().filter(known).and_then(|text| humantime::parse_duration(text).ok());
        match duration.map(Self) {
            Some(duration) if duration <= Self::MAX => Ok(duration),
            Some(_) => Err(format!("{value} is more than a year, expected at most 365d")),
            None => Err(format!(
                "{value} is not a duration, expected a number and its unit (d, h, m, s, ms, us or ns), such as `10s` or `250ms`"
            )),
        }
    }
}
