//! The bound: arguments, table, plots.

use super::subject::Subject;
use super::{EvaluateArgs, Split};
use crate::Result;
use crate::cli::progress::Progress;
use crate::cli::ranks::Ranks;
use crate::cli::reverse::ClipName;
use crate::equations::solver::Variance;
use crate::evaluate::nll::{Bound, Likelihood, Term, Timesteps, likelihood_in};
use crate::evaluate::{Estimate, NllConfig, choose};
use crate::output::{Chart, ChartAxis, Corner, Look, Scale, Series};
use clap::Args;
use serde::Serialize;
use std::path::Path;

/// How the bound is evaluated.
#[derive(Debug, Args)]
pub struct NllArgs {
    /// Evaluate the bound at all T timesteps
    #[arg(long, conflicts_with = "strata")]
    full: bool,
    /// Evaluate it at one timestep of each of K strata, drawn anew for each image [default: 32]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    strata: Option<u32>,
    /// Evaluate each image with N draws of noise and timesteps [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    draws: Option<u32>,
    /// Bound the images given their classes, for a model with classes; one without a null class is in any
    /// case
    #[arg(long)]
    given_class: bool,
}

impl NllArgs {
    /// The options that were given.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("--full", self.full),
            ("--strata", self.strata.is_some()),
            ("--draws", self.draws.is_some()),
            ("--given-class", self.given_class),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
    }
}

/// The bound and what it was evaluated on.
#[derive(Serialize)]
pub struct Figures {
    /// The part of the data that the images are from.
    split: &'static str,
    /// The variance of the model's configuration.
    variance: Variance,
    /// Whether the network was told the images' classes.
    given_class: bool,
    #[serde(flatten)]
    likelihood: Likelihood,
}

/// Held-out images where -n is not given.
const IMAGES: usize = 256;

/// Evaluates the bound and draws its plots.
pub fn run(
    args: &EvaluateArgs,
    ranks: &Ranks,
    subject: &mut Subject,
    progress: &mut Progress,
    files: &mut Vec<String>,
) -> Result<Figures> {
    let dataset = args.split(&subject.data, Split::Test)?;
    let chosen = choose(dataset.len(), args.n.map_or(IMAGES, |n| n as usize), args.seed)?;
    let pictures = dataset.select(&chosen)?;
    let split = if std::ptr::eq(dataset, &subject.data.train) { "train" } else { "test" };
    let pipeline = subject.pipeline()?;
    let clip_x0 = pipeline.diffusion().clip_x0;
    let diffusion = pipeline.source()?.diffusion;
    let variance = if diffusion.learned_range { Variance::LearnedRange } else { diffusion.variance.into() };
    let labels = pipeline.class_embedding();
    let needs_class = labels.embeds.is_some() && labels.null_class().is_none();
    let usual = NllConfig::default();
    let config = NllConfig {
        draws: args.bound.draws.map_or(usual.draws, |draws| draws as usize),
        timesteps: match (args.bound.full, args.bound.strata) {
            (true, _) => Timesteps::Full,
            (false, Some(strata)) => Timesteps::Stratified(strata as usize),
            (false, None) => usual.timesteps,
        },
        clip_x0: args.reverse.clip.map_or(clip_x0, |clip| clip != ClipName::Off),
        given_class: args.bound.given_class || needs_class,
        seed: args.seed,
        batch: args.batch as usize,
    };
    let message = format!("the bound on {} images", chosen.len());
    let observer = &mut |done| progress.update(done, || message.clone());
    let likelihood = likelihood_in(ranks, pipeline, &pictures, &config, observer)?;
    let figures = Figures { split, variance, given_class: config.given_class, likelihood };
    if let Some(folder) = args.out.as_ref().filter(|_| ranks.leads()) {
        figures.plot(folder, files)?;
    }
    Ok(figures)
}

