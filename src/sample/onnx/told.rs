//! What a graph is told of a batch beside x_t and t: the images' classes, and how far to lead towards them.

use crate::equations::Timestep;
use crate::equations::solver::Step;
use crate::error::{Error, Result};
use crate::sample::{Conditions, Passes};
use performer_ddpm_onnx::Tensor;

/// The inputs of a graph for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Takes {
    /// `y`, the images' classes.
    pub(super) classes: bool,
    /// `guidance`, w and phi of a step.
    pub(super) guidance: bool,
}

/// What is told of a batch of `n` images, those with which it is filled up included.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) conditions: &'a Conditions<'a>,
    pub(super) takes: Takes,
    pub(super) n: usize,
}

impl Told<'_> {
    /// The classes, or for each the null class.
    pub(super) fn classes(&self, passes: Passes) -> Result<Tensor> {
        let null = self.conditions.null.filter(|_| passes == Passes::Null);
        let class = |image| null.or(self.conditions.classes.get(image).copied()).unwrap_or(0) as i64;
        Ok(Tensor::i64([self.n], (0..self.n).map(class).collect::<Vec<i64>>())?)
    }

    /// Whether the inputs may be others at another step.
    pub(super) fn changes(&self) -> bool {
        self.takes.classes && self.conditions.guidance.is_some()
    }

    /// The inputs for one step.
    ///
    /// # Errors
    /// [`Error::Invalid`] for guidance by a graph that has none.
    pub(super) fn of_step(&self, t: Timestep) -> Result<Vec<(&'static str, Tensor)>> {
        let passes = self.conditions.passes(t);
        let mut inputs = Vec::new();
        if self.takes.guidance {
            // The null class is then a class like any other, and a learned variance is the one for it.
            let alone = if passes == Passes::Null { Passes::Class } else { passes };
            inputs.push(("y", self.classes(passes)?));
            inputs.push(("guidance", Tensor::f32([2], self.numbers(alone))?));
        } else if passes == Passes::Both {
            return Err(self.unguided());
        } else if self.takes.classes {
            inputs.push(("y", self.classes(passes)?));
        }
        Ok(inputs)
    }

    /// The inputs for a run of so many of these steps.
    ///
    /// # Errors
    /// [`Error::Invalid`] for guidance by a graph that has none.
    pub(super) fn of_run(&self, steps: &[Step], per_run: usize) -> Result<Vec<(&'static str, Tensor)>> {
        let passes: Vec<Passes> = steps.iter().map(|step| self.conditions.passes(step.t)).collect();
        let mut inputs = Vec::new();
        let is_null = passes.iter().all(|passes| *passes == Passes::Null);
        if self.takes.guidance {
            // As in one step; where only some steps of a run are the null class's, their numbers say so.
            let y = if is_null { Passes::Null } else { Passes::Class };
            inputs.push(("y", self.classes(y)?));
            let alone = |passes: Passes| if is_null { Passes::Class } else { passes };
            let mut numbers: Vec<f32> =
                passes.iter().flat_map(|passes| self.numbers(alone(*passes))).collect();
            numbers.resize(2 * per_run, 0.0);
            inputs.push(("guidance", Tensor::f32([per_run, 2], numbers)?));
        } else if passes.contains(&Passes::Both) || passes.iter().any(|other| *other != passes[0]) {
            return Err(self.unguided());
        } else if self.takes.classes {
            inputs.push(("y", self.classes(passes.first().copied().unwrap_or(Passes::Class))?));
        }
        Ok(inputs)
    }

    /// w and phi with which a guided graph makes these passes.
    fn numbers(&self, passes: Passes) -> [f32; 2] {
        let guidance = self.conditions.guidance;
        match passes {
            Passes::Class => [1.0, 0.0],
            Passes::Null => [0.0, 0.0],
            Passes::Both => [guidance.weight as f32, guidance.rescale as f32],
        }
    }

    fn unguided(&self) -> Error {
        Error::invalid(
            "`Guidance::weight`",
            "1 for a graph without guidance",
            self.conditions.guidance.weight.to_string(),
            "export the graph with `Source::guided`, or let the host take the steps: the denoiser graph",
        )
    }
}
