//! The results as Markdown.

use std::fmt::Write as _;

use crate::{
    line::Line,
    measure::{Better, Metric, SERVER_CPU},
    peer::Peer,
    run::{Cell, LineResult},
    stats::{Ratio, Summary, format_number},
};

/// What the results are of.
#[derive(Clone, Debug)]
pub struct Report {
    /// Lines about machine, tools and run.
    pub machine: Vec<String>,
    /// The peers, ours first, and what each negotiated.
    pub peers: Vec<(Peer, String)>,
    /// The peers that are not measured, with the reason.
    pub missing: Vec<(String, String)>,
    /// The results.
    pub results: Vec<LineResult>,
}

/// How the tables are read.
const LEGEND: &str = "\
Each cell is the median of all rounds (least to greatest). Below it, in a peer's column, is **ping-pong divided by that peer**,
as a ratio of medians (least to greatest ratio within one round). ▲: higher is better, ▼: lower is better.
**≈**: the rounds contradict each other on which is better; the difference is smaller than the spread, and means nothing.
**±**: the greatest value is more than one and a half times the least; the median alone says little.";

/// What is said of one round.
const SINGLE_ROUND: &str = "\
**A single round**: times and rates have no spread here, so nothing tells which difference means anything.";

impl Report {
    /// Formats it; `pictures` are file names.
    pub fn markdown(&self, pictures: &[String]) -> String {
        let mut text = String::from("# ping-pong and its peers\n\n");
        for line in &self.machine {
            let _ = writeln!(text, "- {line}");
        }
        text.push_str("\n| peer | version | negotiated |\n| --- | --- | --- |\n");
        for (peer, negotiated) in &self.peers {
            let (name, version) = (cell_text(&peer.name), cell_text(&peer.version));
            let _ = writeln!(text, "| {name} | {version} | {negotiated} |");
        }
        for (name, why) in &self.missing {
            let _ = writeln!(text, "| {name} | missing: {} | |", cell_text(why));
        }
        let _ = writeln!(text, "\n{LEGEND}");
        if self.has_a_single_round() {
            let _ = writeln!(text, "\n{SINGLE_ROUND}");
        }
        text.push_str("\n| line | metric |");
        for (peer, _) in &self.peers {
            let _ = write!(text, " {} |", cell_text(&peer.name));
        }
        text.push('\n');
        let _ = writeln!(text, "|{}", " --- |".repeat(2 + self.peers.len()));
        for result in &self.results {
            for row in rows(result) {
                let _ = writeln!(text, "{row}");
            }
        }
        if let Some(ratio) = self.hybrid_cost() {
            let _ = writeln!(
                text,
                "\nping-pong's CPU for a handshake with X25519MLKEM768, divided by that with X25519 alone: **{}**.",
                format_number(ratio)
            );
        }
        for picture in pictures {
            let _ = writeln!(text, "\n![{picture}]({picture})");
        }
        text
    }

    /// Whether no line that is measured in several rounds was.
    fn has_a_single_round(&self) -> bool {
        let mut lines = self.results.iter().filter(|result| result.line.rounds(2) > 1).peekable();
        let has_rounds = |result: &LineResult| {
            let values = result.cells.iter().flat_map(|cell| &cell.values);
            values.into_iter().any(|(_, values)| values.len() > 1)
        };
        lines.peek().is_some() && !lines.any(has_rounds)
    }

    /// Our CPU time for a handshake with the hybrid group over that with X25519.
    fn hybrid_cost(&self) -> Option<f64> {
        let median = |name: &str| {
            let result = self.results.iter().find(|result| result.line.name == name)?;
            Some(Summary::new(result.cells.first()?.values_of(SERVER_CPU))?.median)
        };
        Some(median("handshakes")? / median("handshakes-x25519")?)
    }
}

/// One row for each metric of a line; one that says why, if no peer has a value.
fn rows(LineResult { line, cells }: &LineResult) -> Vec<String> {
    let mut metrics = metrics_of(cells);
    if let Some(point) = line.point {
        metrics.retain(|metric| point.metrics.contains(metric));
    }
    if metrics.is_empty() {
        let missing: String = cells.iter().map(|cell| format!(" {} |", missing(cell))).collect();
        return vec![format!("{} |{missing}", head(line, true, ""))];
    }
    let row = |(index, metric): (usize, &Metric)| {
        let sign = match metric.better {
            Better::Higher => " ▲",
            Better::Lower => " ▼",
            Better::Neither => "",
        };
        let head = head(line, index == 0, &format!("{}{sign}", metric.name));
        let ours = cells.first();
        let cells = cells.iter().enumerate().map(|(at, cell)| {
            let ours = ours.filter(|_| at > 0 && metric.better != Better::Neither);
            format!(" {} |", format_cell(cell, *metric, ours))
        });
        format!("{head} |{}", cells.collect::<String>())
    };
    metrics.iter().enumerate().map(row).collect()
}

