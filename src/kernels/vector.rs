//! exp and SiLU over slices.
//!
//! exp(x) = 2^n exp(r) with n = round(x / ln 2) and r = x - n ln 2 in two pieces (Cody and Waite), |r| <=
//! ln(2)/2, where a polynomial of degree 7 (Cephes' `expf`) errs by less than an ULP; 2^n is applied as two
//! factors, so that results down to the smallest subnormal and up to infinity come out right.

use super::Isa;
use super::simd::{Simd, VectorCode, dispatch};
use crate::real::Real;

/// x <- exp(x).
pub(super) fn exp_reference<T: Real>(x: &mut [T]) {
    for x in x {
        *x = x.exp();
    }
}

/// y = x / (1 + exp(-x)).
pub(super) fn silu_reference<T: Real>(x: &[T], y: &mut [T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = *x / (T::one() + (-*x).exp());
    }
}

/// d_x = d_y s (1 + x (1 - s)), s = 1 / (1 + exp(-x)).
pub(super) fn silu_backward_reference<T: Real>(x: &[T], d_y: &[T], d_x: &mut [T]) {
    for ((d_x, x), d_y) in d_x.iter_mut().zip(x).zip(d_y) {
        let s = T::one() / (T::one() + (-*x).exp());
        *d_x = *d_y * s * (T::one() + *x * (T::one() - s));
    }
}

/// exp of every lane, at most 2 ULP off.
#[inline(always)]
unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: arithmetic on registers; the processor has S's features by the caller's promise.
    unsafe { exp_up_to_89::<S>(S::min(x, S::splat(89.0))) }
}

/// The same for x <= 89.
#[inline(always)]
unsafe fn exp_up_to_89<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as above.
    unsafe {
        let x = S::max(x, S::splat(-104.0));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut y = S::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            y = S::fma(y, r, S::splat(c));
        }
        let y = S::add(S::fma(y, S::mul(r, r), r), S::splat(1.0));
        S::scale_exp2(y, n)
    }
}

/// p = 1 / (1 + e) and q = e / (1 + e) with e = exp(-|z|), in which nothing overflows or cancels: 1 / (1 +
/// exp(-z)) is p where z >= 0 and q = 1 - p where z < 0.
#[inline(always)]
unsafe fn sigmoids<S: Simd>(z: S::V) -> (S::V, S::V) {
    // SAFETY: as above.
    unsafe {
        let e = exp_up_to_89::<S>(S::sub(S::splat(0.0), S::abs(z)));
        let p = S::reciprocal(S::add(S::splat(1.0), e));
        (p, S::mul(e, p))
    }
}

/// z / (1 + exp(-z)) of every lane.
#[inline(always)]
pub(super) unsafe fn silu<S: Simd>(z: S::V) -> S::V {
    // SAFETY: as above.
    unsafe {
        let (p, q) = sigmoids::<S>(z);
        S::mul(z, S::select_negative(z, q, p))
    }
}

/// silu'(z) = s + z s (1 - s), s = 1 / (1 + exp(-z)), of every lane.
#[inline(always)]
pub(super) unsafe fn silu_slope<S: Simd>(z: S::V) -> S::V {
    // SAFETY: as above.
    unsafe {
        let (p, q) = sigmoids::<S>(z);
        S::fma(S::mul(z, q), p, S::select_negative(z, q, p))
    }
}

/// An element-wise function of up to two inputs.
trait Lanewise {
    unsafe fn apply<S: Simd>(x: S::V, y: S::V) -> S::V;
}

struct Exp;
struct Silu;
struct SiluBackward;

impl Lanewise for Exp {
    #[inline(always)]
    unsafe fn apply<S: Simd>(x: S::V, _: S::V) -> S::V {
        // SAFETY: the caller's promise of S's features.
        unsafe { exp::<S>(x) }
    }
}

impl Lanewise for Silu {
    #[inline(always)]
    unsafe fn apply<S: Simd>(x: S::V, _: S::V) -> S::V {
        // SAFETY: the caller's promise of S's features.
        unsafe { silu::<S>(x) }
    }
}

impl Lanewise for SiluBackward {
    #[inline(always)]
    unsafe fn apply<S: Simd>(x: S::V, d_y: S::V) -> S::V {
        // SAFETY: the caller's promise of S's features.
        unsafe { S::mul(d_y, silu_slope::<S>(x)) }
    }
}

struct Map<F> {
    x: *const f32,
    y: *const f32,
    out: *mut f32,
    len: usize,
    function: std::marker::PhantomData<F>,
}

