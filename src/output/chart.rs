//! Charts of several series, as SVG that can still be read at a phone's width.

use super::axis::{PlotAxis, decimals, even_marks, marks};
use crate::error::{Error, Result};
use plotters::prelude::*;
use std::ops::Range;

const SIZE: (u32, u32) = (640, 420);
const TEXT_COLOUR: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID_COLOUR: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
/// Colours that the colour-blind tell apart (Okabe & Ito 2008), then two more.
const COLOURS: [RGBColor; 9] = [
    RGBColor(0x22, 0x22, 0x22),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x88, 0x88, 0x88),
    RGBColor(0x8c, 0x56, 0x4b),
];

/// How an axis runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences are equally long.
    Linear,
    /// Equal ratios are equally long, marked at round numbers.
    Logarithmic,
    /// Equal ratios are equally long, marked at powers of two.
    Doublings,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A line.
    Line,
    /// A line with a dot at each point.
    Dots,
    /// A dashed line: theory, or what is only for reference.
    Dashed,
}

/// Where the legend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corner {
    /// Above, on the left.
    UpperLeft,
    /// Above, on the right.
    UpperRight,
    /// Below, on the left.
    LowerLeft,
    /// Below, on the right.
    LowerRight,
}

/// A named series of points.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// x and y, in the order of the line.
    pub points: Vec<(f64, f64)>,
    /// Its colour's number; there are nine, and then they repeat.
    pub colour: usize,
    /// How it is drawn.
    pub look: Look,
}

/// A chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What x is, with its unit.
    pub x: (String, Scale),
    /// What y is, with its unit.
    pub y: (String, Scale),
    /// What is drawn.
    pub series: Vec<Series>,
    /// Where the legend stands.
    pub legend: Corner,
}

impl Chart {
    /// The chart as an SVG document. Points that an axis cannot show (no numbers, or not positive on a logarithmic one) are
    /// left out; a chart without a point is an empty one that says so.
    ///
    /// # Errors
    /// [`Error::Invalid`] for values that cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        let (x_scale, y_scale) = (self.x.1, self.y.1);
        let series: Vec<Series> = self
            .series
            .iter()
            .map(|series| Series {
                points: series
                    .points
                    .iter()
                    .copied()
                    .filter(|p| x_scale.shows(p.0) && y_scale.shows(p.1))
                    .collect(),
                ..series.clone()
            })
            .filter(|series| !series.points.is_empty())
            .collect();
        let mut svg = String::new();
        self.draw(&mut svg, &series)
            .map_err(|e| Error::invalid("a chart", "values that can be drawn", e.to_string(), ""))?;
        Ok(svg)
    }

    fn draw(
        &self,
        svg: &mut String,
        series: &[Series],
    ) -> std::result::Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let text = |size: i32| ("sans-serif", size).into_font().color(&TEXT_COLOUR);
        if series.is_empty() {
            root.draw(&Text::new("nothing was measured", (220, 200), text(20)))?;
            root.present()?;
            return Ok(());
        }
        let values =
            |pick: fn(&(f64, f64)) -> f64| series.iter().flat_map(move |s| s.points.iter().map(pick));
        let x = self.x.1.axis(values(|p| p.0), true);
        let y = self.y.1.axis(values(|p| p.1), false);
        let (x_labels, y_labels) = (self.x.1.labels(&x), self.y.1.labels(&y));
        let mut chart = ChartBuilder::on(&root)
            .margin(10)
            .margin_right(24)
            .x_label_area_size(52)
            .y_label_area_size(78)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(&self.x.0)
            .y_desc(&self.y.0)
            .x_label_formatter(&x_labels)
            .y_label_formatter(&y_labels)
            .label_style(text(17))
            .axis_desc_style(text(18))
            .axis_style(TEXT_COLOUR)
            .bold_line_style(GRID_COLOUR)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for Series { name, points, colour, look } in series {
            let colour = COLOURS[colour % COLOURS.len()];
            let style = colour.stroke_width(if *look == Look::Dashed { 2 } else { 3 });
            let drawn = if *look == Look::Dashed {
                chart.draw_series(DashedLineSeries::new(points.iter().copied(), 7, 5, style))?
            } else {
                chart.draw_series(LineSeries::new(points.iter().copied(), style))?
            };
            let dashed = *look == Look::Dashed;
            drawn.label(name).legend(move |(x, y)| {
                // A dashed line's sample is a short one.
                PathElement::new([(x, y), (x + if dashed { 8 } else { 22 }, y)], style)
            });
            if *look == Look::Dots || points.len() == 1 {
                chart.draw_series(points.iter().map(|&p| Circle::new(p, 4, colour.filled())))?;
            }
        }
        let position = match self.legend {
            Corner::UpperLeft => SeriesLabelPosition::UpperLeft,
            Corner::UpperRight => SeriesLabelPosition::UpperRight,
            Corner::LowerLeft => SeriesLabelPosition::LowerLeft,
            Corner::LowerRight => SeriesLabelPosition::LowerRight,
        };
        if series.len() > 1 {
            chart
                .configure_series_labels()
                .position(position)
                .margin(8)
                .background_style(WHITE.mix(0.8))
                .border_style(GRID_COLOUR)
                .label_font(text(16))
                .draw()?;
        }
        root.present()?;
        Ok(())
    }
}

