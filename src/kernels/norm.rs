//! The passes of a group normalisation over an image \[rows, c\], its channels contiguous.
//!
//! Every pass takes a few vectors of neighbouring channels from the first row to the last, so that a
//! channel's coefficients and sums stay in registers. Moments are taken in chunks of rows: the chunk's mean,
//! then the squared deviations from it while it is in cache, combined with those before by Chan, Golub and
//! LeVeque's formula (1983); so memory is read once and nothing cancels, however large the mean.

mod fast;

pub(super) use fast::{affine_backward_fast, affine_fast, centred_fast, moments_fast};

use crate::real::Real;

/// A channel's z = factor x + term, and what x is centred by.
#[derive(Clone, Copy, Debug)]
pub struct Channels<'a, T> {
    /// gamma / sqrt(var + eps).
    pub factor: &'a [T],
    /// beta - factor mean.
    pub term: &'a [T],
    /// The mean.
    pub centre: &'a [T],
}

/// mean_c = the mean over rows of x_ic, deviations_c = the sum over rows of (x_ic - mean_c)^2.
pub(super) fn moments_reference<T: Real>(x: &[T], mean: &mut [T], deviations: &mut [T]) {
    let c = mean.len();
    let rows = T::of((x.len() / c) as f64);
    mean.fill(T::zero());
    for row in x.chunks_exact(c) {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += *x);
    }
    mean.iter_mut().for_each(|mean| *mean /= rows);
    deviations.fill(T::zero());
    for row in x.chunks_exact(c) {
        for ((sum, mean), x) in deviations.iter_mut().zip(&*mean).zip(row) {
            *sum += (*x - *mean) * (*x - *mean);
        }
    }
}

/// y = z, or z / (1 + exp(-z)) if `silu`, with z = factor_c x + term_c.
pub(super) fn affine_reference<T: Real>(x: &[T], channels: Channels<T>, silu: bool, y: &mut [T]) {
    let c = channels.factor.len();
    for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
        for i in 0..c {
            let z = channels.factor[i] * x[i] + channels.term[i];
            y[i] = if silu { z / (T::one() + (-z).exp()) } else { z };
        }
    }
}

/// d <- d silu'(z) if `silu`, then sum_c = the sum over rows of d, and sum_x_c = that of d (x - centre_c).
pub(super) fn affine_backward_reference<T: Real>(
    x: &[T],
    channels: Channels<T>,
    silu: bool,
    d: &mut [T],
    sum: &mut [T],
    sum_x: &mut [T],
) {
    let c = sum.len();
    sum.fill(T::zero());
    sum_x.fill(T::zero());
    for (x, d) in x.chunks_exact(c).zip(d.chunks_exact_mut(c)) {
        for i in 0..c {
            if silu {
                let z = channels.factor[i] * x[i] + channels.term[i];
                let s = T::one() / (T::one() + (-z).exp());
                d[i] *= s * (T::one() + z * (T::one() - s));
            }
            sum[i] += d[i];
            sum_x[i] += d[i] * (x[i] - channels.centre[i]);
        }
    }
}