impl<F: Lanewise> VectorCode for Map<F> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the three pointers are valid for `len` elements; `out` may equal `x`, since a vector is
        // read before it is written.
        unsafe {
            let mut i = 0;
            while i + S::LANES <= self.len {
                let v = F::apply::<S>(S::load(self.x.add(i)), S::load(self.y.add(i)));
                S::store(self.out.add(i), v);
                i += S::LANES;
            }
            let left = self.len - i;
            if left > 0 {
                let v =
                    F::apply::<S>(S::load_partial(self.x.add(i), left), S::load_partial(self.y.add(i), left));
                S::store_partial(self.out.add(i), v, left);
            }
        }
    }
}

fn map<F: Lanewise>(isa: Isa, x: *const f32, y: *const f32, out: *mut f32, len: usize) {
    // SAFETY: the callers below give pointers from slices of at least `len` elements.
    unsafe { dispatch(isa, Map { x, y, out, len, function: std::marker::PhantomData::<F> }) }
}

pub(super) fn exp_fast(isa: Isa, x: &mut [f32]) {
    let p = x.as_mut_ptr();
    map::<Exp>(isa, p, p, p, x.len());
}

pub(super) fn silu_fast(isa: Isa, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    map::<Silu>(isa, x.as_ptr(), x.as_ptr(), y.as_mut_ptr(), x.len());
}

pub(super) fn silu_backward_fast(isa: Isa, x: &[f32], d_y: &[f32], d_x: &mut [f32]) {
    assert!(x.len() == d_y.len() && x.len() == d_x.len());
    map::<SiluBackward>(isa, x.as_ptr(), d_y.as_ptr(), d_x.as_mut_ptr(), x.len());
}

#[cfg(test)]
mod tests {
    use crate::kernels::{Element, Isa};

    fn distance_in_ulps(got: f32, want: f64) -> f64 {
        let rounded = want as f32;
        let ulp = if rounded.abs() < f32::MIN_POSITIVE {
            f64::from(f32::from_bits(1))
        } else {
            f64::from(f32::EPSILON) * 2f64.powi((rounded.abs().log2().floor()) as i32)
        };
        (f64::from(got) - want).abs() / ulp
    }

    /// Bound: 2 ULP over the whole range with a finite result; the reference is f64's exp.
    #[test]
    fn exp_is_within_two_ulp_everywhere() {
        let xs: Vec<f32> = (0..400_003).map(|i| -103.9 + 192.6 * i as f32 / 400_003.0).collect();
        for isa in Isa::available() {
            let mut y = xs.clone();
            f32::exp_in_place(isa, &mut y);
            for (x, y) in xs.iter().zip(&y) {
                let ulps = distance_in_ulps(*y, f64::from(*x).exp());
                assert!(ulps <= 2.0, "{isa} exp({x}) = {y}: {ulps} ULP");
            }
        }
    }

    #[test]
    fn exp_of_the_extremes() {
        for isa in Isa::available() {
            let mut y = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 89.0, -1e30, 1e30, 0.0];
            f32::exp_in_place(isa, &mut y);
            assert!(y[0].is_nan(), "{isa}");
            assert_eq!(y[1..], [f32::INFINITY, 0.0, f32::INFINITY, 0.0, f32::INFINITY, 1.0], "{isa}");
        }
    }

    /// Bounds: 4 ULP of the larger of the value and 1e-30 for SiLU (one exp, one sum, one quotient);
    /// (|x| + 4) machine epsilons for its derivative, in which x multiplies the rounding error of 1 - s.
    #[test]
    fn silu_and_its_derivative_agree_with_f64() {
        let xs: Vec<f32> = (0..20_011).map(|i| -40.0 + 0.004 * i as f32).collect();
        let ones = vec![1.0f32; xs.len()];
        for isa in Isa::available() {
            let (mut y, mut d) = (vec![0.0; xs.len()], vec![0.0; xs.len()]);
            f32::silu(isa, &xs, &mut y);
            f32::silu_backward(isa, &xs, &ones, &mut d);
            for ((x, y), d) in xs.iter().zip(&y).zip(&d) {
                let x = f64::from(*x);
                let s = 1.0 / (1.0 + (-x).exp());
                assert!(
                    (f64::from(*y) - x * s).abs() <= 4.0 * f64::from(f32::EPSILON) * (x * s).abs().max(1e-30)
                );
                assert!(
                    (f64::from(*d) - s * (1.0 + x * (1.0 - s))).abs()
                        <= (x.abs() + 4.0) * f64::from(f32::EPSILON),
                    "{isa} {x}"
                );
            }
        }
    }
}
