//! Prometheus' text format, as far as it is needed to read a counter.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

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
    /// Parses the text; lines that are none are left out.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(sample).collect())
    }

    /// The sum of the samples of `name` whose labels include `labels`.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        };
        self.0.iter().filter(fits).map(|sample| sample.value).sum()
    }

    /// The samples of `name` by the value of `label`, those above zero.
    pub fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.0.iter().filter(|sample| sample.name == name && sample.value > 0.0) {
            if let Some(value) = sample.labels.get(label) {
                *sums.entry(value.clone()).or_default() += sample.value;
            }
        }
        sums
    }
}

fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    // No label of ours has a comma or a quote in its value.
    let labels = labels
        .trim_end_matches('}')
        .split(',')
        .filter_map(|label| label.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

/// The answer to `GET path`: status and body, over a connection that ends with it.
///
/// # Errors
/// When the connection fails, or the answer is not HTTP.
pub async fn get(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
) -> Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = match answer.split_once("\r\n\r\n") {
        Some(parts) => parts,
        None => {
            ended?;
            anyhow::bail!("no answer to GET {path}");
        }
    };
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let body = match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        true => unchunked(body),
        false => body.to_owned(),
    };
    Ok((status.context("a status line")?, body))
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        let (Some(chunk), true) = (rest.get(..length), length > 0) else { break };
        whole.push_str(chunk);
        body = rest.get(length + 2..).unwrap_or("");
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_takes_the_samples_whose_labels_fit() {
        let samples = Samples::parse(
            "# HELP x y\nx_total{a=\"1\",b=\"2\"} 3\nx_total{a=\"1\",b=\"3\"} 4\nx_total{a=\"2\"} 5\ny 6\n",
        );
        assert_eq!(samples.sum("x_total", &[("a", "1")]), 7.0);
        assert_eq!(samples.sum("x_total", &[]), 12.0);
        assert_eq!(samples.sum("y", &[]), 6.0);
        assert_eq!(samples.by("x_total", "a")["2"], 5.0);
    }

    #[test]
    fn chunks_are_put_together() {
        assert_eq!(unchunked("4\r\npong\r\n3\r\nabc\r\n0\r\n\r\n"), "pongabc");
    }
}
