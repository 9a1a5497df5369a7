//! The variants side by side.

use super::{Draft, equations, estimate};
use crate::compare::runs::grid_name;
use crate::compare::{CurvePoint, FeatureSource, Part, Quality, SampleQuality, Training, VariantRun};
use crate::config::{AttentionKind, VarianceKind};
use crate::error::Result;
use crate::evaluate::Estimate;
use crate::evaluate::nll::{Bound, Term};
use crate::output::html::{paragraph, remarks};
use crate::output::table::{Cell, Table};
use crate::output::{Chart, ChartAxis, Corner, Look, Scale, Series};

/// The colour of a variant in every chart.
pub(super) fn colour(variant: AttentionKind) -> usize {
    AttentionKind::ALL.iter().position(|other| *other == variant).unwrap_or(0)
}

/// The section of the runs.
pub(super) fn section(draft: &mut Draft) -> Result<String> {
    const TITLE: &str = "Under one budget";
    let runs = &draft.findings.runs;
    if runs.is_empty() {
        return Ok(draft.left_out(TITLE, Part::Runs));
    }
    let mut html = format!("<h2>{TITLE}</h2>\n<dl>{}</dl>\n", equations::loss());
    html += &draft.table(&cost_table(runs));
    html += &draft.table(&quality_table(draft));
    html += &remarks(&notes(draft));
    let trainings: Vec<(AttentionKind, &Training)> =
        runs.iter().map(|run| (run.variant, &run.training)).collect();
    html += &curves(draft, "loss", &trainings)?;
    html += &likelihoods(draft)?;
    html += "<h3>Samples</h3>\n";
    html += &samples(draft);
    let grids = runs.iter().map(|run| (run.variant, run.training.steps, grid_name(run.variant)));
    html += &draft.samples(grids);
    Ok(html)
}

/// What each run cost.
fn cost_table(runs: &[VariantRun]) -> Table {
    let row = |run: &VariantRun| {
        let t = &run.training;
        let sample = run.quality.as_ref().and_then(|quality| quality.sample_seconds);
        vec![
            Cell::text(run.variant),
            Cell::count(t.parameters as u64),
            Cell::count(t.steps),
            Cell::number(t.step_seconds.map(|s| 1e3 * s), 3),
            Cell::number(t.step_seconds.map(|s| t.batch as f64 / s), 3),
            Cell::number(t.peak_mib, 3),
            Cell::number(t.planned_mib, 3),
            Cell::number(sample.map(|s| 1e3 * s), 3),
        ]
    };
    Table {
        name: "runs",
        caption: "What the runs cost".into(),
        columns: vec![
            "attention",
            "parameters",
            "steps",
            "a step, ms",
            "images a second",
            "peak memory, MiB",
            "planned memory, MiB",
            "a sample, ms",
        ],
        rows: runs.iter().map(row).collect(),
    }
}

/// The quality of each run.
fn quality_table(draft: &Draft) -> Table {
    let runs = &draft.findings.runs;
    let softmax =
        runs.iter().find(|run| run.variant == AttentionKind::Softmax).and_then(|run| run.quality.as_ref());
    let frechet = |variant| {
        let study = draft.findings.samples.as_ref()?;
        let row = study.rows.iter().find(|row| row.variant == Some(variant))?;
        row.comparison.and_then(|found| found.frechet_distance)
    };
    let row = |run: &VariantRun| {
        let quality = run.quality.as_ref();
        let above = match (quality, softmax) {
            (Some(quality), Some(softmax)) if run.variant != AttentionKind::Softmax => {
                Some(quality.loss_above(softmax))
            }
            _ => None,
        };
        vec![
            Cell::text(run.variant),
            Cell::number(run.training.final_loss, 4),
            estimate(quality.map(|quality| quality.held_out_loss())),
            estimate(above),
            estimate(bits(quality, VarianceKind::FixedSmall)),
            estimate(bits(quality, VarianceKind::FixedLarge)),
            Cell::number(frechet(run.variant), 4),
        ]
    };
    Table {
        name: "quality",
        caption: "Their quality: the loss (21), the bound (17) with both reverse variances, the samples"
            .into(),
        columns: vec![
            "attention",
            "training loss, last tenth",
            "held-out loss",
            "above softmax's",
            "bits/dim, \u{3c3}\u{b2} = \u{3b2}\u{303}",
            "bits/dim, \u{3c3}\u{b2} = \u{3b2}",
            "Fr\u{e9}chet distance",
        ],
        rows: runs.iter().map(row).collect(),
    }
}

