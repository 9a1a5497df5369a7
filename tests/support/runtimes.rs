//! ONNX runtimes, where there are any, under a time limit.

use performer_ddpm::sample::onnx::{OnnxDenoiser, Runtime};
use performer_ddpm::{Error, Result};
use performer_ddpm_onnx::runner::TRACT_BUILT_IN;
use performer_ddpm_onnx::runner::ort::OrtOptions;
use performer_ddpm_onnx::{Error as OnnxError, Model};
use std::sync::mpsc;
use std::time::Duration;

/// Test graphs load and run in seconds; a runtime that hangs must fail the test, not stall it.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The result of `work`, which has to come within the limit.
pub fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        // The receiver is gone only when the limit has passed.
        let _ = send.send(work());
    });
    match receive.recv_timeout(LIMIT) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("not done within {LIMIT:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("a worker that ends without a panic has sent its value"),
        },
    }
}

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

/// The graph in ONNX Runtime on one thread of the processor; `None`, with the reason printed, where there is none.
pub fn ort(model: &Model) -> Option<OnnxDenoiser> {
    match load_ort(model) {
        Err(Error::Onnx(error @ OnnxError::RuntimeMissing { .. })) => {
            println!("skipped in ONNX Runtime: {error}");
            None
        }
        outcome => Some(outcome.unwrap_or_else(|error| panic!("ONNX Runtime: {error}"))),
    }
}

fn load_ort(model: &Model) -> Result<OnnxDenoiser> {
    let options = OrtOptions { threads: Some(1), ..OrtOptions::default() };
    OnnxDenoiser::load(model, &Runtime::OnnxRuntime(options), 1)
}
