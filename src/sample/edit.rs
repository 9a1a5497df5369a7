//! Uses of a trained model on given images: variations, interpolation, inpainting, and the way from a given
//! x_t.

mod between;
mod inpaint;

pub use crate::equations::edit::Resampling;

use super::conditions::Turns;
use super::noise::Noise;
use super::{Denoiser, Process, SampleOptions, Sampler};
use crate::config::Prediction;
use crate::equations::forward::eq03_q_sample;
use crate::equations::{Schedule, Timestep};
use crate::error::{Error, Result};
use crate::machine;
use crate::real::Real;
use ndarray::{Array3, Array4, ArrayView3, ArrayView4};

/// A model that is used on given images, as [`SampleOptions`] say: [`Pipeline::edit`](super::Pipeline::edit).
///
/// Images are \[h, w, c\] or \[n, h, w, c\], nominally in [-1, 1]. What comes out is a function of the images
/// and the options' seed: the same bits for any number of threads and any batch. Every use follows the
/// options' sampler with its steps, its limits and its kind of prediction; where a use begins at a timestep t
/// below T, it takes the sampler's steps from t on.
///
/// ```no_run
/// use performer_ddpm::{Pipeline, SampleOptions};
/// # fn main() -> performer_ddpm::Result<()> {
/// # let image = ndarray::Array3::<f32>::zeros((28, 28, 1));
/// let mut pipeline = Pipeline::load("runs/latest")?;
/// let options = SampleOptions { count: 8, ..pipeline.options() };
/// // Eight images that share with the given one what noise up to t = 400 leaves of it.
/// let variations = pipeline.edit(&options)?.vary(image.view(), 400)?;
/// # Ok(())
/// # }
/// ```
pub struct Editor<'a, T> {
    denoiser: Box<dyn Denoiser<T> + 'a>,
    schedule: &'a Schedule,
    options: SampleOptions,
    observer: Box<dyn FnMut(EditProgress) + 'a>,
}

/// How far an edit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EditProgress {
    /// Steps taken, each of a batch.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
}

impl<'a, T: Real> Editor<'a, T> {
    /// A denoiser for a model trained with `schedule`, used as `options` say. Of a model with classes the
    /// options name those of the images; where they name none it is told the null class, which says nothing
    /// of an image.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a count or a batch of 0, and for a model with classes but without the null
    /// class where the options name none.
    pub fn new(
        denoiser: Box<dyn Denoiser<T> + 'a>,
        schedule: &'a Schedule,
        options: &SampleOptions,
    ) -> Result<Self> {
        options.check_numbers()?;
        let (known, mut options) = (denoiser.classes(), options.clone());
        if known.count > 0 && options.classes.is_empty() {
            let Some(null) = known.null else {
                let expected = format!("the images' classes, below {}", known.count);
                let help = "the model has no null class, which could stand for any";
                return Err(Error::invalid("`SampleOptions::classes`", expected, "none", help));
            };
            options.classes.push(null);
        }
        Ok(Editor { denoiser, schedule, options, observer: Box::new(|_| {}) })
    }

    /// The same with an observer, called after every step of a batch.
    #[must_use]
    pub fn watched(self, observer: impl FnMut(EditProgress) + 'a) -> Self {
        Editor { observer: Box::new(observer), ..self }
    }

    /// x_T of the image that sampling with these options gives as its i-th, counted from 0.
    pub fn start(&self, i: usize) -> Array3<T> {
        let [h, w, c] = self.denoiser.image();
        let mut x = Array3::from_elem((h, w, c), T::zero());
        let numbers = x.as_slice_mut().expect("an image in order");
        Noise::Seed(self.options.seed).start(i, numbers.len().max(1), numbers);
        x
    }

    /// x_T of as many images as the options count.
    fn starts(&self) -> Result<Array4<T>> {
        let [h, w, c] = self.denoiser.image();
        let n = self.options.count;
        let mut x = machine::filled("`SampleOptions::count`", &[n, h, w, c], T::zero())?;
        Noise::Seed(self.options.seed).start(0, (h * w * c).max(1), &mut x);
        Ok(Array4::from_shape_vec((n, h, w, c), x).expect("as many numbers as n images have"))
    }

    /// x_0 from x_t \[n, h, w, c\]: the sampler's steps from t on.
    ///
    /// # Errors
    /// [`Error::Invalid`] for images of another size, numbers that are not finite, and a t above T; those of
    /// [`Denoiser::denoise`].
    pub fn denoise(&mut self, x_t: ArrayView4<T>, t: Timestep) -> Result<Array4<T>> {
        self.check("x_t", x_t)?;
        let process = self.options.process_from(self.schedule, Some(t))?;
        let mut x = x_t.as_standard_layout().into_owned();
        self.take(&process, &mut x)?;
        Ok(x)
    }

    /// Variations of an image, as many as the options count: x_t by (3) with noise of its own for each, then
    /// the sampler's steps from t on. At t = 0 they are the image itself; at t = T they have little to do
    /// with it.
    ///
    /// # Errors
    /// As [`Editor::denoise`].
    pub fn vary(&mut self, image: ArrayView3<T>, t: usize) -> Result<Array4<T>> {
        self.check("the image", image.insert_axis(ndarray::Axis(0)))?;
        let mut x = self.starts()?;
        if t == 0 {
            x.outer_iter_mut().for_each(|mut x| x.assign(&image));
            return Ok(x);
        }
        let t = Timestep::new(t)?;
        let alpha_bar = self.schedule.at(t)?.alpha_bar;
        let image: Vec<T> = image.iter().copied().collect();
        for mut x in x.outer_iter_mut() {
            let x = x.as_slice_mut().expect("an image in order");
            let eps = x.to_vec();
            eq03_q_sample(&image, &eps, alpha_bar, x);
        }
        self.denoise(x.view(), t)
    }

    /// What the network predicts.
    fn prediction(&self) -> Prediction {
        match self.options.sampler {
            Sampler::Scheduler(scheduler) => scheduler.prediction,
            Sampler::Ddpm { .. } | Sampler::Ddim { .. } => Prediction::Epsilon,
        }
    }

    /// Takes all steps of a process for all images.
    fn take(&mut self, process: &Process, x: &mut Array4<T>) -> Result<()> {
        let Editor { denoiser, options, observer, schedule } = self;
        let turns = Turns::new(denoiser.classes(), options, schedule)?;
        let x = x.as_slice_mut().expect("images in order");
        super::denoise_batches(
            denoiser.as_mut(),
            (process, &turns),
            options,
            (Noise::Seed(options.seed), 0),
            x,
            |now| {
                let (done, total) = (now.batch * now.steps + now.step, now.batches * now.steps);
                observer(EditProgress { done, total });
            },
        )
    }

    /// Refuses images that the model cannot be given.
    fn check(&self, what: &str, images: ArrayView4<T>) -> Result<()> {
        let [h, w, c] = self.denoiser.image();
        if images.shape()[1..] != [h, w, c] || images.is_empty() {
            let [_, got_h, got_w, got_c] = images.dim().into();
            return Err(Error::invalid(
                what,
                format!("{h}x{w} with {c} channel(s), as the model has"),
                format!("{got_h}x{got_w} with {got_c}"),
                "resize or cut it",
            ));
        }
        match images.iter().find(|x| !x.is_finite()) {
            Some(x) => Err(Error::invalid(what, "finite numbers", x.to_string(), "")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
