//! What a person must mend before a service can start, or before a reload can be taken.

use std::{
    fmt::{self, Write as _},
    process::ExitCode,
};

/// `EX_CONFIG` of BSD's `sysexits.h`: something in the configuration is wrong.
pub const EX_CONFIG: u8 = 78;

/// A configuration, a certificate, a key or an address that cannot be used.
///
/// It names the thing, the cause and, where there is one, the cure, and prints as
/// `thing: cause; cure`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    thing: String,
    cause: String,
    cure: Option<String>,
}

impl Unusable {
    /// `thing` cannot be used because of `cause`.
    pub fn new(thing: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self { thing: thing.to_string(), cause: cause.to_string(), cure: None }
    }

    /// Says what a person can do about it.
    #[must_use]
    pub fn cure(mut self, cure: impl fmt::Display) -> Self {
        self.cure = Some(cure.to_string());
        self
    }

    /// Says what a person can do about it, unless something more fitting was said.
    #[must_use]
    pub fn or_cure(self, cure: impl fmt::Display) -> Self {
        if self.cure.is_some() { self } else { self.cure(cure) }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cure = self.cure.as_ref().map(|cure| format!("; {cure}")).unwrap_or_default();
        let whole = format!("{}: {}{cure}", self.thing, self.cause);
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

impl std::error::Error for Unusable {}

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
/// ([`EX_CONFIG`]) for an [`Unusable`], 1 for everything else.
pub fn report(service: &str, error: &anyhow::Error) -> ExitCode {
    eprintln!("{service}: {error:#}");
    if error.is::<Unusable>() { ExitCode::from(EX_CONFIG) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_place_of_its_path_is_not_shown() {
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----";
        let half = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0";
        let left_out = "(a PEM block, left out)";
        for (cause, told) in [
            ("no key".to_owned(), "no key".to_owned()),
            (format!("`{key}` is text"), format!("`{left_out}` is text")),
            (format!("`{key}` and `{key}`"), format!("`{left_out}`")),
            (format!("`{half}` is text"), format!("`{left_out}")),
            (format!("`{key}` and `{half}`"), format!("`{left_out}` and `{left_out}")),
        ] {
            let shown = Unusable::new("a", cause).cure("b").to_string();
            assert!(shown.starts_with(&format!("a: {told}")), "{shown}");
            assert!(!shown.contains("c2VjcmV0"), "{shown}");
        }
        let shown = Unusable::new(half, "there is no such file").to_string();
        assert!(!shown.contains("c2VjcmV0"), "{shown}");
    }
}