/// d_x = or, if `add`, += factor_c d + (slope_c (x - centre_c) + term_c); d itself is overwritten where d_x
/// is `None`.
pub(super) fn centred_reference<T: Real>(
    x: &[T],
    channels: Channels<T>,
    slope: &[T],
    d: &mut [T],
    d_x: Option<&mut [T]>,
    add: bool,
) {
    let c = slope.len();
    let at = |i: usize, d: T| {
        let k = i % c;
        channels.factor[k] * d + (slope[k] * (x[i] - channels.centre[k]) + channels.term[k])
    };
    match d_x {
        None => d.iter_mut().enumerate().for_each(|(i, d)| *d = at(i, *d)),
        Some(d_x) => {
            for (i, (d_x, d)) in d_x.iter_mut().zip(&*d).enumerate() {
                *d_x = at(i, *d) + if add { *d_x } else { T::zero() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Element, Isa};
    use crate::rng::{Stream, fill_normal, rng};

    fn normal(n: usize, id: u64) -> Vec<f32> {
        let mut x = vec![0.0; n];
        fill_normal(&mut rng(3, Stream::Check, id, 0), &mut x);
        x
    }

    fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|x| f64::from(*x)).collect()
    }

    /// Rows and channels: chunks of rows and vectors of channels that divide nothing, and whole ones.
    const SIZES: [(usize, usize); 8] =
        [(1, 1), (5, 3), (16, 16), (17, 31), (33, 48), (40, 64), (49, 100), (100, 129)];

    const EPS: f64 = f32::EPSILON as f64;

    fn near(what: &str, got: &[f32], want: &[f64], bound: impl Fn(usize) -> f64) {
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let (error, bound) = ((f64::from(*got) - want).abs(), bound(i));
            assert!(error <= bound, "{what}[{i}]: {got} for {want}, off by {error:e}, bound {bound:e}");
        }
    }

    /// Bounds: a mean is a sum, off by at most rows roundings of the largest |x|. Of a deviation d = x - m a
    /// rounding of m shows as EPS |m|, so that a sum of d^2 errs by (rows EPS) of itself, and by what the
    /// mean's error squared adds.
    #[test]
    fn moments_agree_with_f64_however_large_the_mean() {
        for (rows, c) in SIZES {
            for shift in [0.0, 3.0, 1e4] {
                let x: Vec<f32> = normal(rows * c, 1).iter().map(|x| x + shift).collect();
                let (mut mean, mut deviations) = (vec![0.0; c], vec![0.0; c]);
                moments_reference(&wide(&x), &mut mean, &mut deviations);
                for isa in Isa::available() {
                    let (mut m, mut d) = (vec![f32::NAN; c], vec![f32::NAN; c]);
                    f32::channel_moments(isa, &x, &mut m, &mut d);
                    let name = format!("{isa} {rows}x{c} + {shift}");
                    let n = rows as f64;
                    let off = n * EPS * (f64::from(shift) + 5.0);
                    near(&format!("{name} mean"), &m, &mean, |_| off);
                    let bound = |i: usize| 2.0 * n * EPS * (deviations[i] + 1.0) + n * off * off;
                    near(&format!("{name} deviations"), &d, &deviations, bound);
                }
            }
        }
    }

    /// Bounds: z is two roundings of its terms; SiLU and its derivative have slopes below 1.1 and errors of 6
    /// EPS of |z| + 1, as `vector`'s tests state; a sum of n terms errs by n EPS of the sum of their sizes.
    #[test]
    fn affine_passes_agree_with_f64() {
        for (rows, c) in SIZES {
            let (x, d_y, mut before) = (normal(rows * c, 1), normal(rows * c, 2), normal(rows * c, 3));
            let [factor, term, centre, slope] = [4, 5, 6, 7].map(|id| normal(c, id));
            let [factor_w, term_w, centre_w, slope_w] = [&factor, &term, &centre, &slope].map(|x| wide(x));
            let channels = Channels { factor: &factor, term: &term, centre: &centre };
            let exact = Channels { factor: &factor_w, term: &term_w, centre: &centre_w };
            before[0] = 100.0;
            for (silu, isa) in Isa::available().into_iter().flat_map(|isa| [(false, isa), (true, isa)]) {
                let name = format!("{isa} {rows}x{c} {silu}");
                let z_size = |i: usize| f64::from((factor[i % c] * x[i]).abs() + term[i % c].abs()) + 1.0;
                let (mut y, mut y_w) = (vec![f32::NAN; x.len()], vec![0.0; x.len()]);
                f32::channel_affine(isa, &x, channels, silu, &mut y);
                affine_reference(&wide(&x), exact, silu, &mut y_w);
                near(&format!("{name} y"), &y, &y_w, |i| 8.0 * EPS * z_size(i));

                let (mut d, mut d_w) = (d_y.clone(), wide(&d_y));
                let (mut sum, mut sum_x) = (vec![f32::NAN; c], vec![f32::NAN; c]);
                let (mut sum_w, mut sum_x_w) = (vec![0.0; c], vec![0.0; c]);
                f32::channel_affine_backward(isa, &x, channels, silu, &mut d, &mut sum, &mut sum_x);
                affine_backward_reference(&wide(&x), exact, silu, &mut d_w, &mut sum_w, &mut sum_x_w);
                let off = |i: usize| 10.0 * EPS * z_size(i) * f64::from(d_y[i].abs());
                near(&format!("{name} d"), &d, &d_w, off);
                let column =
                    |i: usize, f: &dyn Fn(usize) -> f64| -> f64 { (0..rows).map(|row| f(row * c + i)).sum() };
                let n = rows as f64 * EPS;
                let sum_off = |i: usize| column(i, &|k| off(k) + n * d_w[k].abs());
                near(&format!("{name} sum"), &sum, &sum_w, sum_off);
                let far = |k: usize| f64::from((x[k] - centre[k % c]).abs()) + 1e-6;
                let sum_x_off = |i: usize| column(i, &|k| (off(k) + (n + 4.0 * EPS) * d_w[k].abs()) * far(k));
                near(&format!("{name} sum_x"), &sum_x, &sum_x_w, sum_x_off);

                let size = |i: usize| {
                    let k = i % c;
                    f64::from((factor[k] * d_y[i]).abs() + term[k].abs() + before[i].abs())
                        + f64::from(slope[k].abs()) * (f64::from(x[i].abs()) + f64::from(centre[k].abs()))
                };
                for add in [false, true] {
                    let (mut d_x, mut d_x_w) = (before.clone(), wide(&before));
                    f32::channel_centred(isa, &x, channels, &slope, &mut d_y.clone(), Some(&mut d_x), add);
                    centred_reference(&wide(&x), exact, &slope_w, &mut wide(&d_y), Some(&mut d_x_w), add);
                    near(&format!("{name} d_x {add}"), &d_x, &d_x_w, |i| 4.0 * EPS * size(i));
                    if !add {
                        let mut in_place = d_y.clone();
                        f32::channel_centred(isa, &x, channels, &slope, &mut in_place, None, true);
                        assert_eq!(in_place, d_x, "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_in_its_channel_and_is_not_hidden() {
        for isa in Isa::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (rows, c) = (20, 19);
                let mut x = normal(rows * c, 1);
                x[7 * c + 18] = bad;
                let (mut mean, mut deviations) = (vec![0.0; c], vec![0.0; c]);
                f32::channel_moments(isa, &x, &mut mean, &mut deviations);
                assert!(!mean[18].is_finite() && deviations[18].is_nan(), "{isa} {bad}");
                assert!(mean[..18].iter().chain(&deviations[..18]).all(|x| x.is_finite()), "{isa} {bad}");
                let (ones, zeros) = (vec![1.0; c], vec![0.0; c]);
                let channels = Channels { factor: &ones, term: &zeros, centre: &zeros };
                let mut y = vec![0.0; x.len()];
                f32::channel_affine(isa, &x, channels, true, &mut y);
                let (mut d, mut sum, mut sum_x) = (vec![1.0; x.len()], vec![0.0; c], vec![0.0; c]);
                f32::channel_affine_backward(isa, &x, channels, true, &mut d, &mut sum, &mut sum_x);
                for (i, (y, d)) in y.iter().zip(&d).enumerate() {
                    assert_eq!(y.is_finite() && d.is_finite(), i != 7 * c + 18, "{isa} {bad} {i}: {y} {d}");
                }
                assert!(!sum_x[18].is_finite() && sum_x[..18].iter().all(|x| x.is_finite()));
            }
            let mut y = [0.0f32; 3];
            let channels = Channels { factor: &[1.0], term: &[0.0], centre: &[0.0] };
            f32::channel_affine(isa, &[f32::MAX, f32::MIN, -200.0], channels, true, &mut y);
            assert_eq!(y, [f32::MAX, 0.0, 0.0], "{isa}");
        }
    }
}
