//! Plots of a few series over two axes, as SVG that can still be read at a phone's width, and as PNG.

use super::axis::{Axis, Scale};
use super::font::{font, register};
use super::plot::{GRID_COLOUR, TEXT_COLOUR};
use super::write_atomically;
use crate::error::{Error, Result};
use image::RgbImage;
use image::codecs::png::PngEncoder;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Smaller than the loss curve, so that its text is larger where it is shown at the same width.
const SIZE: (u32, u32) = (640, 420);
/// Pixels of the PNG to a unit of the SVG, so that it is sharp on a screen of twice the density.
const PNG_SCALE: u32 = 2;
/// Colours that colour-blind readers can tell apart (Okabe & Ito 2008), then two more.
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

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A line.
    Line,
    /// A line with a dot at each point.
    Dots,
    /// A dashed line, for theory or for reference.
    Dashed,
    /// Dots alone, for what is compared with a line.
    Points,
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

/// A named series of points.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend; empty for none.
    pub name: String,
    /// x and y, in the order of the line.
    pub points: Vec<(f64, f64)>,
    /// Its colour's number; there are nine, and then they repeat.
    pub colour: usize,
    /// How it is drawn.
    pub look: Look,
}

/// An axis: what it shows, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChartAxis<'a> {
    /// Its name and unit.
    pub label: &'a str,
    /// Its scale.
    pub scale: Scale,
}

/// A plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart<'a> {
    /// To the right.
    pub x: ChartAxis<'a>,
    /// Upwards.
    pub y: ChartAxis<'a>,
    /// Drawn one over the other.
    pub series: Vec<Series>,
    /// The legend's corner: the one where it hides the least.
    pub legend: Corner,
}

impl Chart<'_> {
    /// The chart as an SVG document. Points that an axis cannot show (no numbers, or not positive on a
    /// logarithmic one) are left out; a chart without a point is an empty one that says so.
    ///
    /// # Errors
    /// [`Error::Invalid`] for values that cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw(SVGBackend::with_string(&mut svg, SIZE).into_drawing_area(), 1)?;
        Ok(svg)
    }

    /// The same as pixels, two to a unit of the SVG.
    ///
    /// # Errors
    /// [`Error::Invalid`] for values that cannot be drawn.
    pub fn pixels(&self) -> Result<RgbImage> {
        let (width, height) = (PNG_SCALE * SIZE.0, PNG_SCALE * SIZE.1);
        let mut canvas = RgbImage::new(width, height);
        self.draw(BitMapBackend::with_buffer(&mut canvas, (width, height)).into_drawing_area(), PNG_SCALE)?;
        Ok(canvas)
    }

    /// Writes [`Chart::svg`] and [`Chart::pixels`] as `NAME.svg` and `NAME.png` into a folder, and returns
    /// the files.
    ///
    /// # Errors
    /// Those of [`Chart::svg`], and [`Error::Write`].
    pub fn write(&self, folder: &Path, name: &str) -> Result<[PathBuf; 2]> {
        let [svg, png] = ["svg", "png"].map(|ending| folder.join(format!("{name}.{ending}")));
        let (text, canvas) = (self.svg()?, self.pixels()?);
        write_atomically(&svg, |file| file.write_all(text.as_bytes()))?;
        write_atomically(&png, |file| {
            canvas.write_with_encoder(PngEncoder::new(file)).map_err(io::Error::other)
        })?;
        Ok([svg, png])
    }

    /// The series with the points that the axes can show; series without such points are dropped.
    fn shown(&self) -> Vec<Series> {
        let shows = |p: &(f64, f64)| self.x.scale.shows(p.0) && self.y.scale.shows(p.1);
        let points = |series: &Series| series.points.iter().copied().filter(shows).collect();
        let series = self.series.iter().map(|series| Series { points: points(series), ..series.clone() });
        series.filter(|series| !series.points.is_empty()).collect()
    }

    /// What it shows, for whoever does not see it.
    pub(crate) fn in_words(&self) -> String {
        let names: Vec<&str> =
            self.series.iter().map(|series| series.name.as_str()).filter(|name| !name.is_empty()).collect();
        format!("Plot of {} over {}: {}", self.y.label, self.x.label, names.join("; "))
    }

    /// Draws with every length `scale` times as long.
    fn draw<B: DrawingBackend<ErrorType: 'static>>(
        &self,
        root: DrawingArea<B, Shift>,
        scale: u32,
    ) -> Result<()> {
        register()?;
        self.draw_on(root, scale)
            .map_err(|e| Error::invalid("a chart", "values that can be drawn", e.to_string(), ""))
    }

    fn draw_on<B: DrawingBackend<ErrorType: 'static>>(
        &self,
        root: DrawingArea<B, Shift>,
        scale: u32,
    ) -> std::result::Result<(), Box<dyn std::error::Error>> {
        let px = |length: i32| length * scale as i32;
        let width = |stroke: u32| stroke * scale;
        let text = |size: i32| font(px(size)).color(&TEXT_COLOUR);
        let series = self.shown();
        root.fill(&WHITE)?;
        if series.is_empty() {
            root.draw(&Text::new("nothing was measured", (px(220), px(200)), text(20)))?;
            root.present()?;
            return Ok(());
        }
        let values =
            |pick: fn(&(f64, f64)) -> f64| series.iter().flat_map(move |s| s.points.iter().map(pick));
        let x = Axis::new(self.x.scale, extent(self.x.scale, values(|p| p.0), 0.0));
        let y = Axis::new(self.y.scale, extent(self.y.scale, values(|p| p.1), 0.05));
        let (x_label, y_label) = (x.clone(), y.clone());
        let mut chart = ChartBuilder::on(&root)
            .margin(px(10))
            .margin_right(px(24))
            .x_label_area_size(px(52))
            .y_label_area_size(px(78))
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(self.x.label)
            .y_desc(self.y.label)
            .x_label_formatter(&|x| x_label.label(*x))
            .y_label_formatter(&|y| y_label.label(*y))
            .label_style(text(17))
            .axis_desc_style(text(18))
            .axis_style(TEXT_COLOUR.stroke_width(width(1)))
            .bold_line_style(GRID_COLOUR.stroke_width(width(1)))
            .light_line_style(TRANSPARENT)
            .set_all_tick_mark_size(px(5))
            .draw()?;
        for Series { name, points, colour, look } in &series {
            let colour = COLOURS[colour % COLOURS.len()];
            let dashed = *look == Look::Dashed;
            let style = colour.stroke_width(width(if dashed { 2 } else { 3 }));
            let line = points.iter().copied();
            let drawn = match look {
                Look::Dashed => chart.draw_series(DashedLineSeries::new(line, px(7), px(5), style))?,
                Look::Line | Look::Dots => chart.draw_series(LineSeries::new(line, style))?,
                Look::Points => chart.draw_series(line.map(|p| Circle::new(p, px(4), colour.filled())))?,
            };
            if !name.is_empty() {
                // The sample of a dashed line is short, that of dots shorter.
                let length = px(match look {
                    Look::Line | Look::Dots => 22,
                    Look::Dashed => 8,
                    Look::Points => 4,
                });
                drawn.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + length, y)], style));
            }
            if *look == Look::Dots || points.len() == 1 {
                chart.draw_series(points.iter().map(|&p| Circle::new(p, px(4), colour.filled())))?;
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
                .margin(px(8))
                .legend_area_size(px(30))
                .background_style(WHITE.mix(0.8))
                .border_style(GRID_COLOUR.stroke_width(width(1)))
                .label_font(text(16))
                .draw()?;
        }
        root.present()?;
        Ok(())
    }
}

