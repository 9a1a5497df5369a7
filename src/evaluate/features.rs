//! Features of images by any network in an ONNX file.

mod enter;

pub use enter::PixelRange;

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::machine;
use crate::sample::onnx::Runtime;
use enter::Entry;
use ndarray::{Array2, ArrayView4};
use performer_ddpm_onnx::model::{Port, Summary};
use performer_ddpm_onnx::runner::ort::OrtRunner;
use performer_ddpm_onnx::runner::{Description, Runner, load_tract};
use performer_ddpm_onnx::{Dim, ElementType, Model, Tensor};
use std::path::Path;

/// How images enter a features network, and what runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureOptions {
    /// The name of the input for images, needed where the network has several inputs. The others get zeros.
    pub input: Option<String>,
    /// The name of the output of features, needed where the network has several.
    pub output: Option<String>,
    /// The range of pixels that the network expects.
    pub range: PixelRange,
    /// Height and width that images are resized to. Without it they must have the network's size.
    pub size: Option<[usize; 2]>,
    /// Images that go through it together, unless the file fixes their number.
    pub batch: usize,
    /// What runs it.
    pub runtime: Runtime,
}

impl FeatureOptions {
    /// Options for a network that takes images unchanged, in [-1, 1].
    pub fn new(runtime: Runtime) -> Self {
        let range = PixelRange::Symmetric;
        FeatureOptions { input: None, output: None, range, size: None, batch: 64, runtime }
    }

    /// Options for Inception v3 as in the FID: 299x299 in [-1, 1]; grey images fill its three channels.
    pub fn inception(runtime: Runtime) -> Self {
        FeatureOptions { size: Some([299, 299]), ..FeatureOptions::new(runtime) }
    }
}

impl Default for FeatureOptions {
    /// Images as they are, in [-1, 1], through ONNX Runtime on the processor.
    fn default() -> Self {
        FeatureOptions::new(Runtime::default())
    }
}

/// A loaded features network.
pub struct Extractor {
    runner: Box<dyn Runner>,
    origin: String,
    image: Port,
    rest: Vec<Port>,
    output: String,
    options: FeatureOptions,
}

impl std::fmt::Debug for Extractor {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Extractor").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Extractor {
    /// Reads and loads a file.
    ///
    /// # Errors
    /// As [`Extractor::load`], and [`Error::Onnx`] for a file that is no ONNX model.
    pub fn open(path: &Path, options: &FeatureOptions) -> Result<Self> {
        Self::load(&Model::read(path)?, options)
    }

    /// Loads a network.
    ///
    /// # Errors
    /// [`Error::Invalid`], listing the inputs and outputs, for a file that is no features network or where
    /// one of several has to be named; [`Error::Onnx`] where the runtime is missing or refuses the file.
    pub fn load(model: &Model, options: &FeatureOptions) -> Result<Self> {
        let (origin, summary) = (model.origin().to_owned(), model.summary()?);
        if options.batch == 0 {
            return Err(Error::invalid("`FeatureOptions::batch`", "at least 1", "0", ""));
        }
        model.check_numbers(f64::INFINITY)?;
        let image = pick(&origin, "input", &summary.inputs, options.input.as_deref())?.clone();
        let dims = image.shape.as_ref().map(|shape| shape.dims());
        if image.element != ElementType::F32 || dims.is_none_or(|dims| dims.len() != 4) {
            return Err(refused(&origin, "input", "images f32 [N, C, H, W]", &image.to_string()));
        }
        let output = output(&origin, &summary, options)?;
        let rest = summary.inputs.iter().filter(|port| port.name != image.name).cloned().collect();
        let runner = match &options.runtime {
            Runtime::Tract => load_tract(model)?,
            Runtime::OnnxRuntime(ort) => Box::new(OrtRunner::load(model, ort)?),
        };
        Ok(Extractor { runner, origin, image, rest, output, options: options.clone() })
    }

