//! What the page is told.

use performer_ddpm::equations::solver::{Limit, NoiseScale, Step};
use serde::Serialize;

/// A message; some have numbers beside them.
#[derive(Debug, Serialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Told {
    /// A model is ready.
    Loaded(Box<Model>),
    /// A step is about to be taken. Beside it: x_t of all images \[n, h, w, c\], then the x_0 that is predicted
    /// from it.
    Step(Box<Moment>),
    /// The images are there: beside it, \[n, h, w, c\].
    Done {
        /// Their number.
        count: usize,
    },
    /// What was asked for cannot be done.
    Error {
        /// Why.
        message: String,
    },
}

impl Told {
    /// A refusal.
    pub fn error(message: &str) -> Told {
        Told::Error { message: message.to_owned() }
    }

    /// The message as JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|e| format!(r#"{{"told":"error","message":"{e}"}}"#))
    }
}

/// What is known of a model.
#[derive(Debug, Serialize)]
pub struct Model {
    /// Height, width and channels.
    pub image: [usize; 3],
    /// T.
    pub timesteps: usize,
    /// The names of its classes.
    pub classes: Vec<String>,
    /// Whether it can be guided.
    pub guidable: bool,
    /// The parameters.
    pub parameters: usize,
    /// Its attention, by the name on the command line.
    pub attention: &'static str,
    /// The attention that can take its place with the same weights; `None` where it has none.
    pub exchanged: Option<&'static str>,
    /// m of FAVOR+.
    pub features: usize,
    /// Whether the sampler's kind of prediction is of the noise.
    pub prediction: &'static str,
    /// The sampler that it is sampled by where nothing else is said.
    pub sampler: &'static str,
    /// That sampler's steps.
    pub steps: usize,
    /// The instruction set of the kernels.
    pub isa: &'static str,
    /// What the user should know.
    pub note: Option<String>,
}

/// A step with its numbers, those of (S1) to (S4).
#[derive(Debug, Serialize)]
pub struct Moment {
    /// The step, from 1, of the network's calls in all.
    pub call: usize,
    /// The calls in all.
    pub calls: usize,
    /// The step of the sampler, from 1.
    pub step: usize,
    /// The sampler's steps.
    pub steps: usize,
    /// The sampler's name.
    pub sampler: &'static str,
    /// The timestep.
    pub t: usize,
    /// abar_t.
    pub alpha_bar: f64,
    /// abar where the step leads.
    pub alpha_bar_next: f64,
    /// a_x, a_m of the predicted x_0.
    pub x0: [f64; 2],
    /// The bound that x_0 is clipped to, if it is.
    pub clip: Option<f64>,
    /// Dynamic thresholding: the ratio and the largest s.
    pub threshold: Option<[f64; 2]>,
    /// c of the correction, if there is one.
    pub correct: Option<[f64; 5]>,
    /// b_x.
    pub base: f64,
    /// b_m.
    pub output: f64,
    /// b_0, b_1, b_2.
    pub from_x0: [f64; 3],
    /// sigma; `None` where the network says it.
    pub sigma: Option<f64>,
    /// eta, where the sampler has it.
    pub eta: Option<f64>,
}

impl Moment {
    /// The numbers of a step between two levels; what counts the calls is left at 0.
    pub fn new(step: &Step, [alpha_bar, alpha_bar_next]: [f64; 2], x0: [f64; 2], limit: Limit) -> Moment {
        let (clip, threshold) = match limit {
            Limit::Off => (None, None),
            Limit::Clip { range } => (Some(range), None),
            Limit::Threshold { ratio, max } => (None, Some([ratio, max])),
        };
        let sigma = match step.noise {
            NoiseScale::None => Some(0.0),
            NoiseScale::Sigma(sigma) => Some(sigma),
            NoiseScale::LearnedRange { .. } | NoiseScale::Learned => None,
        };
        Moment {
            call: 0,
            calls: 0,
            step: 0,
            steps: 0,
            sampler: "",
            t: step.t.get(),
            alpha_bar,
            alpha_bar_next,
            x0,
            clip,
            threshold,
            correct: step.correct,
            base: step.next.base,
            output: step.next.output,
            from_x0: step.next.x0,
            sigma,
            eta: None,
        }
    }
}
