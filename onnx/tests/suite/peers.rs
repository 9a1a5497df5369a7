//! Other people's programs and libraries that tests compare with where they are installed. The tests of both
//! packages use this file.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::process::Command;
use std::sync::{Mutex, mpsc};
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

/// Prints, once, what is not compared because a peer is missing; fails where `PERFORMER_DDPM_REQUIRE_PEERS=1`
/// requires every peer.
pub fn skipped(what: impl Display) {
    let what = what.to_string();
    let required = std::env::var_os("PERFORMER_DDPM_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "PERFORMER_DDPM_REQUIRE_PEERS=1, but {what}");
    told(format!("skipped, here and below: {what}"));
}

/// Prints a line once.
pub fn told(line: String) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if TOLD.lock().expect("no thread panicked").insert(line.clone()) {
        println!("{line}");
    }
}

/// A Python interpreter that has these packages, or `None` with the reason printed. `ONNX_PYTHON` names an
/// interpreter other than `python3`.
pub fn python(packages: &str) -> Option<String> {
    let python = std::env::var("ONNX_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", &format!("import {packages}")]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skipped(format!("{python} cannot import {packages} (pip install them, or set ONNX_PYTHON)"));
    None
}
