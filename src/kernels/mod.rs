//! The SIMD floor: the few inner loops that take nearly all of the time.
//!
//! Each file gives the mathematics, the plain reference and the fast version, in that order. Fast versions
//! are written once over one trait of vectors and compiled for every instruction set; [`Isa`] chooses one at
//! run time. `f64`, and [`Isa::Reference`] in `f32`, run the reference text. All of the crate's `unsafe`
//! lives here.
#![allow(unsafe_code)]

mod algorithm;
mod dropout;
mod exponentials;
mod isa;
mod norm;
mod peak;
mod product;
mod simd;
mod sines;
pub(crate) mod team;
mod vector;
mod winograd;

pub use algorithm::{ConvAlgorithm, Kernels};
pub use dropout::drop_out;
pub use exponentials::{Columns, Exponent};
pub use isa::Isa;
pub use norm::Channels;
pub use peak::peak_gflops;
pub use product::{Product, product_reference, transpose};
pub use team::{MAX_THREADS, Team};

pub(crate) use simd::vectorised;
pub(crate) use team::Crew;
pub use winograd::Winograd;

use crate::real::Real;

/// A [`Real`] with kernels: `f64` always runs the reference, `f32` what [`Isa`] names.
pub trait Element: Real {
    /// Whether `isa` names fast kernels for this type, and not the reference.
    fn has_fast_kernels(isa: Isa) -> bool;
    /// The general matrix product; see [`Product`].
    fn product(isa: Isa, shape: &Product, a: &[Self], b: &[Self], c: &mut [Self]);
    /// The same product with a layer's weight as B, shared out over `team`: the same bits.
    fn team_product(isa: Isa, team: Team, shape: &Product, a: &[Self], b: &[Self], c: &mut [Self]);
    /// y \[n, h, w, c_out\] = or, if `add`, += the convolution of x \[n, h, w, c_in\] with weight \[3, 3,
    /// c_in, c_out\], and the bias if there is one; `work` has [`Winograd::work_len`] elements.
    fn winograd(
        isa: Isa,
        team: Team,
        layer: &Winograd,
        x: &[Self],
        weight: &[Self],
        bias: Option<&[Self]>,
        add: bool,
        y: &mut [Self],
        work: &mut [Self],
    );
    /// d_weight += the convolution's gradient in its weight, from x and d_y \[n, h, w, c_out\]; `work` as
    /// above.
    fn winograd_weight_gradient(
        isa: Isa,
        team: Team,
        layer: &Winograd,
        x: &[Self],
        d_y: &[Self],
        d_weight: &mut [Self],
        work: &mut [Self],
    );
    /// x <- exp(x), element by element.
    fn exp_in_place(isa: Isa, x: &mut [Self]);
    /// x_tj <- 2 to its [`Exponent`] for the first `width` elements of every `stride`.
    fn exp2_of(isa: Isa, x: &mut [Self], width: usize, stride: usize, exponent: Exponent<Self>);
    /// x_tj <- 2^(x_tj + column_j - maxima_t), where maxima_t is the row's largest exponent, and the rows'
    /// weighted sums; see `exponentials.rs`.
    fn exp2_below_maxima(
        isa: Isa,
        x: &mut [Self],
        width: usize,
        stride: usize,
        columns: Columns<Self>,
        maxima: &mut [Self],
        sums: &mut [Self],
    );
    /// (x, y) <- (sin x, cos x), element by element.
    fn sin_cos_in_place(isa: Isa, x: &mut [Self], y: &mut [Self]);
    /// y = x / (1 + exp(-x)), element by element.
    fn silu(isa: Isa, x: &[Self], y: &mut [Self]);
    /// d_x = d_y * silu'(x), element by element, with silu'(x) = s (1 + x (1 - s)) and s = 1 / (1 + exp(-x)).
    fn silu_backward(isa: Isa, x: &[Self], d_y: &[Self], d_x: &mut [Self]);
    /// Every channel's mean and sum of squared deviations from it, of x \[rows, c\].
    fn channel_moments(isa: Isa, x: &[Self], mean: &mut [Self], deviations: &mut [Self]);
    /// y = z, or z / (1 + exp(-z)) if `silu`, with z = factor_c x + term_c, of x and y \[rows, c\].
    fn channel_affine(isa: Isa, x: &[Self], channels: Channels<Self>, silu: bool, y: &mut [Self]);
    /// d <- d silu'(z) if `silu`; then sum_c = the sum over rows of d, and sum_x_c that of d (x - centre_c).
    fn channel_affine_backward(
        isa: Isa,
        x: &[Self],
        channels: Channels<Self>,
        silu: bool,
        d: &mut [Self],
        sum: &mut [Self],
        sum_x: &mut [Self],
    );
    /// d_x = or, if `add`, += factor_c d + slope_c (x - centre_c) + term_c; d takes the result where d_x is
    /// `None`.
    fn channel_centred(
        isa: Isa,
        x: &[Self],
        channels: Channels<Self>,
        slope: &[Self],
        d: &mut [Self],
        d_x: Option<&mut [Self]>,
        add: bool,
    );
}

