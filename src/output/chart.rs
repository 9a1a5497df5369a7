//! Plots of a few series over two axes, as SVG.

use super::axis::{Axis, Scale};
use super::plot::{GRID_COLOUR, SIZE, TEXT_COLOUR};
use super::write_atomically;
use crate::error::{Error, Result};
use plotters::prelude::*;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// Colours of the series in their order, told apart by most readers (Okabe & Ito 2008).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x33, 0x33, 0x33),
];
/// Series of at most this many points show them.
const DOTTED: usize = 60;
/// Numbers of a size beyond are left out.
const LARGEST: f64 = 1e200;

/// An axis: what it shows, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChartAxis<'a> {
    /// Its name and unit.
    pub label: &'a str,
    /// Its scale.
    pub scale: Scale,
}

/// Points (x, y) joined by a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series<'a> {
    /// The name in the legend.
    pub name: &'a str,
    /// The points in the order of the line; those that are not finite, or not positive on a logarithmic axis, are left out.
    pub points: Vec<(f64, f64)>,
}

/// Where the legend is.
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

/// A plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart<'a> {
    /// To the right.
    pub x: ChartAxis<'a>,
    /// Upwards.
    pub y: ChartAxis<'a>,
    /// Drawn one over the other.
    pub series: Vec<Series<'a>>,
    /// The corner in which nothing hides behind the legend.
    pub legend: Corner,
}

impl Chart<'_> {
    /// The plot as an SVG document.
    ///
    /// # Errors
    /// [`Error::Invalid`] where no point can be drawn.
    pub fn svg(&self) -> Result<String> {
        let refuse =
            |got: String| Error::invalid(format!("a plot of {}", self.y.label), "points to draw", got, "");
        let drawable = |scale: Scale, v: f64| match scale {
            Scale::Linear => v.abs() < LARGEST,
            Scale::Logarithmic => (1.0 / LARGEST..LARGEST).contains(&v),
        };
        let kept = |series: &Series| -> Vec<(f64, f64)> {
            let fits = |&(x, y): &(f64, f64)| drawable(self.x.scale, x) && drawable(self.y.scale, y);
            series.points.iter().copied().filter(fits).collect()
        };
        let series: Vec<(&str, Vec<(f64, f64)>)> = self.series.iter().map(|s| (s.name, kept(s))).collect();
        let x = extent(self.x.scale, series.iter().flat_map(|(_, points)| points.iter().map(|p| p.0)));
        let y = extent(self.y.scale, series.iter().flat_map(|(_, points)| points.iter().map(|p| p.1)));
        let (Some(x), Some(y)) = (x, y) else { return Err(refuse("none".to_owned())) };
        let mut svg = String::new();
        self.draw(&mut svg, x, y, series).map_err(|error| refuse(error.to_string()))?;
        Ok(svg)
    }

    /// Writes [`Chart::svg`] to a file.
    ///
    /// # Errors
    /// Those of [`Chart::svg`], and [`Error::Write`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let svg = self.svg()?;
        write_atomically(path, |file| file.write_all(svg.as_bytes()))
    }

    fn draw(
        &self,
        svg: &mut String,
        x: Range<f64>,
        y: Range<f64>,
        series: Vec<(&str, Vec<(f64, f64)>)>,
    ) -> std::result::Result<(), Box<dyn std::error::Error>> {
        let (x, y) = (Axis::new(self.x.scale, x), Axis::new(self.y.scale, y));
        let (x_label, y_label) = (x.clone(), y.clone());
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let text = |size: i32| ("sans-serif", size).into_font().color(&TEXT_COLOUR);
        let mut chart = ChartBuilder::on(&root)
            .margin(16)
            .margin_right(28)
            .x_label_area_size(48)
            .y_label_area_size(80)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(self.x.label)
            .y_desc(self.y.label)
            .x_label_formatter(&|x| x_label.label(*x))
            .y_label_formatter(&|y| y_label.label(*y))
            .label_style(text(15))
            .axis_desc_style(text(17))
            .axis_style(TEXT_COLOUR)
            .bold_line_style(GRID_COLOUR)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for ((name, points), colour) in series.into_iter().zip(COLOURS.into_iter().cycle()) {
            let style = colour.stroke_width(2);
            if points.len() <= DOTTED {
                chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
            }
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
        }
        let position = match self.legend {
            Corner::UpperLeft => SeriesLabelPosition::UpperLeft,
            Corner::UpperRight => SeriesLabelPosition::UpperRight,
            Corner::LowerLeft => SeriesLabelPosition::LowerLeft,
            Corner::LowerRight => SeriesLabelPosition::LowerRight,
        };
        chart
            .configure_series_labels()
            .position(position)
            .margin(12)
            .background_style(WHITE.mix(0.85))
            .border_style(GRID_COLOUR)
            .label_font(text(15))
            .draw()?;
        root.present()?;
        Ok(())
    }
}

/// The range of an axis that shows all values, with a little room; `None` without values.
fn extent(scale: Scale, values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    if low > high {
        return None;
    }
    match scale {
        Scale::Logarithmic => Some(low / 1.15..high * 1.15),
        Scale::Linear => {
            let span = if high > low { high - low } else { low.abs().max(1.0) };
            // What begins near 0 begins at 0.
            let start = if low >= 0.0 && low < 0.3 * high { 0.0 } else { low - 0.04 * span };
            Some(start..high + 0.04 * span)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(x: Scale, y: Scale, points: Vec<(f64, f64)>) -> Chart<'static> {
        let other = Series { name: "zeros", points: vec![(0.0, 0.0)] };
        Chart {
            x: ChartAxis { label: "timestep t", scale: x },
            y: ChartAxis { label: "bits/dim", scale: y },
            series: vec![Series { name: "small variance", points }, other],
            legend: Corner::UpperRight,
        }
    }

    #[test]
    fn a_plot_has_its_axes_its_legend_and_its_lines() {
        let svg = chart(Scale::Logarithmic, Scale::Linear, vec![(1.0, 0.5), (10.0, 2.0), (1000.0, 1.0)]);
        let svg = svg.svg().unwrap();
        for part in ["<svg", "</svg>", "timestep t", "bits/dim", "small variance", "\n1000\n", "\n0.5\n"] {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
        // Three points and none for the 0 that a logarithmic axis has no place for.
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("<polyline"));
    }

    #[test]
    fn odd_points_are_left_out_and_none_is_refused() {
        let odd = vec![(1.0, f64::NAN), (f64::INFINITY, 1.0), (1e300, 1.0), (5.0, 5.0), (-1.0, -2.0)];
        for (x, y) in [
            (Scale::Linear, Scale::Linear),
            (Scale::Linear, Scale::Logarithmic),
            (Scale::Logarithmic, Scale::Logarithmic),
        ] {
            assert!(chart(x, y, odd.clone()).svg().unwrap().contains("</svg>"));
        }
        let none = chart(Scale::Logarithmic, Scale::Linear, vec![(0.0, 1.0)]).svg();
        assert!(none.unwrap_err().to_string().contains("a plot of bits/dim"));
        assert!(chart(Scale::Linear, Scale::Linear, vec![(3.0, 0.0); 2]).svg().is_ok());
    }
}