/// The bound with a reverse variance.
fn bits(quality: Option<&Quality>, variance: VarianceKind) -> Option<Estimate> {
    Some(quality?.likelihood.as_ref()?.of(variance).bits_per_dim)
}

/// The terms of the bound, and the error at each rate, with the plan's reverse variance; in the page and as
/// CSV.
fn likelihoods(draft: &mut Draft) -> Result<String> {
    let variance = draft.findings.plan.config.diffusion.variance;
    let bounds: Vec<(AttentionKind, &Bound)> = draft
        .findings
        .runs
        .iter()
        .filter_map(|run| Some((run.variant, run.quality.as_ref()?.likelihood.as_ref()?.of(variance))))
        .collect();
    if bounds.is_empty() {
        return Ok(paragraph("The bound was not measured."));
    }
    let middle = |term: &Term| ((term.first * term.last) as f64).sqrt();
    let lines = |points: &dyn Fn(&Bound) -> Vec<(f64, f64)>| {
        let line = |(variant, bound): &(AttentionKind, &Bound)| Series {
            name: variant.to_string(),
            points: points(bound),
            colour: colour(*variant),
            look: Look::Line,
        };
        bounds.iter().map(line).collect::<Vec<_>>()
    };
    let terms = Chart {
        x: ChartAxis { label: "t", scale: Scale::Logarithmic },
        y: ChartAxis { label: "bits/dim a timestep", scale: Scale::Logarithmic },
        series: lines(&|bound| {
            bound.terms.iter().map(|term| (middle(term), term.bits.mean / term.width() as f64)).collect()
        }),
        legend: Corner::UpperRight,
    };
    let rates = Chart {
        x: ChartAxis { label: "rate, bits/dim", scale: Scale::Linear },
        y: ChartAxis { label: "distortion, RMSE of 0 to 255", scale: Scale::Linear },
        series: lines(&|bound| {
            bound.rate_distortion.iter().map(|point| (point.rate, point.rmse.mean)).collect()
        }),
        legend: Corner::UpperRight,
    };
    let mut html = format!(
        "<h3>The bound on held-out images</h3>\n<dl>{}</dl>\n<div class=\"figures\">\n",
        equations::bound()
    );
    html += &draft.chart("bound-terms", "The terms of the bound: bits that one timestep costs.", terms)?;
    html += &draft.chart(
        "rate-distortion",
        "The error of the predicted image after this many bits (Ho et al. 2020, section 4.3).",
        rates,
    )?;
    html += "</div>\n";
    let rows = bounds.iter().flat_map(|(variant, bound)| {
        bound.terms.iter().map(|term| {
            vec![
                Cell::text(*variant),
                Cell::count(term.first as u64),
                Cell::count(term.last as u64),
                Cell::number(term.bits.mean, 6),
                Cell::number(term.bits.standard_error, 6),
                Cell::number(term.mse.mean, 6),
                Cell::number(term.rmse.mean, 6),
            ]
        })
    });
    let columns =
        vec!["attention", "first t", "last t", "bits/dim", "standard error", "loss of eps", "RMSE of x_0"];
    draft.data(&Table { name: "bound", caption: String::new(), columns, rows: rows.collect() });
    Ok(html)
}

