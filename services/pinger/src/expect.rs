//! The response that counts as a pong.

use std::fmt;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use chassis::{
    error::ConfigError,
    failure::{Failure, FailureReason},
    tls::peer_id::sanitize,
};
use serde::{Deserialize, Serialize};

/// The statuses by which a server denies access to a client.
pub(crate) const DENIALS: [u16; 2] = [401, 403];

/// The statuses by which a server rejects a client: [`DENIALS`], and that of nginx, which completes
/// the handshake with any client.
pub(crate) const REJECTIONS: [u16; 3] = [400, 401, 403];

/// The response that counts as a pong: by default, that of ponger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, expecting = "keys below it")]
pub struct Expect {
    /// Status code that the response must have.
    pub status: u16,
    /// Header that the response must have, as `Name: value`.
    pub header: Option<ExpectedHeader>,
    /// Text that the body must have, as `expect.bodyMatch` says; white space at both ends of the body is ignored.
    pub body: String,
    /// The body must be equal to the text (`exact`), begin with it (`prefix`) or contain it (`contains`), or does not matter (`any`).
    pub body_match: BodyMatch,
    /// Any status from 200 to 299 will do: for a server of which nothing else is known.
    #[serde(skip)]
    pub any_success: bool,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            status: 200,
            header: None,
            body: "pong".into(),
            body_match: BodyMatch::Exact,
            any_success: false,
        }
    }
}

/// How a body is compared with the expected text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyMatch {
    /// The body is the text.
    Exact,
    /// The body begins with the text.
    Prefix,
    /// The body contains the text.
    Contains,
    /// The body may be anything, or empty.
    Any,
}

impl Expect {
    /// Rejects a status that no response has, and a text that has no effect.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if !(200..600).contains(&self.status) {
            let reason = format!("{} is no final status", self.status);
            return Err(
                ConfigError::new("expect.status", reason).hint("use a status code from 200 to 599")
            );
        }
        if self.body_match == BodyMatch::Any && self.body != Self::default().body {
            return Err(ConfigError::new("expect.body", "has no effect with `bodyMatch: any`")
                .hint("remove one of them"));
        }
        Ok(())
    }

    /// Whether a response may have `status`.
    pub(crate) fn has_status(&self, status: u16) -> bool {
        status == self.status || self.any_success && (200..300).contains(&status)
    }

    /// The status that a response must have, for a person.
    pub(crate) fn status_text(&self) -> String {
        if self.any_success { "2xx".to_owned() } else { self.status.to_string() }
    }

    /// Checks status and headers of a response of `peer`.
    pub(crate) fn check_head(
        &self,
        peer: &str,
        status: u16,
        headers: &HeaderMap,
    ) -> Result<(), Failure> {
        if !self.has_status(status) {
            let expected = self.status_text();
            let cause = format!("{peer} answered with status {status}, not {expected}");
            return Err(Failure::new(FailureReason::Status, cause));
        }
        let Some(ExpectedHeader { name, value }) = &self.header else { return Ok(()) };
        if headers.get_all(name).any(|found| found == value) {
            return Ok(());
        }
        let cause = match headers.get(name) {
            None => format!("{peer}'s response has no header `{name}`"),
            Some(found) => format!(
                "{peer} answered with header `{name}: {}`, not `{}`",
                excerpt(found.as_bytes()),
                excerpt(value.as_bytes())
            ),
        };
        Err(Failure::new(FailureReason::Header, cause))
    }

    /// Checks the body of a response of `peer`.
    pub(crate) fn check_body(&self, peer: &str, body: &[u8]) -> Result<(), Failure> {
        let (body, text) = (body.trim_ascii(), self.body.trim_ascii().as_bytes());
        let (is_match, relation) = match self.body_match {
            BodyMatch::Exact => (body == text, "not"),
            BodyMatch::Prefix => (body.starts_with(text), "which does not begin with"),
            // White space alone leaves no text.
            BodyMatch::Contains => (
                text.is_empty() || body.windows(text.len()).any(|window| window == text),
                "which does not contain",
            ),
            BodyMatch::Any => return Ok(()),
        };
        if is_match {
            return Ok(());
        }
        let cause = format!("{peer} answered `{}`, {relation} `{}`", excerpt(body), excerpt(text));
        Err(Failure::new(FailureReason::Body, cause))
    }
}

