//! Axes of plots, and where they are marked.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use std::ops::Range;

/// A logarithmic axis has room for this many marks.
const MAX_MARKS: usize = 10;

/// An axis with marks of its own; the library's logarithmic one has next to none where a range spans few powers of ten.
#[derive(Clone, Debug)]
pub(super) struct PlotAxis {
    /// From the lowest to the highest value.
    pub range: Range<f64>,
    /// Where it is marked.
    pub marks: Vec<f64>,
    /// Whether equal ratios, and not equal differences, are equally long.
    pub logarithmic: bool,
}

impl Ranged for PlotAxis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let Range { start, end } = self.range;
        let part = if self.logarithmic {
            (value / start).ln() / (end / start).ln()
        } else {
            (value - start) / (end - start)
        };
        from + (part * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Round, evenly spaced numbers in a range, about as many as `count` at most.
pub(super) fn even_marks(range: Range<f64>, count: usize) -> Vec<f64> {
    let about = (range.end - range.start) / count as f64;
    let power = 10f64.powf(about.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= about).unwrap_or(10.0);
    let step = factor * power;
    let (first, last) = ((range.start / step).ceil() as i64, (range.end / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Where a logarithmic axis is marked: at round multiples of the powers of ten, as many as there is room for, or evenly
/// where the range spans little.
pub(super) fn marks(range: Range<f64>) -> Vec<f64> {
    let span = range.end / range.start;
    if span < 5.0 {
        return even_marks(range, 9);
    }
    let powers = range.start.log10().floor() as i32..=range.end.log10().floor() as i32;
    let with = |factors: &[f64]| -> Vec<f64> {
        let all = powers.clone().flat_map(|power| factors.iter().map(move |f| f * 10f64.powi(power)));
        all.filter(|mark| range.contains(mark)).collect()
    };
    let densities: [&[f64]; 3] =
        [&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], &[1.0, 2.0, 3.0, 5.0, 7.0], &[1.0, 2.0, 5.0]];
    densities.into_iter().map(with).find(|marks| marks.len() <= MAX_MARKS).unwrap_or_else(|| with(&[1.0]))
}

/// The decimals that the labels of `marks` need so that each shows its first digit and neighbours differ.
pub(super) fn decimals(marks: &[f64]) -> usize {
    let gaps = marks.windows(2).map(|pair| pair[1] - pair[0]);
    let finest = gaps.chain(marks.first().copied()).fold(f64::INFINITY, f64::min);
    // A gap of 5e-3 may come out as 4.999e-3.
    (-(finest * 1.001).log10().floor()).clamp(0.0, 12.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(marks: &[f64]) -> Vec<String> {
        let digits = decimals(marks);
        marks.iter().map(|mark| format!("{mark:.digits$}")).collect()
    }

    #[test]
    fn marks_are_round_numbers_inside_the_range() {
        assert_eq!(
            label(&marks(0.03..1.1)),
            ["0.03", "0.05", "0.07", "0.10", "0.20", "0.30", "0.50", "0.70", "1.00"]
        );
        assert_eq!(label(&marks(0.9..30.0)), ["1", "2", "3", "5", "7", "10", "20"]);
        assert_eq!(
            label(&marks(0.031..0.044)),
            ["0.032", "0.034", "0.036", "0.038", "0.040", "0.042", "0.044"]
        );
        assert_eq!(label(&marks(2.0..9.0)), ["2", "3", "4", "5", "6", "7", "8", "9"]);
        assert_eq!(label(&marks(0.2..1.2)), ["0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]);
        assert_eq!(label(&marks(0.015..3.0)), ["0.02", "0.05", "0.10", "0.20", "0.50", "1.00", "2.00"]);
        assert_eq!(label(&marks(3e-5..2.0)), ["0.0001", "0.0010", "0.0100", "0.1000", "1.0000"]);
        for (low, high) in [(1.0 / 1.08, 1.08), (1e-9, 1.2e-9), (1e300, 1e308), (0.5, 2.49)] {
            let marks = marks(low..high);
            assert!((3..=9).contains(&marks.len()), "{marks:?} in {low}..{high}");
        }
    }
}
