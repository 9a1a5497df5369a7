//! Samples compared with images by a features network: arguments, table, the sheet of nearest images.

use super::per_class::{self, ClassFigures, Classes};
use super::subject::Subject;
use super::{EvaluateArgs, Split};
use crate::cli::features_network::NetworkArgs;
use crate::cli::images::load;
use crate::cli::progress::Progress;
use crate::cli::ranks::Ranks;
use crate::config::DataConfig;
use crate::data::Dataset;
use crate::evaluate::features::{Extractor, FeatureOptions};
use crate::evaluate::nearest::{nearest, write_sheet};
use crate::evaluate::{Comparison, choose, fewest, fewest_for_frechet, images_nchw};
use crate::output::read_npy;
use crate::{Error, Result, SampleOptions};
use clap::Args;
use ndarray::{Array2, Array4, Axis, Ix4, s};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Which samples are compared with which images.
#[derive(Debug, Args)]
pub struct FeatureArgs {
    /// Compare these samples, f32 [N,C,H,W] in [-1,1] or a folder of pictures, instead of fresh ones; those
    /// in folders with the names of the images' classes class by class, too
    #[arg(long, value_name = "FILE.npy|DIR")]
    pub samples: Option<PathBuf>,
    /// Images to compare with [default: 10000, or all if they are fewer]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    images: Option<u32>,
    /// The network's output with a number for each class, in the order of the images' classes: how many
    /// samples of each class it takes for that class
    #[arg(long, value_name = "NAME")]
    classifier_output: Option<String>,
    #[command(flatten)]
    pub feeding: NetworkArgs,
}

impl FeatureArgs {
    /// The options that were given.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        let given = [
            ("--samples", self.samples.is_some()),
            ("--images", self.images.is_some()),
            ("--classifier-output", self.classifier_output.is_some()),
        ];
        given.into_iter().filter_map(|(flag, given)| given.then_some(flag)).chain(self.feeding.given())
    }
}

/// The comparison, with what was compared.
#[derive(Serialize)]
pub struct Figures {
    /// The features network and its runtime.
    network: String,
    runtime: String,
    /// The part of the data that the images are from.
    split: &'static str,
    /// The samples: fresh ones or a path.
    source: String,
    #[serde(flatten)]
    comparison: Comparison,
    /// Held-out images instead of samples, as many as there are of both: no model can be expected to do
    /// better.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out: Option<Comparison>,
    /// The same class by class, where the model, or the folders of the samples, and the images have classes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    classes: Vec<ClassFigures>,
    /// What could not be compared, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    nearest: NearestFigures,
}

/// Root mean squared differences to the nearest training image, pixels in [0, 255].
#[derive(Serialize)]
struct NearestFigures {
    /// The number of samples.
    samples: usize,
    smallest: f64,
    median: f64,
    /// The median of as many held-out images: copies would be nearer.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out_median: Option<f64>,
}

/// Samples where neither -n nor --samples is given, unless the features need more.
const SAMPLES: usize = 2000;
/// Images to compare with where --images is not given.
const IMAGES: usize = 10_000;
/// Samples whose nearest training images are searched and shown.
const SHEET: usize = 64;
const COLUMNS: usize = 16;

