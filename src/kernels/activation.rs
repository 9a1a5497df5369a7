//! The activation functions and their derivatives over slices.
//!
//! SiLU is in `vector.rs`. The others, with e = exp(x) and n = e (e + 2) = (1 + e)^2 - 1:
//!
//! - mish(x) = x tanh(ln(1 + e)) = x n / (n + 2), in which nothing cancels, and mish'(x) = n / (n + 2) + x
//!   (4 e / (n + 2)) ((1 + e) / (n + 2)), because 1 - tanh^2 = 4 (n + 1) / (n + 2)^2. At x = 40 the quotient
//!   is 1 to the last bit of either type, so e is computed for x <= 40 and does not overflow;
//! - gelu(x) = x Phi(x) and gelu'(x) = Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi). The vectors take Phi(-|x|) =
//!   erfc(|x| / sqrt 2) / 2 from the Chebyshev fit of Press et al. (Numerical Recipes, 6.2), whose relative
//!   error is below 1.2e-7 everywhere; the reference takes libm's;
//! - relu(x) = max(x, 0), whose derivative at 0 is 0, as in PyTorch.

use super::kernel::{Checked, Context, Kernel};
use super::simd::{Simd, each_pair};
use super::vector::{Elementwise, ensure_one_length, exp_up_to_89, map, silu, silu_slope};
use crate::error::Result;
use crate::real::Real;
use std::f64::consts::{FRAC_1_SQRT_2, TAU};

/// An activation function; diffusers' `act_fn` of the residual blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Activation {
    /// x / (1 + exp(-x)) (Hendrycks & Gimpel 2016), also known as swish.
    #[default]
    #[cfg_attr(feature = "serde", serde(alias = "swish"))]
    Silu,
    /// x tanh(ln(1 + exp(x))) (Misra 2019).
    Mish,
    /// x Phi(x), with the standard normal distribution function (Hendrycks & Gimpel 2016).
    Gelu,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// Every one.
    pub const ALL: [Activation; 4] = [Activation::Silu, Activation::Mish, Activation::Gelu, Activation::Relu];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Mish => "mish",
            Activation::Gelu => "gelu",
            Activation::Relu => "relu",
        }
    }
}

/// The operands of [`Activate`], slices of one length.
#[derive(Debug)]
pub struct Pointwise<'a, T> {
    /// The function.
    pub function: Activation,
    /// The inputs.
    pub x: &'a [T],
    /// The outputs.
    pub y: &'a mut [T],
}

/// The operands of [`ActivateBackward`], slices of one length.
#[derive(Debug)]
pub struct PointwiseBackward<'a, T> {
    /// The function of the forward pass.
    pub function: Activation,
    /// The inputs of the forward pass.
    pub x: &'a [T],
    /// The loss's gradient in the outputs.
    pub d_y: &'a [T],
    /// The loss's gradient in the inputs.
    pub d_x: &'a mut [T],
}

/// y = f(x), element by element.
#[derive(Debug)]
pub struct Activate;

impl Kernel for Activate {
    type Operands<'a, T: Real> = Pointwise<'a, T>;

    fn check<T: Real>(Pointwise { x, y, .. }: &Pointwise<T>) -> Result<()> {
        ensure_one_length("an activation", &[x.len(), y.len()])
    }

    fn reference<T: Real>(Checked(Pointwise { function, x, y }): Checked<Self, T>) {
        each_pair(y, x, |y, x| *y = value(function, *x));
    }

    fn fast(context: Context, Checked(Pointwise { function, x, y }): Checked<Self, f32>) {
        let (isa, len, x, y) = (context.isa, x.len(), x.as_ptr(), y.as_mut_ptr());
        // SAFETY: `check` found the slices to have one length.
        unsafe {
            match function {
                Activation::Silu => map::<SiluVector>(isa, x, x, y, len),
                Activation::Mish => map::<MishVector>(isa, x, x, y, len),
                Activation::Gelu => map::<GeluVector>(isa, x, x, y, len),
                Activation::Relu => map::<ReluVector>(isa, x, x, y, len),
            }
        }
    }
}

/// d_x = d_y f'(x), element by element.
#[derive(Debug)]
pub struct ActivateBackward;

impl Kernel for ActivateBackward {
    type Operands<'a, T: Real> = PointwiseBackward<'a, T>;

    fn check<T: Real>(PointwiseBackward { x, d_y, d_x, .. }: &PointwiseBackward<T>) -> Result<()> {
        ensure_one_length("an activation's gradient", &[x.len(), d_y.len(), d_x.len()])
    }

    fn reference<T: Real>(Checked(operands): Checked<Self, T>) {
        let PointwiseBackward { function, x, d_y, d_x } = operands;
        for i in 0..x.len() {
            d_x[i] = d_y_slope(function, d_y[i], x[i]);
        }
    }

