//! The arguments of each use.

use crate::Result;
use crate::cli::classes::GuidanceArgs;
use crate::cli::outputs::check_outputs;
use crate::cli::reverse::ReverseArgs;
use crate::cli::{ComputeArgs, parse_size};
use crate::sample::edit::Resampling;
use clap::Args;
use std::path::{Path, PathBuf};

/// What all uses have in common.
#[derive(Debug, Args)]
pub struct Common {
    /// Model folder, run folder, or .onnx file of a denoiser or step graph [default: runs/latest]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub reverse: ReverseArgs,
    /// The images' class by name or index, where the model knows classes; of several, image i is of the i-th
    /// in turn [default: the null class, which says nothing of them]
    #[arg(long, value_name = "NAME|INDEX", value_delimiter = ',')]
    pub class: Vec<String>,
    #[command(flatten)]
    pub guidance: GuidanceArgs,
    /// Seed of all noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Images that go through the network together
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// The result: the image itself, or a grid of several
    #[arg(long, default_value = "edited.png", value_name = "FILE.png")]
    pub out: PathBuf,
    /// The images as f32 [N,C,H,W] in [-1,1]
    #[arg(long, value_name = "FILE.npy")]
    pub npy: Option<PathBuf>,
    /// One JSON object on stdout: images, calls of the network, seconds, files
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// Variations of a picture: noise is added to it up to timestep t, and taken away again.
///
/// Example: performer-ddpm edit vary shoe.png --at 500 -n 8 --out variations.png
#[derive(Debug, Args)]
pub struct VaryArgs {
    /// The picture
    #[arg(value_name = "IN.png")]
    pub image: PathBuf,
    /// The timestep t up to which noise is added: 0 leaves the picture as it is, T leaves little of it
    /// [default: T/2]
    #[arg(long, value_name = "t")]
    pub at: Option<usize>,
    /// Number of variations
    #[arg(short, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub n: u32,
    #[command(flatten)]
    pub common: Common,
}

/// Paint a part of a picture anew (RePaint, Lugmayr et al. 2022); all other pixels stay exactly as they are.
///
/// DDIM unless --sampler says otherwise, where the model's scheduler is a multistep one: such take steps of
/// first order here.
///
/// Example: performer-ddpm edit inpaint shoe.png --mask heel.png -n 4 --out painted.png
#[derive(Debug, Args)]
pub struct InpaintArgs {
    /// The picture
    #[arg(value_name = "IN.png")]
    pub image: PathBuf,
    /// A picture of the same size (or of the model's): what is white, or transparent, is painted anew, what
    /// is black stays; greys count as the nearer of the two
    #[arg(long, value_name = "MASK.png")]
    pub mask: PathBuf,
    /// How many different paintings
    #[arg(short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub n: u32,
    #[command(flatten)]
    pub resampling: ResamplingArgs,
    #[command(flatten)]
    pub common: Common,
}

/// Paint around a picture, on a canvas larger than the model's images (or as large).
///
/// The model is used at the canvas' size, which needs a model folder; its height and width must be divisible
/// by what the network's levels halve. The picture keeps its size and its pixels.
///
/// Example: performer-ddpm edit outpaint shoe.png --canvas 28x56 --place 0,0 --out wide.png
#[derive(Debug, Args)]
pub struct OutpaintArgs {
    /// The picture
    #[arg(value_name = "IN.png")]
    pub image: PathBuf,
    /// Height and width of the result, such as 40x56
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    pub canvas: [usize; 2],
    /// Row and column of the picture's upper left corner [default: the picture is in the middle]
    #[arg(long, value_name = "ROW,COLUMN", value_parser = parse_place)]
    pub place: Option<[usize; 2]>,
    /// How many different paintings
    #[arg(short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub n: u32,
    #[command(flatten)]
    pub resampling: ResamplingArgs,
    #[command(flatten)]
    pub common: Common,
}

/// Go from one picture to another in a row of images.
///
/// Both are encoded as x_t by DDIM run upwards, which spherical interpolation then goes between; the first
/// and the last image are what is left of the two, the more so the more --steps. The predicted x_0 is not
/// clipped, unless --clip says so. With --samples the ends are two images that `sample` gives for the same
/// seed and sampler, and the row begins and ends with exactly these.
///
/// Example: performer-ddpm edit interpolate shoe.png boot.png -n 8 --out row.png
#[derive(Debug, Args)]
pub struct InterpolateArgs {
    /// The two pictures
    #[arg(value_names = ["A.png", "B.png"], num_args = 2, required_unless_present = "samples")]
    pub images: Vec<PathBuf>,
    /// Two images of `sample`, by their numbers from 0, instead of pictures
    #[arg(
        long,
        value_name = "I,J",
        value_delimiter = ',',
        num_args = 1,
        conflicts_with_all = ["images", "at"],
        value_parser = clap::value_parser!(u32)
    )]
    pub samples: Option<Vec<u32>>,
    /// The timestep t up to which the pictures are encoded [default: T]
    #[arg(long, value_name = "t")]
    pub at: Option<usize>,
    /// Images in the row, both ends among them
    #[arg(
        short,
        default_value_t = 8,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(2..=400)
    )]
    pub n: u32,
    #[command(flatten)]
    pub common: Common,
}

/// Take the noise out of a given x_t: the sampler's steps from timestep t on.
///
/// Example: performer-ddpm edit denoise noisy.npy --at 300 --out clean.png
#[derive(Debug, Args)]
pub struct DenoiseArgs {
    /// x_t: an array f32 [N,C,H,W], or a picture, whose pixels in [-1,1] are taken as x_t
    #[arg(value_name = "FROM.npy|FROM.png")]
    pub from: PathBuf,
    /// Its timestep t, 1 to T
    #[arg(long, value_name = "t")]
    pub at: usize,
    #[command(flatten)]
    pub common: Common,
}

/// How often RePaint goes back and forth.
#[derive(Debug, Args)]
pub struct ResamplingArgs {
    /// Steps that a jump back up goes over, and that are then taken again
    #[arg(long, default_value_t = usual().jump, value_name = "J", value_parser = at_least_1)]
    pub jump: usize,
    /// How often each stretch of so many steps is taken; 1 for no jumps
    #[arg(long, default_value_t = usual().times, value_name = "R", value_parser = at_least_1)]
    pub resample: usize,
}

impl Common {
    /// Refuses outputs on one another or on what is read: the model and these files.
    pub fn check_outputs(&self, read: &[&Path]) -> Result<()> {
        let model = self.model.as_deref().map(|model| ("--model", model));
        let inputs: Vec<_> = read.iter().map(|path| ("file", *path)).chain(model).collect();
        let npy = self.npy.as_deref().map(|npy| ("--npy", npy));
        let outputs: Vec<_> = [("--out", self.out.as_path())].into_iter().chain(npy).collect();
        check_outputs(&inputs, &outputs)
    }
}

impl ResamplingArgs {
    /// The numbers as the library has them.
    pub fn resampling(&self) -> Resampling {
        Resampling { jump: self.jump, times: self.resample }
    }
}

fn usual() -> Resampling {
    Resampling::default()
}

fn at_least_1(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number of at least 1".to_owned())
}

/// Row and column from "0,14".
fn parse_place(text: &str) -> Result<[usize; 2], String> {
    let numbers: Option<Vec<usize>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some([row, column]) => Ok([*row, *column]),
        _ => Err("expected a row and a column such as 0,14".to_owned()),
    }
}
