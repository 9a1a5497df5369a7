//! The numbers of a network in training as the graph's states: the weights, Adam's moments and the average,
//! each one tensor with every parameter in the files' layout.

use crate::error::Result;
use crate::export::ROW;
use crate::model::graph::Graph;
use crate::model::params::Param;
use crate::train::optimizer::Adam;
use crate::train::trainer::Progress;
use performer_ddpm_onnx::Tensor;
use performer_ddpm_onnx::runner::StepLoop;
use rayon::prelude::*;
use std::sync::Arc;

/// Each state's input and output.
pub(super) const STATES: [(&str, &str); 4] =
    [("w", "w.next"), ("m", "m.next"), ("v", "v.next"), ("ema", "ema.next")];
/// The input of the first moment, which is linear in the gradients.
pub(super) const MOMENT: &str = "m";
/// The input of the average.
pub(super) const AVERAGE: &str = "ema";

/// How a graph has a network's parameters in each state: in rows, of which each parameter has its own and
/// fills up the last with zeros.
#[derive(Clone, Debug)]
pub(super) struct Layout(Arc<Graph>);

impl Layout {
    /// Of this network.
    pub(super) fn new(graph: &Arc<Graph>) -> Layout {
        Layout(graph.clone())
    }

    /// The first states of a loop that goes on from there, in the order of [`STATES`].
    ///
    /// # Errors
    /// None for vectors as long as the network's.
    pub(super) fn first(&self, progress: &Progress<f32>) -> Result<[Tensor; 4]> {
        let Progress { weights, average, adam, .. } = progress;
        let enter = |inside: &[f32]| -> Result<Tensor> {
            let part = |param: &Param| {
                let mut part = param.kind.to_file_layout(&inside[param.range()]);
                part.resize(padded(param), 0.0);
                part
            };
            let params: Vec<&Param> = self.0.params.iter().collect();
            let parts: Vec<Vec<f32>> = params.into_par_iter().map(part).collect();
            let rows = parts.concat();
            Ok(Tensor::f32([rows.len() / ROW, ROW], rows)?)
        };
        Ok([enter(weights)?, enter(&adam.first_moment)?, enter(&adam.second_moment)?, enter(average)?])
    }

    /// A state of a loop in the engine's layout.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(super) fn read(&self, turns: &mut dyn StepLoop, input: &str) -> Result<Vec<f32>> {
        let state = turns.state(input)?.into_f32()?;
        let mut rest = &state[..];
        let mut parts = Vec::new();
        for param in self.0.params.iter() {
            let (part, after) = rest.split_at(padded(param));
            parts.push((param, part));
            rest = after;
        }
        let inside = |(param, part): (&Param, &[f32])| param.kind.from_file_layout(part);
        Ok(parts.into_par_iter().map(inside).collect::<Vec<_>>().concat())
    }

    /// All of it, after so many steps.
    ///
    /// # Errors
    /// As [`Layout::read`].
    pub(super) fn progress(
        &self,
        turns: &mut dyn StepLoop,
        step: u64,
        projections: Vec<Vec<f32>>,
    ) -> Result<Progress<f32>> {
        let [weights, first_moment, second_moment, average] =
            STATES.map(|(input, _)| self.read(turns, input));
        let adam = Adam { first_moment: first_moment?, second_moment: second_moment? };
        Ok(Progress { step, weights: weights?, average: average?, adam, projections })
    }
}

/// A parameter's numbers with those that fill up its last row.
fn padded(param: &Param) -> usize {
    param.kind.len().next_multiple_of(ROW)
}
