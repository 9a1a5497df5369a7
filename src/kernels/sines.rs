//! Sines and cosines over slices.
//!
//! With n = round(2 x / pi) and r = x - n pi/2, |r| <= pi/4, sin x and cos x are +-sin r or +-cos r,
//! depending on n mod 4. n pi/2 is subtracted in three steps, with pi/2 as the sum of three pieces (Cody and
//! Waite). The first two pieces have at most eleven bits, so that n times them is exact for |n| < 2^13, also
//! without a fused multiply-add. sin r and cos r are the polynomials of Cephes' `sinf` and `cosf`. n mod 4 is
//! computed in floating point, exactly, since all numbers are small integers.
//!
//! Arguments beyond [`LIMIT`] go to the reference; no feature of a finite network comes near it.

use super::kernel::{Checked, Context, Kernel};
use super::simd::{Simd, VectorCode, dispatch};
use super::vector::ensure_one_length;
use crate::error::Result;
use crate::real::Real;

/// The largest |x| that the vector code takes: n stays below 2^13.
const LIMIT: f32 = 8192.0;

/// The operands of [`SinCos`], slices of one length.
#[derive(Debug)]
pub struct Angles<'a, T> {
    /// The angles, which their sines overwrite.
    pub x: &'a mut [T],
    /// Takes the cosines.
    pub cosines: &'a mut [T],
}

/// (x, y) <- (sin x, cos x), element by element.
#[derive(Debug)]
pub struct SinCos;

impl Kernel for SinCos {
    type Operands<'a, T: Real> = Angles<'a, T>;

    fn check<T: Real>(Angles { x, cosines }: &Angles<T>) -> Result<()> {
        ensure_one_length("sines and cosines", &[x.len(), cosines.len()])
    }

    fn reference<T: Real>(Checked(Angles { x, cosines }): Checked<Self, T>) {
        sin_cos_reference(x, cosines);
    }

    fn fast(context: Context, Checked(Angles { x, cosines }): Checked<Self, f32>) {
        const BLOCK: usize = 64;
        for (x, y) in x.chunks_mut(BLOCK).zip(cosines.chunks_mut(BLOCK)) {
            if x.iter().all(|x| x.abs() <= LIMIT) {
                let waves = Waves { x: x.as_mut_ptr(), y: y.as_mut_ptr(), len: x.len() };
                // SAFETY: `check` found the slices, and so these chunks of them, to have one length.
                unsafe { dispatch(context.isa, waves) }
            } else {
                sin_cos_reference(x, y);
            }
        }
    }
}

fn sin_cos_reference<T: Real>(x: &mut [T], cosines: &mut [T]) {
    for (x, y) in x.iter_mut().zip(cosines) {
        (*x, *y) = x.sin_cos();
    }
}

/// 1 for odd integers, 0 for even ones.
#[inline(always)]
fn odd<S: Simd>(s: S, n: S::V) -> S::V {
    let rest = s.fma(s.round(s.mul(n, s.splat(0.5))), s.splat(-2.0), n);
    s.mul(rest, rest)
}

/// The sine and the cosine of every element of a vector, at most 2^-23 off.
#[inline(always)]
fn sin_cos<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let (one, half) = (s.splat(1.0), s.splat(0.5));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::FRAC_2_PI)));
    let mut r = x;
    for piece in [1.570_312_5, 4.837_513e-4, 7.549_79e-8] {
        r = s.fma(n, s.splat(-piece), r);
    }
    let r2 = s.mul(r, r);
    let mut sin = s.splat(-1.951_529_6e-4);
    for c in [8.332_161e-3, -1.666_665_5e-1] {
        sin = s.fma(sin, r2, s.splat(c));
    }
    let sin = s.fma(s.mul(sin, r2), r, r);
    let mut cos = s.splat(2.443_315_7e-5);
    for c in [-1.388_731_6e-3, 4.166_664_6e-2] {
        cos = s.fma(cos, r2, s.splat(c));
    }
    let cos = s.fma(s.mul(cos, r2), r2, s.fma(r2, s.splat(-0.5), one));
    let swap = odd(s, n);
    let sine_sign = s.fma(odd(s, s.mul(s.sub(n, swap), half)), s.splat(-2.0), one);
    let cosine_sign = s.fma(odd(s, s.mul(s.add(n, swap), half)), s.splat(-2.0), one);
    let keep = s.sub(one, swap);
    let of_sine = s.fma(swap, cos, s.mul(keep, sin));
    let of_cosine = s.fma(swap, sin, s.mul(keep, cos));
    (s.mul(sine_sign, of_sine), s.mul(cosine_sign, of_cosine))
}