impl Element for f64 {
    fn has_fast_kernels(_: Isa) -> bool {
        false
    }
    fn product(_: Isa, shape: &Product, a: &[f64], b: &[f64], c: &mut [f64]) {
        product_reference(shape, a, b, c);
    }
    fn team_product(_: Isa, _: Team, shape: &Product, a: &[f64], b: &[f64], c: &mut [f64]) {
        product_reference(shape, a, b, c);
    }
    fn winograd(
        _: Isa,
        _: Team,
        layer: &Winograd,
        x: &[f64],
        weight: &[f64],
        bias: Option<&[f64]>,
        add: bool,
        y: &mut [f64],
        _: &mut [f64],
    ) {
        winograd::forward_reference(layer, x, weight, bias, add, y);
    }
    fn winograd_weight_gradient(
        _: Isa,
        _: Team,
        layer: &Winograd,
        x: &[f64],
        d_y: &[f64],
        d_weight: &mut [f64],
        _: &mut [f64],
    ) {
        winograd::weight_gradient_reference(layer, x, d_y, d_weight);
    }
    fn exp_in_place(_: Isa, x: &mut [f64]) {
        vector::exp_reference(x);
    }
    fn exp2_of(_: Isa, x: &mut [f64], width: usize, stride: usize, exponent: Exponent<f64>) {
        exponentials::exp2_of_reference(x, width, stride, exponent);
    }
    fn exp2_below_maxima(
        _: Isa,
        x: &mut [f64],
        width: usize,
        stride: usize,
        columns: Columns<f64>,
        maxima: &mut [f64],
        sums: &mut [f64],
    ) {
        exponentials::exp2_below_maxima_reference(x, width, stride, columns, maxima, sums);
    }
    fn sin_cos_in_place(_: Isa, x: &mut [f64], y: &mut [f64]) {
        sines::sin_cos_reference(x, y);
    }
    fn silu(_: Isa, x: &[f64], y: &mut [f64]) {
        vector::silu_reference(x, y);
    }
    fn silu_backward(_: Isa, x: &[f64], d_y: &[f64], d_x: &mut [f64]) {
        vector::silu_backward_reference(x, d_y, d_x);
    }
    fn channel_moments(_: Isa, x: &[f64], mean: &mut [f64], deviations: &mut [f64]) {
        norm::moments_reference(x, mean, deviations);
    }
    fn channel_affine(_: Isa, x: &[f64], channels: Channels<f64>, silu: bool, y: &mut [f64]) {
        norm::affine_reference(x, channels, silu, y);
    }
    fn channel_affine_backward(
        _: Isa,
        x: &[f64],
        channels: Channels<f64>,
        silu: bool,
        d: &mut [f64],
        sum: &mut [f64],
        sum_x: &mut [f64],
    ) {
        norm::affine_backward_reference(x, channels, silu, d, sum, sum_x);
    }
    fn channel_centred(
        _: Isa,
        x: &[f64],
        channels: Channels<f64>,
        slope: &[f64],
        d: &mut [f64],
        d_x: Option<&mut [f64]>,
        add: bool,
    ) {
        norm::centred_reference(x, channels, slope, d, d_x, add);
    }
}

