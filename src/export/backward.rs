//! The network's backward pass as ONNX operators: the engine's reverse sweep, one exhaustive match over
//! [`Op`], so that an operation without a gradient does not compile.
//!
//! Each operation's gradient is derived beside the engine's own, in the files of [`crate::nn`].

mod activation;
mod attention;
mod conv;
mod norm;

use super::network::{Condition, Network, Saved, Tape};
use crate::error::Result;
use crate::model::graph::{Node, Op, ValueId};
use crate::model::params::ParamId;
use crate::nn::Window;
use performer_ddpm_onnx as onnx;
use performer_ddpm_onnx::builder::{Binary, GraphBuilder, Reduction, Value};

/// The gradients so far.
struct Gradients {
    /// In the network's values; `None` where there is none yet.
    values: Vec<Option<Value>>,
    /// In its parameters.
    params: Vec<Option<Value>>,
    /// Whether a value depends on a parameter. Others need no gradient.
    wanted: Vec<bool>,
}

impl Gradients {
    fn of(network: &Network) -> Gradients {
        let graph = network.graph;
        let mut wanted = vec![false; graph.values.len()];
        for node in &graph.nodes {
            let depends = node.op.params().is_some() || node.inputs.iter().any(|input| wanted[input.0]);
            wanted[node.output.0] = depends;
        }
        Gradients {
            values: vec![None; graph.values.len()],
            params: vec![None; graph.params.iter().len()],
            wanted,
        }
    }

    fn wants(&self, value: ValueId) -> bool {
        self.wanted[value.0]
    }

    /// Adds to the gradient in a value.
    fn add(&mut self, g: &mut GraphBuilder, value: ValueId, gradient: Value) -> onnx::Result<()> {
        if self.wants(value) {
            let sum = match self.values[value.0] {
                None => gradient,
                Some(sum) => g.add(sum, gradient)?,
            };
            self.values[value.0] = Some(sum);
        }
        Ok(())
    }

    /// Sets the gradient in a parameter, which belongs to one node.
    fn set(&mut self, param: ParamId, gradient: Value) {
        self.params[param.0] = Some(gradient);
    }
}

/// Writes the gradients in a network's parameters, given that in its output \[N, C', H, W\]: one for each
/// parameter, in the table's order, with the elements in the file's order. `params` are the parameters'
/// values, and `masks` those that the [`Tape`] was recorded with.
pub(super) fn write(
    g: &mut GraphBuilder,
    network: &Network,
    params: &[Value],
    tape: &Tape,
    (condition, masks): (Condition, &[Option<Value>]),
    d_output: Value,
) -> Result<Vec<Value>> {
    let mut gradients = Gradients::of(network);
    gradients.values[network.graph.output.0] = Some(d_output);
    let walk = Walk { network, params, tape, condition, masks };
    for (node, saved) in network.graph.nodes.iter().zip(&tape.saved).rev() {
        // Nothing depends on the node, or it depends on no parameter.
        let Some(d_y) = gradients.values[node.output.0] else { continue };
        let scope = format!("backward/{}", node.name);
        g.within(&scope, "the loss's gradient", |g| walk.node(g, node, saved, d_y, &mut gradients))?;
    }
    let names = network.graph.params.iter();
    names
        .zip(gradients.params)
        .map(|(param, gradient)| {
            gradient.ok_or_else(|| {
                let got = "one that the output does not depend on";
                crate::Error::invalid(&param.name, "a parameter of the output", got, "")
            })
        })
        .collect()
}

/// What every step of the walk reads.
struct Walk<'a> {
    network: &'a Network<'a>,
    params: &'a [Value],
    tape: &'a Tape,
    condition: Condition,
    masks: &'a [Option<Value>],
}

