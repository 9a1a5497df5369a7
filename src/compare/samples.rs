//! How the variants' samples compare with images by features: Fréchet and kernel distance, precision and
//! recall.

use super::context::Context;
use super::measure::{Subject, or_note};
use super::plan::Plan;
use super::runs;
use crate::checkpoint::model_folder;
use crate::config::AttentionKind;
use crate::data::{Dataset, Datasets};
use crate::disk;
use crate::error::{Error, Result};
use crate::evaluate::features::{Extractor, FeatureOptions, PixelRange};
use crate::evaluate::{Comparison, block_means, choose, fewest, fewest_for_frechet, images_nchw};
use ndarray::{Array2, ArrayView4};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Where features come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureSource {
    /// A network in an ONNX file.
    Network {
        /// Its file's name.
        file: String,
        /// Its file's checksum.
        crc32: u32,
        /// How images enter it, as options of the command line.
        feeding: Vec<String>,
    },
    /// The means of blocks of pixels, this many in each direction: layout and brightness, no texture.
    Blocks(usize),
}

impl FeatureSource {
    /// The source in words, for reports.
    pub fn describe(&self) -> String {
        match self {
            FeatureSource::Network { file, .. } => file.clone(),
            FeatureSource::Blocks(side) => format!("the means of {side}x{side} blocks of pixels"),
        }
    }
}

#[derive(Debug)]
enum Extraction {
    Network { extractor: Box<Extractor>, file: String, crc32: u32 },
    Blocks,
}

/// The source of features, with the features of the training images.
#[derive(Debug)]
pub struct Features {
    extraction: Extraction,
    /// Samples of each variant; `None` for as many as the plan says.
    samples: Option<usize>,
    /// The training images' features.
    images: Option<Array2<f64>>,
}

/// Training images that samples are compared with, at most.
const REFERENCE: usize = 10_000;
/// Blocks along a side of an image, at most.
const BLOCKS: usize = 8;

impl Features {
    /// Opens a features network, to compare `samples` samples of each variant, or as many as the plan says.
    ///
    /// # Errors
    /// [`Error::Read`], and those of [`Extractor::open`].
    pub fn open(path: &Path, options: &FeatureOptions, samples: Option<usize>) -> Result<Features> {
        let bytes = disk::read(path).map_err(|e| Error::read(path, e))?;
        let extraction = Extraction::Network {
            extractor: Box::new(Extractor::open(path, options)?),
            file: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            crc32: crc32fast::hash(&bytes),
        };
        Ok(Features { extraction, samples, images: None })
    }

    /// The means of blocks of pixels, which need no network.
    pub fn blocks(samples: Option<usize>) -> Features {
        Features { extraction: Extraction::Blocks, samples, images: None }
    }

    fn samples(&self, plan: &Plan) -> usize {
        self.samples.unwrap_or(plan.measuring.samples)
    }

    /// The number of blocks per side: fewer where there are few images or samples.
    fn side(&self, plan: &Plan, data: &Dataset) -> usize {
        let count = self.samples(plan).min(data.len());
        let fits = |side: &usize| fewest_for_frechet(data.channels() * side * side) <= count;
        (1..=BLOCKS).rev().find(fits).unwrap_or(1)
    }

    /// What the features are of.
    pub(super) fn source(&self, plan: &Plan, data: &Dataset) -> FeatureSource {
        match &self.extraction {
            Extraction::Network { extractor, file, crc32 } => FeatureSource::Network {
                file: file.clone(),
                crc32: *crc32,
                feeding: feeding(extractor.options()),
            },
            Extraction::Blocks => FeatureSource::Blocks(self.side(plan, data)),
        }
    }

    /// Whether an existing study is kept although its features differ: blocks do not replace a network.
    pub(super) fn gives_way_to(&self, study: &SampleStudy) -> bool {
        matches!((&self.extraction, &study.source), (Extraction::Blocks, FeatureSource::Network { .. }))
    }

    /// Refuses a network that does not take the images, or has more features than there will be samples,
    /// before hours of training instead of afterwards.
    pub(super) fn check(&mut self, plan: &Plan, data: &Datasets) -> Result<()> {
        let samples = self.samples(plan).min(data.train.len());
        let Extraction::Network { extractor, file, .. } = &mut self.extraction else { return Ok(()) };
        let indices: Vec<usize> = (0..2.min(data.train.len())).collect();
        let dimensions = extractor.features_of(&data.train, &indices, &mut |_| {})?.ncols();
        let needed = fewest_for_frechet(dimensions);
        if samples < needed {
            return Err(Error::invalid(
                "the samples, and the training images that they are compared with",
                format!("at least {needed} for the {dimensions} features of {file}"),
                samples.to_string(),
                "take more samples (--samples), or a network with fewer features",
            ));
        }
        Ok(())
    }

    /// The features of images \[n, c, h, w\].
    fn of(&mut self, images: ArrayView4<f32>, side: usize) -> Result<Array2<f64>> {
        match &mut self.extraction {
            Extraction::Network { extractor, .. } => extractor.features(images),
            Extraction::Blocks => block_means(images, side),
        }
    }