/// The range of an axis that shows all values, extended at both ends by the share `room` of it.
fn extent(scale: Scale, values: impl Iterator<Item = f64>, room: f64) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    match scale {
        Scale::Linear if low < high => low - room * (high - low)..high + room * (high - low),
        Scale::Linear => low - 0.5 * low.abs().max(1.0)..high + 0.5 * high.abs().max(1.0),
        Scale::Logarithmic | Scale::Doublings if low < high => {
            let room = (high / low).powf(room);
            low / room..high * room
        }
        Scale::Logarithmic | Scale::Doublings => low / 2.0..high * 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(x: Scale, y: Scale, points: &[(f64, f64)]) -> Chart<'static> {
        let series =
            |name: &str, look| Series { name: name.into(), points: points.to_vec(), colour: 0, look };
        Chart {
            x: ChartAxis { label: "tokens", scale: x },
            y: ChartAxis { label: "seconds", scale: y },
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

    /// The pixels are the SVG's shapes at twice its size: the line's ends have its colour, and only the
    /// letters below and left of the axes are dark.
    #[test]
    fn pixels_show_line_and_letters() {
        let mut chart = chart(Scale::Linear, Scale::Linear, &[(0.0, 0.0), (1.0, 1.0)]);
        chart.series = vec![Series { look: Look::Line, colour: 2, ..chart.series[0].clone() }];
        let canvas = chart.pixels().unwrap();
        assert_eq!(canvas.dimensions(), (1280, 840));
        let of_line = |(_, _, pixel): &(u32, u32, &image::Rgb<u8>)| pixel.0 == [0xd5, 0x5e, 0x00];
        let line: Vec<(u32, u32)> =
            canvas.enumerate_pixels().filter(of_line).map(|(x, y, _)| (x, y)).collect();
        let (left, right) = (line.iter().min().unwrap(), line.iter().max().unwrap());
        // Margins of 10 and 24, label areas of 78 and 52, at twice the size; 5 % of room above and below.
        assert!(left.0.abs_diff(176) <= 4 && right.0.abs_diff(1280 - 48) <= 4, "{left:?} {right:?}");
        assert!(left.1.abs_diff(684) <= 8 && right.1.abs_diff(52) <= 8, "{left:?} {right:?}");
        let dark = |x: Range<u32>, y: Range<u32>| {
            y.flat_map(|y| x.clone().map(move |x| (x, y)))
                .filter(|&(x, y)| canvas.get_pixel(x, y).0.iter().all(|&c| c < 0x80))
                .count()
        };
        assert!(dark(170..1240, 740..840) > 200, "the letters below");
        assert!(dark(0..150, 20..700) > 200, "the letters on the left");
        assert_eq!(dark(190..1220, 30..650), 0, "the plot itself");
    }

    #[test]
    fn both_files_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let chart = chart(Scale::Linear, Scale::Linear, &[(0.0, 0.0), (1.0, 1.0)]);
        let [svg, png] = chart.write(folder.path(), "plot").unwrap();
        assert_eq!((&svg, &png), (&folder.path().join("plot.svg"), &folder.path().join("plot.png")));
        assert_eq!(std::fs::read_to_string(svg).unwrap(), chart.svg().unwrap());
        assert_eq!(
            image::load_from_memory(&std::fs::read(png).unwrap()).unwrap().into_rgb8(),
            chart.pixels().unwrap()
        );
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
