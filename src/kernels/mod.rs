//! The SIMD floor: the few inner loops that take nearly all of the time.
//!
//! A kernel is one file: the mathematics, the struct of its operands, and its `impl Kernel` with the check of
//! the operands' sizes, the plain reference and the fast version. The fast version is written once over a
//! trait of vectors and compiled for every instruction set; [`Isa`] chooses one at run time. `f64`, and
//! [`Isa::Reference`] in `f32`, run the reference. All of the crate's `unsafe` lives here.
#![allow(unsafe_code)]

mod activation;
mod algorithm;
mod dropout;
#[cfg(test)]
mod exhaustive;
mod exponentials;
mod isa;
mod kernel;
mod norm;
mod peak;
mod product;
mod simd;
mod sines;
pub(crate) mod team;
mod vector;
mod winograd;

pub use algorithm::{ConvAlgorithm, Kernels};
pub use isa::Isa;
pub use kernel::{Context, Element};
pub use peak::peak_gflops;
pub use team::{MAX_THREADS, Team};

pub(crate) use dropout::dropped_scale;
pub(crate) use internals::*;
pub(crate) use kernel::Run;
pub(crate) use product::transpose;
pub(crate) use simd::{each_pair, vectorised};
pub(crate) use team::Crew;

/// The kernels one by one, for the benchmarks and for tests; no part of the library's interface.
///
/// [`Kernel::try_run`] is the only way into them from outside, and refuses operands whose sizes do not fit
/// each other.
#[doc(hidden)]
pub mod internals {
    pub use super::activation::{Activate, ActivateBackward, Pointwise, PointwiseBackward};
    pub use super::dropout::{DropOut, Dropped};
    pub use super::exponentials::{Columns, Exp2, Exp2BelowMaxima, Exponent, Powers, PowersBelowMaxima};
    pub use super::kernel::Kernel;
    pub use super::norm::{
        Affine, AffineBackward, Centred, ChannelAffine, ChannelAffineBackward, ChannelCentred,
        ChannelMoments, Channels, Moments,
    };
    pub use super::product::{MatrixProduct, Multiply, Product};
    pub use super::sines::{Angles, SinCos};
    pub use super::winograd::{
        Convolution, ConvolutionGradient, Winograd, WinogradForward, WinogradWeightGradient,
    };
}
