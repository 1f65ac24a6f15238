//! An axis of values, linear or logarithmic.

use std::ops::Range;

use plotters::coord::{
    ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter},
    types::RangedCoordf64,
};

use crate::stats::{Summary, format_number};

/// How many labels a linear axis has at most.
const LABELS: usize = 12;

/// The height of an entry of the legend, as a part of the axis.
const LEGEND_ENTRY: f64 = 0.048;

/// An axis; logarithmic where its values span a factor of ten, for small ones to be told apart.
/// plotters' own logarithmic axis is another type, and has labels at powers of ten alone.
#[derive(Clone)]
pub(super) struct Axis {
    range: Range<f64>,
    /// Whether it is logarithmic.
    pub(super) is_log: bool,
    /// Where it has labels.
    labels: Vec<f64>,
}

impl Axis {
    /// An axis with a label at each of `steps`; `None` for fewer than two different ones.
    pub(super) fn of_steps(mut steps: Vec<f64>) -> Option<Self> {
        steps.sort_unstable_by(f64::total_cmp);
        steps.dedup();
        let Summary { min, max, .. } = Summary::new(&steps).filter(|all| all.min < all.max)?;
        Some(Self { range: min..max, is_log: is_log(min, max), labels: steps })
    }

    /// An axis from zero, or the least of `values` if it is logarithmic, with room for a legend of so
    /// many `entries` beyond the greatest; `None` without values.
    pub(super) fn of_values(values: &[f64], entries: usize) -> Option<Self> {
        let Summary { min, max, .. } = Summary::new(values).filter(|all| all.max > 0.0)?;
        let is_log = is_log(min, max);
        let range = if is_log {
            0.7 * min..1.5 * max
        } else {
            0.0..max / (1.0 - LEGEND_ENTRY * (entries as f64 + 1.5))
        };
        let labels = if is_log {
            (-3..12)
                .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)))
                .filter(|label| range.contains(label))
                .collect()
        } else {
            RangedCoordf64::from(range.clone()).key_points(LABELS)
        };
        Some(Self { range, is_log, labels })
    }

    fn at(&self, value: f64) -> f64 {
        if self.is_log { value.log10() } else { value }
    }
}

fn is_log(least: f64, greatest: f64) -> bool {
    least > 0.0 && greatest >= 10.0 * least
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let (start, end) = (self.at(self.range.start), self.at(self.range.end));
        RangedCoordf64::from(start..end).map(&self.at(*value), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Without lines between the labels.
        if hint.weight().allow_light_points() { Vec::new() } else { self.labels.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        format_number(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(axis: &Axis, values: &[f64]) -> Vec<i32> {
        values.iter().map(|value| axis.map(value, (0, 300))).collect()
    }

    #[test]
    fn steps_have_a_label_each() {
        let axis = Axis::of_steps(vec![1.0, 10.0, 1000.0]).expect("an axis");
        assert_eq!(positions(&axis, &axis.labels), [0, 100, 300]);
        let axis = Axis::of_steps(vec![1.0, 2.0, 4.0, 1.0]).expect("an axis");
        assert_eq!(positions(&axis, &axis.labels), [0, 100, 300]);
        assert!(Axis::of_steps(vec![2.0, 2.0]).is_none() && Axis::of_steps(Vec::new()).is_none());
    }

    #[test]
    fn values_far_apart_have_a_logarithmic_axis() {
        let axis = Axis::of_values(&[3.0, 30.0], 4).expect("an axis");
        assert_eq!(axis.labels, [5.0, 10.0, 20.0]);
        let axis = Axis::of_values(&[3.0, 29.0], 4).expect("an axis");
        assert_eq!((axis.range.start, axis.labels[0], axis.is_log), (0.0, 0.0, false));
        assert!(!Axis::of_values(&[0.0, 29.0], 4).expect("an axis").is_log);
        assert!(Axis::of_values(&[0.0], 4).is_none() && Axis::of_values(&[], 4).is_none());
    }
}