    /// The options that it was loaded with.
    pub fn options(&self) -> &FeatureOptions {
        &self.options
    }

    /// The runtime and the device that run the network.
    pub fn describe(&self) -> &Description {
        self.runner.describe()
    }

    /// The features \[n, d\] of images \[n, c, h, w\] in [-1, 1]; numbers outside are clamped.
    ///
    /// # Errors
    /// [`Error::Invalid`] for images that the network does not take, an output that is no list of features,
    /// or features that are not finite; [`Error::Onnx`] of the runtime.
    pub fn features(&mut self, images: ArrayView4<f32>) -> Result<Array2<f64>> {
        let (n, c, h, w) = images.dim();
        let fill = |i: usize, out: &mut [f32]| {
            let image = images.index_axis(ndarray::Axis(0), i);
            out.iter_mut().zip(image.iter()).for_each(|(out, x)| *out = *x);
        };
        self.run(n, [c, h, w], fill, &mut |_| {})
    }

    /// The features \[n, d\] of these images of a dataset; `observer` gets the finished share.
    ///
    /// # Errors
    /// As [`Extractor::features`].
    pub fn features_of(
        &mut self,
        dataset: &Dataset,
        indices: &[usize],
        observer: &mut dyn FnMut(f64),
    ) -> Result<Array2<f64>> {
        dataset.check_indices(indices)?;
        let shape @ [c, h, w] = [dataset.channels(), dataset.height(), dataset.width()];
        let mut last = vec![0.0; dataset.image_len()];
        let mut failure = Ok(());
        let fill = |i: usize, out: &mut [f32]| {
            if let Err(error) = dataset.image_into(indices[i], false, &mut last) {
                failure = Err(error);
            }
            for (k, plane) in out.chunks_exact_mut(h * w).enumerate() {
                plane.iter_mut().zip(last[k..].iter().step_by(c)).for_each(|(out, x)| *out = *x);
            }
        };
        let features = self.run(indices.len(), shape, fill, observer)?;
        failure.map(|()| features)
    }

    fn run(
        &mut self,
        count: usize,
        image: [usize; 3],
        mut fill: impl FnMut(usize, &mut [f32]),
        observer: &mut dyn FnMut(f64),
    ) -> Result<Array2<f64>> {
        let port = self.image.shape.as_ref().map(|shape| shape.dims().to_vec()).unwrap_or_default();
        let entry = Entry::new(&self.origin, &port, image, &self.options)?;
        let fixed = port.first().and_then(Dim::known);
        let batch = fixed.unwrap_or(self.options.batch).max(1);
        let len: usize = image.iter().product();
        let mut features = Array2::zeros((0, 0));
        let mut buffer = machine::filled("`FeatureOptions::batch`", &[batch.min(count), len], 0.0)?;
        for first in (0..count).step_by(batch) {
            let n = batch.min(count - first);
            for (i, image) in buffer.chunks_exact_mut(len.max(1)).take(n).enumerate() {
                fill(first + i, image);
            }
            let x = entry.tensor(&buffer[..n * len], fixed.unwrap_or(n))?;
            let found = self.forward(&x, n)?;
            if first == 0 {
                features = Array2::zeros((count, found.len() / n));
            }
            let width = features.ncols();
            for (i, row) in found.chunks_exact(width.max(1)).enumerate() {
                for (to, &from) in features.row_mut(first + i).iter_mut().zip(row) {
                    *to = self.finite(first + i, from)?;
                }
            }
            observer((first + n) as f64 / count as f64);
        }
        Ok(features)
    }

    fn finite(&self, image: usize, feature: f32) -> Result<f64> {
        if feature.is_finite() {
            return Ok(f64::from(feature));
        }
        let help = "see that the pixels' range is the one that the network takes (`FeatureOptions::range`)";
        Err(Error::invalid(
            format!("{}, the features of image {image}", self.origin),
            "finite numbers",
            feature.to_string(),
            help,
        ))
    }

