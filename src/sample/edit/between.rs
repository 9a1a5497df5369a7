//! Ways from one image to another, and the x_t of a given image.

use super::Editor;
use crate::equations::Timestep;
use crate::equations::edit::u01_slerp;
use crate::error::{Error, Result};
use crate::real::Real;
use ndarray::{Array4, ArrayView3, ArrayView4, Axis};

impl<T: Real> Editor<'_, T> {
    /// The x_t of given images \[n, h, w, c\] by DDIM run upwards, (S13), over the levels of the sampler's
    /// steps from t on: what [`Editor::denoise`] leads back from to about the same images, by a sampler that
    /// adds no noise and clips nothing. The more steps, the less they differ.
    ///
    /// # Errors
    /// As [`Editor::denoise`].
    pub fn encode(&mut self, images: ArrayView4<T>, t: Timestep) -> Result<Array4<T>> {
        self.check("the images", images)?;
        let down = self.options.process_from(self.schedule, Some(t))?;
        let mut x = images.as_standard_layout().into_owned();
        self.take(&down.upwards(self.prediction()), &mut x)?;
        Ok(x)
    }

    /// Images on the way between the two that `ends`, both x_t, lead to, as many as the options count: x_t by
    /// spherical interpolation (U1) at evenly spaced shares, then the sampler's steps from t on. The first
    /// and the last are what [`Editor::denoise`] makes of the ends. The ends are [encoded](Editor::encode)
    /// images, or x_T of two samples, [`Editor::start`].
    ///
    /// # Errors
    /// As [`Editor::denoise`], and [`Error::Invalid`] for fewer than two images and for a sampler that adds
    /// noise, which would be another for each of them.
    pub fn interpolate(&mut self, ends: [ArrayView3<T>; 2], t: Timestep) -> Result<Array4<T>> {
        for end in ends {
            self.check("an end of the interpolation", end.insert_axis(Axis(0)))?;
        }
        let count = self.options.count;
        if count < 2 {
            let help = "both ends are among them";
            return Err(Error::invalid("`SampleOptions::count`", "at least 2", count.to_string(), help));
        }
        if self.options.process_from(self.schedule, Some(t))?.adds_noise() {
            return Err(Error::invalid(
                "the sampler of an interpolation",
                "one that adds no noise: DDIM with eta 0, DPM-Solver++ or UniPC",
                format!("{:?}", self.options.sampler),
                "its noise would be another for each image",
            ));
        }
        let ends = ends.map(|end| end.iter().copied().collect::<Vec<T>>());
        let mut x = self.starts()?;
        for (i, mut x) in x.outer_iter_mut().enumerate() {
            let x = x.as_slice_mut().expect("an image in order");
            u01_slerp(&ends[0], &ends[1], i as f64 / (count - 1) as f64, x);
        }
        self.denoise(x.view(), t)
    }
}
