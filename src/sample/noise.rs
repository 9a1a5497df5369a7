//! x_T and the noise of every step: drawn from a seed, or given as an array.

use crate::equations::Timestep;
use crate::error::{Error, Result};
use crate::real::Real;
use crate::rng::{Stream, fill_normal, rng};
use ndarray::{ArrayView5, Axis};

/// x_T and the noise of every step for each image, the same for every [`Denoiser`](super::Denoiser).
#[derive(Clone, Copy, Debug)]
pub(super) enum Noise<'a> {
    /// Image i's numbers are a function of the seed, the timestep and i.
    Seed(u64),
    /// \[K + 1, n, c, h, w\]: x_T, then the noises of the K steps in order.
    Array(ArrayView5<'a, f32>),
}

impl Noise<'_> {
    /// Refuses an array that is not for `count` images [h, w, c] and `steps` steps.
    pub(super) fn check(&self, steps: usize, count: usize, [h, w, c]: [usize; 3]) -> Result<()> {
        let Noise::Array(noise) = self else { return Ok(()) };
        let want = [steps + 1, count, c, h, w];
        if noise.shape() == want {
            return Ok(());
        }
        Err(Error::invalid(
            "`noise`",
            format!("shape {want:?}: x_T and {steps} noises for {count} images"),
            format!("{:?}", noise.shape()),
            "",
        ))
    }

    /// x_T of the images from `first` on, \[n, h, w, c\], each of `len` numbers.
    pub(super) fn start<T: Real>(&self, first: usize, len: usize, out: &mut [T]) {
        self.fill(0, Stream::SampleStart, 0, first, len, out);
    }

    /// The noise of the k-th step, counted from 0, which starts at timestep t.
    pub(super) fn step<T: Real>(&self, k: usize, t: Timestep, first: usize, len: usize, out: &mut [T]) {
        self.fill(k + 1, Stream::SampleNoise, t.get() as u64, first, len, out);
    }

    fn fill<T: Real>(&self, k: usize, stream: Stream, step: u64, first: usize, len: usize, out: &mut [T]) {
        for (i, out) in out.chunks_exact_mut(len).enumerate() {
            match self {
                Noise::Seed(seed) => fill_normal(&mut rng(*seed, stream, step, (first + i) as u64), out),
                Noise::Array(noise) => {
                    let image = noise.index_axis(Axis(0), k);
                    let pixels = image.index_axis(Axis(0), first + i).permuted_axes([1, 2, 0]);
                    out.iter_mut().zip(pixels.iter()).for_each(|(out, z)| *out = T::of(f64::from(*z)));
                }
            }
        }
    }
}
