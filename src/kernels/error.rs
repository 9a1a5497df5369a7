//! What the kernels refuse.

use std::fmt;

/// Input that cannot be used: what it is, what was expected, what was found, what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Error {
    /// What was looked at: a number of threads, an operand of a kernel.
    pub what: String,
    /// What would have been accepted.
    pub expected: String,
    /// What was found.
    pub got: String,
    /// What to do about it; may be empty.
    pub help: String,
}

/// The kernels' result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn invalid(
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl Into<String>,
        help: impl Into<String>,
    ) -> Error {
        Error { what: what.into(), expected: expected.into(), got: got.into(), help: help.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, got {}", self.what, self.expected, self.got)?;
        if self.help.is_empty() { Ok(()) } else { write!(f, "; {}", self.help) }
    }
}

impl std::error::Error for Error {}
