//! Axes of plots: where the ticks are, and their labels.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use std::ops::Range;

/// An axis has room for this many ticks.
const MAX_TICKS: usize = 10;
/// Labels outside this range are written as powers.
const WRITTEN_OUT: Range<f64> = 1e-3..1e7;
/// Over a larger ratio, each label has as many digits as its own number needs.
const WIDE: f64 = 1e3;

/// How an axis goes from its lowest to its highest number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences are equally long.
    Linear,
    /// Equal ratios are equally long; for positive numbers.
    Logarithmic,
    /// Logarithmic, with ticks at powers of two.
    Doublings,
}

impl Scale {
    /// Whether an axis can show a number.
    pub(super) fn shows(self, value: f64) -> bool {
        match self {
            Scale::Linear => value.abs() < LARGEST,
            Scale::Logarithmic | Scale::Doublings => (1.0 / LARGEST..LARGEST).contains(&value),
        }
    }
}

/// Numbers beyond are left out: the ratio of two of them has to be a number.
const LARGEST: f64 = 1e150;

/// An axis with our own ticks: the library's logarithmic axis has almost none where the numbers span few
/// powers of ten.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    scale: Scale,
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Axis {
    /// An axis over `range`, positive and not empty if it is logarithmic.
    pub(super) fn new(scale: Scale, range: Range<f64>) -> Self {
        let ticks = match scale {
            Scale::Linear => even_ticks(&range),
            Scale::Logarithmic => ticks(range.clone()),
            Scale::Doublings => doublings(&range),
        };
        Axis { scale, range, ticks }
    }

    /// The label of a tick.
    pub(super) fn label(&self, tick: f64) -> String {
        let size = tick.abs();
        if !WRITTEN_OUT.contains(&self.deciding(size)) {
            return if size == 0.0 { "0".to_owned() } else { format!("{tick:.1e}").replace(".0e", "e") };
        }
        let wide = self.scale != Scale::Linear && self.range.end / self.range.start > WIDE;
        let digits = if wide { decimals(&[size]) } else { decimals(&self.ticks) };
        format!("{tick:.digits$}")
    }

    /// The size that decides how a tick of this size is written: on a linear axis the smallest tick's, so that
    /// all are written alike, else its own.
    fn deciding(&self, size: f64) -> f64 {
        match self.scale {
            Scale::Linear => {
                let sizes = self.ticks.iter().map(|tick| tick.abs()).filter(|size| *size > 0.0);
                sizes.reduce(f64::min).unwrap_or(1.0)
            }
            Scale::Logarithmic | Scale::Doublings => size,
        }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let Range { start, end } = self.range;
        let part = match self.scale {
            Scale::Linear => (value - start) / (end - start),
            Scale::Logarithmic | Scale::Doublings => (value / start).ln() / (end / start).ln(),
        };
        from + (part * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// The ticks of a logarithmic axis: round multiples of the powers of ten, as many as there is room for, or
/// evenly spaced numbers where the range is small.
fn ticks(range: Range<f64>) -> Vec<f64> {
    let span = range.end / range.start;
    if span < 5.0 {
        return even_ticks(&range);
    }
    let powers = range.start.log10().floor() as i32..=range.end.log10().floor() as i32;
    let with = |factors: &[f64]| -> Vec<f64> {
        let all = powers.clone().flat_map(|power| factors.iter().map(move |f| f * 10f64.powi(power)));
        all.filter(|tick| range.contains(tick)).collect()
    };
    let densities: [&[f64]; 3] =
        [&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], &[1.0, 2.0, 3.0, 5.0, 7.0], &[1.0, 2.0, 5.0]];
    densities.into_iter().map(with).find(|ticks| ticks.len() <= MAX_TICKS).unwrap_or_else(|| with(&[1.0]))
}

/// Multiples of 1, 2 or 5 times a power of ten, as many as there is room for.
fn even_ticks(range: &Range<f64>) -> Vec<f64> {
    let about = (range.end - range.start) / 9.0;
    let power = 10f64.powf(about.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= about).unwrap_or(10.0);
    let step = factor * power;
    let (first, last) = ((range.start / step).ceil() as i64, (range.end / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Powers of two, or of four where there would be too many.
fn doublings(range: &Range<f64>) -> Vec<f64> {
    let (first, last) = (range.start.log2().ceil() as i32, range.end.log2().floor() as i32);
    let step = if last - first > 9 { 2 } else { 1 };
    (first..=last).step_by(step).map(|k| 2f64.powi(k)).collect()
}

/// The decimals that the labels of the ticks need so that each shows its first digit and neighbours differ.
fn decimals(ticks: &[f64]) -> usize {
    let gaps = ticks.windows(2).map(|pair| pair[1] - pair[0]);
    let finest = gaps.chain(ticks.iter().copied().find(|tick| *tick > 0.0)).fold(f64::INFINITY, f64::min);
    // A gap of 5e-3 may come out as 4.999e-3.
    (-(finest * 1.001).log10().floor()).clamp(0.0, 12.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(ticks: &[f64]) -> Vec<String> {
        let digits = decimals(ticks);
        ticks.iter().map(|tick| format!("{tick:.digits$}")).collect()
    }

    #[test]
    fn marks_are_round_numbers_inside_the_range() {
        assert_eq!(
            label(&ticks(0.03..1.1)),
            ["0.03", "0.05", "0.07", "0.10", "0.20", "0.30", "0.50", "0.70", "1.00"]
        );
        assert_eq!(label(&ticks(0.9..30.0)), ["1", "2", "3", "5", "7", "10", "20"]);
        assert_eq!(
            label(&ticks(0.031..0.044)),
            ["0.032", "0.034", "0.036", "0.038", "0.040", "0.042", "0.044"]
        );
        assert_eq!(label(&ticks(2.0..9.0)), ["2", "3", "4", "5", "6", "7", "8", "9"]);
        assert_eq!(label(&ticks(0.2..1.2)), ["0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]);
        assert_eq!(label(&ticks(0.015..3.0)), ["0.02", "0.05", "0.10", "0.20", "0.50", "1.00", "2.00"]);
        assert_eq!(label(&ticks(3e-5..2.0)), ["0.0001", "0.0010", "0.0100", "0.1000", "1.0000"]);
        for (low, high) in [(1.0 / 1.08, 1.08), (1e-9, 1.2e-9), (1e300, 1e308), (0.5, 2.49)] {
            let ticks = ticks(low..high);
            assert!((3..=9).contains(&ticks.len()), "{ticks:?} in {low}..{high}");
        }
    }

    #[test]
    fn linear_axes_have_even_marks_and_labels_that_differ() {
        let labels = |range: Range<f64>| {
            let axis = Axis::new(Scale::Linear, range);
            axis.ticks.iter().map(|tick| axis.label(*tick)).collect::<Vec<_>>()
        };
        assert_eq!(labels(0.0..4.2), ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0", "3.5", "4.0"]);
        assert_eq!(labels(-30.0..60.0), ["-30", "-20", "-10", "0", "10", "20", "30", "40", "50", "60"]);
        assert_eq!(labels(0.0..1000.0)[..3], ["0", "200", "400"]);
        assert_eq!(
            labels(0.0..1.7e-3),
            ["0", "2e-4", "4e-4", "6e-4", "8e-4", "1e-3", "1.2e-3", "1.4e-3", "1.6e-3"]
        );
        assert_eq!(Axis::new(Scale::Logarithmic, 1e-9..1.0).label(1e-7), "1e-7");
        let wide = Axis::new(Scale::Logarithmic, 1e-4..20.0);
        assert_eq!([1e-4, 0.01, 1.0, 10.0].map(|tick| wide.label(tick)), ["1e-4", "0.01", "1", "10"]);
        let doublings = Axis::new(Scale::Doublings, 64.0..16384.0);
        assert_eq!((doublings.ticks.len(), doublings.label(16384.0)), (9, "16384".to_owned()));
    }

    #[test]
    fn numbers_lie_where_their_scale_puts_them() {
        let place = |scale, range, value| Axis::new(scale, range).map(&value, (100, 300));
        assert_eq!(place(Scale::Linear, 0.0..4.0, 1.0), 150);
        assert_eq!(place(Scale::Logarithmic, 1.0..100.0, 10.0), 200);
    }
}
