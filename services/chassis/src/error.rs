//! Errors that a person must fix before a service can start, or before a reload is accepted.

use std::{
    fmt::{self, Write as _},
    ops::Range,
    path::Path,
    time::Duration,
};

/// `EX_CONFIG` of BSD's `sysexits.h`: something in the configuration is wrong.
pub const EX_CONFIG: u8 = 78;

/// How many characters of a subject and of a reason are printed: they may quote a whole file.
const MAX_LENGTH: usize = 1000;

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

    /// Calls the configuration key `key` by `name`: the flag that has set it.
    #[must_use]
    pub fn rename(mut self, key: &str, name: &str) -> Self {
        let rename = |text: &str| text.replace(&format!("`{key}`"), name).replace(key, name);
        self.subject = rename(&self.subject);
        self.reason = rename(&self.reason);
        self.hint = self.hint.as_deref().map(rename);
        self
    }

    /// Adds the configuration key to a subject that is one of the `files` that such keys name:
    /// `/tls.key (service.tlsPrivateKey)`.
    #[must_use]
    pub fn name_key(mut self, files: &[(&str, Option<&Path>)]) -> Self {
        let is_subject = |path: &Path| path.display().to_string() == self.subject;
        if let Some((key, _)) = files.iter().find(|(_, path)| path.is_some_and(is_subject)) {
            self.subject = format!("{} ({key})", self.subject);
        }
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = self.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        let whole = format!("{}: {}{hint}", shorten(&self.subject), shorten(&self.reason));
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

/// The beginning of `text`, without the keys in it.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_LENGTH) {
        // Withheld afterwards: an open block of PEM is withheld to its end.
        Some((end, _)) => without_keys(&text[..end]) + "...",
        None => without_keys(text),
    }
}

/// A second signal to stop came, so the service ends without what it still waited for.
#[derive(Debug, thiserror::Error)]
#[error("stopped by a second {signal} {state}")]
pub struct SecondSignal {
    /// The signal's name.
    pub signal: &'static str,
    /// What the service did not complete.
    pub state: &'static str,
}

/// Returns `text` without PEM blocks and private keys: a key in place of its path must not be logged.
pub(crate) fn without_keys(text: &str) -> String {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some((range, what)) = find_key(rest) {
        kept = kept + &rest[..range.start] + what;
        rest = &rest[range.end..];
    }
    kept + rest
}

/// Where `text` holds a PEM block, or the base64 of a private key without its boundaries, and what to
/// print in its place.
pub(crate) fn find_key(text: &str) -> Option<(Range<usize>, &'static str)> {
    let block = text.find("-----BEGIN").map(|start| {
        let end = text[start..].find("-----END").and_then(|end| {
            let label = start + end + "-----END".len();
            Some(label + text[label..].find("-----")? + "-----".len())
        });
        (start..end.unwrap_or(text.len()), "(a PEM block, not shown)")
    });
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let is_start = |start: &usize| {
        !text[..*start].ends_with(is_base64) && begins_private_key(&text.as_bytes()[*start..])
    };
    let key = text.match_indices('M').map(|(start, _)| start).find(is_start).map(|start| {
        // Its further lines, too.
        let length = text[start..].find(|c| !(is_base64(c) || " \\\n\r".contains(c)));
        let end = length.map_or(text.len(), |length| start + length);
        (start..end, "(a private key, not shown)")
    });
    block.into_iter().chain(key).min_by_key(|(range, _)| range.start)
}

/// Whether `base64` begins as private keys do: a DER sequence, of which the first field is the version,
/// 0 or 1 (RFC 5208, RFC 5915, RFC 8017). Paths, names and certificates do not.
fn begins_private_key(base64: &[u8]) -> bool {
    let has = |position: usize, wanted: &[u8]| {
        base64.get(position..).is_some_and(|rest| rest.starts_with(wanted))
    };
    // By the number of bytes that the length of the sequence takes: 1, 2 or 3.
    has(0, b"M") && has(3, b"CAQ") || has(0, b"MI") && (has(4, b"AgE") || has(6, b"IBA"))
}

/// Prints `line`, which says why the process exits, and returns the exit code: 78 ([`EX_CONFIG`]) for a
/// [`ConfigError`], 1 for everything else. Waits for standard error to be read, though not for long.
pub fn exit_code(line: String, error: &anyhow::Error) -> u8 {
    let (written, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        eprintln!("{line}");
        let _ = written.send(());
    });
    let _ = done.recv_timeout(write_timeout(error));
    if error.is::<ConfigError>() { EX_CONFIG } else { 1 }
}