impl Walk<'_> {
    fn node(
        &self,
        g: &mut GraphBuilder,
        node: &Node,
        saved: &Saved,
        d_y: Value,
        gradients: &mut Gradients,
    ) -> onnx::Result<()> {
        let graph = self.network.graph;
        let input = |k: usize| self.tape.values[node.inputs[k].0];
        let output = self.tape.values[node.output.0];
        let shape = |k: usize| graph.shape(node.inputs[k]);
        match node.op {
            Op::TimeEmbedding { .. } => Ok(()),
            Op::ClassEmbedding { weight } => {
                let rows = graph.params.get(weight).kind.file_shape()[0];
                let y = self.condition.y.ok_or_else(|| {
                    onnx::Error::invalid("the classes", "an input y", "none", "this network takes classes")
                })?;
                let d_table = class_embedding(g, rows, y, d_y)?;
                gradients.set(weight, d_table);
                Ok(())
            }
            Op::Center => {
                let two = g.scalar(2.0)?;
                let d_x = g.mul(d_y, two)?;
                gradients.add(g, node.inputs[0], d_x)
            }
            Op::Conv { weight, bias, kernel, stride, pad_before, pad_after } => {
                let window = Window { kernel, stride, pad_before, pad_after };
                let d_weight = conv::weight_gradient(g, input(0), d_y, &window)?;
                gradients.set(weight, d_weight);
                gradients.set(bias, channel_sums(g, d_y)?);
                if gradients.wants(node.inputs[0]) {
                    let d_x = conv::input_gradient(g, d_y, self.params[weight.0], &window, shape(0))?;
                    gradients.add(g, node.inputs[0], d_x)?;
                }
                Ok(())
            }
            Op::Linear { weight, bias } => {
                let w = self.params[weight.0];
                let is_vector = g.shape(d_y)?.rank() == 2;
                let (d_weight, d_bias) = if is_vector {
                    let columns = g.transpose(d_y, &[1, 0])?;
                    (g.matmul(columns, input(0))?, g.reduce(Reduction::Sum, d_y, &[0], false)?)
                } else {
                    (conv::weight_gradient(g, input(0), d_y, &conv::POINT)?, channel_sums(g, d_y)?)
                };
                gradients.set(weight, d_weight);
                gradients.set(bias, d_bias);
                if gradients.wants(node.inputs[0]) {
                    let d_x = if is_vector {
                        g.matmul(d_y, w)?
                    } else {
                        let is_kernel = g.shape(w)?.rank() == 4;
                        let kernel = if is_kernel { w } else { g.unsqueeze(w, &[2, 3])? };
                        conv::input_gradient(g, d_y, kernel, &conv::POINT, shape(0))?
                    };
                    gradients.add(g, node.inputs[0], d_x)?;
                }
                Ok(())
            }
            Op::GroupNorm { weight, bias, groups, .. } => {
                let Saved::GroupNorm { parts, gate } = saved else { return Err(lost(node)) };
                let d_z = match gate {
                    None => d_y,
                    Some(gate) => activation::silu(g, *gate, output, d_y)?,
                };
                let d = norm::backward(g, parts, groups, self.params[weight.0], d_z)?;
                gradients.set(weight, d.scale);
                gradients.set(bias, d.shift);
                gradients.add(g, node.inputs[0], d.x)
            }
            Op::Activate { function } => {
                let d_x = match saved {
                    Saved::Gate(gate) => activation::silu(g, *gate, output, d_y)?,
                    _ => activation::backward(g, function, input(0), d_y)?,
                };
                gradients.add(g, node.inputs[0], d_x)
            }
            Op::AddChannels => {
                let d_v = g.reduce(Reduction::Sum, d_y, &[2, 3], false)?;
                gradients.add(g, node.inputs[1], d_v)?;
                gradients.add(g, node.inputs[0], d_y)
            }
            Op::ScaleShift => {
                let c = shape(0).c;
                let scale = g.split(input(1), 1, &[c, c])?[0];
                let scale = g.unsqueeze(scale, &[2, 3])?;
                let one = g.scalar(1.0)?;
                let scale = g.add(scale, one)?;
                let d_x = g.mul(d_y, scale)?;
                let product = g.mul(d_y, input(0))?;
                let d_scale = g.reduce(Reduction::Sum, product, &[2, 3], false)?;
                let d_shift = g.reduce(Reduction::Sum, d_y, &[2, 3], false)?;
                let d_v = g.concat(1, &[d_scale, d_shift])?;
                gradients.add(g, node.inputs[0], d_x)?;
                gradients.add(g, node.inputs[1], d_v)
            }
            Op::Add { scale } => {
                let d = if scale == 1.0 {
                    d_y
                } else {
                    let scale = g.scalar(scale as f32)?;
                    g.mul(d_y, scale)?
                };
                gradients.add(g, node.inputs[0], d)?;
                gradients.add(g, node.inputs[1], d)
            }
            Op::Concat => {
                let parts = g.split(d_y, 1, &[shape(0).c, shape(1).c])?;
                gradients.add(g, node.inputs[0], parts[0])?;
                gradients.add(g, node.inputs[1], parts[1])
            }
            Op::Upsample => {
                // The sum over the four copies of a pixel.
                let (mean, four) = (g.average_pool(d_y, 2)?, g.scalar(4.0)?);
                let d_x = g.mul(mean, four)?;
                gradients.add(g, node.inputs[0], d_x)
            }
            Op::AveragePool => {
                let quarter = g.scalar(0.25)?;
                let shares = g.mul(d_y, quarter)?;
                let d_x = g.upsample_nearest(shares, 2)?;
                gradients.add(g, node.inputs[0], d_x)
            }
            Op::Dropout { index, .. } => {
                let d_x = match self.masks.get(index).copied().flatten() {
                    None => d_y,
                    Some(mask) => g.mul(d_y, mask)?,
                };
                gradients.add(g, node.inputs[0], d_x)
            }
            Op::Attention { .. } => {
                let Saved::Attention(saved) = saved else { return Err(lost(node)) };
                let d_inputs = attention::backward(g, saved, d_y)?;
                for (value, d) in node.inputs.iter().zip(d_inputs) {
                    gradients.add(g, *value, d)?;
                }
                Ok(())
            }
        }
    }
}

/// The forward pass was not recorded for training.
fn lost(node: &Node) -> onnx::Error {
    onnx::Error::invalid(&node.name, "what its forward pass saved", "nothing", "")
}

/// The sum over images and pixels \[C\] of an image's gradient: that in a bias.
fn channel_sums(g: &mut GraphBuilder, d_y: Value) -> onnx::Result<Value> {
    let of_images = g.reduce(Reduction::Sum, d_y, &[2, 3], false)?;
    g.reduce(Reduction::Sum, of_images, &[0], false)
}

/// The gradient \[rows, dim\] in a table whose rows y \[N\] were taken: a product with the rows' indicators.
fn class_embedding(g: &mut GraphBuilder, rows: usize, y: Value, d_y: Value) -> onnx::Result<Value> {
    let all = g.constant_i64(&[rows, 1], &(0..rows as i64).collect::<Vec<_>>())?;
    let y = g.unsqueeze(y, &[0])?;
    let is_row = g.binary(Binary::Equal, all, y)?;
    let indicators = g.cast(is_row, onnx::ElementType::F32)?;
    g.matmul(indicators, d_y)
}