/// Compares and writes the sheet. In ranks all make fresh samples, and rank 0 does the rest: the others have no
/// figures.
pub fn run(
    args: &EvaluateArgs,
    ranks: &Ranks,
    file: &Path,
    subject: &mut Subject,
    progress: &mut Progress,
    files: &mut Vec<String>,
) -> Result<Option<Figures>> {
    let options = args.network.feeding.options(args.batch as usize, args.compute.threads)?;
    let mut extractor = Extractor::open(file, &options)?;
    let dataset = args.split(&subject.data, Split::Train)?;
    let mut classifier = match &args.network.classifier_output {
        Some(output) => Some(classifier(file, output, options, dataset)?),
        None => None,
    };
    let given = match args.network.samples.as_deref() {
        Some(path) => Some(given_samples(args, path, dataset, progress)?),
        None => None,
    };
    if let Some(Given { images: samples, .. }) = &given {
        check_shape(samples, dataset, args.network.samples.as_deref().unwrap_or(Path::new("")))?;
    }
    let split = if std::ptr::eq(dataset, &subject.data.train) { "train" } else { "test" };
    let count = args.network.images.map_or(IMAGES, |n| n as usize);
    // One image shows the number of features, and so whether there are enough images and samples, before
    // hours of sampling.
    let dimensions = extractor.features_of(dataset, &[0], &mut |_| {})?.ncols();
    let usual = SAMPLES.max(fewest_for_frechet(dimensions));
    let wanted = given.as_ref().map_or(args.n.map_or(usual, |n| n as usize), |x| x.images.len_of(Axis(0)));
    enough(count.min(dataset.len()), "the images (--images)")?;
    enough(wanted, if given.is_some() { "the samples (--samples)" } else { "the samples (-n)" })?;
    let mut notes: Vec<String> =
        given.iter().filter_map(|given| range_note(&given.images, dataset)).collect();
    let (fewer, needed) = (count.min(dataset.len()).min(wanted), fewest_for_frechet(dimensions));
    if fewer < needed {
        notes.push(format!(
            "no Frechet distance of {fewer}: covariances of {dimensions} features need {needed} or more to have \
             full rank; the other measures do not"
        ));
    }
    let (classes, samples) = match given {
        Some(Given { images: samples, classes }) => {
            let classes = match &classes {
                Some((names, labels)) => {
                    Classes::of_given((names, labels), dataset, count, args.seed, &mut notes)?
                }
                None => None,
            };
            (classes, samples)
        }
        None => {
            let classes = Classes::of(subject, dataset, [count, wanted], args.seed, &mut notes)?;
            let of_samples = classes.as_ref().map_or(&[][..], |classes| &classes.samples);
            let samples = fresh_samples(args, ranks, wanted, of_samples, subject, progress)?;
            (classes, samples)
        }
    };
    if !ranks.leads() {
        return Ok(None);
    }
    let dataset = args.split(&subject.data, Split::Train)?;
    let images = features_of(&mut extractor, dataset, count, args.seed, progress, "images")?;
    progress.update(0.0, || "features of the samples".to_owned());
    let features = extractor.features(samples.view())?;
    let comparison = Comparison::of(images.view(), features.view(), args.seed)?;
    let mut others = None;
    let held_out = match &subject.data.test {
        Some(test) if split == "train" => {
            let count = wanted.min(test.len());
            if count < fewest() {
                notes.push(format!("{count} held-out images are too few to be compared"));
                None
            } else {
                if let Some(classifier) = &mut classifier {
                    others =
                        Some(features_of(classifier, test, count, args.seed, progress, "held-out images")?);
                }
                let test = features_of(&mut extractor, test, count, args.seed, progress, "held-out images")?;
                Some((Comparison::of(images.view(), test.view(), args.seed)?, test))
            }
        }
        _ => None,
    };
    let classes = match classes {
        Some(classes) => {
            let test = subject.data.test.as_ref().zip(held_out.as_ref().map(|(_, features)| features));
            let mut figures = classes.compare(images.view(), features.view(), test, args.seed)?;
            if let Some(classifier) = &mut classifier {
                let logits = classifier.features(samples.view())?;
                let test = subject.data.test.as_ref().zip(others.as_ref());
                classes.recognise(&mut figures, logits.view(), test, args.seed)?;
            }
            figures
        }
        None => Vec::new(),
    };
    Ok(Some(Figures {
        network: file.display().to_string(),
        runtime: extractor.describe().to_string(),
        split,
        source: args.network.samples.as_ref().map_or("fresh".to_owned(), |path| path.display().to_string()),
        comparison,
        held_out: held_out.map(|(comparison, _)| comparison),
        classes,
        notes,
        nearest: neighbours(args, &samples, subject, files)?,
    }))
}

