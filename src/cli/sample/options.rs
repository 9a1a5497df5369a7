//! What was asked for, what the model says and what the graph fixes, put together.

use super::{ClipName, SampleArgs, SamplerName, SpacingName};
use clap::ValueEnum;
use performer_ddpm::config::VarianceKind;
use performer_ddpm::equations::Schedule;
use performer_ddpm::equations::ddim::Ddim;
use performer_ddpm::equations::reverse::Reverse;
use performer_ddpm::equations::update::ReverseProcess;
use performer_ddpm::export::SamplerSummary;
use performer_ddpm::sample::{ClipX0, SampleOptions, Sampler, Spacing};
use performer_ddpm::{Error, Result};

/// The diffusion process that a model was trained for.
#[derive(Debug)]
pub struct Diffusion {
    pub schedule: Schedule,
    pub variance: VarianceKind,
    pub clip_x0: bool,
}

/// Images of a batch where nothing else is said.
const BATCH: usize = 64;

/// The options of a model whose graph leaves the sampler open.
pub fn of_arguments(args: &SampleArgs, diffusion: &Diffusion) -> Result<SampleOptions> {
    let sampler = args.sampler.unwrap_or(SamplerName::Ddim);
    let eta = args.eta.unwrap_or(0.0);
    let (sampler, steps) = match sampler {
        SamplerName::Ddpm if eta != 0.0 => {
            return Err(Error::invalid("--eta", "to be left out with --sampler ddpm", eta.to_string(), ""));
        }
        SamplerName::Ddpm => (Sampler::Ddpm { variance: diffusion.variance }, args.steps),
        SamplerName::Ddim => {
            let steps = args.steps.unwrap_or(50.min(diffusion.schedule.steps()));
            (Sampler::Ddim { eta }, Some(steps))
        }
    };
    let clip_x0 = match (diffusion.clip_x0, args.clip) {
        (false, None) | (_, Some(ClipName::Off)) => ClipX0::Off,
        (true, None) | (_, Some(ClipName::Keep)) => ClipX0::KeepEps,
        (_, Some(ClipName::Rederive)) => ClipX0::RederiveEps,
    };
    let spacing = match args.spacing {
        Some(SpacingName::Leading) => Spacing::Leading,
        Some(SpacingName::Trailing) | None => Spacing::Trailing,
    };
    Ok(common(args, sampler, steps, spacing, clip_x0))
}

/// The options that a sampler graph fixes; refuses arguments that say otherwise.
pub fn of_graph(args: &SampleArgs, summary: &SamplerSummary) -> Result<SampleOptions> {
    let (sampler, name, eta, clip_x0) = match summary.process {
        ReverseProcess::Alg2(Reverse { variance, clip_x0 }) => {
            let clip = if clip_x0 { ClipX0::RederiveEps } else { ClipX0::Off };
            (Sampler::Ddpm { variance }, SamplerName::Ddpm, 0.0, clip)
        }
        ReverseProcess::Ddim(Ddim { eta, clip_x0 }) => {
            (Sampler::Ddim { eta }, SamplerName::Ddim, eta, clip_x0)
        }
    };
    agree("--sampler", args.sampler.map(shown), shown(name))?;
    agree("--eta", args.eta, eta)?;
    let steps = summary.timesteps.len();
    agree("--steps", args.steps, steps)?;
    let (spacing, spacing_name) = match summary.spacing {
        Spacing::Leading => (Spacing::Leading, SpacingName::Leading),
        Spacing::Trailing => (Spacing::Trailing, SpacingName::Trailing),
    };
    agree("--spacing", args.spacing.map(shown), shown(spacing_name))?;
    let clip_name = match clip_x0 {
        ClipX0::Off => ClipName::Off,
        ClipX0::KeepEps => ClipName::Keep,
        ClipX0::RederiveEps => ClipName::Rederive,
    };
    // Algorithm 2 clips or does not.
    let asked = match (args.clip, name) {
        (Some(ClipName::Keep), SamplerName::Ddpm) => Some(ClipName::Rederive),
        (asked, _) => asked,
    };
    agree("--clip", asked.map(shown), shown(clip_name))?;
    Ok(common(args, sampler, Some(steps), spacing, clip_x0))
}

fn common(
    args: &SampleArgs,
    sampler: Sampler,
    steps: Option<usize>,
    spacing: Spacing,
    clip_x0: ClipX0,
) -> SampleOptions {
    let count = args.n as usize;
    let batch = args.batch.map_or(BATCH, |batch| batch as usize).min(count);
    SampleOptions { count, batch, seed: args.seed, sampler, steps, spacing, clip_x0 }
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