/// The metrics that any of `cells` has, in the order of their first appearance.
pub(crate) fn metrics_of(cells: &[Cell]) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    for (metric, _) in cells.iter().flat_map(|cell| &cell.values) {
        if !metrics.contains(metric) {
            metrics.push(*metric);
        }
    }
    metrics
}

/// The first two columns; the line is named in its first row only.
fn head(line: &Line, is_first: bool, metric: &str) -> String {
    let title = if is_first { format!("`{}`: {}", line.name, line.title) } else { String::new() };
    format!("| {title} | {metric}")
}

fn format_cell(cell: &Cell, metric: Metric, ours: Option<&Cell>) -> String {
    let values = cell.values_of(metric);
    let Some(summary) = Summary::new(values) else { return missing(cell) };
    let spread = if summary.is_wide() { "± " } else { "" };
    let mut text = format!("{spread}{}", format_number(summary.median));
    let range = format_range(summary.min, summary.max);
    if values.len() > 1 {
        let _ = write!(text, " ({range})");
    }
    if let Some(ratio) = ours.and_then(|ours| Ratio::new(ours.values_of(metric), values)) {
        let about = if ratio.is_undecided() { "≈ " } else { "" };
        let _ = write!(text, "<br>{about}**{}**", format_number(ratio.of_medians));
        if values.len() > 1 {
            let _ = write!(text, " ({})", format_range(ratio.range.0, ratio.range.1));
        }
    }
    text
}

fn format_range(min: f64, max: f64) -> String {
    format!("{} to {}", format_number(min), format_number(max))
}

fn missing(cell: &Cell) -> String {
    cell_text(cell.missing.as_deref().unwrap_or("—"))
}

/// `text` as a cell of a table, which is one line.
fn cell_text(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{line, measure::RATE, peer::Kind};

    fn cell(values: &[f64]) -> Cell {
        Cell { values: vec![(RATE, values.to_vec())], ..Cell::default() }
    }

    fn result(cells: Vec<Cell>) -> LineResult {
        LineResult { line: line::all().swap_remove(0), cells }
    }

    #[test]
    fn compares_each_peer_with_ours() {
        let rows = rows(&result(vec![
            cell(&[120.0, 121.0, 119.0]),
            cell(&[100.0, 100.0, 100.0]),
            cell(&[119.0, 122.0, 110.0]),
            Cell { missing: Some("no\nlog".into()), ..Cell::default() },
        ]));
        let [row] = rows.as_slice() else { panic!("one row: {rows:?}") };
        let cells: Vec<_> = row.split(" | ").skip(1).collect();
        assert_eq!(
            cells,
            [
                "pongs a second ▲",
                "120 (119 to 121)",
                "100 (100 to 100)<br>**1.20** (1.19 to 1.21)",
                "119 (110 to 122)<br>≈ **1.01** (0.99 to 1.08)",
                "no log |",
            ]
        );
    }

    #[test]
    fn shows_no_spread_of_a_single_round() {
        let rows = rows(&result(vec![cell(&[120.0]), cell(&[100.0])]));
        assert!(rows[0].ends_with("| 120 | 100<br>**1.20** |"), "{rows:?}");
        let says_so = |values: &[f64]| {
            let results = vec![result(vec![cell(values)])];
            let report =
                Report { machine: Vec::new(), peers: Vec::new(), missing: Vec::new(), results };
            report.markdown(&[]).contains(SINGLE_ROUND)
        };
        assert!(says_so(&[120.0]) && !says_so(&[120.0, 121.0]));
    }

    #[test]
    fn marks_a_median_of_values_that_are_far_apart() {
        let rows = rows(&result(vec![cell(&[120.0, 70.0, 119.0]), cell(&[100.0, 90.0, 110.0])]));
        let cells: Vec<_> = rows[0].split(" | ").skip(2).collect();
        assert_eq!(cells[0], "± 119 (70.0 to 120)");
        assert!(cells[1].starts_with("100 (90.0 to 110)<br>"), "{cells:?}");
    }

    #[test]
    fn names_missing_peers() {
        let peer =
            Peer { name: "other".into(), version: "1".into(), kind: Kind::Shell(String::new()) };
        let text = Report {
            machine: vec!["processor: one".into()],
            peers: vec![(peer, "TLSv1_3".into())],
            missing: vec![("Go".into(), "go is\nnot installed".into())],
            results: vec![result(vec![cell(&[1.0])])],
        }
        .markdown(&["ratios.svg".into()]);
        for expected in [
            "- processor: one\n",
            "| other | 1 | TLSv1_3 |\n",
            "| Go | missing: go is not installed | |\n",
            "| line | metric | other |\n| --- | --- | --- |\n",
            "![ratios.svg](ratios.svg)\n",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}
