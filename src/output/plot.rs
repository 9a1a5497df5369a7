//! The loss curve, as SVG.

use super::axis::{Axis, Scale};
use super::font::{font, register};
use super::write_atomically;
use crate::error::{Error, Result};
use plotters::prelude::*;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

pub(super) const SIZE: (u32, u32) = (900, 540);
/// The losses are cut into this many stretches, and the lowest and the highest of each are drawn; more could
/// not be told apart and would make a large file.
const STRETCHES: usize = 700;
/// The half-life of the running mean, as a share of the curve.
const HALF_LIFE: f64 = 1.0 / 60.0;
/// Losses outside this range, and NaN, are left out.
const DRAWABLE: Range<f64> = 1e-200..1e200;
const RAW_COLOUR: RGBColor = RGBColor(0xa9, 0xcb, 0xea);
const MEAN_COLOUR: RGBColor = RGBColor(0x0b, 0x4f, 0x8a);
pub(super) const TEXT_COLOUR: RGBColor = RGBColor(0x33, 0x33, 0x33);
pub(super) const GRID_COLOUR: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// The curve of `points` (step, loss), in the order of training, as an SVG document: every loss in a light
/// line, thinned where there are many, and their running mean in a dark one, on a logarithmic axis. Losses
/// that are not positive and finite are left out.
///
/// # Errors
/// [`Error::Invalid`] where no loss is left.
pub fn loss_curve(points: &[(u64, f64)]) -> Result<String> {
    let points: Vec<(u64, f64)> =
        points.iter().copied().filter(|(_, loss)| DRAWABLE.contains(loss)).collect();
    if points.is_empty() {
        return Err(Error::invalid("the loss curve", "at least one positive, finite loss", "none", ""));
    }
    let mut svg = String::new();
    draw(&mut svg, &points)
        .map_err(|e| Error::invalid("the loss curve", "losses that can be drawn", e.to_string(), ""))?;
    Ok(svg)
}

/// Writes [`loss_curve`] to a file.
///
/// # Errors
/// Those of [`loss_curve`], and [`Error::Write`].
pub fn write_loss_curve(path: &Path, points: &[(u64, f64)]) -> Result<()> {
    let svg = loss_curve(points)?;
    write_atomically(path, |file| file.write_all(svg.as_bytes()))
}

fn draw(svg: &mut String, points: &[(u64, f64)]) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let (low, high) =
        points.iter().fold((f64::INFINITY, 0f64), |(low, high), &(_, y)| (low.min(y), high.max(y)));
    let range = low / 1.08..high * 1.08;
    let axis = Axis::new(Scale::Logarithmic, range);
    let label = axis.clone();
    let (first, last) = points.iter().fold((u64::MAX, 0), |(a, b), &(x, _)| (a.min(x), b.max(x)));
    let steps = first..last.max(first.saturating_add(1));
    let means = running_mean(points);

    register()?;
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let text = |size: i32| font(size).color(&TEXT_COLOUR);
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .margin_right(28)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(steps, axis)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("loss (logarithmic)")
        .x_labels(8)
        .y_label_formatter(&|y| label.label(*y))
        .label_style(text(15))
        .axis_desc_style(text(17))
        .axis_style(TEXT_COLOUR)
        .bold_line_style(GRID_COLOUR)
        .light_line_style(TRANSPARENT)
        .draw()?;
    let mut line = |points: Vec<(u64, f64)>, name: &str, style: ShapeStyle| {
        chart.draw_series(LineSeries::new(points, style)).map(|series| {
            series.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
        })
    };
    line(extremes(points), "each step", RAW_COLOUR.stroke_width(1))?;
    line(last_of_each_stretch(&means), "running mean", MEAN_COLOUR.stroke_width(3))?;
    let end = means.last().map(|&end| Circle::new(end, 4, MEAN_COLOUR.filled()));
    chart.draw_series(end)?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(12)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID_COLOUR)
        .label_font(text(15))
        .draw()?;
    root.present()?;
    Ok(())
}

/// The exponentially weighted mean up to each point, with weights that sum to one. Near the start the
/// half-life is shorter than [`HALF_LIFE`]: half of the i-th mean comes from the last i/4 points, so that it
/// follows the initial fall.
fn running_mean(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let longest = (HALF_LIFE * points.len() as f64).max(4.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut means = Vec::with_capacity(points.len());
    for (i, &(step, loss)) in points.iter().enumerate() {
        let keep = 0.5f64.powf(1.0 / longest.min((i + 1) as f64 / 4.0));
        sum = keep * sum + (1.0 - keep) * loss;
        weight = keep * weight + (1.0 - keep);
        means.push((step, sum / weight));
    }
    means
}

/// The running mean, thinned where there are many points.
pub(crate) fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    last_of_each_stretch(&running_mean(points))
}