/// The network's other output, which has a number for each of the images' classes.
fn classifier(file: &Path, output: &str, options: FeatureOptions, dataset: &Dataset) -> Result<Extractor> {
    let options = FeatureOptions { output: Some(output.to_owned()), ..options };
    let mut classifier = Extractor::open(file, &options)?;
    let (known, classes) =
        (classifier.features_of(dataset, &[0], &mut |_| {})?.ncols(), dataset.class_names().len());
    if known == classes {
        return Ok(classifier);
    }
    let expected = format!("a number for each of the {classes} classes of {}", dataset.name());
    let got = format!("{known} numbers");
    Err(Error::invalid(format!("--classifier-output {output}"), expected, got, ""))
}

fn features_of(
    extractor: &mut Extractor,
    dataset: &Dataset,
    count: usize,
    seed: u64,
    progress: &mut Progress,
    what: &str,
) -> Result<Array2<f64>> {
    let chosen = choose(dataset.len(), count, seed)?;
    extractor.features_of(dataset, &chosen, &mut |done| {
        progress.update(done, || format!("features of {} {what}", chosen.len()));
    })
}

/// Refuses too few images or samples before the others are computed.
fn enough(got: usize, what: &str) -> Result<()> {
    let least = fewest();
    if got >= least {
        return Ok(());
    }
    let expected = format!("at least {least}: the error of the kernel distance is computed from subsets");
    Err(Error::invalid(what, expected, got.to_string(), "take more"))
}

/// What is to be said of samples that seem to be in [0, 1], where the images are not.
fn range_note(samples: &Array4<f32>, dataset: &Dataset) -> Option<String> {
    let has_dark = images_nchw::<f32>(dataset, &[0]).ok()?.iter().any(|x| *x < 0.0);
    (has_dark && samples.iter().all(|x| *x >= 0.0)).then(|| {
        "no pixel of the samples is below 0: [-1, 1] is expected, and 2x - 1 leads there from [0, 1]"
            .to_owned()
    })
}

/// Samples that were given.
struct Given {
    /// \[n, c, h, w\].
    images: Array4<f32>,
    /// The names of their classes and the class of each, where the folders that they lie in tell.
    classes: Option<(Vec<String>, Vec<u32>)>,
}

/// The samples that were given: those of a folder grey or coloured as the dataset is.
fn given_samples(
    args: &EvaluateArgs,
    path: &Path,
    dataset: &Dataset,
    progress: &mut Progress,
) -> Result<Given> {
    let mut classes = None;
    let mut samples = if path.is_dir() {
        let config = DataConfig {
            path: Some(path.to_path_buf()),
            size: args.pictures.size,
            channels: Some(dataset.channels()).filter(|channels| matches!(channels, 1 | 3)),
            background: args.pictures.background.unwrap_or_default(),
            held_out: None,
        };
        let pictures = load(&config, args.seed, args.pictures.reading.into(), progress)?.train;
        let labels = pictures.labels().map(<[u32]>::to_vec);
        classes = labels.map(|labels| (pictures.class_names().to_vec(), labels));
        let all: Vec<usize> = (0..pictures.len()).collect();
        images_nchw(&pictures, &all)?
    } else {
        read_npy::<Ix4>(path)?
    };
    let typical = samples.iter().map(|x| x.abs()).sum::<f32>() / samples.len().max(1) as f32;
    if typical > 1.5 {
        return Err(Error::invalid(
            path.display().to_string(),
            "pixels in [-1, 1]",
            format!("a mean magnitude of {typical:.1}"),
            "divide bytes by 127.5 and subtract 1",
        ));
    }
    if let Some(n) = args.n.map(|n| n as usize) {
        let got = samples.len_of(Axis(0));
        if got < n {
            return Err(Error::invalid(
                path.display().to_string(),
                format!("{n} samples (-n)"),
                got.to_string(),
                "leave out -n to use all of them",
            ));
        }
        samples = samples.slice_move(s![..n, .., .., ..]);
        classes.iter_mut().for_each(|(_, labels)| labels.truncate(n));
    }
    Ok(Given { images: samples, classes })
}

