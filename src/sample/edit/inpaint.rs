//! Inpainting: RePaint (Lugmayr et al. 2022) around any sampler.

use super::{EditProgress, Editor, Resampling};
use crate::equations::Timestep;
use crate::equations::edit::{Move, u02_put_back, u03_jump, u04_repaint};
use crate::error::{Error, Result};
use crate::real::Real;
use crate::rng::{Stream, fill_normal, rng};
use crate::sample::conditions::Turns;
use ndarray::{Array4, ArrayView2, ArrayView3, Axis};

/// The random numbers of one batch, in the order in which they are drawn.
struct Draws {
    seed: u64,
    /// The batch's first image.
    first: usize,
    /// Numbers of an image.
    len: usize,
    drawn: u64,
}

impl Draws {
    /// Fills \[n, h, w, c\] afresh; image i's numbers are a function of the seed, i and the draws before.
    fn fill<T: Real>(&mut self, out: &mut [T]) {
        for (i, out) in out.chunks_exact_mut(self.len).enumerate() {
            fill_normal(&mut rng(self.seed, Stream::Inpaint, self.drawn, (self.first + i) as u64), out);
        }
        self.drawn += 1;
    }
}

impl<T: Real> Editor<'_, T> {
    /// Paints a part of an image anew, as often as the options count. `paint` \[h, w\] says which pixels; all
    /// others come out exactly as they were.
    ///
    /// RePaint: after every step of the sampler the known pixels are drawn from q(x_t | x_0), (U2), and, so
    /// that what is painted comes to fit them, stretches of steps are gone down several times, (U3) and (U4).
    /// A multistep solver takes steps of first order, because the x of the steps before are no longer those
    /// that it made.
    ///
    /// # Errors
    /// As [`Editor::denoise`], and [`Error::Invalid`] for a mask of another size or without a pixel to paint,
    /// and for a resampling of 0.
    pub fn inpaint(
        &mut self,
        image: ArrayView3<T>,
        paint: ArrayView2<bool>,
        resampling: Resampling,
    ) -> Result<Array4<T>> {
        self.check("the image", image.insert_axis(Axis(0)))?;
        resampling.validate()?;
        let [h, w, c] = self.denoiser.image();
        if paint.dim() != (h, w) {
            let got = format!("{}x{}", paint.nrows(), paint.ncols());
            return Err(Error::invalid("the mask", format!("{h}x{w} pixels, as the image"), got, ""));
        }
        if !paint.iter().any(|paint| *paint) {
            return Err(Error::invalid("the mask", "at least one pixel to paint", "none", ""));
        }
        let process = self.options.clone().without_history().process_from(self.schedule, None)?;
        let (steps, alpha_bars) = (process.steps(), process.alpha_bars());
        let alone: Vec<_> = (0..steps).map(|k| process.step_alone(k)).collect();
        let known: Vec<bool> = paint.iter().map(|paint| !paint).collect();

        let turns = Turns::new(self.denoiser.classes(), &self.options, self.schedule)?;
        let mut images = self.starts()?;
        let x = images.as_slice_mut().expect("images in order");
        let len = h * w * c;
        let size = self.options.batch.min(self.options.count);
        // x_0 of a whole batch.
        let x0: Vec<T> = std::iter::repeat_n(image.iter().copied(), size).flatten().collect();
        let known = known.repeat(size);
        let mut progress = EditProgress {
            done: 0,
            total: resampling.calls(steps).saturating_mul(self.options.count.div_ceil(size)),
        };
        for (batch, x) in x.chunks_mut(size * len).enumerate() {
            let n = x.len() / len;
            let (x0, known) = (&x0[..x.len()], &known[..n * h * w]);
            let mut draws = Draws { seed: self.options.seed, first: batch * size, len, drawn: 0 };
            let conditions = turns.of(batch * size, n);
            let mut noise = vec![T::zero(); x.len()];
            let mut left = steps;
            for step in u04_repaint(steps, resampling) {
                draws.fill(&mut noise);
                match step {
                    Move::Up(jump) => {
                        let below = x.to_vec();
                        let levels = [alpha_bars[steps - left], alpha_bars[steps - left - jump]];
                        u03_jump(&below, &noise, levels, x);
                        left += jump;
                    }
                    Move::Down => {
                        let mut z = |_: usize, _: Timestep, out: &mut [T]| draws.fill(out);
                        self.denoiser.denoise(
                            &alone[steps - left],
                            &conditions,
                            x,
                            &mut z,
                            &mut |_, _| true,
                        )?;
                        left -= 1;
                        // The last step leads to x_0, or to what the sampler takes for it.
                        let alpha_bar = if left == 0 { 1.0 } else { alpha_bars[steps - left] };
                        u02_put_back(x0, known, c, &noise, alpha_bar, x);
                        progress.done += 1;
                        (self.observer)(progress);
                    }
                }
            }
        }
        Ok(images)
    }
}