    fn fast(context: Context, Checked(operands): Checked<Self, f32>) {
        let PointwiseBackward { function, x, d_y, d_x } = operands;
        let (isa, len) = (context.isa, x.len());
        let (x, d_y, d_x) = (x.as_ptr(), d_y.as_ptr(), d_x.as_mut_ptr());
        // SAFETY: `check` found the slices to have one length.
        unsafe {
            match function {
                Activation::Silu => map::<SiluSlope>(isa, x, d_y, d_x, len),
                Activation::Mish => map::<MishSlope>(isa, x, d_y, d_x, len),
                Activation::Gelu => map::<GeluSlope>(isa, x, d_y, d_x, len),
                Activation::Relu => map::<ReluSlope>(isa, x, d_y, d_x, len),
            }
        }
    }
}

/// The x up to which Mish's quotient is computed; it is 1 from there on.
const MISH_LIMIT: f32 = 40.0;

/// e = exp(x) and n = e (e + 2).
fn mish_terms<T: Real>(x: T) -> (T, T) {
    let e = x.min(T::of(f64::from(MISH_LIMIT))).exp();
    (e, e * (e + T::of(2.0)))
}

/// Phi(x).
fn normal_cdf<T: Real>(x: T) -> T {
    T::of(0.5 * libm::erfc(-x.f64() * FRAC_1_SQRT_2))
}

fn value<T: Real>(function: Activation, x: T) -> T {
    match function {
        Activation::Silu => x / (T::one() + (-x).exp()),
        Activation::Mish => {
            let (_, n) = mish_terms(x);
            x * (n / (n + T::of(2.0)))
        }
        Activation::Gelu => x * normal_cdf(x),
        // Written so that NaN stays NaN.
        Activation::Relu if x < T::zero() => T::zero(),
        Activation::Relu => x,
    }
}

fn d_y_slope<T: Real>(function: Activation, d_y: T, x: T) -> T {
    let one = T::one();
    match function {
        Activation::Silu => {
            let s = one / (one + (-x).exp());
            d_y * s * (one + x * (one - s))
        }
        Activation::Mish => {
            let (e, n) = mish_terms(x);
            let rest = n + T::of(2.0);
            // Beyond the limit the second term is 0 for an x of any size; NaN stays.
            let limit = T::of(f64::from(MISH_LIMIT));
            let x = if x > limit { limit } else { x };
            d_y * (n / rest + x * (T::of(4.0) * e / rest) * ((one + e) / rest))
        }
        Activation::Gelu => {
            let density = (-x * x * T::of(0.5)).exp() * T::of(TAU.sqrt().recip());
            d_y * (normal_cdf(x) + x * density)
        }
        Activation::Relu if x > T::zero() => d_y,
        Activation::Relu => T::zero(),
    }
}

/// Phi(x).
#[inline(always)]
fn normal_cdf_of<S: Simd>(s: S, x: S::V) -> S::V {
    let (half, one) = (s.splat(0.5), s.splat(1.0));
    let z = s.mul(s.abs(x), s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(one, s.fma(half, z, one));
    let mut p = s.splat(0.170_872_77);
    for c in [
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = s.fma(p, t, s.splat(c));
    }
    let exponent = s.sub(p, s.mul(z, z));
    let tail = s.mul(s.mul(half, t), exp_up_to_89(s, exponent));
    s.select_negative(x, tail, s.sub(one, tail))
}

/// e = exp(x), n = e (e + 2) and n + 2.
#[inline(always)]
fn mish_terms_of<S: Simd>(s: S, x: S::V) -> (S::V, S::V, S::V) {
    let two = s.splat(2.0);
    let e = exp_up_to_89(s, s.min(x, s.splat(MISH_LIMIT)));
    let n = s.mul(e, s.add(e, two));
    (e, n, s.add(n, two))
}

struct SiluVector;
struct SiluSlope;
struct MishVector;
struct MishSlope;
struct GeluVector;
struct GeluSlope;
struct ReluVector;
struct ReluSlope;

impl Elementwise for SiluVector {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V, _: S::V) -> S::V {
        silu(s, x)
    }
}

impl Elementwise for SiluSlope {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V, d_y: S::V) -> S::V {
        s.mul(d_y, silu_slope(s, x))
    }
}

impl Elementwise for MishVector {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V, _: S::V) -> S::V {
        let (_, n, rest) = mish_terms_of(s, x);
        s.mul(x, s.div(n, rest))
    }
}

impl Elementwise for MishSlope {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V, d_y: S::V) -> S::V {
        let (e, n, rest) = mish_terms_of(s, x);
        let first = s.div(s.mul(s.splat(4.0), e), rest);
        let second = s.div(s.add(s.splat(1.0), e), rest);
        // As in the reference, the second term is 0 beyond the limit.
        let x = s.min(x, s.splat(MISH_LIMIT));
        s.mul(d_y, s.fma(s.mul(x, first), second, s.div(n, rest)))
    }
}

