//! The crate's one error type.

use crate::types::Shape;
use std::fmt;
use std::path::PathBuf;

/// What went wrong, what was expected, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Input that cannot be used: a file, a name, a type, a value.
    #[error("{what}: expected {expected}, got {got}{}", advice(.help))]
    Invalid {
        /// What was looked at and where (a file, a node, a tensor).
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What was found.
        got: String,
        /// What to do about it; may be empty.
        help: String,
    },
    /// Two shapes that do not fit together.
    #[error("{what}: shapes {left} and {right} do not fit; {rule}")]
    Shape {
        /// The node or tensor.
        what: String,
        /// The first operand's shape, or the expected one.
        left: Shape,
        /// The second operand's shape, or the one that was given.
        right: Shape,
        /// The rule that they break.
        rule: &'static str,
    },
    /// The operating system refused to read something.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The operating system refused to write something.
    #[error("cannot write {}: {source}; what was there before is unchanged", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No usable ONNX Runtime library was found.
    #[error("{}", missing_runtime(.tried))]
    RuntimeMissing {
        /// Every place that was searched, in order, and why it had no usable library.
        tried: Vec<Attempt>,
    },
    /// The runtime is not a part of this program.
    #[error("{backend} is not built into this program; build it with --features {feature}{}", advice(.help))]
    NotBuiltIn {
        /// Which runtime.
        backend: &'static str,
        /// The feature that adds it.
        feature: &'static str,
        /// What to do instead; may be empty.
        help: String,
    },
    /// The device that was asked for cannot be used.
    #[error("{device} cannot be used through ONNX Runtime: {reason}; {help}")]
    Device {
        /// The device as it was asked for.
        device: String,
        /// Why not.
        reason: String,
        /// What to do about it.
        help: String,
    },
    /// The device's memory does not hold the work.
    #[error("{device} is out of memory{}; use a smaller batch ({reason})", requested(.bytes))]
    OutOfMemory {
        /// The device.
        device: String,
        /// The size of the refused request in bytes, where the runtime names it.
        bytes: Option<u64>,
        /// The runtime's message.
        reason: String,
    },
    /// The runtime refused to load or to run the model.
    #[error("{backend} could not {action} the model: {reason}")]
    Run {
        /// Which runtime.
        backend: &'static str,
        /// What it was asked to do: "load" or "run".
        action: &'static str,
        /// The runtime's message.
        reason: String,
    },
}

/// One place where an ONNX Runtime library was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The path, or the place in words where there is no path.
    pub place: String,
    /// Why it had no usable library.
    pub reason: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

fn advice(help: &str) -> String {
    if help.is_empty() { String::new() } else { format!("; {help}") }
}

fn requested(bytes: &Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| format!(" (a request for {} MiB failed)", bytes.div_ceil(1 << 20)))
}

fn missing_runtime(tried: &[Attempt]) -> String {
    let mut text = String::from("no usable ONNX Runtime (1.17 or newer) was found; tried");
    for attempt in tried {
        text.push_str(&format!("\n  {attempt}"));
    }
    text.push_str(
        "\nto get it: pip install onnxruntime (CPU) or pip install onnxruntime-gpu (NVIDIA GPU); \
         to point at a library elsewhere, set ORT_DYLIB_PATH to its path",
    );
    if cfg!(feature = "tract") {
        text.push_str("; tract, which is built into this program, runs models without it");
    }
    text
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Unusable input: what and where, what was expected, what was found, what to do (may be empty).
    pub fn invalid(
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Error::Invalid { what: what.into(), expected: expected.into(), got: got.into(), help: help.into() }
    }

    /// Whether the user's input or installation is at fault (true) or the work itself failed (false).
    pub fn is_bad_input(&self) -> bool {
        match self {
            Error::Invalid { .. }
            | Error::Shape { .. }
            | Error::Read { .. }
            | Error::RuntimeMissing { .. }
            | Error::NotBuiltIn { .. }
            | Error::Device { .. }
            | Error::OutOfMemory { .. } => true,
            // A runtime that does not take a file; while it runs, the work fails.
            Error::Run { action, .. } => *action == "load",
            Error::Write { .. } => false,
        }
    }
}
