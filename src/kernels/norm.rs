//! The passes of a group normalisation over an image \[rows, c\], its channels contiguous.
//!
//! Every pass takes a few vectors of neighbouring channels from the first row to the last, so that a
//! channel's coefficients and sums stay in registers. The moments are computed in chunks of rows: first the
//! chunk's mean, then, while the chunk is still in cache, the squared deviations from it. A chunk is combined
//! with those before it by the formula of Chan, Golub and LeVeque (1983). Memory is read once, and nothing
//! cancels, however large the mean is.

mod fast;

use super::kernel::{Checked, Context, Kernel, ensure};
use super::simd::each_pair;
use crate::error::Result;
use crate::real::Real;

/// The coefficients of every channel, \[c\] each.
#[derive(Clone, Copy, Debug)]
pub struct Channels<'a, T> {
    /// The factor of z = factor x + term: gamma / sqrt(var + eps).
    pub factor: &'a [T],
    /// The term of z: beta - factor mean.
    pub term: &'a [T],
    /// What x is centred by: the mean.
    pub centre: &'a [T],
}

impl<T> Channels<'_, T> {
    fn lens(&self) -> [usize; 3] {
        [self.factor.len(), self.term.len(), self.centre.len()]
    }
}

/// Refuses images that are not all \[rows, c\], and slices that do not all have an element for every channel.
fn check_image(c: usize, images: &[usize], channels: &[usize]) -> Result<()> {
    let same = channels.iter().all(|len| *len == c) && images.iter().all(|len| *len == images[0]);
    ensure(
        c > 0 && same && images[0].is_multiple_of(c),
        "a normalisation's operands",
        || format!("images of whole rows and one length, and {c} elements for the channels, at least 1"),
        || format!("images of {images:?} elements, {channels:?} for the channels"),
    )
}

/// The operands of [`ChannelMoments`].
#[derive(Debug)]
pub struct Moments<'a, T> {
    /// The image, of at least one row.
    pub x: &'a [T],
    /// Takes every channel's mean.
    pub mean: &'a mut [T],
    /// Takes every channel's sum of squared deviations from its mean.
    pub deviations: &'a mut [T],
}

/// mean_c = the mean over rows of x_ic, deviations_c = the sum over rows of (x_ic - mean_c)^2.
#[derive(Debug)]
pub struct ChannelMoments;

impl Kernel for ChannelMoments {
    type Operands<'a, T: Real> = Moments<'a, T>;

    fn check<T: Real>(Moments { x, mean, deviations }: &Moments<T>) -> Result<()> {
        check_image(mean.len(), &[x.len()], &[mean.len(), deviations.len()])?;
        ensure(!x.is_empty(), "an image's moments", || "at least one row".to_owned(), || "none".to_owned())
    }

    fn reference<T: Real>(Checked(Moments { x, mean, deviations }): Checked<Self, T>) {
        let c = mean.len();
        let rows = T::of((x.len() / c) as f64);
        mean.fill(T::zero());
        for row in x.chunks_exact(c) {
            each_pair(mean, row, |mean, x| *mean += *x);
        }
        mean.iter_mut().for_each(|mean| *mean /= rows);
        deviations.fill(T::zero());
        for row in x.chunks_exact(c) {
            for ((sum, mean), x) in deviations.iter_mut().zip(&*mean).zip(row) {
                *sum += (*x - *mean) * (*x - *mean);
            }
        }
    }

    fn fast(context: Context, Checked(operands): Checked<Self, f32>) {
        fast::moments(context.isa, operands);
    }
}

/// The operands of [`ChannelAffine`].
#[derive(Debug)]
pub struct Affine<'a, T> {
    /// The image.
    pub x: &'a [T],
    /// The coefficients.
    pub channels: Channels<'a, T>,
    /// Whether SiLU follows.
    pub silu: bool,
    /// The result, an image of the same size.
    pub y: &'a mut [T],
}

/// y = z, or z / (1 + exp(-z)) if `silu`, with z = factor_c x + term_c.
#[derive(Debug)]
pub struct ChannelAffine;

impl Kernel for ChannelAffine {
    type Operands<'a, T: Real> = Affine<'a, T>;

