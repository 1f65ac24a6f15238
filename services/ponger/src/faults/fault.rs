//! A fault: what is done to pings, to how many of them, and for how long.

use std::time::Duration;

use chassis::{config::HumanDuration, error::ConfigError};
use serde::Serialize;
use serde_json::Value as Json;

/// The longest that a fault may last: one that is forgotten must end soon.
const MAX_DURATION: Duration = Duration::from_secs(600);

/// The longest delay.
const MAX_DELAY: Duration = Duration::from_secs(60);

const KEYS: [&str; 4] = ["kind", "percent", "duration", "delay"];

const EXAMPLE: &str =
    r#"an example: {"kind": "delay", "delay": "500ms", "percent": 50, "duration": "30s"}"#;

/// What is done to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// It is answered late.
    Delay,
    /// Its connection is closed without an answer.
    Drop,
    /// It is answered with status 500.
    Error,
    /// Its connection is closed within the body of the answer.
    Truncate,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Delay, Self::Drop, Self::Error, Self::Truncate];

    /// The name in requests, logs and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Drop => "drop",
            Self::Error => "error",
            Self::Truncate => "truncate",
        }
    }
}

/// A fault as it is set and shown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fault {
    /// What is done.
    pub kind: FaultKind,
    /// To how many of a hundred pings.
    pub percent: u8,
    /// For how long.
    pub duration: HumanDuration,
    /// How late they are answered; for [`FaultKind::Delay`] alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<HumanDuration>,
}

impl Fault {
    /// Reads the JSON object by which a fault is set.
    ///
    /// # Errors
    /// The first fault that is found in it.
    pub fn from_json(body: &[u8]) -> Result<Self, ConfigError> {
        let body_error = |reason: &str| ConfigError::new("the body", reason).hint(EXAMPLE);
        let json = serde_json::from_slice(body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            body_error(&format!("it is not JSON (line {line}, column {column})"))
        })?;
        let Json::Object(fields) = json else {
            return Err(body_error("it is not a JSON object"));
        };
        if let Some(key) = fields.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(error(
                key,
                "unknown key",
                "the keys are kind, percent, duration and delay",
            ));
        }
        let required = |key| fields.get(key).ok_or_else(|| error(key, "required", EXAMPLE));
        let duration = |key, value: &Json| {
            HumanDuration::try_from(value.clone()).map_err(|reason| match reason.split_once(", ") {
                Some((reason, expected)) => error(key, reason, expected),
                None => error(key, &reason, EXAMPLE),
            })
        };
        let kind = required("kind")?;
        let kind = FaultKind::ALL
            .into_iter()
            .find(|known| kind.as_str() == Some(known.label()))
            .ok_or_else(|| {
                let hint = "the kinds are delay, drop, error and truncate";
                error("kind", &format!("{kind} is not a kind"), hint)
            })?;
        let percent = match fields.get("percent") {
            None => 100,
            Some(value) => {
                value.as_u64().and_then(|value| u8::try_from(value).ok()).ok_or_else(|| {
                    error("percent", &format!("{value} is not a percentage"), PERCENTAGE)
                })?
            }
        };
        let delay = fields.get("delay").map(|value| duration("delay", value)).transpose()?;
        let fault =
            Self { kind, percent, duration: duration("duration", required("duration")?)?, delay };
        fault.validate()?;
        Ok(fault)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let error = |key, reason, hint| Err(error(key, reason, hint));
        if self.percent > 100 {
            return error("percent", "it is more than 100", PERCENTAGE);
        }
        if self.duration.0.is_zero() || self.duration.0 > MAX_DURATION {
            return error("duration", "it is zero or more than 10m", "use one such as `30s`");
        }
        match self.delay {
            None if self.kind == FaultKind::Delay => {
                error("delay", "required for the kind `delay`", "use one such as `500ms`")
            }
            Some(_) if self.kind != FaultKind::Delay => {
                error("delay", "has no effect with another kind than `delay`", "remove it")
            }
            Some(delay) if delay.0 > MAX_DELAY => {
                error("delay", "it is more than 1m", "use one such as `500ms`")
            }
            _ => Ok(()),
        }
    }
}

const PERCENTAGE: &str = "use a whole number from 0 to 100";

fn error(key: &str, reason: &str, hint: &str) -> ConfigError {
    ConfigError::new(format!("`{key}`"), reason).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_fault() {
        let second = HumanDuration::seconds(1);
        let fault = Fault::from_json(br#"{"kind": "error", "duration": "1s"}"#).unwrap();
        let expected =
            Fault { kind: FaultKind::Error, percent: 100, duration: second, delay: None };
        assert_eq!(fault, expected);
        let json =
            br#"{"kind": "delay", "percent": 0, "duration": "1s", "delay": "1s"}"#.as_slice();
        let expected =
            Fault { kind: FaultKind::Delay, percent: 0, duration: second, delay: Some(second) };
        assert_eq!(Fault::from_json(json).unwrap(), expected);
    }

    #[test]
    fn rejects_what_does_not_fit_in_plain_words() {
        for (json, reason) in [
            ("", "the body: it is not JSON (line 1, column 0); an example: {"),
            ("{\n\"kind\" \"drop\"}", "the body: it is not JSON (line 2, column 8); "),
            (r#"["drop", 100, "1s"]"#, "the body: it is not a JSON object; an example: {"),
            ("7", "the body: it is not a JSON object; "),
            ("{}", "`kind`: required; an example: {"),
            (r#"{"kind": "drop"}"#, "`duration`: required; an example: {"),
            (r#"{"kind": "drop", "time": 1}"#, "`time`: unknown key; the keys are kind, "),
            (r#"{"kind": "explode"}"#, "`kind`: \"explode\" is not a kind; the kinds are delay, "),
            (r#"{"kind": 1}"#, "`kind`: 1 is not a kind; "),
            (
                r#"{"kind": "drop", "duration": 5}"#,
                "`duration`: 5 is not a duration; expected a number and its unit",
            ),
            (r#"{"kind": "drop", "duration": "0s"}"#, "`duration`: it is zero or more than 10m; "),
            (r#"{"kind": "drop", "duration": "601s"}"#, "`duration`: it is zero or more than"),
            (
                r#"{"kind": "drop", "duration": "1s", "percent": "a"}"#,
                "`percent`: \"a\" is not a percentage; use a whole number from 0 to 100",
            ),
            (
                r#"{"kind": "drop", "duration": "1s", "percent": 1.5}"#,
                "`percent`: 1.5 is not a percentage; ",
            ),
            (
                r#"{"kind": "drop", "duration": "1s", "percent": 101}"#,
                "`percent`: it is more than 100; ",
            ),
            (r#"{"kind": "delay", "duration": "1s"}"#, "`delay`: required for the kind `delay`; "),
            (
                r#"{"kind": "delay", "duration": "1s", "delay": "61s"}"#,
                "`delay`: it is more than 1m; ",
            ),
            (
                r#"{"kind": "drop", "duration": "1s", "delay": "1s"}"#,
                "`delay`: has no effect with another kind than `delay`; ",
            ),
        ] {
            let error = Fault::from_json(json.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(reason), "{json}: {error}");
        }
    }
}
