//! `sample`: images from a trained model.

mod options;
mod source;

use super::classes::GuidanceArgs;
use super::outputs::check_outputs;
use super::progress::Progress;
use super::ranks::{self, Ranks};
use super::reverse::ReverseArgs;
use super::{ComputeArgs, check_ending, check_writable, model_path, print_json};
use crate::output::{a_row_for_each, read_npy, write_gif, write_npy, write_png};
use crate::{Error, Result};
use clap::{Args, ValueEnum};
use ndarray::{Array4, Array5, ArrayView4, Axis, s};
use performer_ddpm_onnx::runner::Device;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Sample images from a model (DPM-Solver++, UniPC, DDIM or Algorithm 2); image i depends on the seed and i
/// alone.
///
/// A model folder runs in the engine, an .onnx file in ONNX Runtime; --backend and --device choose others,
/// with the same images up to rounding. A runtime or device that is not available is an error; it is never
/// replaced by another.
///
/// Examples:
///   performer-ddpm sample -n 64 --out grid.png
///   performer-ddpm sample --sampler ddim --steps 50
///   performer-ddpm sample --class Bag,Sneaker --guidance 2
///   performer-ddpm sample model.onnx --device cuda
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct SampleArgs {
    /// Model folder, run folder or .onnx file [default: runs/latest]
    model: Option<PathBuf>,
    /// Number of images [default: 64, or those of --noise; some more for as many of each class]
    #[arg(short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    n: Option<u32>,
    #[command(flatten)]
    reverse: ReverseArgs,
    /// The images' classes by name or index, such as Bag or 8,9: image i is of the i-th in turn, and the grid
    /// has a row for each [default: all that the model knows]
    #[arg(long, value_name = "NAME|INDEX", value_delimiter = ',')]
    class: Vec<String>,
    #[command(flatten)]
    guidance: GuidanceArgs,
    /// Seed of x_T and of the noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Images that go through the network together [default: 64, or the batch that an .onnx file is fixed to]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// The grid of images (its first 400)
    #[arg(long, default_value = "samples.png", value_name = "FILE.png")]
    out: PathBuf,
    /// The images as f32 [N,C,H,W], clipped to [-1,1]
    #[arg(long, value_name = "FILE.npy")]
    npy: Option<PathBuf>,
    /// x_T and the noise of the K steps as f32 [K+1,N,C,H,W], instead of the seed
    #[arg(long, value_name = "FILE.npy")]
    noise: Option<PathBuf>,
    /// The first images on their way from noise, as an animation
    #[arg(long, value_name = "FILE.gif")]
    gif: Option<PathBuf>,
    /// The same as a picture: one image per row, time to the right
    #[arg(long, value_name = "FILE.png")]
    strip: Option<PathBuf>,
    /// What computes: the engine, tract or ONNX Runtime [default: native for folders, ort for .onnx files]
    #[arg(long, value_enum, value_name = "NAME")]
    backend: Option<BackendName>,
    /// Where ONNX Runtime computes: cpu, cuda or cuda:INDEX
    #[arg(long, default_value_t = Device::Cpu, value_name = "NAME")]
    device: Device,
    /// Who runs the loop over the steps [default: device in ort, host in tract, or as the .onnx file has it]
    #[arg(long, value_enum, value_name = "NAME")]
    r#loop: Option<LoopName>,
    /// Let a GPU compute products in TF32: faster, about three decimal digits
    #[arg(long)]
    tf32: bool,
    /// ONNX Runtime's library or its folder [default: looked for; see onnx/README.md]
    #[arg(long, value_name = "PATH")]
    ort_lib: Option<PathBuf>,
    /// The schedule of an .onnx file without metadata
    #[arg(long, value_enum, value_name = "NAME")]
    schedule: Option<ScheduleName>,
    /// T of an .onnx file without metadata [default: 1000]
    #[arg(long, value_name = "T")]
    timesteps: Option<usize>,
    /// Print which runtime, device and library compute, and which nodes run where
    #[arg(short, long)]
    verbose: bool,
    /// One JSON object on stdout: times, the runtime, the files
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl SampleArgs {
    /// The files to write, with the arguments that name them.
    fn outputs(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        [("--npy", &self.npy), ("--gif", &self.gif), ("--strip", &self.strip)]
            .into_iter()
            .filter_map(|(flag, path)| Some((flag, path.as_deref()?)))
            .chain([("--out", self.out.as_path())])
    }

    /// Refuses outputs in other formats than their names say, on one another or on what is read.
    fn check_outputs(&self, model: &Path, writes: bool) -> Result<()> {
        self.check_endings()?;
        let noise = self.noise.as_deref().map(|noise| ("--noise", noise));
        let inputs: Vec<_> = noise.into_iter().chain([("MODEL", model)]).collect();
        check_outputs(&inputs, &self.outputs().collect::<Vec<_>>())?;
        if !writes {
            return Ok(());
        }
        self.outputs().try_for_each(|(_, path)| check_writable(path))
    }

    /// Refuses files whose endings say another format than the one that is written.
    fn check_endings(&self) -> Result<()> {
        check_ending("--out", &self.out, "png")?;
        let others =
            [("--npy", &self.npy, "npy"), ("--gif", &self.gif, "gif"), ("--strip", &self.strip, "png")];
        others.into_iter().try_for_each(|(flag, path, ending)| {
            path.as_ref().map_or(Ok(()), |path| check_ending(flag, path, ending))
        })
    }

    /// Refuses the options that only ONNX Runtime has.
    fn refuse_runtime_options(&self, chosen: &str) -> Result<()> {
        let given = [
            ("--device", self.device != Device::Cpu),
            ("--tf32", self.tf32),
            ("--ort-lib", self.ort_lib.is_some()),
            ("--loop", chosen.ends_with("native") && self.r#loop.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some(("--loop", _)) => Err(Error::invalid("--loop", "--backend ort or tract", chosen, "")),
            Some((flag, _)) => Err(Error::invalid(*flag, "--backend ort", chosen, "")),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendName {
    /// Our own engine
    Native,
    /// tract, in pure Rust (built with --features tract)
    Tract,
    /// ONNX Runtime
    Ort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LoopName {
    /// The network in the runtime, the update on the host
    Host,
    /// Network and update in the runtime; x_t stays on the device
    Device,
    /// The same, replayed as a CUDA graph
    CudaGraph,
    /// All steps in one run
    Sampler,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScheduleName {
    /// beta from 1e-4 to 0.02 (Ho et al. 2020)
    Linear,
    /// Squared cosine (Nichol & Dhariwal 2021)
    Cosine,
}

/// The largest number of images in the grid; all are in the array.
const GRID: usize = 400;
/// Images in an animation or strip, and columns of a strip.
const FOLLOWED: usize = 8;
const MOMENTS: usize = 10;

/// A name as it is typed.
fn shown(name: Option<impl ValueEnum>) -> String {
    let value = name.and_then(|name| name.to_possible_value());
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

#[derive(Serialize)]
struct Figures {
    images: usize,
    /// The names of the images' classes, which come in turn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    classes: Vec<String>,
    batch: usize,
    seconds: f64,
    images_per_s: f64,
    /// Seconds of each batch in order; the first may include a runtime's preparations.
    batch_seconds: Vec<f64>,
    backend: &'static str,
    version: String,
    device: String,
    tf32: bool,
    library: String,
    files: Vec<String>,
}

/// Samples; prints the files' paths.
pub fn run(mut args: SampleArgs, ranks: &Ranks) -> Result<ExitCode> {
    let path = model_path(args.model.clone())?;
    args.check_outputs(&path, ranks.leads())?;
    let noise: Option<Array5<f32>> = args.noise.as_deref().map(read_npy).transpose()?;
    let given = noise.as_ref().and_then(|noise| u32::try_from(noise.len_of(Axis(1))).ok());
    args.n = args.n.or(given.filter(|count| *count > 0));
    let mut progress = Progress::new(args.compute.quiet || !ranks.leads());
    let follow = args.gif.is_some() || args.strip.is_some();
    if follow {
        ranks::only_one(ranks, "--gif or --strip")?;
    }
    let mut job = source::open(&args, &path, &progress)?;
    if follow && !job.pipeline.is_watchable() {
        let help = "take the denoiser or the step graph";
        return Err(Error::invalid(
            "--gif or --strip",
            "a graph that shows its steps",
            "a sampler graph",
            help,
        ));
    }
    let description = job.pipeline.describe();
    if args.verbose {
        job.explain().iter().for_each(|line| progress.say(line));
    }
    if !job.classes.is_empty() {
        progress.say(&format!("classes in turn, a row for each: {}", job.classes.join(", ")));
    }
    let mut moments = Moments { images: Vec::new(), failure: None };
    let mut clock = vec![Instant::now()];
    let noise = noise.as_ref().map(|noise| noise.view());
    let mut images = job.pipeline.sample_in(ranks, &job.options, noise, |mut now| {
        let (step, steps) = (now.step, now.steps);
        let done = (now.batch * steps + step) as f64 / (now.batches * steps) as f64;
        progress.update(done, || format!("step {step}/{steps} of batch {}/{}", now.batch + 1, now.batches));
        if follow && now.batch == 0 && (step * MOMENTS) % steps < MOMENTS {
            moments.keep(now.x());
        }
        if step == steps {
            clock.push(Instant::now());
        }
    })?;
    progress.finish();
    if !ranks.leads() {
        return Ok(ExitCode::SUCCESS);
    }
    // The files' images are in [-1, 1]; the last step of some samplers leaves it.
    images.mapv_inplace(|x| x.clamp(-1.0, 1.0));
    let moments = moments.finish(images.dim());
    let (seconds, count) = (clock[0].elapsed().as_secs_f64(), job.options.count);
    if !args.compute.quiet && !args.json {
        eprintln!("{count} images in {seconds:.1} s, {:.2} images/s", count as f64 / seconds);
    }
    let (files, outcome) = write(&args, &images, job.classes.len(), moments);
    if args.json {
        print_json(&Figures {
            images: count,
            classes: job.classes,
            batch: job.options.batch,
            seconds,
            images_per_s: count as f64 / seconds,
            batch_seconds: clock.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect(),
            backend: description.backend.name(),
            version: description.version,
            device: description.device.to_string(),
            tf32: description.tf32,
            library: description.library,
            files,
        });
    } else {
        files.iter().for_each(|file| println!("{file}"));
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

/// x_t of the first images at a few moments.
struct Moments {
    images: Vec<Vec<f32>>,
    failure: Option<Error>,
}

impl Moments {
    fn keep(&mut self, x: Result<Vec<f32>>) {
        match x {
            Ok(x) => self.images.push(x),
            Err(error) => self.failure = Some(error),
        }
    }

    /// The moments as \[n, h, w, c\].
    fn finish(self, (_, h, w, c): (usize, usize, usize, usize)) -> Result<Vec<Array4<f32>>> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        let moment = |mut x: Vec<f32>| {
            let n = (x.len() / (h * w * c)).min(FOLLOWED);
            x.truncate(n * h * w * c);
            Array4::from_shape_vec((n, h, w, c), x).expect("n whole images")
        };
        Ok(self.images.into_iter().map(moment).collect())
    }
}

/// Writes the files that were asked for, even if one of them fails; returns the names of those written, and
/// the first failure. The grid has a row for each of the `classes` that the images are of in turn.
fn write(
    args: &SampleArgs,
    images: &Array4<f32>,
    classes: usize,
    moments: Result<Vec<Array4<f32>>>,
) -> (Vec<String>, Result<()>) {
    let (moments, mut outcome) = match moments {
        Ok(moments) => (moments, Ok(())),
        Err(error) => (Vec::new(), Err(error)),
    };
    let mut results = Vec::new();
    if let Some(path) = &args.npy {
        results.push((path, write_npy(path, images.view().permuted_axes([0, 3, 1, 2]))));
    }
    let shown = images.len_of(Axis(0)).min(GRID);
    let (grid, columns) = a_row_for_each(images.slice(s![..shown, .., .., ..]), classes);
    results.push((&args.out, write_png(&args.out, grid.view(), columns)));
    let views: Vec<ArrayView4<f32>> = moments.iter().map(|moment| moment.view()).collect();
    if let Some(first) = views.first() {
        if let Some(path) = &args.gif {
            let (time, hold) = (Duration::from_millis(150), Duration::from_secs(2));
            results.push((path, write_gif(path, &views, None, time, hold)));
        }
        if let Some(path) = &args.strip {
            let rows = (0..first.len_of(Axis(0)))
                .flat_map(|i| views.iter().map(move |view| view.slice(s![i..=i, .., .., ..])));
            let strip =
                ndarray::concatenate(Axis(0), &rows.collect::<Vec<_>>()).expect("moments have one shape");
            results.push((path, write_png(path, strip.view(), Some(views.len()))));
        }
    }
    let mut files = Vec::new();
    for (path, result) in results {
        match result {
            Ok(()) => files.push(path.display().to_string()),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    (files, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn arguments(folder: &Path) -> SampleArgs {
        let Ok(Cli { command: Command::Sample(mut args) }) =
            Cli::try_parse_from(["performer-ddpm", "sample"])
        else {
            panic!("sample needs no arguments")
        };
        args.npy = Some(folder.join("missing/a.npy"));
        args.out = folder.join("a.png");
        args.strip = Some(folder.join("strip.png"));
        args
    }

    fn names(files: &[&Path]) -> Vec<String> {
        assert!(files.iter().all(|file| file.is_file()), "{files:?}");
        files.iter().map(|file| file.display().to_string()).collect()
    }

    #[test]
    fn a_file_that_cannot_be_written_costs_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let args = arguments(folder.path());
        let images = Array4::<f32>::zeros((2, 4, 4, 1));
        let (files, outcome) = write(&args, &images, 0, Ok(vec![images.clone(); 3]));
        let strip = args.strip.as_deref().unwrap();
        assert_eq!(files, names(&[&args.out, strip]));
        assert!(outcome.unwrap_err().to_string().contains("missing/a.npy"));
    }

    #[test]
    fn images_are_written_where_their_way_was_not_to_be_had() {
        let folder = tempfile::tempdir().unwrap();
        let args = arguments(folder.path());
        let lost = Err(Error::invalid("x_t", "to be had", "nothing", ""));
        let (files, outcome) = write(&args, &Array4::zeros((2, 4, 4, 1)), 0, lost);
        assert_eq!(files, names(&[&args.out]));
        assert!(outcome.unwrap_err().to_string().contains("x_t"));
    }
}