    /// The features of the first `n` images of a batch, one after the other.
    fn forward(&mut self, x: &Tensor, n: usize) -> Result<Vec<f32>> {
        let batch = x.shape()[0];
        let rest: Vec<(String, Tensor)> =
            self.rest.iter().map(|port| zeros(port, batch)).collect::<Result<_>>()?;
        let mut inputs: Vec<(&str, &Tensor)> = vec![(&self.image.name, x)];
        inputs.extend(rest.iter().map(|(name, tensor)| (name.as_str(), tensor)));
        let outputs = self.runner.run(&inputs)?;
        let found = outputs.into_iter().find(|(name, _)| *name == self.output).map(|(_, tensor)| tensor);
        match found {
            Some(Tensor::F32 { shape, mut data }) if is_list(&shape, batch) => {
                data.truncate(data.len() / batch * n);
                Ok(data)
            }
            Some(other) => {
                let got = format!("{} {:?}", other.element_type(), other.shape());
                let expected = format!("f32 [{batch}, D], one list of features for each image");
                Err(refused(&self.origin, &format!("output {}", self.output), &expected, &got))
            }
            None => Err(refused(&self.origin, "outputs", &self.output, "no such output")),
        }
    }
}

/// Whether a shape is \[batch, d\], perhaps followed by dimensions of length one.
fn is_list(shape: &[usize], batch: usize) -> bool {
    matches!(shape, [n, d, rest @ ..] if *n == batch && *d > 0 && rest.iter().all(|length| *length == 1))
}

/// The named port, or the only one.
fn pick<'a>(origin: &str, kind: &str, ports: &'a [Port], name: Option<&str>) -> Result<&'a Port> {
    let refuse = |expected: &str| refused(origin, &format!("{kind}s"), expected, &listed(ports));
    match (name, ports) {
        (Some(name), _) => ports
            .iter()
            .find(|port| port.name == name)
            .ok_or_else(|| refuse(&format!("one called {name}, as `FeatureOptions::{kind}` says"))),
        (None, [only]) => Ok(only),
        (None, []) => Err(refuse("one")),
        (None, _) => Err(refuse(&format!("one, or `FeatureOptions::{kind}` to say which"))),
    }
}

/// The output's name, if the file does not rule out that it holds features.
fn output(origin: &str, summary: &Summary, options: &FeatureOptions) -> Result<String> {
    let port = pick(origin, "output", &summary.outputs, options.output.as_deref())?;
    let may_be = |dims: &[Dim]| {
        dims.len() >= 2 && dims[2..].iter().all(|dim| dim.known().is_none_or(|length| length == 1))
    };
    let fits = port.shape.as_ref().is_none_or(|shape| may_be(shape.dims()));
    if port.element != ElementType::F32 || !fits {
        return Err(refused(origin, "output", "features f32 [N, D]", &port.to_string()));
    }
    Ok(port.name.clone())
}

/// Zeros for an input that takes no images.
fn zeros(port: &Port, batch: usize) -> Result<(String, Tensor)> {
    let dims = port.shape.as_ref().map(|shape| shape.dims()).unwrap_or_default();
    let shape: Vec<usize> = dims.iter().map(|dim| dim.known().unwrap_or(batch)).collect();
    let count = machine::count::<i64>(&port.name, &shape)?;
    let tensor = match port.element {
        ElementType::F32 => Tensor::f32(shape, vec![0.0; count])?,
        _ => Tensor::i64(shape, vec![0; count])?,
    };
    Ok((port.name.clone(), tensor))
}

fn refused(origin: &str, what: &str, expected: &str, got: &str) -> Error {
    let help = "a features network takes images f32 [N, C, H, W] and gives features f32 [N, D]";
    Error::invalid(format!("{origin}, {what}"), expected, got, help)
}

fn listed(ports: &[Port]) -> String {
    if ports.is_empty() {
        return "none".to_owned();
    }
    ports.iter().map(Port::to_string).collect::<Vec<_>>().join("; ")
}
