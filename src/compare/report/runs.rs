//! The variants side by side.

use super::html::{paragraph, remarks};
use super::table::{Cell, Table};
use super::{Draft, equations, left_out};
use crate::compare::runs::grid_name;
use crate::compare::{CurvePoint, Part, Training, Variant, VariantRun};
use crate::error::Result;
use crate::output::{Chart, Corner, Look, Scale, Series};

/// The colour of a variant in every chart.
pub(super) fn colour(variant: Variant) -> usize {
    Variant::ALL.iter().position(|other| *other == variant).unwrap_or(0)
}

/// The section of the runs.
pub(super) fn section(draft: &mut Draft) -> Result<String> {
    const TITLE: &str = "Under one budget";
    let runs = &draft.findings.runs;
    if runs.is_empty() {
        return Ok(left_out(TITLE, Part::Runs));
    }
    let mut html = format!("<h2>{TITLE}</h2>\n<dl>{}</dl>\n", equations::loss());
    html += &draft.table(&table(runs));
    html += &remarks(&notes(draft));
    let trainings: Vec<(Variant, &Training)> = runs.iter().map(|run| (run.variant, &run.training)).collect();
    html += &curves(draft, "loss", &trainings)?;
    html += "<h3>Samples from the same noise</h3>\n<div class=\"figures\">\n";
    for run in runs {
        let steps = run.training.steps;
        html += &draft.picture(&grid_name(run.variant), &format!("{}, after {steps} steps", run.variant));
    }
    html += "</div>\n";
    Ok(html)
}

fn table(runs: &[VariantRun]) -> Table {
    let softmax =
        runs.iter().find(|run| run.variant == Variant::Softmax).and_then(|run| run.quality.as_ref());
    let row = |run: &VariantRun| {
        let t = &run.training;
        let quality = run.quality.as_ref();
        let above = match (quality, softmax) {
            (Some(quality), Some(softmax)) if run.variant != Variant::Softmax => {
                Some(quality.loss_above(softmax))
            }
            _ => None,
        };
        vec![
            Cell::text(run.variant),
            Cell::count(t.parameters as u64),
            Cell::count(t.steps),
            Cell::number(t.step_seconds.map(|s| 1e3 * s), 3),
            Cell::number(t.step_seconds.map(|s| t.batch as f64 / s), 3),
            Cell::number(t.peak_mib, 3),
            Cell::number(t.planned_mib, 3),
            Cell::number(t.final_loss, 4),
            Cell::estimate(quality.map(|quality| quality.held_out_loss())),
            Cell::estimate(above),
            Cell::number(quality.and_then(|quality| quality.sample_seconds).map(|s| 1e3 * s), 3),
        ]
    };
    Table {
        name: "runs",
        caption: "The variants' runs".into(),
        columns: vec![
            "attention",
            "parameters",
            "steps",
            "a step, ms",
            "images a second",
            "peak memory, MiB",
            "planned memory, MiB",
            "training loss, last tenth",
            "held-out loss",
            "above softmax's",
            "a sample, ms",
        ],
        rows: runs.iter().map(row).collect(),
    }
}

/// What the table alone does not tell.
fn notes(draft: &Draft) -> Vec<String> {
    let mut notes = Vec::new();
    for run in &draft.findings.runs {
        let variant = run.variant;
        if let Some(what) = &run.training.diverged {
            notes.push(format!(
                "{variant} diverged: {what}. Its curve ends there, and nothing else was measured."
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
    trainings: &[(Variant, &Training)],
) -> Result<String> {
    let chart = |x: (&str, Scale), value: fn(&CurvePoint) -> f64| Chart {
        x: (x.0.to_owned(), x.1),
        y: ("training loss".to_owned(), Scale::Logarithmic),
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
    let by_step = chart(("step", Scale::Linear), |point| point.step as f64);
    let by_time = chart(("seconds of training", Scale::Linear), |point| point.seconds);
    let mut html = "<div class=\"figures\">\n".to_owned();
    let caption = "means over stretches of steps";
    html += &draft.chart(&format!("{name}-by-step"), &format!("Loss by step; {caption}."), &by_step)?;
    html += &draft.chart(
        &format!("{name}-by-time"),
        &format!("The same losses by time; {caption}."),
        &by_time,
    )?;
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
