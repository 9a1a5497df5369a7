//! Adam (Kingma & Ba 2015) with global-norm clipping, and the exponential moving average of the weights, in
//! one pass.

use crate::config::TrainConfig;
use crate::kernels::{Isa, vectorised};
use crate::real::Real;
use rayon::prelude::*;
use std::ops::Range;

/// Elements that one task updates; fixed, so that the norm's sum has one order.
pub(super) const BLOCK: usize = 1 << 15;

/// Adam's moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam<T> {
    /// m, the gradients' moving average.
    pub first_moment: Vec<T>,
    /// v, their squares' moving average.
    pub second_moment: Vec<T>,
}

/// One update's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The learning rate.
    pub lr: f64,
    /// The update's number, from 1, for the bias corrections.
    pub number: u64,
    /// What the gradient is multiplied by first.
    pub clip: f64,
    /// The moving average's decay.
    pub ema_decay: f64,
}

/// The square root of a tensor's sum of squares, summed in `f64` in blocks of fixed length.
pub fn global_norm<T: Real>(gradient: &[T]) -> f64 {
    let blocks = blocks(std::iter::once(0..gradient.len()));
    let mut sums = vec![0.0; blocks.len()];
    sums_of_squares(gradient, &blocks, &mut sums);
    norm(&sums)
}

/// The blocks of adjacent tensors, in whose order the norm is summed: each tensor is cut from its start.
pub(super) fn blocks(tensors: impl IntoIterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let of_tensor = |tensor: Range<usize>| {
        let end = tensor.end;
        tensor.step_by(BLOCK).map(move |start| start..end.min(start + BLOCK))
    };
    tensors.into_iter().flat_map(of_tensor).collect()
}

/// The sum of squares of every block of a gradient that begins with the first of them.
pub(super) fn sums_of_squares<T: Real>(gradient: &[T], blocks: &[Range<usize>], sums: &mut [f64]) {
    let first = blocks.first().map_or(0, |block| block.start);
    sums.par_iter_mut().zip(blocks).for_each(|(sum, block)| {
        *sum = sum_of_squares(&gradient[block.start - first..block.end - first]);
    });
}

/// The norm, from every block's sum of squares.
pub(super) fn norm(sums: &[f64]) -> f64 {
    sums.iter().sum::<f64>().sqrt()
}

fn sum_of_squares<T: Real>(g: &[T]) -> f64 {
    let mut lanes = [0.0; 8];
    let (whole, rest) = g.as_chunks::<8>();
    for g in whole {
        for i in 0..8 {
            let g = g[i].f64();
            lanes[i] += g * g;
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|g| g.f64() * g.f64()).sum::<f64>()
}

/// The factor that keeps a gradient of norm `norm` within `limit` (0 for none): min(1, limit / (norm +
/// 1e-6)), as in PyTorch.
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    if limit == 0.0 { 1.0 } else { (limit / (norm + 1e-6)).min(1.0) }
}

impl<T: Real> Adam<T> {
    /// Moments of zero for `len` weights.
    pub fn new(len: usize) -> Adam<T> {
        Adam { first_moment: vec![T::zero(); len], second_moment: vec![T::zero(); len] }
    }

    /// m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, w <- w - lr (m / (1 - b1^k)) / (sqrt(v / (1 -
    /// b2^k)) + eps), and average <- decay average + (1 - decay) w, with g the clipped gradient and k the
    /// update's number.
    pub fn update(
        &mut self,
        isa: Isa,
        config: &TrainConfig,
        update: Update,
        gradient: &[T],
        weights: &mut [T],
        average: &mut [T],
    ) {
        let Adam { first_moment, second_moment } = self;
        let operands = Numbers { first_moment, second_moment, gradient, weights, average };
        update_elements(isa, config, update, operands);
    }
}

/// The numbers of some consecutive parameters.
pub(super) struct Numbers<'a, T> {
    pub(super) first_moment: &'a mut [T],
    pub(super) second_moment: &'a mut [T],
    pub(super) gradient: &'a [T],
    pub(super) weights: &'a mut [T],
    pub(super) average: &'a mut [T],
}

