//! Combines the arguments, the model's settings and what a graph fixes.

use super::SampleArgs;
use crate::cli::reverse::{ClipName, SamplerName, SpacingName};
use crate::config::ClassEmbedding;
use crate::equations::Schedule;
use crate::equations::solver::{Limit, Method};
use crate::export::SamplerSummary;
use crate::sample::{Diffusion, Spacing, images_for};
use crate::{Error, Result, SampleOptions};
use clap::ValueEnum;

/// The options for a model that knows these classes and whose graph does not fix the sampler.
pub fn of_arguments(
    args: &SampleArgs,
    diffusion: &Diffusion,
    labels: ClassEmbedding,
) -> Result<SampleOptions> {
    common(args, args.reverse.choose(diffusion)?, labels)
}

/// The options that a sampler graph fixes; refuses arguments that contradict them.
pub fn of_graph(
    args: &SampleArgs,
    summary: &SamplerSummary,
    schedule: &Schedule,
    labels: ClassEmbedding,
) -> Result<SampleOptions> {
    let SamplerSummary { scheduler, steps, .. } = summary;
    let asked = &args.reverse;
    let (name, eta, keeps_eps) = match scheduler.method {
        Method::Ddpm { .. } => (SamplerName::Ddpm, 0.0, false),
        Method::Ddim(choice) => (SamplerName::Ddim, choice.eta, !choice.rederive_eps),
        Method::DpmSolver(_) => (SamplerName::DpmSolver, 0.0, false),
        Method::UniPc(_) => (SamplerName::UniPc, 0.0, false),
    };
    agree("--sampler", asked.sampler.map(shown), shown(name))?;
    agree("--eta", asked.eta, eta)?;
    agree("--steps", asked.steps, *steps)?;
    let spacing_name = match scheduler.spacing {
        Spacing::Leading => SpacingName::Leading,
        Spacing::Trailing => SpacingName::Trailing,
        Spacing::Linspace => SpacingName::Linspace,
    };
    agree("--spacing", asked.spacing.map(shown), shown(spacing_name))?;
    let clip_name = match (scheduler.limit, keeps_eps) {
        (Limit::Off, _) => ClipName::Off,
        (Limit::Clip { .. } | Limit::Threshold { .. }, true) => ClipName::Keep,
        (Limit::Clip { .. } | Limit::Threshold { .. }, false) => ClipName::Rederive,
    };
    // Only DDIM has a noise to keep; the others clip or do not.
    let clip = match (asked.clip, name) {
        (Some(ClipName::Keep), SamplerName::Ddpm | SamplerName::DpmSolver | SamplerName::UniPc) => {
            Some(ClipName::Rederive)
        }
        (clip, _) => clip,
    };
    agree("--clip", clip.map(shown), shown(clip_name))?;
    common(args, SampleOptions::default().with_scheduler(scheduler, schedule, Some(*steps)), labels)
}

fn common(args: &SampleArgs, chosen: SampleOptions, labels: ClassEmbedding) -> Result<SampleOptions> {
    let classes = args.class.iter().map(|text| labels.find_class(text)).collect::<Result<Vec<_>>>()?;
    let in_turn = if classes.is_empty() { labels.classes() } else { classes.len() };
    let count = args.n.map_or(images_for(in_turn, chosen.count), |n| n as usize);
    let (seed, guidance) = (args.seed, args.guidance.choose());
    let batch = if args.n.is_none() && args.batch.is_none() { count } else { batch(args).min(count) };
    Ok(SampleOptions { count, batch, seed, classes, guidance, ..chosen })
}

/// Images that go through the network together, if there are as many.
pub fn batch(args: &SampleArgs) -> usize {
    let usual = SampleOptions::default();
    let count = args.n.map_or(usual.count, |n| n as usize);
    args.batch.map_or(usual.batch, |batch| batch as usize).min(count)
}

fn shown(name: impl ValueEnum) -> String {
    name.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn agree<T: PartialEq + std::fmt::Display>(flag: &str, asked: Option<T>, fixed: T) -> Result<()> {
    match asked {
        Some(asked) if asked != fixed => Err(Error::invalid(
            flag,
            format!("{fixed}, which the sampler graph fixes"),
            asked.to_string(),
            "leave it out, or sample from the denoiser or the step graph",
        )),
        _ => Ok(()),
    }
}
