//! Denoisers in the ONNX runtimes at hand.

use super::peers;
use performer_ddpm::sample::onnx::{OnnxDenoiser, Runtime};
use performer_ddpm::{Error, Result};
use performer_ddpm_onnx::runner::TRACT_BUILT_IN;
use performer_ddpm_onnx::runner::ort::OrtOptions;
use performer_ddpm_onnx::{Error as OnnxError, Model};

/// The graph in every runtime at hand, with the runtime's name.
pub fn load_all(model: &Model) -> Vec<(&'static str, OnnxDenoiser)> {
    let mut all = Vec::new();
    if TRACT_BUILT_IN {
        let tract = OnnxDenoiser::load(model, &Runtime::Tract, 1);
        all.push(("tract", tract.unwrap_or_else(|error| panic!("tract: {error}"))));
    } else {
        println!("skipped in tract: it is not built in");
    }
    all.extend(ort(model).map(|ort| ("ONNX Runtime", ort)));
    all
}

/// The graph in ONNX Runtime on one thread of the processor; `None`, with the reason printed, where there is
/// none.
pub fn ort(model: &Model) -> Option<OnnxDenoiser> {
    match load_ort(model) {
        Err(Error::Onnx(error @ OnnxError::RuntimeMissing { .. })) => {
            peers::skipped(error);
            None
        }
        outcome => Some(outcome.unwrap_or_else(|error| panic!("ONNX Runtime: {error}"))),
    }
}

fn load_ort(model: &Model) -> Result<OnnxDenoiser> {
    let options = OrtOptions { threads: Some(1), ..OrtOptions::default() };
    OnnxDenoiser::load(model, &Runtime::OnnxRuntime(options), 1)
}