    fn check<T: Real>(Affine { x, channels, y, .. }: &Affine<T>) -> Result<()> {
        check_image(channels.factor.len(), &[x.len(), y.len()], &channels.lens())
    }

    fn reference<T: Real>(Checked(Affine { x, channels, silu, y }): Checked<Self, T>) {
        let c = channels.factor.len();
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            for i in 0..c {
                let z = channels.factor[i] * x[i] + channels.term[i];
                y[i] = if silu { z / (T::one() + (-z).exp()) } else { z };
            }
        }
    }

    fn fast(context: Context, Checked(operands): Checked<Self, f32>) {
        fast::affine(context.isa, operands);
    }
}

/// The operands of [`ChannelAffineBackward`].
#[derive(Debug)]
pub struct AffineBackward<'a, T> {
    /// The image.
    pub x: &'a [T],
    /// The coefficients.
    pub channels: Channels<'a, T>,
    /// Whether SiLU followed.
    pub silu: bool,
    /// The gradient in y, which the gradient in z overwrites.
    pub d: &'a mut [T],
    /// Takes every channel's sum of the gradient in z.
    pub sum: &'a mut [T],
    /// Takes every channel's sum of the gradient in z times x - centre_c.
    pub sum_x: &'a mut [T],
}

/// d <- d silu'(z) if `silu`; then sum_c = the sum over rows of d, and sum_x_c = that of d (x - centre_c).
#[derive(Debug)]
pub struct ChannelAffineBackward;

impl Kernel for ChannelAffineBackward {
    type Operands<'a, T: Real> = AffineBackward<'a, T>;

    fn check<T: Real>(operands: &AffineBackward<T>) -> Result<()> {
        let AffineBackward { x, channels, d, sum, sum_x, .. } = operands;
        let [factor, term, centre] = channels.lens();
        check_image(factor, &[x.len(), d.len()], &[factor, term, centre, sum.len(), sum_x.len()])
    }

    fn reference<T: Real>(Checked(operands): Checked<Self, T>) {
        let AffineBackward { x, channels, silu, d, sum, sum_x } = operands;
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

    fn fast(context: Context, Checked(operands): Checked<Self, f32>) {
        fast::affine_backward(context.isa, operands);
    }
}

/// The operands of [`ChannelCentred`].
#[derive(Debug)]
pub struct Centred<'a, T> {
    /// The image.
    pub x: &'a [T],
    /// The coefficients.
    pub channels: Channels<'a, T>,
    /// The factor of every channel's centred x.
    pub slope: &'a [T],
    /// The gradient in z.
    pub d: &'a mut [T],
    /// Takes the result; where it is `None`, `d` does.
    pub d_x: Option<&'a mut [T]>,
    /// Whether the result is added to `d_x` instead of overwriting it; without `d_x` it has no effect.
    pub accumulate: bool,
}

/// d_x = factor_c d + (slope_c (x - centre_c) + term_c), or that added to d_x.
#[derive(Debug)]
pub struct ChannelCentred;

impl Kernel for ChannelCentred {
    type Operands<'a, T: Real> = Centred<'a, T>;

    fn check<T: Real>(Centred { x, channels, slope, d, d_x, .. }: &Centred<T>) -> Result<()> {
        let d_x = d_x.as_ref().map_or(d.len(), |d_x| d_x.len());
        let [factor, term, centre] = channels.lens();
        check_image(factor, &[x.len(), d.len(), d_x], &[factor, term, centre, slope.len()])
    }

    fn reference<T: Real>(Checked(operands): Checked<Self, T>) {
        let Centred { x, channels, slope, d, d_x, accumulate } = operands;
        let c = slope.len();
        let at = |i: usize, d: T| {
            let k = i % c;
            channels.factor[k] * d + (slope[k] * (x[i] - channels.centre[k]) + channels.term[k])
        };
        match d_x {
            None => d.iter_mut().enumerate().for_each(|(i, d)| *d = at(i, *d)),
            Some(d_x) => {
                for (i, (d_x, d)) in d_x.iter_mut().zip(&*d).enumerate() {
                    *d_x = at(i, *d) + if accumulate { *d_x } else { T::zero() };
                }
            }
        }
    }

