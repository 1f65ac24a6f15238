//! Errors that a person must fix before a service can start, or before a reload is accepted.

use std::{
    fmt::{self, Write as _},
    time::Duration,
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

    /// Adds what a person can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Adds what a person can do about it, unless there is a hint already.
    #[must_use]
    pub fn or_hint(self, hint: impl fmt::Display) -> Self {
        if self.hint.is_some() { self } else { self.hint(hint) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = self.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        let whole = format!("{}: {}{hint}", self.subject, self.reason);
        // It may quote foreign text, which must not control a terminal.
        without_keys(&whole).chars().try_for_each(|letter| {
            if letter.is_control() {
                write!(f, "{}", letter.escape_default())
            } else {
                f.write_char(letter)
            }
        })
    }
}

impl std::error::Error for ConfigError {}

/// Returns `text` without PEM blocks and bare base64, whole or cut: a key in place of its path must
/// not be logged.
fn without_keys(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, block)) = rest.split_once("-----BEGIN") {
        let end = block.split_once("-----END").and_then(|(_, end)| end.split_once("-----"));
        kept = kept + before + "(a PEM block, not shown)";
        rest = end.map_or("", |(_, after)| after);
    }
    kept += rest;
    // Paths and fingerprints have long words, too: those begin with `/`, and these are hexadecimal.
    let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let key = |word: &&str| {
        word.len() >= 64 && !word.starts_with('/') && !word.chars().all(|c| c.is_ascii_hexdigit())
    };
    let find = |text: &str| text.split(|c| !base64(c)).find(key).and_then(|word| text.find(word));
    while let Some(start) = find(&kept) {
        // Its further lines, the last of which may be short.
        let length = kept[start..].find(|c| !(base64(c) || " \\\n\r".contains(c)));
        let end = length.map_or(kept.len(), |length| start + length);
        kept.replace_range(start..end, "(base64, not shown)");
    }
    kept
}

/// Prints why `service` exits, and returns the exit code: 78 ([`EX_CONFIG`]) for a [`ConfigError`],
/// 1 for everything else. Waits at most ten seconds for standard error to be read: on a busy machine, a
/// second may pass before the thread that writes gets its turn.
pub fn exit_code(service: &str, error: &anyhow::Error) -> u8 {
    let line = format!("{service}: {error:#}");
    let (written, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        eprintln!("{line}");
        let _ = written.send(());
    });
    let _ = done.recv_timeout(Duration::from_secs(10));
    if error.is::<ConfigError>() { EX_CONFIG } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_prints_a_key_in_place_of_its_path() {
        let line = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgc2VjcmV0c2VjcmV0";
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{line}\nc2VjcmV0\n-----END PRIVATE KEY-----");
        let half = format!("-----BEGIN PRIVATE KEY-----\n{line}");
        let path = format!("/{0}/{0}/{0}/tls.key", "identity/0123456789");
        for (reason, printed) in [
            ("no key".to_owned(), "no key".to_owned()),
            (format!("`{path}` {}", "0a".repeat(32)), format!("`{path}` {}", "0a".repeat(32))),
            (format!("`{pem}` is text"), "`(a PEM block, not shown)` is text".into()),
            (format!("`{pem}`, `{half}`"), "`(a PEM block, not shown)`, `(a PEM block, not".into()),
            (format!("`{half}`, `{pem}`"), "`(a PEM block, not shown)`".into()),
            (format!("`{line}` is text"), "`(base64, not shown)` is text".into()),
            (format!("`{line} {line} c2VjcmV0`"), "`(base64, not shown)`".into()),
            (format!("`{line}\\nc2VjcmV0`"), "`(base64, not shown)`".into()),
        ] {
            for error in [ConfigError::new("a", &reason).hint("b"), ConfigError::new(&reason, "b")]
            {
                let error = error.to_string();
                assert!(error.trim_start_matches("a: ").starts_with(&printed), "{error}");
                assert!(!error.contains("c2VjcmV0"), "{error}");
            }
        }
    }
}
