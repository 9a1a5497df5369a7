//! Training with attention at every pixel.

use super::plan::step_times;
use super::runs::curves;
use super::{Draft, duration, estimate};
use crate::compare::full_resolution::grid_name;
use crate::compare::{FullResolutionRun, Part, Training};
use crate::config::AttentionKind;
use crate::error::Result;
use crate::output::html::{paragraph, remarks};
use crate::output::table::{Cell, Table};

/// The section of the runs at full resolution.
pub(super) fn section(draft: &mut Draft) -> Result<String> {
    const TITLE: &str = "Attention at full resolution";
    let findings = draft.findings;
    let runs = &findings.full_resolution;
    if runs.is_empty() {
        return Ok(draft.left_out(TITLE, Part::FullResolution));
    }
    let [h, w] = findings.plan.full_resolution.size;
    let m = findings.plan.config.unet.favor.features;
    let mut html = format!("<h2>{TITLE}</h2>\n");
    html += &paragraph(&format!(
        "The same images enlarged to {h}x{w}, and the same network with attention at all {} pixels as well \
         as at the lower resolutions, each trained for {}; FAVOR+ with m = {m}. The work of softmax grows \
         with the square of the number of pixels, that of FAVOR+ with the number.",
        h * w,
        findings.plan.full_resolution.budget.describe(),
    ));
    html += &draft.table(&table(runs));
    let of = |variant| runs.iter().find(|run| run.variant == variant);
    let mut notes: Vec<String> = runs
        .iter()
        .flat_map(|run| {
            let diverged =
                run.training.diverged.iter().map(|what| format!("{} diverged: {what}.", run.variant));
            diverged.chain(run.notes.iter().map(|note| format!("{}: {note}.", run.variant)))
        })
        .collect();
    if let (Some(softmax), Some(favor)) = (of(AttentionKind::Softmax), of(AttentionKind::FAVOR)) {
        let (s, f) = (&softmax.training, &favor.training);
        let same = s.seconds.min(f.seconds);
        let steps = (steps_in(f, same), steps_in(s, same));
        notes.extend(step_times(s, f).map(|text| {
            let time = duration(same);
            format!("Here {text} In the first {time} FAVOR+ took {} steps and softmax {}.", steps.0, steps.1)
        }));
    }
    html += &remarks(&notes);
    let trainings: Vec<(AttentionKind, &Training)> =
        runs.iter().map(|run| (run.variant, &run.training)).collect();
    html += &curves(draft, "full-resolution-loss", &trainings)?;
    let grids = runs.iter().map(|run| (run.variant, run.training.steps, grid_name(run.variant)));
    html += &draft.samples(grids);
    Ok(html)
}

/// The steps taken in the first `seconds` seconds.
fn steps_in(training: &Training, seconds: f64) -> u64 {
    training.curve.iter().rev().find(|point| point.seconds <= seconds).map_or(0, |point| point.step)
}

fn table(runs: &[FullResolutionRun]) -> Table {
    let row = |run: &FullResolutionRun| {
        let t = &run.training;
        vec![
            Cell::text(run.variant),
            Cell::count(t.parameters as u64),
            Cell::count(t.batch as u64),
            Cell::count(t.steps),
            Cell::number(t.step_seconds.map(|s| 1e3 * s), 3),
            Cell::number(t.step_seconds.map(|s| t.batch as f64 / s), 3),
            Cell::number(t.peak_mib, 3),
            Cell::number(t.planned_mib, 3),
            Cell::number(t.final_loss, 4),
            estimate(run.held_out_loss),
        ]
    };
    Table {
        name: "full-resolution",
        caption: "Training with attention at every pixel".into(),
        columns: vec![
            "attention",
            "parameters",
            "batch",
            "steps",
            "a step, ms",
            "images a second",
            "peak memory, MiB",
            "planned memory, MiB",
            "training loss, last tenth",
            "held-out loss",
        ],
        rows: runs.iter().map(row).collect(),
    }
}
