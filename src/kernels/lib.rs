//! The SIMD kernels of [performer-ddpm](https://docs.rs/performer-ddpm): the few inner loops that take nearly
//! all of the time of training and sampling, as a crate of their own.
//!
//! A kernel is one file: the mathematics, the struct of its operands, and its `impl Kernel` with the check of
//! the operands' sizes, the plain reference and the fast version. The fast version is written once over a
//! trait of vectors and compiled for every instruction set; [`Isa`] chooses one at run time. `f64`, and
//! [`Isa::Reference`] in `f32`, run the reference. All of `performer-ddpm`'s `unsafe` lives here.

mod activation;
mod algorithm;
mod dropout;
mod error;
#[cfg(test)]
mod exhaustive;
mod exponentials;
mod isa;
mod kernel;
mod norm;
#[cfg(test)]
mod numbers;
mod peak;
mod product;
pub mod real;
mod simd;
mod sines;
mod team;
mod vector;
mod winograd;

pub use activation::Activation;
pub use algorithm::{ConvAlgorithm, Kernels};
pub use error::{Error, Result};
pub use isa::Isa;
pub use kernel::{Context, Element};
pub use peak::peak_gflops;
pub use team::{MAX_THREADS, Team};

#[doc(hidden)]
pub use internals::*;

/// The kernels one by one and what their callers share, for `performer-ddpm`'s layers, benchmarks and tests;
/// no part of the interface.
///
/// [`Kernel::try_run`] is the only way into the kernels, and refuses operands whose sizes do not fit each
/// other.
#[doc(hidden)]
pub mod internals {
    pub use super::activation::{Activate, ActivateBackward, Pointwise, PointwiseBackward};
    pub use super::dropout::{DropOut, Dropped, dropped_scale};
    pub use super::exponentials::{Columns, Exp2, Exp2BelowMaxima, Exponent, Powers, PowersBelowMaxima};
    pub use super::kernel::{Kernel, Run};
    pub use super::norm::{
        Affine, AffineBackward, Centred, ChannelAffine, ChannelAffineBackward, ChannelCentred,
        ChannelMoments, Channels, Moments,
    };
    pub use super::product::{MatrixProduct, Multiply, Product, transpose};
    pub use super::simd::{each_pair, vectorised};
    pub use super::sines::{Angles, SinCos};
    pub use super::team::{Crew, with_crew};
    pub use super::winograd::{
        Convolution, ConvolutionGradient, Winograd, WinogradForward, WinogradWeightGradient,
    };
}