/// How long standard error may take to be read. On a busy machine, a second may pass before the thread
/// that writes gets its turn. A second signal asks to end at once, and the message says little more.
fn write_timeout(error: &anyhow::Error) -> Duration {
    if error.is::<SecondSignal>() { Duration::from_millis(100) } else { Duration::from_secs(10) }
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
        for (reason, printed) in [
            (format!("`{pem}` is text"), "`(a PEM block, not shown)` is text"),
            (format!("`{pem}`, `{half}`"), "`(a PEM block, not shown)`, `(a PEM block, not"),
            (format!("`{half}`, `{pem}`"), "`(a PEM block, not shown)`"),
            (format!("`{line}` is text"), "`(a private key, not shown)` is text"),
            (format!("`{line} {line} c2VjcmV0`"), "`(a private key, not shown)`"),
            (format!("`{line}\\nc2VjcmV0`"), "`(a private key, not shown)`"),
            // Ed25519, SEC1, and RSA as PKCS#8 and PKCS#1.
            ("MC4CAQAwBQYDK2VwBCIEIc2VjcmV0".into(), "(a private key, not shown)"),
            ("MHcCAQEEIc2VjcmV0".into(), "(a private key, not shown)"),
            ("MIIEvgIBADANBgkqhkic2VjcmV0".into(), "(a private key, not shown)"),
            ("MIIEpAIBAAKCAQEAwxc2VjcmV0".into(), "(a private key, not shown)"),
        ] {
            for error in [ConfigError::new("a", &reason).hint("b"), ConfigError::new(&reason, "b")]
            {
                let error = error.to_string();
                assert!(error.trim_start_matches("a: ").starts_with(printed), "{error}");
                assert!(!error.contains("c2VjcmV0"), "{error}");
            }
        }
    }

    #[test]
    fn recognizes_a_new_key() {
        let pem = testkit::Leaf::new().self_signed().key;
        let base64: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
        assert_eq!(ConfigError::new("a", base64).to_string(), "a: (a private key, not shown)");
    }

    #[test]
    fn prints_paths_ids_and_digests_whole() {
        for text in [
            "/var/run/secrets/kubernetes.io/serviceaccount/namespaces/ping-pong/my-certificate.crt",
            "certificates/development/intermediate/authority/of/the/cluster/ponger-1.example.com.key",
            "MyProject/certificates/development/intermediate/authority/of/the/cluster/ponger.key",
            "spiffe://a-long-trust-domain.example.com/ns/a-namespace-of-a-team/sa/pinger-canary_1",
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "MIIBszCCAVmgAwIBAgIUcGluZ2VyCgYIKoZIzj0EAwIwEjEQMA4GA1UEAwwHUm9vdCBDQTAeFw0yNjA",
        ] {
            assert_eq!(ConfigError::new(text, text).to_string(), format!("{text}: {text}"));
        }
    }

    #[test]
    fn prints_the_beginning_of_a_long_subject_and_reason() {
        let (long, cut) = ("é".repeat(MAX_LENGTH + 1), "é".repeat(MAX_LENGTH) + "...");
        let error = ConfigError::new(&long, &long).hint("b").to_string();
        assert_eq!(error, format!("{cut}: {cut}; b"));
    }

    #[test]
    fn never_prints_a_key_that_is_cut_off() {
        let line = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgc2VjcmV0c2VjcmV0";
        for key in [line.to_owned(), format!("-----BEGIN PRIVATE KEY-----\n{line}")] {
            for padding in MAX_LENGTH - key.len()..=MAX_LENGTH {
                let text = format!("{} {key}", "-".repeat(padding));
                let error = ConfigError::new("a", text).hint("b").to_string();
                // Its beginning is the same in every key.
                assert!(!error.contains("MIGHAgEAM") && error.ends_with("; b"), "{error}");
            }
        }
    }

    #[test]
    fn names_a_flag_in_place_of_its_key() {
        let error =
            ConfigError::new("/ca (ponger.acceptCert)", "b").hint("set `ponger.acceptCert`");
        let renamed = error.rename("ponger.acceptCert", "--accept-cert").to_string();
        assert_eq!(renamed, "/ca (--accept-cert): b; set --accept-cert");
    }

    #[test]
    fn names_the_key_of_a_file() {
        let files = [("a", None), ("service.clientCa", Some(Path::new("/ca")))];
        let error = |subject| ConfigError::new(subject, "why").name_key(&files).to_string();
        assert_eq!(error("/ca"), "/ca (service.clientCa): why");
        assert_eq!(error("/tls"), "/tls: why");
    }
}