impl Figures {
    /// Writes the plots.
    fn plot(&self, folder: &Path, files: &mut Vec<String>) -> Result<()> {
        let curve = |value: fn(&Bound) -> Vec<(f64, f64)>| -> Vec<Series> {
            let series = |(i, bound): (usize, &Bound)| Series {
                name: sigma2(bound.variance).to_owned(),
                points: value(bound),
                colour: i + 1,
                look: Look::Dots,
            };
            self.likelihood.all().enumerate().map(series).collect()
        };
        let per_timestep = |bound: &Bound| -> Vec<(f64, f64)> {
            let middle = |term: &Term| ((term.first * term.last) as f64).sqrt();
            bound.terms.iter().map(|term| (middle(term), term.bits.mean / term.width() as f64)).collect()
        };
        let logarithmic = |label| ChartAxis { label, scale: Scale::Logarithmic };
        let linear = |label| ChartAxis { label, scale: Scale::Linear };
        let charts = [
            (
                "bits_per_timestep",
                Chart {
                    x: logarithmic("t (t = 1: the decoder's term)"),
                    y: logarithmic("bits/dim of the term"),
                    series: curve(per_timestep),
                    legend: Corner::UpperRight,
                },
            ),
            (
                "rate_distortion",
                Chart {
                    x: linear("rate in bits/dim"),
                    y: linear("RMSE of the predicted x_0, pixels in 0..255"),
                    series: curve(|bound| {
                        bound.rate_distortion.iter().map(|point| (point.rate, point.rmse.mean)).collect()
                    }),
                    legend: Corner::UpperRight,
                },
            ),
        ];
        for (name, chart) in charts {
            files.extend(chart.write(folder, name)?.map(|file| file.display().to_string()));
        }
        Ok(())
    }

    /// Prints the table; without the single terms if `quiet`.
    pub fn print(&self, quiet: bool) {
        let Likelihood { images, draws, timesteps, evaluated, .. } = &self.likelihood;
        println!(
            "bound in bits/dim on {images} {} images{}, {evaluated} of {timesteps} timesteps an image, {draws} \
             draw(s), x_0 {}; mean and standard error",
            self.split,
            if self.given_class { " given their classes" } else { "" },
            if self.likelihood.clip_x0 { "clipped" } else { "not clipped" },
        );
        let row = |name: &str, value: &dyn Fn(&Bound) -> String| {
            let columns = self.likelihood.all().map(|bound| format!("{:>22}", value(bound)));
            println!("  {name:<22}{}", columns.collect::<String>());
        };
        row("", &|bound| sigma2(bound.variance).to_owned());
        row("L", &|bound| shown(bound.bits_per_dim));
        row("  L_T", &|bound| shown(bound.l_t));
        row("  L_1 + .. + L_T-1", &|bound| shown(bound.middle));
        row("  L_0", &|bound| shown(bound.l_0));
        if self.likelihood.draws > 1 {
            row("error of draws alone", &|bound| {
                bound.draws_error.map_or_else(String::new, |error| format!("{error:.4}"))
            });
        }
        println!("  the model's own variance: {}", sigma2(self.variance));
        if quiet {
            return;
        }
        let heads = self.likelihood.all().map(|_| format!("{:>22}", "terms")).collect::<String>();
        println!("  {:<12}{heads}{:>12}{:>12}", "t", "eps MSE", "x_0 RMSE");
        for (i, term) in self.likelihood.bounds[0].terms.iter().enumerate() {
            let bits = self.likelihood.all().filter_map(|bound| bound.terms.get(i));
            let columns = bits.map(|term| format!("{:>22}", shown(term.bits))).collect::<String>();
            let Term { mse, rmse, .. } = term;
            println!("  {:<12}{columns}{:>12.5}{:>12.2}", range(term), mse.mean, rmse.mean);
        }
    }
}

fn range(term: &Term) -> String {
    if term.first == term.last { term.first.to_string() } else { format!("{}..{}", term.first, term.last) }
}

fn shown(estimate: Estimate) -> String {
    format!("{:.4} +- {:.4}", estimate.mean, estimate.standard_error)
}

/// The variance's symbol.
fn sigma2(variance: Variance) -> &'static str {
    match variance {
        Variance::FixedSmall => "sigma^2 = beta~",
        Variance::FixedLarge => "sigma^2 = beta",
        Variance::LearnedRange | Variance::Learned => "learned sigma^2",
    }
}
