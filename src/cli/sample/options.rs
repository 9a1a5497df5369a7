//! Combines the arguments, the model's settings and what a graph fixes.

use super::SampleArgs;
use crate::cli::reverse::{ClipName, SamplerName, SpacingName};
use clap::ValueEnum;
use performer_ddpm::equations::ddim::Ddim;
use performer_ddpm::equations::update::ReverseProcess;
use performer_ddpm::export::SamplerSummary;
use performer_ddpm::sample::{ClipX0, Diffusion, Spacing};
use performer_ddpm::{Error, Result, SampleOptions};

/// The options for a model whose graph does not fix the sampler.
pub fn of_arguments(args: &SampleArgs, diffusion: &Diffusion) -> Result<SampleOptions> {
    Ok(common(args, args.reverse.choose(diffusion)?))
}

/// The options that a sampler graph fixes; refuses arguments that contradict them.
pub fn of_graph(args: &SampleArgs, summary: &SamplerSummary) -> Result<SampleOptions> {
    let SamplerSummary { process, spacing, .. } = *summary;
    let steps = summary.timesteps.len();
    let asked = &args.reverse;
    let (name, eta, clip_x0) = match process {
        ReverseProcess::Alg2(_) => {
            (SamplerName::Ddpm, 0.0, SampleOptions::default().with_reverse(process).clip_x0)
        }
        ReverseProcess::Ddim(Ddim { eta, clip_x0 }) => (SamplerName::Ddim, eta, clip_x0),
    };
    agree("--sampler", asked.sampler.map(shown), shown(name))?;
    agree("--eta", asked.eta, eta)?;
    agree("--steps", asked.steps, steps)?;
    let spacing_name = match spacing {
        Spacing::Leading => SpacingName::Leading,
        Spacing::Trailing => SpacingName::Trailing,
        Spacing::Linspace => SpacingName::Linspace,
    };
    agree("--spacing", asked.spacing.map(shown), shown(spacing_name))?;
    let clip_name = match clip_x0 {
        ClipX0::Off => ClipName::Off,
        ClipX0::KeepEps => ClipName::Keep,
        ClipX0::RederiveEps => ClipName::Rederive,
    };
    // Algorithm 2 clips or does not.
    let clip = match (asked.clip, name) {
        (Some(ClipName::Keep), SamplerName::Ddpm) => Some(ClipName::Rederive),
        (clip, _) => clip,
    };
    agree("--clip", clip.map(shown), shown(clip_name))?;
    let usual = SampleOptions { steps: Some(steps), spacing, ..SampleOptions::default() };
    Ok(common(args, usual.with_reverse(process)))
}

fn common(args: &SampleArgs, chosen: SampleOptions) -> SampleOptions {
    SampleOptions { count: args.count() as usize, batch: batch(args), seed: args.seed, ..chosen }
}

/// Images that go through the network together.
pub fn batch(args: &SampleArgs) -> usize {
    args.batch.map_or(SampleOptions::default().batch, |batch| batch as usize).min(args.count() as usize)
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
