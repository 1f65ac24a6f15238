//! Results as text and as JUnit XML.

use std::{fmt::Write as _, fs, io, path::Path, time::Duration};

/// The result of a scenario.
#[derive(Clone, Debug)]
pub struct ScenarioResult {
    /// The scenario's number.
    pub number: u8,
    /// What the scenario proves.
    pub sentence: &'static str,
    /// How long it took.
    pub duration: Duration,
    /// Whether it passed.
    pub outcome: Outcome,
}

/// Whether a scenario passed.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It passed, with what was measured.
    Passed(String),
    /// It failed, with the cause.
    Failed(String),
    /// It could not run, with the cause.
    Skipped(String),
}

/// The error of a scenario that cannot run here, for example because no node can be stopped.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

impl From<anyhow::Result<String>> for Outcome {
    fn from(result: anyhow::Result<String>) -> Self {
        match result {
            Ok(measured) => Self::Passed(measured),
            Err(error) if error.is::<Skip>() => Self::Skipped(error.to_string()),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}

impl ScenarioResult {
    /// Prints the result.
    pub fn print(&self) {
        let Self { number, sentence, .. } = self;
        let (word, text) = match &self.outcome {
            Outcome::Passed(measured) => ("ok  ", measured),
            Outcome::Failed(cause) => ("FAIL", cause),
            Outcome::Skipped(cause) => ("skip", cause),
        };
        let seconds = self.duration.as_secs_f64();
        println!("{word} {number:>2}. {sentence} ({seconds:.1} s)\n         {text}");
    }
}

/// How many scenarios had each outcome.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// How many passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many were skipped.
    pub skipped: usize,
}

impl Totals {
    /// Counts the outcomes.
    pub fn new(results: &[ScenarioResult]) -> Self {
        let mut totals = Self::default();
        for result in results {
            match result.outcome {
                Outcome::Passed(_) => totals.passed += 1,
                Outcome::Failed(_) => totals.failed += 1,
                Outcome::Skipped(_) => totals.skipped += 1,
            }
        }
        totals
    }
}

/// Writes JUnit XML; `suite` names the test suite.
///
/// # Errors
/// When the file cannot be written.
pub fn write_junit(file: &Path, suite: &str, results: &[ScenarioResult]) -> io::Result<()> {
    let Totals { failed, skipped, .. } = Totals::new(results);
    let time: Duration = results.iter().map(|result| result.duration).sum();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\" skipped=\"{skipped}\" time=\"{:.1}\">\n",
        escape(suite),
        results.len(),
        time.as_secs_f64(),
    );
    for ScenarioResult { number, sentence, duration, outcome } in results {
        let details = match outcome {
            Outcome::Passed(measured) => format!("<system-out>{}</system-out>", escape(measured)),
            Outcome::Failed(cause) => format!("<failure message=\"{}\"/>", escape(cause)),
            Outcome::Skipped(cause) => format!("<skipped message=\"{}\"/>", escape(cause)),
        };
        let _ = writeln!(
            xml,
            "  <testcase name=\"{number}. {}\" time=\"{:.1}\">{details}</testcase>",
            escape(sentence),
            duration.as_secs_f64()
        );
    }
    xml.push_str("</testsuite>\n");
    fs::write(file, xml)
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            // XML 1.0 cannot represent the other control characters.
            c if c.is_control() && c != '\t' => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn escapes_markup_and_drops_control_characters() {
        assert_eq!(escape("a<b> & \"c\"\n\u{1b}[1m"), "a&lt;b&gt; &amp; &quot;c&quot;&#10;[1m");
    }
}
