//! Small features networks as ONNX files.

use super::runtimes::{at_hand, name};
use performer_ddpm::evaluate::features::{Extractor, FeatureOptions};
use performer_ddpm::sample::onnx::Runtime;
use performer_ddpm_onnx::builder::{Binary, GraphBuilder, ModelInfo, Reduction, ReshapeDim, Unary};
use performer_ddpm_onnx::{Dim, ElementType, Model};

/// A network whose features are the means of the channels, with options for tests.
#[derive(Clone, Debug)]
pub struct FeatureNet {
    pub batch: Dim,
    /// Channels, height, width.
    pub image: [usize; 3],
    /// A second output, twice the features.
    pub logits: bool,
    /// A second input, a number for each image that is added to all of its features.
    pub time: bool,
    /// The pixels themselves as features.
    pub pixels: bool,
    /// The images as the output.
    pub maps: bool,
    /// The logarithm of the features.
    pub logarithm: bool,
}

impl FeatureNet {
    pub fn new(batch: Dim, image: [usize; 3]) -> Self {
        FeatureNet { batch, image, logits: false, time: false, pixels: false, maps: false, logarithm: false }
    }

    pub fn model(&self) -> Model {
        let mut g = GraphBuilder::new("features");
        let [c, h, w] = self.image;
        let dims = [self.batch.clone(), c.into(), h.into(), w.into()];
        let x = g.input("images", ElementType::F32, dims).expect("an input");
        let mut features = if self.maps {
            x
        } else if self.pixels {
            g.reshape(x, &[ReshapeDim::Copy, ReshapeDim::To(c * h * w)]).expect("rows")
        } else {
            g.reduce(Reduction::Mean, x, &[2, 3], false).expect("means")
        };
        if self.time {
            let t = g.input("t", ElementType::F32, [self.batch.clone(), 1.into()]).expect("an input");
            features = g.binary(Binary::Add, features, t).expect("a sum");
        }
        if self.logarithm {
            features = g.unary(Unary::Log, features).expect("a logarithm");
        }
        g.output("features", features).expect("an output");
        if self.logits {
            let two = g.scalar(2.0).expect("a constant");
            let logits = g.binary(Binary::Mul, features, two).expect("a product");
            g.output("logits", logits).expect("an output");
        }
        g.into_model(ModelInfo::default()).expect("a model")
    }
}

/// Runs `check` with the network in every runtime at hand.
pub fn in_every_runtime(
    model: &Model,
    options: &dyn Fn(Runtime) -> FeatureOptions,
    check: impl Fn(&mut Extractor),
) {
    for runtime in at_hand() {
        let loaded = Extractor::load(model, &options(runtime.clone()));
        check(&mut loaded.unwrap_or_else(|error| panic!("{}: {error}", name(runtime))));
    }
}

/// The message of a network that is refused before any runtime sees it, as bad input.
pub fn refusal(model: &Model, options: &dyn Fn(Runtime) -> FeatureOptions) -> String {
    let error = Extractor::load(model, &options(Runtime::Tract)).expect_err("a refusal");
    assert_eq!(error.exit_status(), 2, "{error}");
    error.to_string()
}
