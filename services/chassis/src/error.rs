//! What a person must mend before a service can start, or before a reload can be taken.

use std::{
    fmt::{self, Write as _},
    process::ExitCode,
};

/// `EX_CONFIG` of BSD's `sysexits.h`: something in the configuration is wrong.
pub const EX_CONFIG: u8 = 78;

/// A configuration, a certificate, a key or an address that cannot be used.
///
/// It names the subject, the reason and, where there is one, the hint, and prints as
/// `subject: reason; hint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    subject: String,
    reason: String,
    hint: Option<String>,
}

impl ConfigError {
    /// `subject` cannot be used because of `reason`.
    pub fn new(subject: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self { subject: subject.to_string(), reason: reason.to_string(), hint: None }
    }

    /// Says what a person can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Says what a person can do about it, unless something more fitting was said.
    #[must_use]
    pub fn or_hint(self, hint: impl fmt::Display) -> Self {
        if self.hint.is_some() { self } else { self.hint(hint) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = self.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        let whole = format!("{}: {}{hint}", self.subject, self.reason);
        // What others wrote may be quoted in it, and must not disturb a terminal.
        without_pem(&whole).chars().try_for_each(|letter| {
            if letter.is_control() {
                write!(f, "{}", letter.escape_default())
            } else {
                f.write_char(letter)
            }
        })
    }
}

impl std::error::Error for ConfigError {}

/// `text` without the PEM blocks in it, whole or not: who puts a key where its path belongs must not
/// find it in a log.
fn without_pem(text: &str) -> String {
    let Some((before, block)) = text.split_once("-----BEGIN") else {
        return text.to_owned();
    };
    let after = block.rsplit_once("-----END").and_then(|(_, end)| end.split_once("-----"));
    let after = after.map(|(_, after)| without_pem(after)).unwrap_or_default();
    format!("{before}(a PEM block, left out){after}")
}

/// Tells the person at the terminal why `service` ends, and chooses the exit code: 78
/// ([`EX_CONFIG`]) for an [`ConfigError`], 1 for everything else.
pub fn exit_with(service: &str, error: &anyhow::Error) -> ExitCode {
    eprintln!("{service}: {error:#}");
    if error.is::<ConfigError>() { ExitCode::from(EX_CONFIG) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_place_of_its_path_is_not_shown() {
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----";
        let half = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0";
        let left_out = "(a PEM block, left out)";
        for (reason, told) in [
            ("no key".to_owned(), "no key".to_owned()),
            (format!("`{key}` is text"), format!("`{left_out}` is text")),
            (format!("`{key}` and `{key}`"), format!("`{left_out}`")),
            (format!("`{half}` is text"), format!("`{left_out}")),
            (format!("`{key}` and `{half}`"), format!("`{left_out}` and `{left_out}")),
        ] {
            let shown = ConfigError::new("a", reason).hint("b").to_string();
            assert!(shown.starts_with(&format!("a: {told}")), "{shown}");
            assert!(!shown.contains("c2VjcmV0"), "{shown}");
        }
        let shown = ConfigError::new(half, "there is no such file").to_string();
        assert!(!shown.contains("c2VjcmV0"), "{shown}");
    }
}
