//! The slides' Algorithm 2 and DDIM as one choice.

use super::ddim::Ddim;
use super::reverse::Reverse;

/// A sampler with its settings. Which timesteps it visits is up to the [`Schedule`](super::Schedule).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReverseProcess {
    /// Algorithm 2.
    Alg2(Reverse),
    /// DDIM (Song et al. 2021).
    Ddim(Ddim),
}