impl Scale {
    fn shows(self, value: f64) -> bool {
        match self {
            Scale::Linear => value.is_finite() && value.abs() < 1e200,
            // Beyond, the ratio of two values may not be a number.
            Scale::Logarithmic | Scale::Doublings => value > 1e-150 && value < 1e150,
        }
    }

    /// The axis of the values: as they are in x, with a little room in y.
    fn axis(self, values: impl Iterator<Item = f64>, tight: bool) -> PlotAxis {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let room = if tight { 0.0 } else { 0.05 };
        let range = if self == Scale::Linear {
            let room = (high - low) * room;
            let (low, high) = (low - room, high + room);
            if low < high {
                low..high
            } else {
                low - 0.5 * low.abs().max(1.0)..high + 0.5 * high.abs().max(1.0)
            }
        } else {
            let room = (high / low).powf(room);
            let (low, high) = (low / room, high * room);
            if low < high { low..high } else { low / 2.0..high * 2.0 }
        };
        let marks = match self {
            Scale::Linear => even_marks(range.clone(), 7),
            Scale::Logarithmic => marks(range.clone()),
            Scale::Doublings => doublings(range.clone()),
        };
        PlotAxis { range, marks, logarithmic: self != Scale::Linear }
    }

    /// How the axis's marks are written.
    fn labels(self, axis: &PlotAxis) -> impl Fn(&f64) -> String + use<> {
        let digits = decimals(&axis.marks.iter().map(|x| x.abs()).filter(|x| *x > 0.0).collect::<Vec<_>>());
        let each = self != Scale::Linear && axis.range.end / axis.range.start > 1e3;
        move |value| match value.abs() {
            0.0 => "0".to_owned(),
            x if !(1e-3..1e5).contains(&x) => format!("{value:.0e}"),
            // Over many powers of ten a label has the digits of its own.
            x if each => format!("{value:.*}", (-(x * 1.001).log10().floor()).max(0.0) as usize),
            _ => format!("{value:.digits$}"),
        }
    }
}

/// Powers of two in the range, or of four where they are many.
fn doublings(range: Range<f64>) -> Vec<f64> {
    let (first, last) = (range.start.log2().ceil() as i32, range.end.log2().floor() as i32);
    let step = if last - first > 9 { 2 } else { 1 };
    (first..=last).step_by(step).map(|k| 2f64.powi(k)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(x: Scale, y: Scale, points: &[(f64, f64)]) -> Chart {
        let series =
            |name: &str, look| Series { name: name.into(), points: points.to_vec(), colour: 0, look };
        Chart {
            x: ("tokens".into(), x),
            y: ("seconds".into(), y),
            series: vec![series("one", Look::Dots), series("two", Look::Dashed)],
            legend: Corner::UpperLeft,
        }
    }

    #[test]
    fn a_chart_has_axes_marks_series_and_legend() {
        let points = [(64.0, 1e-4), (1024.0, 0.02), (16384.0, 5.0)];
        let svg = chart(Scale::Doublings, Scale::Logarithmic, &points).svg().unwrap();
        for part in ["tokens", "seconds", "one", "two", "1024", "4096", "0.01", "1e-4", "</svg>"] {
            assert!(svg.contains(part), "{part}");
        }
        assert_eq!(svg.matches("<circle").count(), 3);
    }

    #[test]
    fn odd_values_are_left_out_and_odd_ranges_drawn() {
        for scale in [Scale::Linear, Scale::Logarithmic, Scale::Doublings] {
            for points in [
                vec![],
                vec![(1.0, f64::NAN)],
                vec![(3.0, 3.0)],
                vec![(0.0, 0.0), (-1.0, 5.0)],
                vec![(1.0, 1e-300), (2.0, 1e300)],
                vec![(1.0, 1e-140), (2.0, 1e140)],
            ] {
                let svg = chart(scale, scale, &points).svg().unwrap();
                assert!(svg.contains("</svg>"), "{scale:?} {points:?}");
            }
        }
    }
}
