//! Functions of single elements over slices: the loop, exp, and what is made of it for SiLU.
//!
//! exp(x) = 2^n exp(r) with n = round(x / ln 2) and r = x - n ln 2 in two pieces (Cody and Waite), |r| <=
//! ln(2)/2, where a polynomial of degree 7 (Cephes' `expf`) errs by less than an ULP; 2^n is applied as two
//! factors, so that results down to the smallest subnormal and up to infinity come out right.

use super::Isa;
use super::kernel::ensure;
use super::simd::{Simd, VectorCode, dispatch};
use crate::error::Result;
use std::marker::PhantomData;

/// Refuses slices of different lengths.
pub(super) fn ensure_one_length(what: &str, lens: &[usize]) -> Result<()> {
    let equal = lens.iter().all(|len| *len == lens[0]);
    ensure(equal, what, || "slices of one length".to_owned(), || format!("{lens:?}"))
}

/// exp of every element of a vector, at most 2 ULP off, for x <= 89.
#[inline(always)]
pub(super) fn exp_up_to_89<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(x, s.splat(-104.0));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut y = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        y = s.fma(y, r, s.splat(c));
    }
    let y = s.add(s.fma(y, s.mul(r, r), r), s.splat(1.0));
    s.scale_exp2(y, n)
}

/// p = 1 / (1 + e) and q = e / (1 + e) with e = exp(-|z|): nothing overflows and nothing cancels. 1 / (1 +
/// exp(-z)) is p where z >= 0 and q = 1 - p where z < 0.
#[inline(always)]
fn sigmoids<S: Simd>(s: S, z: S::V) -> (S::V, S::V) {
    let e = exp_up_to_89(s, s.sub(s.splat(0.0), s.abs(z)));
    let p = s.reciprocal(s.add(s.splat(1.0), e));
    (p, s.mul(e, p))
}

/// z / (1 + exp(-z)).
#[inline(always)]
pub(super) fn silu<S: Simd>(s: S, z: S::V) -> S::V {
    let (p, q) = sigmoids(s, z);
    s.mul(z, s.select_negative(z, q, p))
}

/// silu'(z) = p + z p (1 - p), p = 1 / (1 + exp(-z)).
#[inline(always)]
pub(super) fn silu_slope<S: Simd>(s: S, z: S::V) -> S::V {
    let (p, q) = sigmoids(s, z);
    s.fma(s.mul(z, q), p, s.select_negative(z, q, p))
}

/// A function of one element of each of two slices.
pub(super) trait Elementwise {
    /// The function of the elements of two vectors.
    fn apply<S: Simd>(s: S, x: S::V, y: S::V) -> S::V;
}

/// out = F(x, y) over slices of `len` elements.
struct Map<F> {
    x: *const f32,
    y: *const f32,
    out: *mut f32,
    len: usize,
    function: PhantomData<F>,
}

impl<F: Elementwise> VectorCode for Map<F> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        // SAFETY: the three pointers are valid for `len` elements; `out` may equal `x`, since a vector is
        // read before it is written.
        unsafe {
            let mut i = 0;
            while i + S::LANES <= self.len {
                let v = F::apply(s, s.load(self.x.add(i)), s.load(self.y.add(i)));
                s.store(self.out.add(i), v);
                i += S::LANES;
            }
            let left = self.len - i;
            if left > 0 {
                let v = F::apply(s, s.load_partial(self.x.add(i), left), s.load_partial(self.y.add(i), left));
                s.store_partial(self.out.add(i), v, left);
            }
        }
    }
}

/// out = F(x, y), element by element.
///
/// # Safety
/// The pointers are valid for `len` elements; `out` may be `x` or `y`.
pub(super) unsafe fn map<F: Elementwise>(isa: Isa, x: *const f32, y: *const f32, out: *mut f32, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { dispatch(isa, Map { x, y, out, len, function: PhantomData::<F> }) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// exp, of which SiLU takes the part up to 89.
    struct Exp;

    impl Elementwise for Exp {
        #[inline(always)]
        fn apply<S: Simd>(s: S, x: S::V, _: S::V) -> S::V {
            exp_up_to_89(s, s.min(x, s.splat(89.0)))
        }
    }

    /// exp of every element.
    pub(crate) fn exp_in_place(isa: Isa, x: &mut [f32]) {
        let p = x.as_mut_ptr();
        // SAFETY: all three are the slice; the reference's vectors are the portable ones.
        unsafe { map::<Exp>(isa, p, p, p, x.len()) }
    }

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
            exp_in_place(isa, &mut y);
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
            exp_in_place(isa, &mut y);
            assert!(y[0].is_nan(), "{isa}");
            assert_eq!(y[1..], [f32::INFINITY, 0.0, f32::INFINITY, 0.0, f32::INFINITY, 1.0], "{isa}");
        }
    }
}
