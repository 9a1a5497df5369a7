//! What was compared, and how it was measured.

use super::{Draft, duration};
use crate::compare::plan::list;
use crate::compare::store::CONFIG;
use crate::compare::store::Findings;
use crate::compare::{Budget, FeatureSource, Training};
use crate::config::{AttentionKind, Config, Preset};
use crate::output::html::{command, paragraph, remarks};
use crate::output::table::significant;

/// What was compared, and the main results.
pub(super) fn section(findings: &Findings) -> String {
    let plan = &findings.plan;
    let data = &findings.data;
    let [h, w, c] = data.shape;
    let favor = &plan.config.unet.favor;
    let mut text = paragraph(&format!(
        "The same network ({} preset or configuration, {} at {h}x{w} with {c} channel(s), {} training \
         images) was trained with each attention for {}, from the same initial weights where they are \
         shared, on the same batches with the same timesteps and noise. FAVOR+ has m = {} projections. {} \
         threads, {} kernels.",
        plan.name,
        data.name,
        data.train,
        plan.budget.describe(),
        favor.features,
        plan.threads,
        plan.isa,
    ));
    text += &remarks(&summary(findings));
    text
}

/// The main figures in sentences, each from the tables below.
fn summary(findings: &Findings) -> Vec<String> {
    let mut items = Vec::new();
    let run = |variant| findings.runs.iter().find(|run| run.variant == variant);
    if let (Some(softmax), Some(favor)) = (run(AttentionKind::Softmax), run(AttentionKind::FAVOR)) {
        if let Some(text) = step_times(&softmax.training, &favor.training) {
            items.push(format!("At the data's own size {text}"));
        }
        if let (Some(a), Some(b)) = (&softmax.quality, &favor.quality) {
            let above = b.loss_above(a);
            let verdict = if above.mean.abs() < 2.0 * above.standard_error {
                "no difference beyond two standard errors"
            } else if above.mean > 0.0 {
                "softmax is better"
            } else {
                "FAVOR+ is better"
            };
            items.push(format!(
                "On held-out images the loss of FAVOR+ differs from softmax's by {:+.5} \u{b1} {:.5}: \
                 {verdict}. The error comes from the choice of images. Each network was trained once, so the \
                 error does not include what another training seed would change.",
                above.mean, above.standard_error
            ));
        }
    }
    let full = |variant| findings.full_resolution.iter().find(|run| run.variant == variant);
    if let (Some(softmax), Some(favor)) = (full(AttentionKind::Softmax), full(AttentionKind::FAVOR)) {
        let [h, w] = findings.plan.full_resolution.size;
        if let Some(text) = step_times(&softmax.training, &favor.training) {
            items.push(format!("At {h}x{w} with attention at every pixel (L = {}) {text}", h * w));
        }
    }
    for run in &findings.runs {
        if let Some(what) = &run.training.diverged {
            items.push(format!("{} diverged: {what}.", run.variant));
        }
    }
    items
}

/// The two times of a step, where both have one.
pub(super) fn step_times(softmax: &Training, favor: &Training) -> Option<String> {
    let (softmax, favor) = (softmax.step_seconds?, favor.step_seconds?);
    Some(format!(
        "a training step takes {} with softmax and {} with FAVOR+ (positive features): a ratio of {}.",
        duration(softmax),
        duration(favor),
        significant(softmax / favor, 2)
    ))
}

/// What the losses and the bound are of, where the networks predict something else than eps or are told
/// classes.
fn what_is_predicted(config: &Config) -> String {
    let mut text = String::new();
    if !config.diffusion.prediction.is_epsilon() {
        text += " They are of the noise that follows from what the networks predict.";
    }
    if config.unet.num_class_embeds.is_some() {
        text += " The networks are told each image's class, for the bound none where they know of none.";
    }
    text
}

/// How the figures were measured, and what a short budget left out.
pub(super) fn how(draft: &Draft) -> String {
    let findings = draft.findings;
    let plan = &findings.plan;
    let measuring = &plan.measuring;
    let held_out = match findings.data.test {
        Some(count) => format!("{} of {count} test images", measuring.images.min(count)),
        None => format!("{} of the training images, since the data has no test images", measuring.images),
    };
    let mut items = vec![
        format!(
            "Times per step are medians over the run. Peak memory is the largest resident size of a separate \
             process that only trains the network; the planned memory is the sum of its buffers. Held-out \
             losses are of {held_out}, one t and eps each, the same for every model; differences are taken \
             image by image.{}",
            what_is_predicted(&plan.config),
        ),
        format!(
            "The bound is evaluated on the same images at one timestep of each of {} strata; its errors \
             include the choice of images, noise and timesteps.",
            measuring.timesteps
        ),
        format!(
            "Samples are drawn by DDIM in {} steps with the moving average of the weights; images at the \
             same place in two grids started from the same noise.",
            measuring.steps
        ),
        "The attention layer alone is timed on one thread, forward and backward, on one sample of normal \
         numbers."
            .to_owned(),
        format!(
            "Errors of the random features are computed in f64 directly from the equations, over {} draws of \
             the projections.",
            plan.approximation.draws
        ),
    ];
    if let Budget::Minutes(_) = plan.budget {
        items.push(
            "The minutes count training alone. The number of steps in that time was estimated from a few \
             steps, and a linear decay of the learning rate ends there, so that the decay is complete for \
             slower variants too."
                .to_owned(),
        );
    }
    let again = again(draft);
    format!("<h2>How it was measured</h2>\n{}<p>To run it again: {}</p>\n", remarks(&items), command(&again))
}

/// The command that does all of it.
fn again(draft: &Draft) -> String {
    let findings = draft.findings;
    let plan = &findings.plan;
    let is_preset = Preset::ALL.into_iter().any(|preset| preset.name() == plan.name);
    let mut command = "performer-ddpm compare".to_owned();
    command += &if is_preset {
        format!(" --preset {}", plan.name)
    } else {
        format!(" --config {}", draft.folder.join(CONFIG).display())
    };
    command += &match plan.budget {
        Budget::Steps(steps) => format!(" --steps {steps}"),
        Budget::Minutes(minutes) => format!(" --minutes {minutes}"),
    };
    if plan.variants != AttentionKind::ALL {
        command += &format!(" --variants {}", list(&plan.variants));
    }
    if let (Some(path), true) = (&plan.config.data.path, is_preset) {
        command += &format!(" --data {}", path.display());
        if let Some([h, w]) = plan.config.data.size {
            command += &format!(" --size {h}x{w}");
        }
    }
    if let Some(study) = &findings.samples {
        if let FeatureSource::Network { file, feeding, .. } = &study.source {
            command += &format!(" --features {file}");
            feeding.iter().for_each(|option| command += &format!(" {option}"));
        }
        command += &format!(" --samples {}", study.samples);
    }
    format!("{command} --threads {} --isa {} --conv {}", plan.threads, plan.isa, plan.conv)
}