impl Elementwise for GeluVector {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V, _: S::V) -> S::V {
        s.mul(x, normal_cdf_of(s, x))
    }
}

impl Elementwise for GeluSlope {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V, d_y: S::V) -> S::V {
        let bell = exp_up_to_89(s, s.mul(s.mul(x, x), s.splat(-0.5)));
        let density = s.mul(bell, s.splat(0.398_942_3));
        s.mul(d_y, s.fma(x, density, normal_cdf_of(s, x)))
    }
}

impl Elementwise for ReluVector {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V, _: S::V) -> S::V {
        s.max(x, s.splat(0.0))
    }
}

impl Elementwise for ReluSlope {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V, d_y: S::V) -> S::V {
        let zero = s.splat(0.0);
        s.select_negative(s.sub(zero, x), d_y, zero)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Run};

    const EPS: f64 = f32::EPSILON as f64;

    fn both(isa: Isa, function: Activation, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (ones, mut y, mut d) = (vec![1.0; x.len()], vec![0.0; x.len()], vec![0.0; x.len()]);
        Activate::run(isa, Pointwise { function, x, y: &mut y });
        ActivateBackward::run(isa, PointwiseBackward { function, x, d_y: &ones, d_x: &mut d });
        (y, d)
    }

    /// Bounds: 4 ULP of the larger of the value and 1e-30 for SiLU (one exp, one sum, one quotient);
    /// (|x| + 4) machine epsilons for its derivative, in which x multiplies the rounding error of 1 - s.
    #[test]
    fn silu_and_its_derivative_agree_with_f64() {
        let xs: Vec<f32> = (0..20_011).map(|i| -40.0 + 0.004 * i as f32).collect();
        for isa in Isa::available() {
            let (y, d) = both(isa, Activation::Silu, &xs);
            for ((x, y), d) in xs.iter().zip(&y).zip(&d) {
                let x = f64::from(*x);
                let s = 1.0 / (1.0 + (-x).exp());
                assert!((f64::from(*y) - x * s).abs() <= 4.0 * EPS * (x * s).abs().max(1e-30));
                let slope = s * (1.0 + x * (1.0 - s));
                assert!((f64::from(*d) - slope).abs() <= (x.abs() + 4.0) * EPS, "{isa} {x}");
            }
        }
    }

    /// Bounds, in machine epsilons of |x|, plus 1e-30: 4 for a quotient of sums of an exp; the fit of erfc is
    /// off by as much again, and its exponent by up to 3 where Phi is not tiny. Derivatives: the same of
    /// |x| + 1, as both of their terms are bounded by that.
    #[test]
    fn the_others_and_their_derivatives_agree_with_their_definitions() {
        let xs: Vec<f32> = (0..20_011).map(|i| -50.0 + 0.005 * i as f32).collect();
        let phi = |x: f64| 0.5 * libm::erfc(-x * FRAC_1_SQRT_2);
        for function in [Activation::Mish, Activation::Gelu, Activation::Relu] {
            let exact = |x: f64| match function {
                Activation::Gelu => (x * phi(x), phi(x) + x * (-0.5 * x * x).exp() / TAU.sqrt()),
                Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
                _ => {
                    let t = x.exp().ln_1p().tanh();
                    (x * t, t + x * (1.0 - t * t) / (1.0 + (-x).exp()))
                }
            };
            for isa in Isa::available() {
                let (y, d) = both(isa, function, &xs);
                for ((x, y), d) in xs.iter().zip(&y).zip(&d) {
                    let x = f64::from(*x);
                    let (value, slope) = exact(x);
                    let name = format!("{function:?} {isa} {x}");
                    assert!((f64::from(*y) - value).abs() <= 8.0 * EPS * x.abs() + 1e-30, "{name}: {y}");
                    let bound = 8.0 * EPS * (x.abs() + 1.0);
                    assert!((f64::from(*d) - slope).abs() <= bound, "{name}': {d} for {slope}");
                }
            }
        }
    }

    #[test]
    fn extremes_stay_finite_and_nan_stays() {
        for function in Activation::ALL {
            for isa in Isa::available() {
                let (y, d) = both(isa, function, &[1e30, -1e30, 0.0, -0.0, 104.0, -104.0]);
                assert_eq!([y[0], y[2], y[3], y[4]], [1e30, 0.0, 0.0, 104.0], "{function:?} {isa}");
                assert!(y[1] == 0.0 && y[5].abs() < 1e-30, "{function:?} {isa}: {y:?}");
                assert!(d.iter().all(|d| d.is_finite()) && d[0] == 1.0, "{function:?} {isa}: {d:?}");
                let (y, _) = both(isa, function, &[f32::NAN]);
                assert!(y[0].is_nan(), "{function:?} {isa}");
            }
        }
    }
}
