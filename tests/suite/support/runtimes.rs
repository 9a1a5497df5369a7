//! The ONNX runtimes at hand, and what they run.

use super::peers::{skipped, told};
use performer_ddpm::sample::onnx::{OnnxDenoiser, Runtime};
use performer_ddpm_onnx::builder::{GraphBuilder, ModelInfo};
use performer_ddpm_onnx::runner::ort::{OrtOptions, OrtRunner};
use performer_ddpm_onnx::runner::{Runner, TRACT_BUILT_IN, load_tract};
use performer_ddpm_onnx::{Dim, ElementType, Error, Model, Tensor};
use std::sync::OnceLock;

/// tract where it is built in, and ONNX Runtime, on one thread of the processor, where it is found; says what
/// is skipped.
pub fn at_hand() -> &'static [Runtime] {
    static FOUND: OnceLock<Vec<Runtime>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mut found = Vec::new();
        if TRACT_BUILT_IN {
            found.push(Runtime::Tract);
        } else {
            let hint = "it is not built in (cargo test --features tract)";
            told(format!("skipped in tract, here and below: {hint}"));
        }
        let options = OrtOptions { threads: Some(1), ..OrtOptions::default() };
        match OrtRunner::load(&nothing(), &options) {
            Ok(_) => found.push(Runtime::OnnxRuntime(options)),
            Err(error @ Error::RuntimeMissing { .. }) => skipped(error),
            Err(error) => panic!("ONNX Runtime: {error}"),
        }
        found
    })
}

/// A graph that any runtime takes.
fn nothing() -> Model {
    let mut g = GraphBuilder::new("nothing");
    let x = g.input("x", ElementType::F32, [Dim::from("N")]).expect("an input");
    let y = g.add(x, x).expect("a sum");
    g.output("y", y).expect("an output");
    g.into_model(ModelInfo::default()).expect("a model")
}

/// The name that `--backend` has for a runtime.
pub fn name(runtime: &Runtime) -> &'static str {
    match runtime {
        Runtime::Tract => "tract",
        Runtime::OnnxRuntime(_) => "ort",
    }
}

/// The graph in every runtime at hand.
pub fn runners(model: &Model) -> Vec<Box<dyn Runner>> {
    let load = |runtime: &Runtime| match runtime {
        Runtime::Tract => load_tract(model),
        Runtime::OnnxRuntime(options) => Ok(Box::new(OrtRunner::load(model, options)?) as Box<dyn Runner>),
    };
    let loaded = |runtime| load(runtime).unwrap_or_else(|error| panic!("{}: {error}", name(runtime)));
    at_hand().iter().map(loaded).collect()
}

/// The graph in ONNX Runtime; `None` where it is not found, which is said.
pub fn onnx_runtime(model: &Model) -> Option<Box<dyn Runner>> {
    at_hand().iter().find_map(|runtime| match runtime {
        Runtime::Tract => None,
        Runtime::OnnxRuntime(options) => {
            let runner =
                OrtRunner::load(model, options).unwrap_or_else(|error| panic!("ONNX Runtime: {error}"));
            Some(Box::new(runner) as Box<dyn Runner>)
        }
    })
}

/// The graph as a denoiser in every runtime at hand, with the runtime's name.
pub fn denoisers(model: &Model) -> Vec<(&'static str, OnnxDenoiser)> {
    let load = |runtime| {
        let denoiser = OnnxDenoiser::load(model, runtime, 1);
        (name(runtime), denoiser.unwrap_or_else(|error| panic!("{}: {error}", name(runtime))))
    };
    at_hand().iter().map(load).collect()
}

/// The only output of a run, with the runtime's name for messages.
pub fn run(runner: &mut dyn Runner, inputs: &[(&str, &Tensor)]) -> (String, Vec<f32>) {
    let name = runner.describe().backend.name().to_owned();
    let mut outputs = runner.run(inputs).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(outputs.len(), 1, "{name}");
    (name, outputs.remove(0).1.into_f32().expect("floats"))
}