/// Returns the start of what a peer sent, fit to be logged.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    sanitize(String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).trim()).into_owned()
}

/// A header with its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExpectedHeader {
    name: HeaderName,
    value: HeaderValue,
}

impl TryFrom<String> for ExpectedHeader {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let header = text.split_once(':').and_then(|(name, value)| {
            let value = HeaderValue::from_str(value.trim()).ok()?;
            Some(Self { name: HeaderName::try_from(name.trim()).ok()?, value })
        });
        header.ok_or_else(|| {
            format!("`{text}` is not a header, expected `Name: value`, such as `Server: nginx`")
        })
    }
}

impl fmt::Display for ExpectedHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, String::from_utf8_lossy(self.value.as_bytes()))
    }
}

impl From<ExpectedHeader> for String {
    fn from(header: ExpectedHeader) -> Self {
        header.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(body: &str, body_match: BodyMatch) -> Expect {
        Expect { body: body.into(), body_match, ..Expect::default() }
    }

    #[test]
    fn compares_the_body_as_configured() {
        use BodyMatch::{Any, Contains, Exact, Prefix};
        for (text, body_match, matching, other) in [
            ("pong", Exact, &["pong", " pong\r\n"][..], &["", "pon", "pongs", "PONG"][..]),
            ("ok", Prefix, &["ok", "\nok: 3 of 3"], &["", "o", "not ok"]),
            ("ok", Contains, &["ok", "is ok now"], &["", "o k"]),
            ("\"up\":true", Contains, &["{\"up\":true}"], &["{\"up\": true}"]),
            ("pong", Any, &["", "x"], &[]),
        ] {
            let expect = expect(text, body_match);
            for body in matching {
                assert_eq!(
                    expect.check_body("ponger", body.as_bytes()),
                    Ok(()),
                    "{text:?} {body:?}"
                );
            }
            for body in other {
                let failure = expect.check_body("ponger", body.as_bytes()).unwrap_err();
                assert_eq!(failure.reason, FailureReason::Body, "{text:?} {body:?}");
                let quoted = format!(" `{}`", excerpt(text.as_bytes()));
                assert!(failure.cause.ends_with(&quoted), "{failure}");
            }
        }
    }

    #[test]
    fn a_body_that_does_not_match_is_quoted_in_part_and_without_control_characters() {
        let body = format!("\u{1b}[31m{}", "x".repeat(10_000));
        let failure = Expect::default().check_body("ponger", body.as_bytes()).unwrap_err();
        assert!(failure.cause.len() < 500, "{failure}");
        assert!(!failure.cause.contains('\u{1b}'), "{failure}");
    }

    #[test]
    fn parses_a_header() {
        for (text, written) in [
            ("Content-Type: text/plain; charset=utf-8", "content-type: text/plain; charset=utf-8"),
            (" x-served-by :a:b ", "x-served-by: a:b"),
            ("X-Empty:", "x-empty: "),
        ] {
            let header = ExpectedHeader::try_from(text.to_owned()).unwrap();
            assert_eq!(header.to_string(), written);
        }
        for text in ["", "Server", ": nginx", "a b: c", "Server: a\nb"] {
            ExpectedHeader::try_from(text.to_owned()).expect_err(text);
        }
    }

    #[test]
    fn one_of_several_headers_of_a_name_must_match() {
        let header = ExpectedHeader::try_from("Via: b".to_owned()).unwrap();
        let expect = Expect { header: Some(header), ..Expect::default() };
        let name = HeaderName::from_static("via");
        let mut headers = HeaderMap::new();
        let missing = expect.check_head("ponger", 200, &headers).unwrap_err();
        assert_eq!(missing.reason, FailureReason::Header);
        assert!(missing.cause.contains("has no header `via`"), "{missing}");
        headers.append(name.clone(), HeaderValue::from_static("a"));
        let other = expect.check_head("ponger", 200, &headers).unwrap_err();
        assert!(other.cause.contains("`via: a`, not `b`"), "{other}");
        headers.append(name, HeaderValue::from_static("b"));
        assert_eq!(expect.check_head("ponger", 200, &headers), Ok(()));
        // The status comes first.
        let status = expect.check_head("ponger", 404, &headers).unwrap_err();
        assert_eq!(status.reason, FailureReason::Status);
        assert!(status.cause.ends_with("status 404, not 200"), "{status}");
    }
}
