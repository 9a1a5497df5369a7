//! How the variants' samples compare with images under a features network: Fréchet and kernel distance, precision and recall.

use super::context::Context;
use super::measure::{Subject, or_note};
use super::plan::Plan;
use super::runs;
use super::variant::Variant;
use crate::checkpoint::model_folder;
use crate::data::{Dataset, Datasets};
use crate::error::{Error, Result};
use crate::evaluate::features::{Extractor, FeatureOptions};
use crate::evaluate::{Comparison, choose, fewest};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A features network and what the training images are under it.
#[derive(Debug)]
pub struct Features {
    extractor: Extractor,
    file: String,
    crc32: u32,
    /// Samples of each variant; `None` for as many as the plan says.
    samples: Option<usize>,
    /// The training images' features.
    images: Option<Array2<f64>>,
}

/// Training images that samples are compared with, at most.
const REFERENCE: usize = 10_000;

impl Features {
    /// Opens a features network, for so many samples of each variant, or for as many as the plan says.
    ///
    /// # Errors
    /// [`Error::Read`], and those of [`Extractor::open`].
    pub fn open(path: &Path, options: &FeatureOptions, samples: Option<usize>) -> Result<Features> {
        let bytes = std::fs::read(path).map_err(|e| Error::read(path, e))?;
        Ok(Features {
            extractor: Extractor::open(path, options)?,
            file: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            crc32: crc32fast::hash(&bytes),
            samples,
            images: None,
        })
    }

    fn samples(&self, plan: &Plan) -> usize {
        self.samples.unwrap_or(plan.measuring.samples)
    }

    /// The network's file name.
    pub(super) fn name(&self) -> &str {
        &self.file
    }

    /// Refuses a network that does not take the images, or has more features than there will be samples: before hours of
    /// training, not after.
    pub(super) fn check(&mut self, plan: &Plan, data: &Datasets) -> Result<()> {
        let count = 2.min(data.train.len());
        let indices: Vec<usize> = (0..count).collect();
        let dimensions = self.extractor.features_of(&data.train, &indices, &mut |_| {})?.ncols();
        let samples = self.samples(plan).min(data.train.len());
        let needed = fewest(dimensions);
        if samples < needed {
            return Err(Error::invalid(
                "the samples, and the training images that they are compared with",
                format!("at least {needed} for the {dimensions} features of {}", self.file),
                samples.to_string(),
                "take more samples (--samples), or a network with fewer features",
            ));
        }
        Ok(())
    }

    /// The training images' features, computed once.
    fn reference(
        &mut self,
        plan: &Plan,
        data: &Dataset,
        observer: &mut dyn FnMut(f64),
    ) -> Result<(&Array2<f64>, &mut Extractor)> {
        if self.images.is_none() {
            let indices = choose(data.len(), REFERENCE, plan.config.train.seed);
            self.images = Some(self.extractor.features_of(data, &indices, observer)?);
        }
        Ok((self.images.as_ref().expect("it was just computed"), &mut self.extractor))
    }
}

/// One set of images beside the training images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleQuality {
    /// Whose samples; `None` for the test images, which say what a perfect model would have.
    pub variant: Option<Variant>,
    /// How many images.
    pub images: usize,
    /// Their distances from the training images, precision and recall.
    pub comparison: Option<Comparison>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

/// The comparison of samples under one features network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleStudy {
    /// The features network's file name.
    pub file: String,
    /// Its checksum.
    pub crc32: u32,
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
            file: features.file.clone(),
            crc32: features.crc32,
            samples: features.samples(plan),
            reference: data.train.len().min(REFERENCE),
            rows: Vec::new(),
        }
    }

    /// Whether it is of this network and of so many samples.
    pub(super) fn is_of(&self, features: &Features, plan: &Plan) -> bool {
        (self.crc32, self.samples) == (features.crc32, features.samples(plan))
    }
}

/// Compares a variant's samples, or the test images, with the training images.
pub(super) fn compare(
    context: &mut Context,
    plan: &Plan,
    data: &Datasets,
    features: &mut Features,
    variant: Option<Variant>,
) -> Result<Option<SampleQuality>> {
    let count = features.samples(plan);
    let progress = &mut *context.progress;
    let mut observer = |done: f64| progress(done, "features of the training images");
    let (reference, extractor) = features.reference(plan, &data.train, &mut observer)?;
    let mut quality = SampleQuality { variant, images: count, comparison: None, notes: Vec::new() };
    let found = match (variant, &data.test) {
        (Some(variant), _) => {
            (context.progress)(0.0, &format!("sampling {count} images"));
            let loaded = model_folder::load::<f32>(&runs::folder(&context.out, variant))?;
            let mut subject = Subject::new(context, loaded.model, &loaded.diffusion, plan.config.train.seed)?;
            match or_note(subject.samples(count, plan.measuring.steps))? {
                Ok(images) => extractor.features(images.view().permuted_axes([0, 3, 1, 2]))?,
                Err(note) => {
                    quality.notes.push(note);
                    return Ok(Some(quality));
                }
            }
        }
        (None, Some(test)) => {
            let indices: Vec<usize> = (0..count.min(test.len())).collect();
            quality.images = indices.len();
            extractor.features_of(test, &indices, &mut |_| {})?
        }
        (None, None) => return Ok(None),
    };
    if (context.stop)() {
        return Ok(None);
    }
    if found.nrows() < fewest(found.ncols()) {
        quality.notes.push(format!("{} images are too few for {} features", found.nrows(), found.ncols()));
        return Ok(Some(quality));
    }
    quality.comparison = Some(Comparison::of(reference.view(), found.view(), plan.config.train.seed)?);
    Ok(Some(quality))
}