impl<'a, T> Numbers<'a, T> {
    /// The first `at` of them, and the others.
    pub(super) fn split_at(self, at: usize) -> (Numbers<'a, T>, Numbers<'a, T>) {
        let (first_moment, first_moments) = self.first_moment.split_at_mut(at);
        let (second_moment, second_moments) = self.second_moment.split_at_mut(at);
        let (gradient, gradients) = self.gradient.split_at(at);
        let (left, weights) = self.weights.split_at_mut(at);
        let (average, averages) = self.average.split_at_mut(at);
        (
            Numbers { first_moment, second_moment, gradient, weights: left, average },
            Numbers {
                first_moment: first_moments,
                second_moment: second_moments,
                gradient: gradients,
                weights,
                average: averages,
            },
        )
    }
}

/// [`Adam::update`] of some parameters.
pub(super) fn update_elements<T: Real>(isa: Isa, config: &TrainConfig, update: Update, numbers: Numbers<T>) {
    let k = update.number as f64;
    let (b1, b2) = (T::of(config.beta1), T::of(config.beta2));
    let (c1, c2) = (T::of(1.0 - config.beta1), T::of(1.0 - config.beta2));
    let rate = T::of(update.lr / (1.0 - config.beta1.powf(k)));
    let root = T::of(1.0 / (1.0 - config.beta2.powf(k)).sqrt());
    let (eps, clip) = (T::of(config.adam_eps), T::of(update.clip));
    let decay = T::of(1.0 - update.ema_decay);
    numbers
        .first_moment
        .par_chunks_mut(BLOCK)
        .zip(numbers.second_moment.par_chunks_mut(BLOCK))
        .zip(numbers.gradient.par_chunks(BLOCK))
        .zip(numbers.weights.par_chunks_mut(BLOCK))
        .zip(numbers.average.par_chunks_mut(BLOCK))
        .for_each(|((((m, v), g), w), average)| {
            vectorised(
                isa,
                #[inline(always)]
                || {
                    let len = m.len();
                    let (v, g, w, average) = (&mut v[..len], &g[..len], &mut w[..len], &mut average[..len]);
                    for i in 0..len {
                        let g = g[i] * clip;
                        m[i] = b1 * m[i] + c1 * g;
                        v[i] = b2 * v[i] + c2 * g * g;
                        w[i] -= rate * m[i] / (v[i].sqrt() * root + eps);
                        average[i] += decay * (w[i] - average[i]);
                    }
                },
            );
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::rng::{Stream, fill_normal, rng};

    #[test]
    fn clipping_shortens_long_gradients_only() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(4.0, 1.0), 1.0 / (4.0 + 1e-6));
        assert_eq!(clip_factor(4.0, 0.0), 1.0);
        let g: Vec<f64> = (0..100_000).map(|i| if i % 4 == 0 { 0.5 } else { 0.0 }).collect();
        assert!((global_norm(&g) - 6250f64.sqrt()).abs() < 1e-10);
        assert_eq!(global_norm(&[3.0f32, 0.0, 4.0]), 5.0);
    }

    /// Exact: every partial sum is a multiple of 1/4 below 2^53.
    #[test]
    fn the_norm_counts_every_block() {
        let len = 5 * BLOCK + 3;
        let gradient = vec![0.5f32; len];
        assert_eq!(global_norm(&gradient), (0.25 * len as f64).sqrt());
        let blocks = blocks([0..7, 7..BLOCK + 9, BLOCK + 9..len]);
        assert_eq!(blocks[..4], [0..7, 7..BLOCK + 7, BLOCK + 7..BLOCK + 9, BLOCK + 9..2 * BLOCK + 9]);
        let mut sums = vec![0.0; blocks.len() - 1];
        sums_of_squares(&gradient[7..], &blocks[1..], &mut sums);
        assert_eq!(norm(&sums), (0.25 * (len - 7) as f64).sqrt());
    }

    /// After the first update m / (1 - b1) = g and v / (1 - b2) = g^2, so the weight moves by lr g / (|g| +
    /// eps) whatever g is; the second is worked out by hand. Tolerance 1e-15: f64 rounding of a dozen
    /// operations.
    #[test]
    fn two_updates_are_the_textbook_ones() {
        let mut config = Preset::Tiny.config().train;
        (config.beta1, config.beta2, config.adam_eps) = (0.9, 0.99, 0.1);
        let (mut adam, mut w, mut average) = (Adam::new(2), [1.0f64, -2.0], [1.0f64, -2.0]);
        let update = Update { lr: 0.01, number: 1, clip: 0.5, ema_decay: 0.75 };
        adam.update(Isa::Reference, &config, update, &[0.8, -6.0], &mut w, &mut average);
        let first = [1.0 - 0.01 * 0.4 / 0.5, -2.0 + 0.01 * 3.0 / 3.1];
        for i in 0..2 {
            assert!((w[i] - first[i]).abs() < 1e-15);
            assert!((average[i] - (0.75 * [1.0, -2.0][i] + 0.25 * first[i])).abs() < 1e-15);
        }
        adam.update(
            Isa::Reference,
            &config,
            Update { number: 2, ..update },
            &[0.0, 0.0],
            &mut w,
            &mut average,
        );
        let (m, v): (f64, f64) = (0.9 * 0.04 / 0.19, 0.99 * 0.0016 / 0.0199);
        assert!((w[0] - (first[0] - 0.01 * m / (v.sqrt() + 0.1))).abs() < 1e-15);
    }

    const UPDATES: u64 = 5;
    /// Two tasks, the second of a length that no vector divides.
    const LEN: usize = BLOCK + 37;

    /// Normal numbers of some hundredths, the first 0.
    fn numbers<T: Real>(id: u64) -> Vec<T> {
        let mut x = vec![0f32; LEN];
        fill_normal(&mut rng(5, Stream::Check, id, 0), &mut x);
        x[0] = 0.0;
        x.iter().map(|x| T::of(f64::from(0.01 * x))).collect()
    }

    /// m, v, the weights and their average after some updates; from the gradients' sizes and from weights of
    /// 0 if `sizes`.
    fn updated<T: Real>(isa: Isa, sizes: bool) -> [Vec<T>; 4] {
        let mut config = Preset::Tiny.config().train;
        (config.beta1, config.beta2, config.adam_eps) = (0.9, 0.99, 1e-8);
        let mut w = if sizes { vec![T::zero(); LEN] } else { numbers(0) };
        let mut average = w.clone();
        let mut adam = Adam::new(LEN);
        for number in 1..=UPDATES {
            let mut g = numbers::<T>(number);
            if sizes {
                g.iter_mut().for_each(|g| *g = g.abs());
            }
            let update = Update { lr: 1e-3, number, clip: 0.7, ema_decay: 0.9 };
            adam.update(isa, &config, update, &g, &mut w, &mut average);
        }
        [adam.first_moment, adam.second_moment, w, average]
    }

    /// Bounds after k updates, with u = EPSILON / 2: a term of m is rounded at most 5 times when it comes and
    /// 3 times in each later update, so m errs by 5 k u of the sum of its terms' sizes, and v, whose terms
    /// have 8 roundings, by 8 k u of itself. A step's divisor then errs by (4 k + 4) u, the step by 16 k u of
    /// its size with |g| for g, the weight by that sum and its own k roundings, 17 k u of |w_0| and all
    /// steps' sizes, and the average, a mean of weights rounded 7 times, by 24 k u of the same. The bits are
    /// the same everywhere, as `vectorised` has it.
    #[test]
    fn f32_agrees_with_f64_and_has_the_same_bits_on_every_isa() {
        let [exact, sizes] = [false, true].map(|sizes| updated::<f64>(Isa::Reference, sizes));
        let start = numbers::<f64>(0);
        let reach: Vec<f64> = start.iter().zip(&sizes[2]).map(|(w, steps)| w.abs() + steps.abs()).collect();
        let ku = UPDATES as f64 * f64::from(f32::EPSILON) / 2.0;
        let bounds = [(5.0, &sizes[0]), (8.0, &sizes[1]), (17.0, &reach), (24.0, &reach)];
        let mut first: Option<[Vec<u32>; 4]> = None;
        for isa in Isa::available() {
            let got = updated::<f32>(isa, false);
            for (i, (factor, sizes)) in bounds.into_iter().enumerate() {
                for (j, (got, want)) in got[i].iter().zip(&exact[i]).enumerate() {
                    let (error, bound) = ((f64::from(*got) - want).abs(), factor * ku * sizes[j]);
                    assert!(error <= bound, "{isa} {i} [{j}]: {got} for {want}, off by {error:e}");
                }
            }
            let bits: [Vec<u32>; 4] = got.map(|numbers| numbers.into_iter().map(f32::to_bits).collect());
            assert!(*first.get_or_insert_with(|| bits.clone()) == bits, "{isa}");
        }
    }
}