/// The points of each stretch.
fn stretches(points: &[(u64, f64)]) -> impl Iterator<Item = &[(u64, f64)]> {
    points.chunks(points.len().div_ceil(STRETCHES).max(1))
}

/// The lowest and the highest point of each stretch, in their order.
pub(crate) fn extremes(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let by_loss = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
    let mut kept = Vec::new();
    for stretch in stretches(points) {
        let low = stretch.iter().min_by(by_loss);
        let high = stretch.iter().max_by(by_loss);
        let mut pair: Vec<(u64, f64)> = low.into_iter().chain(high).copied().collect();
        pair.sort_by_key(|&(step, _)| step);
        pair.dedup();
        kept.extend(pair);
    }
    kept
}

fn last_of_each_stretch(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    stretches(points).filter_map(<[_]>::last).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exact up to rounding: the weights of a constant sum to one, and the first value stands alone.
    #[test]
    fn the_running_mean_is_unbiased_and_forgets() {
        let constant: Vec<(u64, f64)> = (0..100).map(|i| (i, 0.25)).collect();
        assert!(running_mean(&constant).iter().all(|(_, y)| (y - 0.25).abs() < 1e-12));
        let step: Vec<(u64, f64)> = (0..600).map(|i| (i, if i < 300 { 1.0 } else { 0.0 })).collect();
        let mean = running_mean(&step);
        assert_eq!(mean[0], (0, 1.0));
        // The initial fall is followed at once: at point 8 half the weight is on the last 2 points.
        let fall: Vec<(u64, f64)> = (0..600).map(|i| (i, if i < 4 { 1.0 } else { 0.0 })).collect();
        assert!(running_mean(&fall)[8].1 < 0.3, "{:?}", running_mean(&fall)[8]);
        // Half is forgotten over 600 / 60 = 10 points; before them, weights missing from 300 points are
        // 2^-30.
        assert!((mean[309].1 - 0.5).abs() < 1e-8, "{:?}", mean[309]);
    }

    #[test]
    fn thinning_keeps_peaks_and_order() {
        let mut points: Vec<(u64, f64)> = (0..100_000).map(|i| (i, 1.0 + (i % 7) as f64)).collect();
        points[54_321].1 = 99.0;
        points[54_322].1 = 0.01;
        let kept = extremes(&points);
        assert!(kept.len() <= 2 * STRETCHES);
        assert!(kept.contains(&(54_321, 99.0)) && kept.contains(&(54_322, 0.01)));
        assert!(kept.windows(2).all(|w| w[0].0 < w[1].0));
        assert_eq!(extremes(&points[..5]), points[..5]);
        assert!(extremes(&[]).is_empty() && smoothed(&[]).is_empty());
        let last = last_of_each_stretch(&points);
        assert_eq!((last.len() <= STRETCHES, last.last()), (true, points.last()));
    }

    #[test]
    fn the_curve_is_an_svg_with_axes_marks_and_legend() {
        let points: Vec<(u64, f64)> = (1..=500).map(|i| (i, 1.0 / i as f64 + 0.03)).collect();
        let svg = loss_curve(&points).unwrap();
        for part in
            ["<svg", "</svg>", "step", "loss (logarithmic)", "running mean", "each step", "0.05", "500"]
        {
            assert!(svg.contains(part), "{part}");
        }
        assert!(svg.matches("<polyline").count() >= 2);
    }

    #[test]
    fn odd_curves_are_drawn_and_none_is_refused() {
        for points in [
            vec![(0, 0.5)],
            vec![(7, 0.5), (7, 0.5)],
            vec![(u64::MAX - 1, 1e-199), (u64::MAX, 1e199)],
            vec![(u64::MAX, 0.5)],
            vec![(9, 0.5), (3, 0.7)],
            vec![(1, 0.5), (2, f64::MAX), (3, f64::MIN_POSITIVE)],
            vec![(1, f64::NAN), (2, 0.1), (3, f64::INFINITY), (4, 0.0), (5, -1.0)],
        ] {
            assert!(loss_curve(&points).unwrap().contains("</svg>"), "{points:?}");
        }
        for points in [vec![], vec![(1, f64::NAN), (2, 0.0)]] {
            assert!(loss_curve(&points).unwrap_err().to_string().contains("positive, finite loss"));
        }
    }

    #[test]
    fn the_file_is_the_curve() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loss.svg");
        write_loss_curve(&path, &[(1, 1.0), (2, 0.5)]).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), loss_curve(&[(1, 1.0), (2, 0.5)]).unwrap());
    }
}
