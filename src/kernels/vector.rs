//! SiLU and its derivative over slices, and the exp they take.
//!
//! exp(x) = 2^n exp(r) with n = round(x / ln 2) and r = x - n ln 2 in two pieces (Cody and Waite), |r| <=
//! ln(2)/2, where a polynomial of degree 7 (Cephes' `expf`) errs by less than an ULP; 2^n is applied as two
//! factors, so that results down to the smallest subnormal and up to infinity come out right.

use super::Isa;
use super::kernel::{Checked, Context, Kernel, ensure};
use super::simd::{Simd, VectorCode, dispatch};
use crate::error::Result;
use crate::real::Real;
use std::marker::PhantomData;

/// The operands of [`Silu`], slices of one length.
#[derive(Debug)]
pub struct Pointwise<'a, T> {
    /// The inputs.
    pub x: &'a [T],
    /// The outputs.
    pub y: &'a mut [T],
}

/// The operands of [`SiluBackward`], slices of one length.
#[derive(Debug)]
pub struct PointwiseBackward<'a, T> {
    /// The inputs of the forward pass.
    pub x: &'a [T],
    /// The loss's gradient in the outputs.
    pub d_y: &'a [T],
    /// The loss's gradient in the inputs.
    pub d_x: &'a mut [T],
}

/// y = x / (1 + exp(-x)), element by element.
#[derive(Debug)]
pub struct Silu;

impl Kernel for Silu {
    type Operands<'a, T: Real> = Pointwise<'a, T>;

    fn check<T: Real>(Pointwise { x, y }: &Pointwise<T>) -> Result<()> {
        ensure_one_length("SiLU", &[x.len(), y.len()])
    }

    fn reference<T: Real>(Checked(Pointwise { x, y }): Checked<Self, T>) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = *x / (T::one() + (-*x).exp());
        }
    }

    fn fast(context: Context, Checked(Pointwise { x, y }): Checked<Self, f32>) {
        // SAFETY: `check` found the slices to have one length.
        unsafe { map::<SiluVector>(context.isa, x.as_ptr(), x.as_ptr(), y.as_mut_ptr(), x.len()) }
    }
}

/// d_x = d_y silu'(x), element by element, with silu'(x) = s (1 + x (1 - s)) and s = 1 / (1 + exp(-x)).
#[derive(Debug)]
pub struct SiluBackward;

impl Kernel for SiluBackward {
    type Operands<'a, T: Real> = PointwiseBackward<'a, T>;

    fn check<T: Real>(PointwiseBackward { x, d_y, d_x }: &PointwiseBackward<T>) -> Result<()> {
        ensure_one_length("SiLU's gradient", &[x.len(), d_y.len(), d_x.len()])
    }

    fn reference<T: Real>(Checked(PointwiseBackward { x, d_y, d_x }): Checked<Self, T>) {
        for ((d_x, x), d_y) in d_x.iter_mut().zip(x).zip(d_y) {
            let s = T::one() / (T::one() + (-*x).exp());
            *d_x = *d_y * s * (T::one() + *x * (T::one() - s));
        }
    }

    fn fast(context: Context, Checked(PointwiseBackward { x, d_y, d_x }): Checked<Self, f32>) {
        // SAFETY: `check` found the slices to have one length.
        unsafe { map::<SiluSlope>(context.isa, x.as_ptr(), d_y.as_ptr(), d_x.as_mut_ptr(), x.len()) }
    }
}

/// Refuses slices of different lengths.
pub(super) fn ensure_one_length(what: &str, lens: &[usize]) -> Result<()> {
    let equal = lens.iter().all(|len| *len == lens[0]);
    ensure(equal, what, || "slices of one length".to_owned(), || format!("{lens:?}"))
}

