//! `sample`: images from a trained model.

use super::progress::Progress;
use super::{ComputeArgs, model_path};
use clap::{Args, ValueEnum};
use ndarray::{Array4, Array5, ArrayView4, Axis, s};
use performer_ddpm::equations::Schedule;
use performer_ddpm::model::Engine;
use performer_ddpm::output::{read_npy, write_gif, write_npy, write_png};
use performer_ddpm::sample::{ClipX0, SampleOptions, SampleProgress, Sampler, Spacing, respace, sample};
use performer_ddpm::{Error, Result, checkpoint};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Sample images from a model (Algorithm 2 or DDIM); image i depends on the seed and i alone.
///
/// Example: performer-ddpm sample -n 64 --sampler ddim --steps 50 --out grid.png
#[derive(Debug, Args)]
pub struct SampleArgs {
    /// Model folder or run folder [default: runs/latest]
    model: Option<PathBuf>,
    /// Number of images
    #[arg(short, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// Reverse process
    #[arg(long, value_enum, default_value_t = SamplerName::Ddim, value_name = "NAME")]
    sampler: SamplerName,
    /// Steps of the reverse process [default: 50 for ddim, all T for ddpm]
    #[arg(long, value_name = "K")]
    steps: Option<usize>,
    /// DDIM's noise: 0 none, 1 as much as Algorithm 2
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    eta: f64,
    /// Which timesteps are kept when they are fewer than T
    #[arg(long, value_enum, default_value_t = SpacingName::Trailing, value_name = "NAME")]
    spacing: SpacingName,
    /// Clipping of the predicted x_0 to [-1, 1] [default: the model's; keep where it clips]
    #[arg(long, value_enum, value_name = "NAME")]
    clip: Option<ClipName>,
    /// Seed of x_T and of the noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Images that go through the network together
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// The grid of images (its first 400)
    #[arg(long, default_value = "samples.png", value_name = "FILE.png")]
    out: PathBuf,
    /// The images as f32 [N,C,H,W] in [-1,1]
    #[arg(long, value_name = "FILE.npy")]
    npy: Option<PathBuf>,
    /// x_T and the K steps' noises as f32 [K+1,N,C,H,W], instead of the seed's
    #[arg(long, value_name = "FILE.npy")]
    noise: Option<PathBuf>,
    /// The first images' way from noise, as an animation
    #[arg(long, value_name = "FILE.gif")]
    gif: Option<PathBuf>,
    /// The same as a picture: a row an image, time to the right
    #[arg(long, value_name = "FILE.png")]
    strip: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SamplerName {
    /// Algorithm 2
    Ddpm,
    /// DDIM (Song et al. 2021)
    Ddim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SpacingName {
    /// Indices 0, s, 2s, ..: holds t = 1
    Leading,
    /// Evenly spaced down from t = T
    Trailing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ClipName {
    /// Do not clip
    Off,
    /// Clip, and keep the predicted noise
    Keep,
    /// Clip, and derive the noise from the clipped x_0 again
    Rederive,
}

/// Images in the grid; more are only in the array.
const GRID: usize = 400;
/// Images in an animation or strip, and moments of a strip.
const FOLLOWED: usize = 8;
const MOMENTS: usize = 10;

/// Samples; prints the files' paths.
pub fn run(args: SampleArgs) -> Result<ExitCode> {
    let path = model_path(args.model)?;
    let loaded = checkpoint::model_folder::load::<f32>(&path)?;
    let mut progress = Progress::new(args.compute.quiet);
    if let Some(note) = &loaded.note {
        progress.say(note);
    }
    let (model, schedule) = (loaded.model, Schedule::from_config(&loaded.diffusion)?);
    let (sampler, steps) = match args.sampler {
        SamplerName::Ddpm => (Sampler::Ddpm { variance: loaded.diffusion.variance }, args.steps),
        SamplerName::Ddim => {
            (Sampler::Ddim { eta: args.eta }, Some(args.steps.unwrap_or(50.min(schedule.steps()))))
        }
    };
    if args.sampler == SamplerName::Ddpm && args.eta != 0.0 {
        return Err(Error::invalid("--eta", "to be left out with --sampler ddpm", args.eta.to_string(), ""));
    }
    let options = SampleOptions {
        count: args.n as usize,
        batch: args.batch as usize,
        seed: args.seed,
        sampler,
        steps,
        spacing: match args.spacing {
            SpacingName::Leading => Spacing::Leading,
            SpacingName::Trailing => Spacing::Trailing,
        },
        clip_x0: match (loaded.diffusion.clip_x0, args.clip) {
            (false, None) | (_, Some(ClipName::Off)) => ClipX0::Off,
            (true, None) | (_, Some(ClipName::Keep)) => ClipX0::KeepEps,
            (_, Some(ClipName::Rederive)) => ClipX0::RederiveEps,
        },
    };
    let noise: Option<Array5<f32>> = args.noise.as_deref().map(read_npy).transpose()?;
    let mut engine = Engine::new(&model, args.compute.threads(), args.compute.isa())?;
    let total = respace(&schedule, steps, options.spacing)?.steps();
    let follow = args.gif.is_some() || args.strip.is_some();
    let shape = model.graph.shape(model.graph.input);
    let mut moments: Vec<Array4<f32>> = Vec::new();
    let start = Instant::now();
    let images = sample(
        &model,
        &schedule,
        &mut engine,
        &options,
        noise.as_ref().map(|noise| noise.view()),
        |SampleProgress { batch, batches, step, steps, x }| {
            let done = (batch * steps + step) as f64 / (batches * steps) as f64;
            progress.update(done, || format!("step {step}/{steps} of batch {}/{batches}", batch + 1));
            if follow && batch == 0 && (step * MOMENTS) % total < MOMENTS {
                let n = (x.len() / shape.len()).min(FOLLOWED);
                let followed = x[..n * shape.len()].to_vec();
                let moment = Array4::from_shape_vec((n, shape.h, shape.w, shape.c), followed);
                moments.push(moment.expect("n whole images"));
            }
        },
    )?;
    progress.finish();
    if !args.compute.quiet {
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{} images in {seconds:.1} s, {:.2} images/s", args.n, f64::from(args.n) / seconds);
    }
    if let Some(path) = &args.npy {
        write_npy(path, images.view().permuted_axes([0, 3, 1, 2]))?;
        println!("{}", path.display());
    }
    let shown = options.count.min(GRID);
    write_png(&args.out, images.slice(s![..shown, .., .., ..]), None)?;
    println!("{}", args.out.display());
    let views: Vec<ArrayView4<f32>> = moments.iter().map(|moment| moment.view()).collect();
    if let Some(path) = &args.gif {
        write_gif(path, &views, None, Duration::from_millis(150), Duration::from_secs(2))?;
        println!("{}", path.display());
    }
    if let Some(path) = &args.strip {
        let n = views.first().map_or(0, |view| view.len_of(Axis(0)));
        let rows = (0..n).flat_map(|i| views.iter().map(move |view| view.slice(s![i..=i, .., .., ..])));
        let strip = ndarray::concatenate(Axis(0), &rows.collect::<Vec<_>>()).expect("moments have one shape");
        write_png(path, strip.view(), Some(views.len()))?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}
