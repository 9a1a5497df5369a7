//! The one error type of the library.

use std::path::{Path, PathBuf};

/// What went wrong, what was expected, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Input that cannot be used: a file, a configuration, a shape, a value.
    #[error("{what}: expected {expected}, got {got}{}", advice(.help))]
    Invalid {
        /// What was looked at and where (a file, a key, a tensor).
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What was found.
        got: String,
        /// What to do about it; may be empty.
        help: String,
    },
    /// What the ONNX crate reports: a file, a runtime, a device.
    #[error(transparent)]
    Onnx(#[from] performer_ddpm_onnx::Error),
    /// The operating system refused to read something.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The operating system refused to write something.
    #[error("cannot write {}: {source}; what was there before is unchanged", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file was written, but the system could not make its name durable.
    #[error(
        "{} is written, but may be gone or its old self after a power cut: its folder cannot be synced: {source}",
        path.display()
    )]
    NotDurable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The work was asked to stop before its end.
    #[error("stopped before the end, as it was asked to")]
    Stopped,
    /// A loss, gradient or sample stopped being a finite number.
    #[error("{what} is not finite at step {step}; {help}")]
    NotFinite {
        /// The quantity.
        what: String,
        /// The step, counted from 1.
        step: u64,
        /// What to do about it.
        help: String,
    },
    /// Another process of those that work together has failed, and tells why.
    #[error("rank {rank} failed")]
    OtherRank {
        /// That process.
        rank: usize,
        /// Whether what it found was [`Error::NotFinite`].
        not_finite: bool,
    },
    /// A batch that the device's memory does not hold.
    #[error("{device} has no memory for a batch of {batch}; {}", smaller(.fits))]
    OutOfMemory {
        /// The device.
        device: String,
        /// The batch that was tried.
        batch: usize,
        /// The largest half, quarter, ... of it that was seen to fit, if any.
        fits: Option<usize>,
    },
    /// An exported graph computes something else than the engine.
    #[error("{what} differs from the engine by {difference:.1e} where {bound:.1e} is allowed; {help}")]
    Disagrees {
        /// The graph, and what ran it.
        what: String,
        /// The largest difference.
        difference: f64,
        /// What rounding explains.
        bound: f64,
        /// What to do about it.
        help: String,
    },
}

impl From<performer_ddpm_kernels::Error> for Error {
    fn from(error: performer_ddpm_kernels::Error) -> Error {
        Error::invalid(error.what, error.expected, error.got, error.help)
    }
}

fn advice(help: &str) -> String {
    if help.is_empty() { String::new() } else { format!("; {help}") }
}

fn smaller(fits: &Option<usize>) -> String {
    match fits {
        Some(batch) => format!("a batch of {batch} fits"),
        None => "no smaller one was seen to fit".to_owned(),
    }
}

/// The library's result.
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

    /// A read that the operating system refused.
    pub fn read(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Read { path: path.as_ref().to_path_buf(), source }
    }

    /// A write that the operating system refused.
    pub fn write(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Write { path: path.as_ref().to_path_buf(), source }
    }

    /// The process's exit status for this error: 2 for bad input, 1 for work that failed.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Invalid { .. } | Error::Read { .. } | Error::OutOfMemory { .. } => 2,
            Error::Onnx(error) if error.is_bad_input() => 2,
            Error::Onnx(_) => 1,
            Error::Write { .. } | Error::NotDurable { .. } | Error::Stopped => 1,
            Error::NotFinite { .. } | Error::Disagrees { .. } | Error::OtherRank { .. } => 1,
        }
    }
}
