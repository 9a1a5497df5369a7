//! What the integration tests share: every available runtime, and comparison with a stated tolerance.

use crate::peers::{in_time, skipped, told};
use performer_ddpm_onnx::builder::{GraphBuilder, ModelInfo, Value};
use performer_ddpm_onnx::runner::{Runner, TRACT_BUILT_IN, load_tract};
use performer_ddpm_onnx::{Error, Model, Result, Tensor};

/// The model in every available runtime.
pub fn load_all(model: &Model) -> Vec<Box<dyn Runner>> {
    let mut runners: Vec<Box<dyn Runner>> = Vec::new();
    if TRACT_BUILT_IN {
        runners.push(load_tract(model).unwrap_or_else(|error| panic!("tract: {error}")));
    } else {
        told("skipped in tract, here and below: it is not built in (cargo test --features tract)".to_owned());
    }
    #[cfg(feature = "ort")]
    runners.extend(ort(model).map(|runner| Box::new(runner) as Box<dyn Runner>));
    runners
}

/// The model in ONNX Runtime, or `None` (with the reason printed) where there is none.
#[cfg(feature = "ort")]
pub fn ort(model: &Model) -> Option<performer_ddpm_onnx::runner::ort::OrtRunner> {
    use performer_ddpm_onnx::runner::ort::{OrtOptions, OrtRunner};
    match OrtRunner::load(model, &OrtOptions { threads: Some(1), ..OrtOptions::default() }) {
        Ok(runner) => Some(runner),
        Err(error @ Error::RuntimeMissing { .. }) => {
            skipped(error);
            None
        }
        Err(error) => panic!("ONNX Runtime: {error}"),
    }
}

/// A model of one graph whose outputs are named y0, y1, and so on.
pub fn model(name: &str, build: impl FnOnce(&mut GraphBuilder) -> Result<Vec<Value>>) -> Model {
    let mut g = GraphBuilder::new(name);
    let outputs = build(&mut g).unwrap_or_else(|error| panic!("{name}: {error}"));
    for (i, output) in outputs.into_iter().enumerate() {
        g.output(&format!("y{i}"), output).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    g.into_model(ModelInfo::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Runs the model in every available runtime and compares each output with what plain arithmetic gives.
pub fn check(model: Model, inputs: &[(&str, Tensor)], want: Vec<Tensor>, tolerance: f32) {
    let inputs: Vec<(String, Tensor)> =
        inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
    in_time(move || {
        let inputs: Vec<(&str, &Tensor)> =
            inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        for mut runner in load_all(&model) {
            let who = format!("{} in {}", model.origin(), runner.describe());
            let got = runner.run(&inputs).unwrap_or_else(|error| panic!("{who}: {error}"));
            assert_eq!(got.len(), want.len(), "{who}");
            for ((name, got), want) in got.iter().zip(&want) {
                close(&format!("{who}, {name}"), got, want, tolerance);
            }
        }
    });
}

/// Compares shapes exactly, integers exactly, floats to `tolerance` times the largest magnitude (or 1 if that
/// is less).
pub fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    match (got, want) {
        (Tensor::F32 { data: got, .. }, Tensor::F32 { data: want, .. }) => {
            let scale = want.iter().fold(1.0f32, |scale, x| scale.max(x.abs()));
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let error = (got - want).abs() / scale;
                assert!(error <= tolerance, "{what}[{i}]: {got} where {want} was expected (error {error:e})");
            }
        }
        _ => assert_eq!(got, want, "{what}"),
    }
}

/// `count` numbers in (-1, 1) without a pattern; equal for equal seeds.
pub fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

/// A float tensor of [`numbers`].
pub fn random(seed: u32, shape: &[usize]) -> Tensor {
    f32s(shape, numbers(seed, shape.iter().product()))
}

/// A float tensor.
pub fn f32s(shape: &[usize], data: Vec<f32>) -> Tensor {
    Tensor::f32(shape, data).expect("as many numbers as the shape has")
}

/// An integer tensor.
pub fn i64s(shape: &[usize], data: Vec<i64>) -> Tensor {
    Tensor::i64(shape, data).expect("as many numbers as the shape has")
}

/// The floats of a tensor of the tests' own.
pub fn floats(tensor: &Tensor) -> &[f32] {
    tensor.as_f32().expect("floats")
}