    /// The features of images of a dataset.
    fn of_dataset(
        &mut self,
        data: &Dataset,
        indices: &[usize],
        side: usize,
        observer: &mut dyn FnMut(f64),
    ) -> Result<Array2<f64>> {
        match &mut self.extraction {
            Extraction::Network { extractor, .. } => extractor.features_of(data, indices, observer),
            Extraction::Blocks => block_means(images_nchw(data, indices)?.view(), side),
        }
    }

    /// The features of the training images, computed once.
    fn of_training_images(
        &mut self,
        plan: &Plan,
        data: &Dataset,
        observer: &mut dyn FnMut(f64),
    ) -> Result<Array2<f64>> {
        if let Some(images) = &self.images {
            return Ok(images.clone());
        }
        let indices = choose(data.len(), REFERENCE, plan.config.train.seed)?;
        let images = self.of_dataset(data, &indices, self.side(plan, data), observer)?;
        self.images = Some(images.clone());
        Ok(images)
    }
}

/// How images enter and which output is taken, as options of the command that the report names: what features
/// depend on beside the file.
fn feeding(options: &FeatureOptions) -> Vec<String> {
    let named =
        |flag: &str, name: &Option<String>| name.as_ref().map(|name| format!("--features-{flag} {name}"));
    let size = options.size.map(|[h, w]| format!("--features-size {h}x{w}"));
    let range = match options.range {
        PixelRange::Symmetric => None,
        range => Some(format!("--features-range {}", range.name())),
    };
    [named("input", &options.input), named("output", &options.output), size, range]
        .into_iter()
        .flatten()
        .collect()
}

/// One set of images compared with the training images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleQuality {
    /// Whose samples; `None` for the test images, which say what a perfect model would have.
    pub variant: Option<AttentionKind>,
    /// How many images.
    pub images: usize,
    /// Their distances from the training images, precision and recall.
    pub comparison: Option<Comparison>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

/// The comparison of samples by one kind of features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleStudy {
    /// What the features are of.
    pub source: FeatureSource,
    /// Samples of each variant.
    pub samples: usize,
    /// The training images that everything is compared with.
    pub reference: usize,
    /// The test images, then each variant's samples.
    pub rows: Vec<SampleQuality>,
}

impl SampleStudy {
    /// Nothing compared yet.
    pub(super) fn new(features: &Features, plan: &Plan, data: &Datasets) -> SampleStudy {
        SampleStudy {
            source: features.source(plan, &data.train),
            samples: features.samples(plan),
            reference: data.train.len().min(REFERENCE),
            rows: Vec::new(),
        }
    }

    /// Whether the study has these features and this number of samples.
    pub(super) fn is_of(&self, features: &Features, plan: &Plan, data: &Datasets) -> bool {
        (&self.source, self.samples) == (&features.source(plan, &data.train), features.samples(plan))
    }
}

/// Compares a variant's samples, or the test images, with the training images.
pub(super) fn compare(
    context: &mut Context,
    plan: &Plan,
    data: &Datasets,
    features: &mut Features,
    variant: Option<AttentionKind>,
) -> Result<Option<SampleQuality>> {
    let (count, side) = (features.samples(plan), features.side(plan, &data.train));
    let leads = context.group.leads();
    let reference = match leads {
        true => {
            let progress = &mut *context.progress;
            let mut observer = |done: f64| progress(done, "features of the training images");
            features.of_training_images(plan, &data.train, &mut observer)?
        }
        false => Array2::zeros((0, 0)),
    };
    let mut quality = SampleQuality { variant, images: count, comparison: None, notes: Vec::new() };
    let found = match (variant, &data.test) {
        (Some(variant), _) => {
            (context.progress)(0.0, &format!("sampling {count} images"));
            let loaded = model_folder::load::<f32>(&runs::folder(&context.out, variant))?;
            let mut subject = Subject::new(context, loaded.model, &loaded.diffusion, plan.config.train.seed)?;
            match or_note(subject.samples(count, plan.measuring.steps))? {
                Ok(images) if leads => features.of(images.view().permuted_axes([0, 3, 1, 2]), side)?,
                Ok(_) => Array2::zeros((0, 0)),
                Err(note) => {
                    quality.notes.push(note);
                    return Ok(Some(quality));
                }
            }
        }
        (None, Some(test)) if leads => {
            let indices = choose(test.len(), count, plan.config.train.seed)?;
            quality.images = indices.len();
            features.of_dataset(test, &indices, side, &mut |_| {})?
        }
        (None, Some(_)) => Array2::zeros((0, 0)),
        (None, None) => return Ok(None),
    };
    // What rank 0 finds holds.
    if context.stopped() || !leads {
        return Ok(None);
    }
    let fewer = found.nrows().min(reference.nrows());
    if fewer < fewest() {
        quality.notes.push(format!("{fewer} images are too few for {} features", found.ncols()));
        return Ok(Some(quality));
    }
    quality.comparison = Some(Comparison::of(reference.view(), found.view(), plan.config.train.seed)?);
    Ok(Some(quality))
}
