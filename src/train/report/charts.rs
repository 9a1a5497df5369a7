//! The curves of the runs.

use super::Record;
use crate::error::Result;
use crate::output::html::{chart, figure};
use crate::output::{Chart, ChartAxis, Corner, Look, Scale, Series, extremes, loss_curve, smoothed};
use crate::train::Metric;

/// A column of the metrics.
struct Column {
    name: &'static str,
    caption: &'static str,
    of: fn(&Metric) -> f64,
    scale: Scale,
    legend: Corner,
    /// Whether each step's own number is drawn beside the running mean.
    scatters: bool,
}

const COLUMNS: [Column; 3] = [
    Column {
        name: "learning rate",
        caption: "The learning rate.",
        of: |metric| metric.lr,
        scale: Scale::Linear,
        legend: Corner::UpperRight,
        scatters: false,
    },
    Column {
        name: "gradient's norm",
        caption: "The gradient's norm before clipping, the running mean over the lowest and highest.",
        of: |metric| metric.gradient_norm,
        scale: Scale::Logarithmic,
        legend: Corner::UpperRight,
        scatters: true,
    },
    Column {
        name: "images per second",
        caption: "The pace of training, a running mean.",
        of: |metric| metric.images_per_s,
        scale: Scale::Linear,
        legend: Corner::LowerRight,
        scatters: true,
    },
];

/// The section of the curves; nothing before the first step.
pub(super) fn section(runs: &[Record]) -> Result<String> {
    if runs.iter().all(|run| run.metrics.is_empty()) {
        return Ok(String::new());
    }
    let mut html = format!("<h2>Curves</h2>\n{}<div class=\"figures\">\n", losses(runs)?);
    for column in &COLUMNS {
        html += &column_chart(runs, column)?;
    }
    Ok(html + "</div>\n")
}

/// The points of a run's column that are numbers.
fn points(run: &Record, of: fn(&Metric) -> f64) -> Vec<(u64, f64)> {
    run.metrics.iter().map(|metric| (metric.step, of(metric))).filter(|(_, y)| y.is_finite()).collect()
}

fn series(name: &str, colour: usize, points: &[(u64, f64)]) -> Series {
    let points = points.iter().map(|(x, y)| (*x as f64, *y)).collect();
    Series { name: name.to_owned(), points, colour, look: Look::Line }
}

/// One run's losses with their running mean, or the running means of several, over steps and over time.
fn losses(runs: &[Record]) -> Result<String> {
    if let [run] = runs {
        let points = points(run, |metric| metric.loss);
        return Ok(match loss_curve(&points) {
            Ok(svg) => figure(&svg, "Plot of the loss over the steps, with its running mean", "The loss."),
            // Not one loss is a positive number.
            Err(_) => String::new(),
        });
    }
    let means = || runs.iter().map(|run| smoothed(&points(run, |metric| metric.loss)));
    let over = |label: &'static str, series: Vec<Series>| Chart {
        x: ChartAxis { label, scale: Scale::Linear },
        y: ChartAxis { label: "loss, running mean", scale: Scale::Logarithmic },
        series,
        legend: Corner::UpperRight,
    };
    let by_step =
        runs.iter().zip(means()).enumerate().map(|(i, (run, points))| series(&run.name, i + 1, &points));
    let by_time = runs.iter().zip(means()).enumerate().map(|(i, (run, points))| {
        let minutes = |step: u64| {
            let at = run.metrics.partition_point(|metric| metric.step < step);
            run.metrics.get(at).map_or(f64::NAN, |metric| metric.seconds / 60.0)
        };
        let points = points.iter().map(|(step, loss)| (minutes(*step), *loss)).collect();
        Series { name: run.name.clone(), points, colour: i + 1, look: Look::Line }
    });
    let charts = chart(&over("step", by_step.collect()), "The losses over steps.")?
        + &chart(&over("minutes", by_time.collect()), "The losses over time.")?;
    Ok(format!("<div class=\"figures\">\n{charts}</div>\n"))
}

fn column_chart(runs: &[Record], column: &Column) -> Result<String> {
    let mut lines = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let points = points(run, column.of);
        if !column.scatters {
            lines.push(series(&run.name, i + 1, &extremes(&points)));
            continue;
        }
        if runs.len() == 1 {
            lines.push(series("lowest and highest", 7, &extremes(&points)));
        }
        lines.push(series(&run.name, i + 1, &smoothed(&points)));
    }
    let plot = Chart {
        x: ChartAxis { label: "step", scale: Scale::Linear },
        y: ChartAxis { label: column.name, scale: column.scale },
        series: lines,
        legend: column.legend,
    };
    chart(&plot, column.caption)
}
