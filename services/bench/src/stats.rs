//! Medians with their range, and how two of them compare.

/// Values of the same metric, one for each round, and their median.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The median; of an even number of values, the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Summarizes `values`; `None` without any.
    pub fn new(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }

    /// Whether the greatest is more than one and a half times the least.
    pub fn is_wide(&self) -> bool {
        self.max > 1.5 * self.min
    }
}

/// How our values compare with a peer's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Our median over the peer's.
    pub of_medians: f64,
    /// The least and the greatest ratio of two values of one round.
    pub range: (f64, f64),
}

impl Ratio {
    /// Compares the values of the same rounds; `None` without any.
    pub fn new(ours: &[f64], peers: &[f64]) -> Option<Self> {
        let of_medians = Summary::new(ours)?.median / Summary::new(peers)?.median;
        let each: Vec<f64> = ours.iter().zip(peers).map(|(ours, peers)| ours / peers).collect();
        let Summary { min, max, .. } = Summary::new(&each)?;
        of_medians.is_finite().then_some(Self { of_medians, range: (min, max) })
    }

    /// Whether the rounds contradict each other on which is greater.
    pub fn is_undecided(&self) -> bool {
        self.range.0 <= 1.0 && self.range.1 >= 1.0
    }
}

/// Formats `value` with three significant digits, and `k` or `M` for thousands or millions.
pub fn format_number(value: f64) -> String {
    let (value, unit) = match value.abs() {
        large if large >= 999_500.0 => (value / 1e6, "M"),
        large if large >= 9_995.0 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match value.abs() {
        one if one < 0.005 => 0,
        one if one < 9.995 => 2,
        ten if ten < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_three_significant_digits() {
        let formatted =
            [0.0, 0.857, 9.999, 12.34, 2_600.0, 9_996.0, 68_049.0, 999_900.0, 3_784_000.0];
        let expected = ["0", "0.86", "10.0", "12.3", "2600", "10.0k", "68.0k", "1.00M", "3.78M"];
        assert_eq!(formatted.map(format_number), expected);
    }

    #[test]
    fn finds_median_and_range() {
        let summary = |values: &[f64]| Summary::new(values).map(|s| (s.median, s.min, s.max));
        assert_eq!(summary(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(summary(&[4.0, 1.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn knows_a_wide_spread() {
        let is_wide = |values: &[f64]| Summary::new(values).map(|summary| summary.is_wide());
        assert_eq!(is_wide(&[0.0, 0.0]), Some(false));
        assert_eq!(is_wide(&[15.0, 10.0]), Some(false));
        assert_eq!(is_wide(&[15.1, 10.0]), Some(true));
    }

    #[test]
    fn compares_medians_and_says_when_the_rounds_contradict() {
        let ratio = Ratio::new(&[110.0, 120.0, 130.0], &[100.0, 100.0, 100.0]).expect("a ratio");
        assert_eq!((ratio.of_medians, ratio.range), (1.2, (1.1, 1.3)));
        assert!(!ratio.is_undecided());
        let ratio = Ratio::new(&[90.0, 120.0, 130.0], &[100.0, 100.0, 100.0]).expect("a ratio");
        assert!(ratio.is_undecided());
        assert_eq!(Ratio::new(&[1.0], &[0.0]), None);
    }
}
