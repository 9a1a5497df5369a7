//! Graphs run under a time limit, and Python beside them.

use super::peers;
use performer_ddpm_onnx::Tensor;
use performer_ddpm_onnx::runner::Runner;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

/// Loading and running a small graph takes seconds at most; a runtime that hangs must fail the test, not
/// stall it.
const LIMIT: Duration = Duration::from_secs(120);

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

/// The only output of a run, with the runtime's name for messages.
pub fn run(runner: &mut dyn Runner, inputs: &[(&str, &Tensor)]) -> (String, Vec<f32>) {
    let name = runner.describe().backend.name().to_owned();
    let mut outputs = runner.run(inputs).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(outputs.len(), 1, "{name}");
    (name, outputs.remove(0).1.into_f32().expect("floats"))
}

/// A Python interpreter that has these packages, or `None` with the reason printed. `ONNX_PYTHON` names one
/// where the default one does not serve.
pub fn python(packages: &str) -> Option<String> {
    let python = std::env::var("ONNX_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", &format!("import {packages}")]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    peers::skipped(format!("{python} cannot import {packages} (pip install them, or set ONNX_PYTHON)"));
    None
}
