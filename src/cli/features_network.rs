//! How images enter a features network and what runs it: the options of every command that uses one.

use super::parse_size;
use crate::evaluate::features::{FeatureOptions, PixelRange};
use crate::sample::onnx::Runtime;
use crate::{Error, Result};
use clap::{Args, ValueEnum};
use performer_ddpm_onnx::runner::ort::OrtOptions;
use std::path::PathBuf;

/// How images enter a features network, and what runs it.
#[derive(Debug, Args)]
pub struct NetworkArgs {
    /// How images enter a known network: inception takes 299x299 in [-1,1]
    #[arg(long, value_enum, value_name = "NAME")]
    features_preset: Option<PresetName>,
    /// The network's input for images, where it has several; the others get zeros
    #[arg(long, value_name = "NAME")]
    features_input: Option<String>,
    /// The network's output with the features, where it has several
    #[arg(long, value_name = "NAME")]
    features_output: Option<String>,
    /// The range of pixels that the network expects [default: -1..1]
    #[arg(long, value_enum, value_name = "NAME")]
    features_range: Option<RangeName>,
    /// Resize images to this size for the network, such as 299: bilinearly between pixels' centres, and where
    /// it shrinks with the filter widened against aliasing, as Pillow's BILINEAR does; clean-fid takes
    /// Pillow's BICUBIC, so that its figures differ a little [default: as they are]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    features_size: Option<[usize; 2]>,
    /// What runs the network [default: ort]
    #[arg(long, value_enum, value_name = "NAME")]
    features_backend: Option<BackendName>,
    /// ONNX Runtime's library or its folder [default: looked for; see onnx/README.md]
    #[arg(long, value_name = "PATH")]
    ort_lib: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PresetName {
    /// Inception v3 as for the FID
    Inception,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RangeName {
    /// -1 to 1
    #[value(name = "-1..1", alias = "symmetric")]
    Symmetric,
    /// 0 to 1
    #[value(name = "0..1")]
    Unit,
    /// 0 to 255
    #[value(name = "0..255")]
    Bytes,
    /// By ImageNet's means and deviations
    Imagenet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendName {
    /// ONNX Runtime
    Ort,
    /// tract, in pure Rust (built with --features tract)
    Tract,
}

impl NetworkArgs {
    /// The options that were given.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("--features-preset", self.features_preset.is_some()),
            ("--features-input", self.features_input.is_some()),
            ("--features-output", self.features_output.is_some()),
            ("--features-range", self.features_range.is_some()),
            ("--features-size", self.features_size.is_some()),
            ("--features-backend", self.features_backend.is_some()),
            ("--ort-lib", self.ort_lib.is_some()),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
    }

    /// The chosen options, for this batch size and number of threads.
    pub fn options(&self, batch: usize, threads: Option<u16>) -> Result<FeatureOptions> {
        let runtime = match (self.features_backend, &self.ort_lib) {
            (Some(BackendName::Tract), Some(library)) => {
                let got = library.display().to_string();
                return Err(Error::invalid("--ort-lib", "none with --features-backend tract", got, ""));
            }
            (Some(BackendName::Tract), None) => Runtime::Tract,
            (_, library) => Runtime::OnnxRuntime(OrtOptions {
                library: library.clone(),
                threads: threads.map(usize::from),
                ..OrtOptions::default()
            }),
        };
        let mut options = match self.features_preset {
            Some(PresetName::Inception) => FeatureOptions::inception(runtime),
            None => FeatureOptions::new(runtime),
        };
        options.input.clone_from(&self.features_input);
        options.output.clone_from(&self.features_output);
        options.batch = batch;
        options.size = self.features_size.or(options.size);
        if let Some(range) = self.features_range {
            options.range = match range {
                RangeName::Symmetric => PixelRange::Symmetric,
                RangeName::Unit => PixelRange::Unit,
                RangeName::Bytes => PixelRange::Bytes,
                RangeName::Imagenet => PixelRange::ImageNet,
            };
        }
        Ok(options)
    }
}
