//! The SIMD floor: the few inner loops that take nearly all of the time.
//!
//! Each file gives the mathematics, the plain reference and the fast version, in that order. Fast versions are written
//! once over one trait of vectors and compiled for every instruction set; [`Isa`] chooses one at run time. `f64`, and
//! [`Isa::Reference`] in `f32`, run the reference text. All of the crate's `unsafe` lives here.
#![allow(unsafe_code)]

mod isa;
mod peak;
mod product;
mod simd;
mod team;
mod vector;

pub use isa::Isa;
pub use peak::multiply_adds;
pub use product::{Product, product_reference, team_product, transpose};
pub use simd::vectorised;
pub use team::Team;

use crate::real::Real;

/// A [`Real`] with kernels: `f64` always runs the reference, `f32` what [`Isa`] names.
pub trait Element: Real {
    /// The general matrix product; see [`Product`].
    fn product(isa: Isa, shape: &Product, a: &[Self], b: &[Self], c: &mut [Self]);
    /// x <- exp(x), element by element.
    fn exp_in_place(isa: Isa, x: &mut [Self]);
    /// y = x / (1 + exp(-x)), element by element.
    fn silu(isa: Isa, x: &[Self], y: &mut [Self]);
    /// d_x = d_y * silu'(x), element by element, with silu'(x) = s (1 + x (1 - s)) and s = 1 / (1 + exp(-x)).
    fn silu_backward(isa: Isa, x: &[Self], d_y: &[Self], d_x: &mut [Self]);
}

impl Element for f64 {
    fn product(_: Isa, shape: &Product, a: &[f64], b: &[f64], c: &mut [f64]) {
        product_reference(shape, a, b, c);
    }
    fn exp_in_place(_: Isa, x: &mut [f64]) {
        vector::exp_reference(x);
    }
    fn silu(_: Isa, x: &[f64], y: &mut [f64]) {
        vector::silu_reference(x, y);
    }
    fn silu_backward(_: Isa, x: &[f64], d_y: &[f64], d_x: &mut [f64]) {
        vector::silu_backward_reference(x, d_y, d_x);
    }
}

impl Element for f32 {
    fn product(isa: Isa, shape: &Product, a: &[f32], b: &[f32], c: &mut [f32]) {
        match isa {
            Isa::Reference => product_reference(shape, a, b, c),
            _ => product::product_fast(isa, shape, a, b, c),
        }
    }
    fn exp_in_place(isa: Isa, x: &mut [f32]) {
        match isa {
            Isa::Reference => vector::exp_reference(x),
            _ => vector::exp_fast(isa, x),
        }
    }
    fn silu(isa: Isa, x: &[f32], y: &mut [f32]) {
        match isa {
            Isa::Reference => vector::silu_reference(x, y),
            _ => vector::silu_fast(isa, x, y),
        }
    }
    fn silu_backward(isa: Isa, x: &[f32], d_y: &[f32], d_x: &mut [f32]) {
        match isa {
            Isa::Reference => vector::silu_backward_reference(x, d_y, d_x),
            _ => vector::silu_backward_fast(isa, x, d_y, d_x),
        }
    }
}
