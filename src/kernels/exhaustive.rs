//! Every `f32` through the functions of one element, on every instruction set. These tests take minutes:
//! `cargo test --release --package performer-ddpm-kernels -- --ignored exhaustive`.

use super::exponentials::{Exp2, Exponent, Powers};
use super::sines::{Angles, SinCos};
use super::vector::tests::exp_in_place;
use super::{Isa, Run};
use rayon::prelude::*;

/// Floats that are computed at a time.
const BLOCK: u32 = 1 << 16;

/// The largest of `error(x, f(x))` over all floats x of both signs for which `range` holds, and the x that it
/// is at. `f` replaces a block of floats by its results.
fn worst(
    range: impl Fn(f32) -> bool + Sync,
    f: impl Fn(&[f32]) -> Vec<f32> + Sync,
    error: impl Fn(f32, f32) -> f64 + Sync,
) -> (f64, f32) {
    (0..u32::MAX / BLOCK + 1)
        .into_par_iter()
        .map(|block| {
            let bits = (0..BLOCK).map(|i| block * BLOCK + i);
            let xs: Vec<f32> = bits.map(f32::from_bits).filter(|x| range(*x)).collect();
            let ys = if xs.is_empty() { Vec::new() } else { f(&xs) };
            let errors = xs.iter().zip(&ys).map(|(x, y)| (error(*x, *y), *x));
            errors.fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a })
        })
        .reduce(|| (0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a })
}

/// The distance of a result from the exact one, in units of the last place at the exact one; infinite for
/// NaN.
fn ulps(got: f32, want: f64) -> f64 {
    let exponent = (want.abs().log2().floor() as i32).max(-126);
    let error = (f64::from(got) - want).abs() / 2f64.powi(exponent - 23);
    if error.is_nan() { f64::INFINITY } else { error }
}

/// Bound: 2 ULP from the smallest subnormal result to the largest finite one, as `exp_up_to_89` promises.
#[test]
#[ignore = "takes minutes"]
fn exhaustive_exp() {
    for isa in Isa::available() {
        let exp = |xs: &[f32]| {
            let mut ys = xs.to_vec();
            exp_in_place(isa, &mut ys);
            ys
        };
        let (worst, x) = worst(|x| (-103.9..=88.7).contains(&x), exp, |x, y| ulps(y, f64::from(x).exp()));
        assert!(worst <= 2.0, "{isa}: exp({x:e}) is {worst} ULP off");
    }
}

/// Bound: 2 ULP for every exponent whose result is a normal number.
#[test]
#[ignore = "takes minutes"]
fn exhaustive_powers_of_two() {
    for isa in Isa::available() {
        let exp2 = |xs: &[f32]| {
            let mut ys = xs.to_vec();
            Exp2::run(isa, Powers::dense(&mut ys, xs.len(), Exponent::Rows(&[0.0])));
            ys
        };
        let range = |x| (-126.0..127.5).contains(&x);
        let (worst, x) = worst(range, exp2, |x, y| ulps(y, f64::from(x).exp2()));
        assert!(worst <= 2.0, "{isa}: exp2({x:e}) is {worst} ULP off");
    }
}

/// Bound: 2^-23 absolutely, for every angle that the vector code takes.
#[test]
#[ignore = "takes minutes"]
fn exhaustive_sines_and_cosines() {
    for isa in Isa::available() {
        for cosine in [false, true] {
            let wave = |xs: &[f32]| {
                let (mut sines, mut cosines) = (xs.to_vec(), xs.to_vec());
                SinCos::run(isa, Angles { x: &mut sines, cosines: &mut cosines });
                if cosine { cosines } else { sines }
            };
            let error = |x: f32, y: f32| {
                let (sin, cos) = f64::from(x).sin_cos();
                (f64::from(y) - if cosine { cos } else { sin }).abs()
            };
            let (worst, x) = worst(|x| x.abs() <= 8192.0, wave, error);
            let name = if cosine { "cos" } else { "sin" };
            assert!(worst <= f64::from(f32::EPSILON), "{isa}: {name}({x:e}) is {worst:e} off");
        }
    }
}
