//! A training step's loss and gradients against the engine's.

use super::{BATCH, Case, Named, Reference, Want, channels_last, conditions, largest};
use crate::equations::Schedule;
use crate::equations::forward::eq03_q_sample;
use crate::equations::objective::Objective;
use crate::error::{Error, Result};
use crate::export::source::Source;
use crate::export::train_step::{ROW, States, TrainStep};
use crate::model::Gradient;
use crate::model::graph::Op;
use performer_ddpm_onnx::Tensor;

/// The largest difference allowed of a gradient, relative to the largest in its parameter: `f32` rounding
/// through both passes, some hundred layers, and sums over all images and pixels.
const GRADIENT_BOUND: f64 = 5e-5;

/// A parameter's gradient counts as at least this share of the largest of all parameters: that in a bias of
/// softmax attention's keys is 0 but for rounding.
const LEAST: f64 = 1e-3;

impl Reference {
    /// The first step from moments of 0, in which each parameter's first moment becomes 1 - beta1 times its
    /// clipped gradient, or 1 - momentum times where Muon has it: batches of 3 and of 1, nothing dropped out. `progress` gets the share of images
    /// done.
    pub(super) fn train_step(
        &mut self,
        source: Source,
        schedule: &Schedule,
        step: &TrainStep,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Vec<Case>> {
        let objective = Objective::new(source.diffusion, step.loss_weight, schedule);
        let total = schedule.steps();
        let indices = [total - 1, 0, total / 2];
        let mut cases = Vec::new();
        for (n, done) in [(BATCH, BATCH), (1, BATCH + 1)] {
            cases.push(self.first_step(source, &objective, schedule, step, &indices[..n])?);
            progress(done as f64 / (BATCH + 1) as f64);
        }
        Ok(cases)
    }

    fn first_step(
        &mut self,
        source: Source,
        objective: &Objective,
        schedule: &Schedule,
        step: &TrainStep,
        indices: &[usize],
    ) -> Result<Case> {
        let n = indices.len();
        let (x_0, eps) = (self.normal(200, n), self.normal(201, n));
        let (wide_x_0, wide_eps) = (channels_last(&x_0, self.shape), channels_last(&eps, self.shape));
        let len = self.shape.len();
        let conditions = conditions(self.model.graph.classes(), indices);
        let example = |image: usize, x_t: &mut [f64], notes: &mut [f64]| {
            let part = image * len..(image + 1) * len;
            let level = &schedule.levels()[indices[image]];
            notes[..len].copy_from_slice(&wide_eps[part.clone()]);
            eq03_q_sample(&wide_x_0[part.clone()], &wide_eps[part.clone()], level.alpha_bar, x_t);
            objective.prepare(level, &wide_x_0[part], x_t, notes);
            conditions[image]
        };
        let mut gradient = Gradient::default();
        self.engine.gradient_of(objective, &self.model, n, &example, None, &mut gradient)?;
        let norm = gradient.weights.iter().map(|g| g * g).sum::<f64>().sqrt();
        if !(gradient.loss.is_finite() && norm.is_finite()) {
            return Err(Error::NotFinite {
                what: "the loss or the gradient for random numbers".to_owned(),
                step: 1,
                help: "the weights are damaged or training diverged".to_owned(),
            });
        }
        let graph = self.model.graph.clone();
        let t: Vec<i64> = indices.iter().map(|t| *t as i64).collect();
        let mut inputs: Vec<Named> = vec![
            ("x_0".into(), self.tensor(n, &x_0)?),
            ("eps".into(), self.tensor(n, &eps)?),
            ("t".into(), Tensor::i64([n], t)?),
            ("lr".into(), Tensor::f32([1], [1e-3])?),
            ("step".into(), Tensor::i64([1], [1])?),
        ];
        inputs.extend(self.classes(n)?);
        for node in &graph.nodes {
            if let Op::Dropout { p, index } = node.op
                && p > 0.0
            {
                let shape = graph.shape(node.output);
                let mask = Tensor::f32([n, shape.c, shape.h, shape.w], vec![1.0; n * shape.len()])?;
                inputs.push((format!("dropout.{index}").into(), mask));
            }
        }
        let all = |source: &[f32]| -> Vec<f32> {
            let in_files = graph.params.iter().map(|param| param.kind.to_file_layout(&source[param.range()]));
            in_files.flatten().collect()
        };
        let (w, zeros) = (all(&source.model.weights), vec![0.0; graph.params.total()]);
        for (state, values) in [("w", &w), ("m", &zeros), ("v", &zeros), ("ema", &w)] {
            if step.states == States::Rows {
                let mut rows = Vec::new();
                for param in graph.params.iter() {
                    rows.extend_from_slice(&values[param.range()]);
                    rows.resize(rows.len().next_multiple_of(ROW), 0.0);
                }
                inputs.push((state.into(), Tensor::f32([rows.len() / ROW, ROW], rows)?));
                continue;
            }
            for param in graph.params.iter() {
                let tensor = Tensor::f32(param.kind.file_shape(), &values[param.range()])?;
                inputs.push((format!("{state}.{}", param.name).into(), tensor));
            }
        }

        let clip = if step.clip_norm == 0.0 { 1.0 } else { (step.clip_norm / (norm + 1e-6)).min(1.0) };
        let mut moments: Vec<f64> = gradient.weights.iter().map(|g| clip * g).collect();
        for param in graph.params.iter() {
            let decay = match step.muon {
                Some(muon) if param.is_inner_matrix() => muon.momentum,
                _ => step.beta1,
            };
            moments[param.range()].iter_mut().for_each(|m| *m *= 1.0 - decay);
        }
        let least = LEAST * largest(&moments);
        let number = |x: f64| Some(Want { values: vec![x], scale: x.abs() });
        let mut want = vec![number(gradient.loss), number(norm)];
        let of_params = graph.params.iter().map(|param| {
            let values = param.kind.to_file_layout(&moments[param.range()]);
            let scale = largest(&values).max(least);
            Want { values, scale }
        });
        match step.states {
            States::Rows => {
                // The scales differ from parameter to parameter, so each is brought to its own.
                let mut values = Vec::new();
                for want in of_params {
                    values.extend(want.values);
                    values.resize(values.len().next_multiple_of(ROW), 0.0);
                }
                let scale = largest(&values);
                want.extend([None, Some(Want { values, scale })]);
            }
            States::PerParameter => {
                want.extend(graph.params.iter().map(|_| None));
                want.extend(of_params.map(Some));
            }
        }
        Ok(Case { inputs, continued: Vec::new(), carried: Vec::new(), want, bound: GRADIENT_BOUND })
    }
}