/// The samples under a features network.
fn samples(draft: &mut Draft) -> String {
    let Some(study) = &draft.findings.samples else {
        return paragraph("The samples were not compared.");
    };
    let row = |row: &SampleQuality| {
        let name = row.variant.map_or("test images".to_owned(), |variant| variant.to_string());
        vec![
            Cell::text(name),
            Cell::count(row.images as u64),
            Cell::number(row.comparison.and_then(|found| found.frechet_distance), 4),
            estimate(row.comparison.map(|found| found.kernel_distance)),
            Cell::number(row.comparison.map(|found| found.precision), 3),
            Cell::number(row.comparison.map(|found| found.recall), 3),
        ]
    };
    let table = Table {
        name: "samples",
        caption: format!(
            "Samples by {}, compared with {} training images",
            study.source.describe(),
            study.reference
        ),
        columns: vec!["images", "number", "Fr\u{e9}chet distance", "kernel distance", "precision", "recall"],
        rows: study.rows.iter().map(row).collect(),
    };
    let notes: Vec<String> = study
        .rows
        .iter()
        .flat_map(|row| {
            let name = row.variant.map_or("test images".to_owned(), |variant| variant.to_string());
            row.notes.iter().map(move |note| format!("{name}: {note}."))
        })
        .collect();
    let mut html = format!("<dl>{}</dl>\n", equations::frechet()) + &draft.table(&table) + &remarks(&notes);
    if let FeatureSource::Blocks(_) = study.source {
        html += &format!(
            "<p>Means of blocks reflect layout and brightness, not texture; {} compares the same samples by a \
             features network.</p>\n",
            draft.more("--features FILE.onnx")
        );
    }
    html
}

/// Notes on what the table does not show.
fn notes(draft: &Draft) -> Vec<String> {
    let mut notes = Vec::new();
    for run in &draft.findings.runs {
        let variant = run.variant;
        if let Some(what) = &run.training.diverged {
            notes.push(format!(
                "{variant} diverged: {what}. Its curve ends there, and nothing else was measured."
            ));
        }
        if run.training.processes.iter().any(|&number| number > 1) {
            let numbers: Vec<String> = run.training.processes.iter().map(usize::to_string).collect();
            let numbers = numbers.join(", then ");
            notes.push(format!(
                "{variant} was trained in {numbers} processes; the threads are those of each process."
            ));
        }
        notes.extend(run.notes.iter().map(|note| format!("{variant}: {note}.")));
        // Predicting no noise at all has a loss of 1.
        if run.training.diverged.is_none() && run.training.final_loss.is_some_and(|loss| loss >= 1.0) {
            notes.push(format!("{variant} learned nothing: predicting no noise at all has a loss of 1."));
        }
    }
    let missing: Vec<&str> = draft
        .findings
        .plan
        .variants
        .iter()
        .filter(|variant| draft.findings.runs.iter().all(|run| run.variant != **variant))
        .map(|variant| variant.name())
        .collect();
    if !missing.is_empty() {
        notes.push(format!("Not run yet: {}.", missing.join(", ")));
    }
    notes
}

/// The losses by step and by time, in the page and as CSV.
pub(super) fn curves(
    draft: &mut Draft,
    name: &'static str,
    trainings: &[(AttentionKind, &Training)],
) -> Result<String> {
    let chart = |label: &'static str, value: fn(&CurvePoint) -> f64| Chart {
        x: ChartAxis { label, scale: Scale::Linear },
        y: ChartAxis { label: "training loss", scale: Scale::Logarithmic },
        series: trainings
            .iter()
            .map(|(variant, training)| Series {
                name: variant.to_string(),
                points: training.curve.iter().map(|point| (value(point), point.loss)).collect(),
                colour: colour(*variant),
                look: Look::Line,
            })
            .collect(),
        legend: Corner::UpperRight,
    };
    let by_step = chart("step", |point| point.step as f64);
    let by_time = chart("seconds of training", |point| point.seconds);
    let mut html = "<div class=\"figures\">\n".to_owned();
    let caption = "means over stretches of steps. A line that is not visible is below a later one";
    html += &draft.chart(&format!("{name}-by-step"), &format!("Loss by step; {caption}."), by_step)?;
    html +=
        &draft.chart(&format!("{name}-by-time"), &format!("The same losses by time; {caption}."), by_time)?;
    html += "</div>\n";
    let rows = trainings.iter().flat_map(|(variant, training)| {
        training.curve.iter().map(|point| {
            vec![
                Cell::text(*variant),
                Cell::count(point.step),
                Cell::number(point.seconds, 6),
                Cell::number(point.loss, 6),
            ]
        })
    });
    draft.data(&Table {
        name,
        caption: String::new(),
        columns: vec!["attention", "step", "seconds", "loss"],
        rows: rows.collect(),
    });
    if trainings.iter().all(|(_, training)| training.curve.is_empty()) {
        html += &paragraph("No step was finished.");
    }
    Ok(html)
}