fn check_shape(samples: &Array4<f32>, dataset: &Dataset, path: &Path) -> Result<()> {
    let (_, c, h, w) = samples.dim();
    let want = [dataset.channels(), dataset.height(), dataset.width()];
    if [c, h, w] == want {
        return Ok(());
    }
    Err(Error::invalid(
        path.display().to_string(),
        format!("images {want:?} (channels, height, width) as {}", dataset.name()),
        format!("{:?}", [c, h, w]),
        "compare with the data that the model was trained on (--data)",
    ))
}

/// Fresh samples \[n, c, h, w\], of these classes in turn, or of all of the model's.
fn fresh_samples(
    args: &EvaluateArgs,
    ranks: &Ranks,
    count: usize,
    classes: &[usize],
    subject: &mut Subject,
    progress: &mut Progress,
) -> Result<Array4<f32>> {
    let pipeline = subject.pipeline()?;
    let chosen = args.reverse.choose(pipeline.diffusion())?;
    let (seed, classes, guidance) = (args.seed, classes.to_vec(), args.guidance.choose());
    let options = SampleOptions { count, batch: args.batch as usize, seed, classes, guidance, ..chosen };
    let images = pipeline.sample_in(ranks, &options, None, |now| {
        let done = (now.batch * now.steps + now.step) as f64 / (now.batches * now.steps) as f64;
        progress.update(done, || format!("{count} samples"));
    })?;
    Ok(images.permuted_axes([0, 3, 1, 2]))
}

/// The nearest training images of the first samples and, for comparison, of held-out images.
fn neighbours(
    args: &EvaluateArgs,
    samples: &Array4<f32>,
    subject: &Subject,
    files: &mut Vec<String>,
) -> Result<NearestFigures> {
    let train = &subject.data.train;
    let shown = samples.len_of(Axis(0)).min(SHEET);
    let shown = samples.slice(s![..shown, .., .., ..]).permuted_axes([0, 2, 3, 1]);
    let found = nearest(shown, train)?;
    if let Some(folder) = &args.out {
        let path = folder.join("nearest.png");
        write_sheet(&path, shown, train, &found, COLUMNS)?;
        files.push(path.display().to_string());
    }
    let held_out_median = match &subject.data.test {
        Some(test) => {
            let chosen = choose(test.len(), found.len(), args.seed)?;
            let images = images_nchw::<f32>(test, &chosen)?.permuted_axes([0, 2, 3, 1]);
            Some(median(nearest(images.view(), train)?.iter().map(|near| near.rmse).collect()))
        }
        None => None,
    };
    let distances: Vec<f64> = found.iter().map(|near| near.rmse).collect();
    let smallest = distances.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(NearestFigures { samples: found.len(), smallest, median: median(distances), held_out_median })
}

/// The middle value, or the upper one of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Figures {
    /// The table.
    pub fn print(&self) {
        let c = &self.comparison;
        println!(
            "{} samples ({}) against {} {} images, {} features by {} in {}",
            c.samples, self.source, c.images, self.split, c.features, self.network, self.runtime
        );
        let others = self.held_out.as_ref();
        let heading = others.map_or_else(String::new, |held| format!("{} held-out images", held.samples));
        println!("  {:<22}{:>22}{heading:>24}", "", "samples");
        let row = |name: &str, value: &dyn Fn(&Comparison) -> String| {
            println!("  {name:<22}{:>22}{:>24}", value(c), others.map_or_else(String::new, value));
        };
        row("Frechet distance", &|c| c.frechet_distance.map_or("-".to_owned(), |x| format!("{x:.3}")));
        row("kernel distance", &|c| {
            format!("{:.5} +- {:.5}", c.kernel_distance.mean, c.kernel_distance.standard_error)
        });
        row("precision", &|c| format!("{:.3}", c.precision));
        row("recall", &|c| format!("{:.3}", c.recall));
        per_class::print(&self.classes);
        self.notes.iter().for_each(|note| println!("  {note}"));
        let near = &self.nearest;
        let held_out =
            near.held_out_median.map_or_else(String::new, |m| format!(", of held-out images {m:.2}"));
        println!(
            "nearest training image of {} samples, RMSE of pixels in 0..255: smallest {:.2}, median \
             {:.2}{held_out}",
            near.samples, near.smallest, near.median
        );
    }
}