struct Waves {
    x: *mut f32,
    y: *mut f32,
    len: usize,
}

impl VectorCode for Waves {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        // SAFETY: the pointers are valid for `len` elements.
        unsafe {
            let mut i = 0;
            while i + S::LANES <= self.len {
                let (sin, cos) = sin_cos(s, s.load(self.x.add(i)));
                s.store(self.x.add(i), sin);
                s.store(self.y.add(i), cos);
                i += S::LANES;
            }
            let left = self.len - i;
            if left > 0 {
                let (sin, cos) = sin_cos(s, s.load_partial(self.x.add(i), left));
                s.store_partial(self.x.add(i), sin, left);
                s.store_partial(self.y.add(i), cos, left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Run};

    /// Bound: 2^-23 (an ULP at one) absolutely; the reference is f64's. Multiples of pi/2 are where reduction
    /// cancels most.
    #[test]
    fn sines_and_cosines_agree_with_f64_everywhere() {
        let even = (0..200_003).map(|i| -8200.0 + 16_400.0 * i as f32 / 200_003.0);
        let small = (0..20_011).map(|i| -10.0 + 0.001 * i as f32);
        let turns = (-5300..5300).map(|n| (f64::from(n) * std::f64::consts::FRAC_PI_2) as f32);
        let xs: Vec<f32> = even.chain(small).chain(turns).collect();
        for isa in Isa::available() {
            let (mut sin, mut cos) = (xs.clone(), vec![0.0; xs.len()]);
            SinCos::run(isa, Angles { x: &mut sin, cosines: &mut cos });
            for ((x, sin), cos) in xs.iter().zip(&sin).zip(&cos) {
                let want = f64::from(*x).sin_cos();
                let error = (f64::from(*sin) - want.0).abs().max((f64::from(*cos) - want.1).abs());
                assert!(error <= f64::from(f32::EPSILON), "{isa} {x}: {sin}, {cos} for {want:?}");
            }
        }
    }

    #[test]
    fn sines_of_the_extremes() {
        for isa in Isa::available() {
            for len in [1, 7, 16, 67] {
                let mut x = vec![0.0; len];
                let mut y = vec![f32::NAN; len];
                SinCos::run(isa, Angles { x: &mut x, cosines: &mut y });
                assert!(x.iter().all(|sin| *sin == 0.0) && y.iter().all(|cos| *cos == 1.0), "{isa}");
                for extreme in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut x = vec![1.0; len];
                    x[len / 2] = extreme;
                    SinCos::run(isa, Angles { x: &mut x, cosines: &mut y });
                    for i in 0..len {
                        assert_eq!(
                            x[i].is_nan() && y[i].is_nan(),
                            i == len / 2,
                            "{isa} {extreme} {i} of {len}"
                        );
                    }
                }
                let mut x = vec![1e30f32; len];
                SinCos::run(isa, Angles { x: &mut x, cosines: &mut y });
                assert!((x[0] - 1e30f32.sin()).abs() < 1e-6 && (y[0] - 1e30f32.cos()).abs() < 1e-6, "{isa}");
            }
        }
    }
}
