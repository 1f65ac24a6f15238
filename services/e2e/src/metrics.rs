//! A parser of Prometheus's text format, as far as reading counters needs it.

use std::collections::BTreeMap;

/// Label names and values that a sample must have; others may be there too.
pub type Labels<'l> = &'l [(&'l str, &'l str)];

/// The samples of one process at one moment.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Samples {
    /// Parses the text; comments are skipped.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(parse_sample).collect())
    }

    /// Returns the sum of the samples of `name` that have `labels`.
    pub fn sum(&self, name: &str, labels: Labels<'_>) -> f64 {
        let matches = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| {
                    sample.labels.get(*label).is_some_and(|found| found == value)
                })
        };
        self.0.iter().filter(matches).map(|sample| sample.value).sum()
    }

    /// Returns how many pings were answered by a pong.
    pub fn pongs(&self) -> f64 {
        self.sum("pinger_pings_total", &[("result", "pong")])
    }
}

fn parse_sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    // No label value of the services has a comma or a quote.
    let labels = labels
        .trim_end_matches('}')
        .split(',')
        .filter_map(|label| label.split_once('='))
        .map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_samples_with_matching_labels() {
        let samples = Samples::parse(
            "# HELP x y\nx_total{a=\"1\",b=\"2\"} 3\nx_total{a=\"1\",b=\"3\"} 4\nx_total{a=\"2\"} 5\ny 6\n",
        );
        assert_eq!(samples.sum("x_total", &[("a", "1")]), 7.0);
        assert_eq!(samples.sum("x_total", &[]), 12.0);
        assert_eq!(samples.sum("y", &[]), 6.0);
    }
}
