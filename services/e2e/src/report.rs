//! What is printed while scenarios run, and JUnit XML.

use std::{fmt::Write as _, fs, io, path::Path, time::Duration};

use crate::scenario::Scenario;

/// How a scenario went.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which one.
    pub scenario: Scenario,
    /// How long it took.
    pub took: Duration,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a scenario.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It holds: what was measured.
    Holds(String),
    /// It does not: why.
    Fails(String),
    /// It could not be tried: why.
    Skipped(String),
}

/// The error of a scenario that cannot be tried here, such as for want of nodes that may be stopped.
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
            Ok(measured) => Self::Holds(measured),
            Err(error) if error.is::<Skip>() => Self::Skipped(error.to_string()),
            Err(error) => Self::Fails(format!("{error:#}")),
        }
    }
}

impl Verdict {
    /// Says it, in a line for people.
    pub fn print(&self) {
        let Scenario { number, sentence, .. } = self.scenario;
        let took = self.took.as_secs_f64();
        let (word, text) = match &self.outcome {
            Outcome::Holds(measured) => ("ok  ", measured),
            Outcome::Fails(cause) => ("FAIL", cause),
            Outcome::Skipped(cause) => ("skip", cause),
        };
        println!("{word} {number:>2}. {sentence} ({took:.1} s)\n         {text}");
    }
}

/// Writes JUnit XML.
///
/// # Errors
/// When the file cannot be written.
pub fn junit(file: &Path, place: &str, verdicts: &[Verdict]) -> io::Result<()> {
    let count = |fits: fn(&Outcome) -> bool| {
        verdicts.iter().filter(|verdict| fits(&verdict.outcome)).count()
    };
    let failures = count(|outcome| matches!(outcome, Outcome::Fails(_)));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    let time: f64 = verdicts.iter().map(|verdict| verdict.took.as_secs_f64()).sum();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\" time=\"{time:.1}\">\n",
        escaped(place),
        verdicts.len(),
    );
    for verdict in verdicts {
        let Scenario { number, sentence, .. } = verdict.scenario;
        let took = verdict.took.as_secs_f64();
        let inner = match &verdict.outcome {
            Outcome::Holds(measured) => format!("<system-out>{}</system-out>", escaped(measured)),
            Outcome::Fails(cause) => format!("<failure message=\"{}\"/>", escaped(cause)),
            Outcome::Skipped(cause) => format!("<skipped message=\"{}\"/>", escaped(cause)),
        };
        let _ = writeln!(
            xml,
            "  <testcase name=\"{number}. {}\" time=\"{took:.1}\">{inner}</testcase>",
            escaped(sentence)
        );
    }
    xml.push_str("</testsuite>\n");
    fs::write(file, xml)
}

fn escaped(text: &str) -> String {
    text.chars()
        // XML 1.0 has no way to write the other control characters.
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .flat_map(|c| match c {
            '&' => "&amp;".chars().collect::<Vec<_>>(),
            '<' => "&lt;".chars().collect(),
            '>' => "&gt;".chars().collect(),
            '"' => "&quot;".chars().collect(),
            '\n' => "&#10;".chars().collect(),
            other => vec![other],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn what_xml_cannot_hold_is_written_otherwise_or_left_out() {
        assert_eq!(escaped("a<b> & \"c\"\n\u{1b}[1m"), "a&lt;b&gt; &amp; &quot;c&quot;&#10;[1m");
    }
}
