//! The timestep as a type of its own, because the paper counts from 1 and file formats count from 0.

use crate::error::{Error, Result};
use std::fmt;

/// A timestep t, counted from 1 as in the paper.
///
/// Networks and other people's file formats take the index t - 1; [`Timestep::index`] and
/// [`Timestep::from_index`] are the only places that convert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestep(usize);

impl Timestep {
    /// t as in the paper.
    ///
    /// # Errors
    /// [`Error::Invalid`] for 0.
    pub fn new(t: usize) -> Result<Self> {
        if t == 0 {
            return Err(Error::invalid(
                "timestep t",
                "1 or more",
                "0",
                "t counts from 1; indices count from 0",
            ));
        }
        Ok(Timestep(t))
    }

    /// The timestep of the 0-based `index` that diffusers, ONNX files and the network use: t = index + 1.
    pub fn from_index(index: usize) -> Self {
        Timestep(index.saturating_add(1))
    }

    /// t, from 1.
    pub fn get(self) -> usize {
        self.0
    }

    /// t - 1, what the network and other people's formats are given.
    pub fn index(self) -> usize {
        self.0 - 1
    }
}

impl fmt::Display for Timestep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timesteps_count_from_one_and_indices_from_zero() {
        assert!(Timestep::new(0).is_err());
        assert_eq!(Timestep::new(1).unwrap().index(), 0);
        assert_eq!(Timestep::from_index(999).get(), 1000);
        assert_eq!(Timestep::from_index(41), Timestep::new(42).unwrap());
        assert_eq!(Timestep::from_index(41).to_string(), "42");
    }
}