impl Element for f32 {
    fn has_fast_kernels(isa: Isa) -> bool {
        isa != Isa::Reference
    }
    fn product(isa: Isa, shape: &Product, a: &[f32], b: &[f32], c: &mut [f32]) {
        match isa {
            Isa::Reference => product_reference(shape, a, b, c),
            _ => product::product_fast(isa, shape, a, b, c),
        }
    }
    fn team_product(isa: Isa, team: Team, shape: &Product, a: &[f32], b: &[f32], c: &mut [f32]) {
        match isa {
            Isa::Reference => product_reference(shape, a, b, c),
            _ => product::team_product_fast(isa, team, shape, a, b, c),
        }
    }
    fn winograd(
        isa: Isa,
        team: Team,
        layer: &Winograd,
        x: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        add: bool,
        y: &mut [f32],
        work: &mut [f32],
    ) {
        match isa {
            Isa::Reference => winograd::forward_reference(layer, x, weight, bias, add, y),
            _ => winograd::forward_fast(isa, team, layer, x, weight, bias, add, y, work),
        }
    }
    fn winograd_weight_gradient(
        isa: Isa,
        team: Team,
        layer: &Winograd,
        x: &[f32],
        d_y: &[f32],
        d_weight: &mut [f32],
        work: &mut [f32],
    ) {
        match isa {
            Isa::Reference => winograd::weight_gradient_reference(layer, x, d_y, d_weight),
            _ => winograd::weight_gradient_fast(isa, team, layer, x, d_y, d_weight, work),
        }
    }
    fn exp_in_place(isa: Isa, x: &mut [f32]) {
        match isa {
            Isa::Reference => vector::exp_reference(x),
            _ => vector::exp_fast(isa, x),
        }
    }
    fn exp2_of(isa: Isa, x: &mut [f32], width: usize, stride: usize, exponent: Exponent<f32>) {
        match isa {
            Isa::Reference => exponentials::exp2_of_reference(x, width, stride, exponent),
            _ => exponentials::exp2_of_fast(isa, x, width, stride, exponent),
        }
    }
    fn exp2_below_maxima(
        isa: Isa,
        x: &mut [f32],
        width: usize,
        stride: usize,
        columns: Columns<f32>,
        maxima: &mut [f32],
        sums: &mut [f32],
    ) {
        match isa {
            Isa::Reference => {
                exponentials::exp2_below_maxima_reference(x, width, stride, columns, maxima, sums);
            }
            _ => exponentials::exp2_below_maxima_fast(isa, x, width, stride, columns, maxima, sums),
        }
    }
    fn sin_cos_in_place(isa: Isa, x: &mut [f32], y: &mut [f32]) {
        match isa {
            Isa::Reference => sines::sin_cos_reference(x, y),
            _ => sines::sin_cos_fast(isa, x, y),
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
    fn channel_moments(isa: Isa, x: &[f32], mean: &mut [f32], deviations: &mut [f32]) {
        match isa {
            Isa::Reference => norm::moments_reference(x, mean, deviations),
            _ => norm::moments_fast(isa, x, mean, deviations),
        }
    }
    fn channel_affine(isa: Isa, x: &[f32], channels: Channels<f32>, silu: bool, y: &mut [f32]) {
        match isa {
            Isa::Reference => norm::affine_reference(x, channels, silu, y),
            _ => norm::affine_fast(isa, x, channels, silu, y),
        }
    }
    fn channel_affine_backward(
        isa: Isa,
        x: &[f32],
        channels: Channels<f32>,
        silu: bool,
        d: &mut [f32],
        sum: &mut [f32],
        sum_x: &mut [f32],
    ) {
        match isa {
            Isa::Reference => norm::affine_backward_reference(x, channels, silu, d, sum, sum_x),
            _ => norm::affine_backward_fast(isa, x, channels, silu, d, sum, sum_x),
        }
    }
    fn channel_centred(
        isa: Isa,
        x: &[f32],
        channels: Channels<f32>,
        slope: &[f32],
        d: &mut [f32],
        d_x: Option<&mut [f32]>,
        add: bool,
    ) {
        match isa {
            Isa::Reference => norm::centred_reference(x, channels, slope, d, d_x, add),
            _ => norm::centred_fast(isa, x, channels, slope, d, d_x, add),
        }
    }
}
