//! A training step's x_t and loss as ONNX operators, from numbers of every timestep.

use crate::config::{DiffusionConfig, Prediction};
use crate::equations::objective::{Objective, o01_target};
use crate::equations::{Level, Schedule};
use performer_ddpm_onnx as onnx;
use performer_ddpm_onnx::builder::{GraphBuilder, Reduction, Value};

/// The numbers of every t.
pub(super) struct Tables<'a> {
    pub(super) schedule: &'a Schedule,
    pub(super) objective: &'a Objective,
    pub(super) diffusion: &'a DiffusionConfig,
    /// The elements of an image.
    pub(super) len: usize,
}

impl Tables<'_> {
    /// A number of each image's t, \[N, 1, 1, 1\].
    pub(super) fn at(
        &self,
        g: &mut GraphBuilder,
        t: Value,
        of: impl Fn(&Level) -> f64,
    ) -> onnx::Result<Value> {
        let table: Vec<f32> = self.schedule.levels().iter().map(|level| of(level) as f32).collect();
        let table = g.constant_f32(&[table.len(), 1, 1, 1], &table)?;
        g.gather(table, 0, t)
    }

    /// (3).
    pub(super) fn noised(
        &self,
        g: &mut GraphBuilder,
        x_0: Value,
        eps: Value,
        t: Value,
    ) -> onnx::Result<Value> {
        self.mixed(g, [x_0, eps], t, |alpha_bar| [alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()])
    }

    /// c_0 x_0 + c_1 eps with the two numbers of each image's abar_t.
    fn mixed(
        &self,
        g: &mut GraphBuilder,
        [x_0, eps]: [Value; 2],
        t: Value,
        of: impl Fn(f64) -> [f64; 2],
    ) -> onnx::Result<Value> {
        let of_x_0 = self.at(g, t, |level| of(level.alpha_bar)[0])?;
        let of_eps = self.at(g, t, |level| of(level.alpha_bar)[1])?;
        let (signal, noise) = (g.mul(of_x_0, x_0)?, g.mul(of_eps, eps)?);
        g.add(signal, noise)
    }

    /// (O1).
    pub(super) fn target(
        &self,
        g: &mut GraphBuilder,
        x_0: Value,
        eps: Value,
        t: Value,
    ) -> onnx::Result<Value> {
        let prediction = self.diffusion.prediction;
        match prediction {
            Prediction::Epsilon => Ok(eps),
            Prediction::Sample => Ok(x_0),
            Prediction::VPrediction => {
                self.mixed(g, [x_0, eps], t, |alpha_bar| o01_target(prediction, alpha_bar))
            }
        }
    }

    /// The number of images \[1\].
    pub(super) fn images(&self, g: &mut GraphBuilder, t: Value) -> onnx::Result<Value> {
        // As many ones as the batch has images: their number without leaving the device for a shape.
        let ones = self.at(g, t, |_| 1.0)?;
        g.reduce(Reduction::Sum, ones, &[0, 2, 3], false)
    }

    /// The loss \[1\] of a prediction that is `off` its target, and its gradient in the prediction.
    pub(super) fn loss(&self, g: &mut GraphBuilder, off: Value, t: Value) -> onnx::Result<(Value, Value)> {
        let squares = g.mul(off, off)?;
        let means = g.reduce(Reduction::Mean, squares, &[1, 2, 3], true)?;
        let weight = self.at(g, t, |level| self.objective.weight(level.t.index()))?;
        let weighted = g.mul(means, weight)?;
        let loss = g.reduce(Reduction::Mean, weighted, &[0, 2, 3], false)?;
        let images = self.images(g, t)?;
        let slope = self.at(g, t, |level| 2.0 * self.objective.weight(level.t.index()) / self.len as f64)?;
        let slope = g.div(slope, images)?;
        Ok((loss, g.mul(off, slope)?))
    }
}