    fn fast(context: Context, Checked(operands): Checked<Self, f32>) {
        fast::centred(context.isa, operands);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::normal;
    use crate::{Element, Isa, Run};

    fn moments<T: Element>(isa: Isa, x: &[T], mean: &mut [T], deviations: &mut [T]) {
        ChannelMoments::run(isa, Moments { x, mean, deviations });
    }

    fn affine<T: Element>(isa: Isa, x: &[T], channels: Channels<T>, silu: bool, y: &mut [T]) {
        ChannelAffine::run(isa, Affine { x, channels, silu, y });
    }

    fn affine_backward<T: Element>(
        isa: Isa,
        x: &[T],
        (channels, silu): (Channels<T>, bool),
        d: &mut [T],
        sum: &mut [T],
        sum_x: &mut [T],
    ) {
        ChannelAffineBackward::run(isa, AffineBackward { x, channels, silu, d, sum, sum_x });
    }

    fn centred<T: Element>(
        isa: Isa,
        x: &[T],
        (channels, slope): (Channels<T>, &[T]),
        d: &mut [T],
        d_x: Option<&mut [T]>,
        accumulate: bool,
    ) {
        ChannelCentred::run(isa, Centred { x, channels, slope, d, d_x, accumulate });
    }

    const REFERENCE: Isa = Isa::Reference;

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
                moments(REFERENCE, &wide(&x), &mut mean, &mut deviations);
                for isa in Isa::available() {
                    let (mut m, mut d) = (vec![f32::NAN; c], vec![f32::NAN; c]);
                    moments(isa, &x, &mut m, &mut d);
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
                affine(isa, &x, channels, silu, &mut y);
                affine(REFERENCE, &wide(&x), exact, silu, &mut y_w);
                near(&format!("{name} y"), &y, &y_w, |i| 8.0 * EPS * z_size(i));

                let (mut d, mut d_w) = (d_y.clone(), wide(&d_y));
                let (mut sum, mut sum_x) = (vec![f32::NAN; c], vec![f32::NAN; c]);
                let (mut sum_w, mut sum_x_w) = (vec![0.0; c], vec![0.0; c]);
                affine_backward(isa, &x, (channels, silu), &mut d, &mut sum, &mut sum_x);
                affine_backward(REFERENCE, &wide(&x), (exact, silu), &mut d_w, &mut sum_w, &mut sum_x_w);
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
                    centred(isa, &x, (channels, &slope), &mut d_y.clone(), Some(&mut d_x), add);
                    centred(REFERENCE, &wide(&x), (exact, &slope_w), &mut wide(&d_y), Some(&mut d_x_w), add);
                    near(&format!("{name} d_x {add}"), &d_x, &d_x_w, |i| 4.0 * EPS * size(i));
                    if !add {
                        let mut in_place = d_y.clone();
                        centred(isa, &x, (channels, &slope), &mut in_place, None, true);
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
                moments(isa, &x, &mut mean, &mut deviations);
                assert!(!mean[18].is_finite() && deviations[18].is_nan(), "{isa} {bad}");
                assert!(mean[..18].iter().chain(&deviations[..18]).all(|x| x.is_finite()), "{isa} {bad}");
                let (ones, zeros) = (vec![1.0; c], vec![0.0; c]);
                let channels = Channels { factor: &ones, term: &zeros, centre: &zeros };
                let mut y = vec![0.0; x.len()];
                affine(isa, &x, channels, true, &mut y);
                let (mut d, mut sum, mut sum_x) = (vec![1.0; x.len()], vec![0.0; c], vec![0.0; c]);
                affine_backward(isa, &x, (channels, true), &mut d, &mut sum, &mut sum_x);
                for (i, (y, d)) in y.iter().zip(&d).enumerate() {
                    assert_eq!(y.is_finite() && d.is_finite(), i != 7 * c + 18, "{isa} {bad} {i}: {y} {d}");
                }
                assert!(!sum_x[18].is_finite() && sum_x[..18].iter().all(|x| x.is_finite()));
            }
            let mut y = [0.0f32; 3];
            let channels = Channels { factor: &[1.0], term: &[0.0], centre: &[0.0] };
            affine(isa, &[f32::MAX, f32::MIN, -200.0], channels, true, &mut y);
            assert_eq!(y, [f32::MAX, 0.0, 0.0], "{isa}");
        }
    }
}
