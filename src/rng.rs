//! Random numbers as a function of (seed, stream, step, sample).
//!
//! A draw does not depend on the thread that makes it or on the order of the draws: resuming a run, cutting a
//! batch into shards or changing the number of threads changes nothing. The generator is ChaCha8 keyed by the
//! four numbers.

use crate::real::Real;
pub use chacha20::ChaCha8Rng;
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// What a random number is for; streams never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Initial weights; `sample` is the parameter's index.
    Init = 1,
    /// FAVOR+ projections; `step` counts redraws, `sample` is the attention layer's index.
    Projection = 2,
    /// The order of the training images; `step` is the epoch.
    Order = 3,
    /// Algorithm 1's timestep t.
    Timestep = 4,
    /// Algorithm 1's noise eps.
    Noise = 5,
    /// Horizontal flips.
    Flip = 6,
    /// Dropout; the layer's index is mixed into `step`'s upper bits.
    Dropout = 7,
    /// x_T when sampling.
    SampleStart = 8,
    /// z_t when sampling; `step` is t.
    SampleNoise = 9,
    /// Draws made by tests and by the audit.
    Check = 11,
    /// The noise of x_t when the bound is evaluated; `step` is t, with the draw in its upper bits.
    BoundNoise = 12,
    /// The timestep of a stratum when the bound is evaluated; `step` is the stratum, with the draw in its
    /// upper bits.
    Stratum = 13,
    /// Whether a training image's class is dropped.
    Label = 20,
    /// Which images of a dataset are evaluated, and how samples are split into subsets.
    Choice = 14,
    /// Which images are held out of training.
    HeldOut = 21,
    /// What inpainting draws after x_T; `step` counts its draws.
    Inpaint = 22,
}

/// The generator for one (seed, stream, step, sample).
pub fn rng(seed: u64, stream: Stream, step: u64, sample: u64) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(key(seed, stream, step, sample))
}

/// Its key.
pub fn key(seed: u64, stream: Stream, step: u64, sample: u64) -> [u8; 32] {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, stream as u64, step, sample]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    key
}

/// Fills `out` with independent draws from N(0, 1). Drawn in `f64` and rounded, so both types see the same
/// numbers.
pub fn fill_normal<T: Real>(rng: &mut ChaCha8Rng, out: &mut [T]) {
    for x in out {
        let z: f64 = StandardNormal.sample(rng);
        *x = T::of(z);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn every_coordinate_changes_the_numbers_and_nothing_else_does() {
        let first = |seed, stream, step, sample| rng(seed, stream, step, sample).next_u64();
        let base = first(1, Stream::Noise, 2, 3);
        assert_eq!(base, first(1, Stream::Noise, 2, 3));
        for other in [
            first(2, Stream::Noise, 2, 3),
            first(1, Stream::Flip, 2, 3),
            first(1, Stream::Noise, 3, 3),
            first(1, Stream::Noise, 2, 4),
        ] {
            assert_ne!(base, other);
        }
    }

    /// Tolerances: five standard errors of the mean (1/sqrt(n)) and of the variance (sqrt(2/n)).
    #[test]
    fn normal_draws_have_unit_moments_and_agree_between_types() {
        let n = 100_000;
        let (mut a, mut b) = (vec![0f64; n], vec![0f32; n]);
        fill_normal(&mut rng(7, Stream::Check, 0, 0), &mut a);
        fill_normal(&mut rng(7, Stream::Check, 0, 0), &mut b);
        assert!(a.iter().zip(&b).all(|(x, y)| *x as f32 == *y));
        let mean = a.iter().sum::<f64>() / n as f64;
        let var = a.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 5.0 / (n as f64).sqrt(), "{mean}");
        assert!((var - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt(), "{var}");
    }
}
