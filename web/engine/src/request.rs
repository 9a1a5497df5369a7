//! What the page asks for.

use performer_ddpm::sample::{Choice, ClipX0, Diffusion, Family, Guidance};
use performer_ddpm::{Result, SampleOptions};
use serde::Deserialize;

/// A request.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// Loads the files that were added.
    Load {},
    /// Samples images.
    Sample(Wishes),
    /// Paints a part of an image anew. The numbers beside it are the image \[h, w, c\] in [-1, 1] and then, for
    /// every pixel \[h, w\], 1 where it is to be painted and 0 where it stays.
    Inpaint {
        /// As for samples.
        #[serde(flatten)]
        wishes: Wishes,
        /// RePaint's stretches.
        jump: usize,
        /// How often each is gone down.
        times: usize,
    },
}

/// What is wanted of the images; what is left out is the model's own.
#[derive(Debug, Deserialize)]
pub struct Wishes {
    /// Whether the attention is exchanged: FAVOR+ for softmax, or softmax for FAVOR+.
    #[serde(default)]
    pub exchanged: bool,
    sampler: Option<Sampler>,
    steps: Option<usize>,
    eta: Option<f64>,
    clip: Option<bool>,
    count: usize,
    seed: u64,
    #[serde(default)]
    classes: Vec<usize>,
    guidance: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Sampler {
    #[serde(rename = "ddpm")]
    Ddpm,
    #[serde(rename = "ddim")]
    Ddim,
    #[serde(rename = "dpm++")]
    DpmSolver,
    #[serde(rename = "unipc")]
    UniPc,
}

impl Wishes {
    fn choice(&self) -> Choice {
        let family = self.sampler.map(|sampler| match sampler {
            Sampler::Ddpm => Family::Ddpm,
            Sampler::Ddim => Family::Ddim,
            Sampler::DpmSolver => Family::DpmSolver,
            Sampler::UniPc => Family::UniPc,
        });
        let clip = self.clip.map(|clips| if clips { ClipX0::KeepEps } else { ClipX0::Off });
        Choice { family, steps: self.steps, eta: self.eta, spacing: None, clip }
    }

    /// The options of sampling: those of the command line's `sample` with the same words.
    ///
    /// # Errors
    /// Those of [`Choice::options`].
    pub fn options(&self, diffusion: &Diffusion) -> Result<SampleOptions> {
        Ok(self.with_numbers(self.choice().options(diffusion)?))
    }

    /// The same for painting: those of `edit inpaint`.
    ///
    /// # Errors
    /// Those of [`Choice::options`].
    pub fn options_to_paint(&self, diffusion: &Diffusion) -> Result<SampleOptions> {
        Ok(self.with_numbers(self.choice().of_one_step(diffusion).options(diffusion)?))
    }

    fn with_numbers(&self, chosen: SampleOptions) -> SampleOptions {
        let guidance = self.guidance.map_or_else(Guidance::default, Guidance::weight);
        let (count, seed, classes) = (self.count, self.seed, self.classes.clone());
        SampleOptions { count, batch: count, seed, classes, guidance, ..chosen }
    }
}