/// exp of every element of a vector, at most 2 ULP off, for x <= 89.
///
/// # Safety
/// The processor has S's features.
#[inline(always)]
unsafe fn exp_up_to_89<S: Simd>(x: S::V) -> S::V {
    // SAFETY: arithmetic on registers; the processor has S's features by the caller's promise.
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

/// p = 1 / (1 + e) and q = e / (1 + e) with e = exp(-|z|): nothing overflows and nothing cancels. 1 / (1 +
/// exp(-z)) is p where z >= 0 and q = 1 - p where z < 0.
///
/// # Safety
/// The processor has S's features.
#[inline(always)]
unsafe fn sigmoids<S: Simd>(z: S::V) -> (S::V, S::V) {
    // SAFETY: as above.
    unsafe {
        let e = exp_up_to_89::<S>(S::sub(S::splat(0.0), S::abs(z)));
        let p = S::reciprocal(S::add(S::splat(1.0), e));
        (p, S::mul(e, p))
    }
}

/// z / (1 + exp(-z)).
///
/// # Safety
/// The processor has S's features.
#[inline(always)]
pub(super) unsafe fn silu<S: Simd>(z: S::V) -> S::V {
    // SAFETY: as above.
    unsafe {
        let (p, q) = sigmoids::<S>(z);
        S::mul(z, S::select_negative(z, q, p))
    }
}

/// silu'(z) = s + z s (1 - s), s = 1 / (1 + exp(-z)).
///
/// # Safety
/// The processor has S's features.
#[inline(always)]
pub(super) unsafe fn silu_slope<S: Simd>(z: S::V) -> S::V {
    // SAFETY: as above.
    unsafe {
        let (p, q) = sigmoids::<S>(z);
        S::fma(S::mul(z, q), p, S::select_negative(z, q, p))
    }
}

/// A function of one element of each of two slices.
trait Elementwise {
    /// The function of the elements of two vectors.
    ///
    /// # Safety
    /// The processor has S's features.
    unsafe fn apply<S: Simd>(x: S::V, y: S::V) -> S::V;
}

struct SiluVector;
struct SiluSlope;

impl Elementwise for SiluVector {
    #[inline(always)]
    unsafe fn apply<S: Simd>(x: S::V, _: S::V) -> S::V {
        // SAFETY: the caller's promise of S's features.
        unsafe { silu::<S>(x) }
    }
}

impl Elementwise for SiluSlope {
    #[inline(always)]
    unsafe fn apply<S: Simd>(x: S::V, d_y: S::V) -> S::V {
        // SAFETY: the caller's promise of S's features.
        unsafe { S::mul(d_y, silu_slope::<S>(x)) }
    }
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

/// out = F(x, y), element by element.
///
/// # Safety
/// The pointers are valid for `len` elements; `out` may be `x` or `y`.
unsafe fn map<F: Elementwise>(isa: Isa, x: *const f32, y: *const f32, out: *mut f32, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { dispatch(isa, Map { x, y, out, len, function: PhantomData::<F> }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Run;

    /// exp, of which SiLU takes the part up to 89.
    struct Exp;

    impl Elementwise for Exp {
        #[inline(always)]
        unsafe fn apply<S: Simd>(x: S::V, _: S::V) -> S::V {
            // SAFETY: the caller's promise of S's features.
            unsafe { exp_up_to_89::<S>(S::min(x, S::splat(89.0))) }
        }
    }

    fn exp_in_place(isa: Isa, x: &mut [f32]) {
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

    /// Bounds: 4 ULP of the larger of the value and 1e-30 for SiLU (one exp, one sum, one quotient);
    /// (|x| + 4) machine epsilons for its derivative, in which x multiplies the rounding error of 1 - s.
    #[test]
    fn silu_and_its_derivative_agree_with_f64() {
        let xs: Vec<f32> = (0..20_011).map(|i| -40.0 + 0.004 * i as f32).collect();
        let ones = vec![1.0f32; xs.len()];
        for isa in Isa::available() {
            let (mut y, mut d) = (vec![0.0; xs.len()], vec![0.0; xs.len()]);
            Silu::run(isa, Pointwise { x: &xs, y: &mut y });
            SiluBackward::run(isa, PointwiseBackward { x: &xs, d_y: &ones, d_x: &mut d });
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
