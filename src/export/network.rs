//! The network's graph as ONNX operators: the same walk as the engine's forward sweep, one exhaustive match
//! over [`Op`].
//!
//! Images are \[N, C, H, W\] throughout and vectors \[N, C\]. Weights have diffusers' names and the layout
//! that they have in model folders: \[c_out, c_in, k, k\] and \[c_out, c_in\]. They are stored in the file,
//! as initialisers, or given to the graph as values. What depends on stored weights alone (a transposed
//! weight, a scaled projection) is part of the graph, and a runtime computes it once when it loads the file.

use super::attention;
use super::source::Precision;
use crate::config::Activation;
use crate::error::Result;
use crate::model::graph::{Graph, Node, Op, Shape};
use crate::model::params::ParamId;
use crate::nn::time_embedding;
use performer_ddpm_onnx as onnx;
use performer_ddpm_onnx::builder::{ConvSpec, GraphBuilder, GroupNormParts, Unary, Value};
use performer_ddpm_onnx::{Dim, ElementType};

/// What the network is told of the images.
#[derive(Clone, Copy)]
pub(super) struct Condition {
    /// The timesteps' indices, integers \[N\].
    pub t: Value,
    /// The classes, integers \[N\], where the network takes them.
    pub y: Option<Value>,
}

/// The shape of a batch of images.
pub(super) fn images(shape: Shape) -> onnx::Shape {
    onnx::Shape(vec![Dim::from("N"), shape.c.into(), shape.h.into(), shape.w.into()])
}

/// Where a network's parameters are.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    /// In the file, as initialisers: these numbers, in the engine's layout.
    Stored(&'a [f32]),
    /// Values of the graph, in the order of the table and the file's layout.
    Given(&'a [Value]),
}

/// A network to be written into a graph.
#[derive(Clone, Copy)]
pub(super) struct Network<'a> {
    /// Its operations.
    pub graph: &'a Graph,
    /// Its parameters.
    pub weights: Weights<'a>,
    /// Its FAVOR+ projections, each \[m, d\].
    pub projections: &'a [Vec<f32>],
    /// T: t is an index from 0 to T - 1.
    pub timesteps: usize,
    /// In which numbers it computes.
    pub precision: Precision,
}

/// What a forward pass in training leaves for the backward pass.
pub(super) struct Tape {
    /// The network's values, in the order of its graph.
    pub values: Vec<Value>,
    /// What each of its nodes saved.
    pub saved: Vec<Saved>,
}

/// What the backward pass of a node reads beside its inputs, its output and its parameters.
pub(super) enum Saved {
    /// Nothing.
    Nothing,
    /// Of a group normalisation.
    GroupNorm {
        /// The normalised inputs and the groups' deviations.
        parts: GroupNormParts,
        /// sigmoid(z) of the SiLU that follows it.
        gate: Option<Value>,
    },
    /// Of an activation: sigmoid(x) of SiLU.
    Gate(Value),
    /// Of attention.
    Attention(attention::Saved),
}

/// What a forward pass is for.
#[derive(Clone, Copy)]
enum Pass<'a> {
    Inference,
    /// With the masks of the network's dropouts, in their order.
    Training(&'a [Option<Value>]),
}

impl Pass<'_> {
    fn mask(&self, index: usize) -> Option<Value> {
        match self {
            Pass::Inference => None,
            Pass::Training(masks) => masks.get(index).copied().flatten(),
        }
    }
}

impl Network<'_> {
    /// Writes the network into `g` and returns its output \[N, C', H, W\] for x \[N, C, H, W\], both in 32
    /// bits.
    pub fn write(&self, g: &mut GraphBuilder, x: Value, condition: Condition) -> Result<Value> {
        let tape = self.walk(g, x, condition, Pass::Inference)?;
        Ok(cast(g, tape.values[self.graph.output.0], ElementType::F32)?)
    }

    /// The type of the images between the layers. Vectors are of 32 bits, and so are the network's input and
    /// output.
    fn images(&self) -> ElementType {
        match self.precision {
            Precision::F32 | Precision::Bf16 => ElementType::F32,
            Precision::F16 => ElementType::F16,
        }
    }

    /// The same in training. `masks` are the factors \[N, C, H, W\] of the network's dropouts, in their
    /// order; `None` for one that drops nothing.
    pub fn record(
        &self,
        g: &mut GraphBuilder,
        x: Value,
        condition: Condition,
        masks: &[Option<Value>],
    ) -> Result<Tape> {
        self.walk(g, x, condition, Pass::Training(masks))
    }

    fn walk(&self, g: &mut GraphBuilder, x: Value, condition: Condition, pass: Pass) -> Result<Tape> {
        // Every value is written before it is read, so any value can fill the list at first.
        let mut values = vec![x; self.graph.values.len()];
        let mut saved = Vec::with_capacity(self.graph.nodes.len());
        for node in &self.graph.nodes {
            let inputs: Vec<Value> = node.inputs.iter().map(|input| values[input.0]).collect();
            let (output, kept) =
                g.within(&node.name, &self.doc(node), |g| self.node(g, node, &inputs, condition, pass))?;
            values[node.output.0] = output;
            saved.push(kept);
        }
        Ok(Tape { values, saved })
    }

    /// The input `y` of a network that takes classes.
    pub fn classes(&self, g: &mut GraphBuilder) -> Result<Option<Value>> {
        let takes_classes = self.graph.classes().is_some();
        Ok(takes_classes.then(|| g.input("y", ElementType::I64, [Dim::from("N")])).transpose()?)
    }

    fn node(
        &self,
        g: &mut GraphBuilder,
        node: &Node,
        inputs: &[Value],
        condition: Condition,
        pass: Pass,
    ) -> onnx::Result<(Value, Saved)> {
        let output = match node.op {
            Op::TimeEmbedding { flip_sin_to_cos, freq_shift } => {
                let dim = self.graph.shape(node.output).c;
                let mut table = vec![0f32; self.timesteps * dim];
                for (index, row) in table.chunks_exact_mut(dim).enumerate() {
                    time_embedding(index, flip_sin_to_cos, freq_shift, row);
                }
                let table = g.constant_f32(&[self.timesteps, dim], &table)?;
                g.gather(table, 0, condition.t)
            }
            Op::ClassEmbedding { weight } => {
                let table = self.param(g, weight)?;
                let y = condition.y.ok_or_else(|| {
                    let help = "this network takes classes";
                    onnx::Error::invalid("the classes", "an input y", "none", help)
                })?;
                g.gather(table, 0, y)
            }
            Op::Center => {
                let (two, one) = (g.scalar(2.0)?, g.scalar(1.0)?);
                let doubled = g.mul(inputs[0], two)?;
                g.sub(doubled, one)
            }
            Op::Conv { weight, bias, kernel: _, stride, pad_before, pad_after } => {
                // Tensor cores take 16-bit channels in eights. The convolutions at a network's ends, from and
                // to images of 1 or 3 channels, are in 32 bits.
                let channels = [node.inputs[0], node.output].map(|value| self.graph.shape(value).c);
                let element = if channels.iter().all(|c| c.is_multiple_of(8)) {
                    self.images()
                } else {
                    ElementType::F32
                };
                let x = cast(g, inputs[0], element)?;
                let (weight, bias) = (self.param_as(g, weight, element)?, self.param_as(g, bias, element)?);
                let spec = ConvSpec {
                    strides: [stride; 2],
                    pads: [pad_before, pad_before, pad_after, pad_after],
                    ..ConvSpec::default()
                };
                let y = g.conv(x, weight, Some(bias), &spec)?;
                if node.output == self.graph.output { Ok(y) } else { cast(g, y, self.images()) }
            }
            Op::Linear { weight, bias } => {
                if g.shape(inputs[0])?.rank() == 2 {
                    let (weight, bias) = (self.param(g, weight)?, self.param(g, bias)?);
                    let weight = g.transpose(weight, &[1, 0])?;
                    let product = g.matmul(inputs[0], weight)?;
                    g.add(product, bias)
                } else {
                    let element = self.images();
                    let (weight, bias) =
                        (self.param_as(g, weight, element)?, self.param_as(g, bias, element)?);
                    let is_kernel = g.shape(weight)?.rank() == 4;
                    let kernel = if is_kernel { weight } else { g.unsqueeze(weight, &[2, 3])? };
                    g.conv(inputs[0], kernel, Some(bias), &ConvSpec::default())
                }
            }
            Op::GroupNorm { weight, bias, groups, eps, silu } => {
                let (weight, bias) = (self.affine(g, weight)?, self.affine(g, bias)?);
                let Pass::Training(_) = pass else {
                    let z = g.group_norm(inputs[0], groups, weight, bias, eps as f32)?;
                    return Ok((if silu { g.silu(z)? } else { z }, Saved::Nothing));
                };
                let parts = g.group_norm_in_parts(inputs[0], groups, weight, bias, eps as f32)?;
                if !silu {
                    return Ok((parts.y, Saved::GroupNorm { parts, gate: None }));
                }
                let gate = g.unary(Unary::Sigmoid, parts.y)?;
                let y = g.mul(parts.y, gate)?;
                return Ok((y, Saved::GroupNorm { parts, gate: Some(gate) }));
            }
            Op::Activate { function: Activation::Silu } => {
                let gate = g.unary(Unary::Sigmoid, inputs[0])?;
                return Ok((g.mul(inputs[0], gate)?, Saved::Gate(gate)));
            }
            Op::Activate { function } => {
                // In 16 bits the exponentials would overflow from 12 on.
                let element = g.element_type(inputs[0])?;
                let x = cast(g, inputs[0], ElementType::F32)?;
                let y = activate(g, function, x)?;
                cast(g, y, element)
            }
            Op::AddChannels => {
                let vector = cast(g, inputs[1], self.images())?;
                let vector = g.unsqueeze(vector, &[2, 3])?;
                g.add(inputs[0], vector)
            }
            Op::ScaleShift => {
                let c = self.graph.shape(node.output).c;
                let parts = g.split(inputs[1], 1, &[c, c])?;
                let one = g.scalar(1.0)?;
                let scale = g.add(parts[0], one)?;
                let (scale, shift) = (cast(g, scale, self.images())?, cast(g, parts[1], self.images())?);
                let (scale, shift) = (g.unsqueeze(scale, &[2, 3])?, g.unsqueeze(shift, &[2, 3])?);
                let scaled = g.mul(inputs[0], scale)?;
                g.add(scaled, shift)
            }
            Op::Add { scale } => {
                let sum = g.add(inputs[0], inputs[1])?;
                if scale == 1.0 {
                    Ok(sum)
                } else {
                    let scale = self.factor(g, scale as f32)?;
                    g.mul(sum, scale)
                }
            }
            Op::Concat => g.concat(1, inputs),
            Op::Upsample => g.upsample_nearest(inputs[0], 2),
            Op::AveragePool => {
                let c = self.graph.shape(node.output).c;
                let kernel = g.constant_rounded(self.images(), &[c, 1, 2, 2], &vec![0.25; 4 * c])?;
                let spec = ConvSpec { strides: [2; 2], groups: c, ..ConvSpec::default() };
                g.conv(inputs[0], kernel, None, &spec)
            }
            // Dropout acts in training only.
            Op::Dropout { index, .. } => match pass.mask(index) {
                Some(mask) => g.mul(inputs[0], mask),
                None => Ok(inputs[0]),
            },
            Op::Attention { heads, kind, projection } => {
                let mut exact = [inputs[0]; 3];
                for (exact, input) in exact.iter_mut().zip(inputs) {
                    *exact = cast(g, *input, ElementType::F32)?;
                }
                let [q, k, v] = exact;
                let features = match kind.map().zip(projection) {
                    None => None,
                    Some((map, id)) => {
                        let spec = &self.graph.projections[id.0];
                        let shape = [spec.features, spec.dim];
                        Some((map, g.initializer_f32(&spec.name, &shape, &self.projections[id.0])?))
                    }
                };
                let (out, saved) = attention::write(g, heads, features, q, k, v)?;
                return Ok((cast(g, out, self.images())?, Saved::Attention(saved)));
            }
        };
        Ok((output?, Saved::Nothing))
    }

    /// A parameter's value in 32 bits.
    fn param(&self, g: &mut GraphBuilder, id: ParamId) -> onnx::Result<Value> {
        let stored = match self.precision {
            Precision::F32 => ElementType::F32,
            Precision::F16 => ElementType::F16,
            Precision::Bf16 => ElementType::Bf16,
        };
        let value = self.stored(g, id, stored)?;
        cast(g, value, ElementType::F32)
    }

    /// A parameter's value in 32 bits, or in 16 as it is stored.
    fn param_as(&self, g: &mut GraphBuilder, id: ParamId, element: ElementType) -> onnx::Result<Value> {
        match element {
            ElementType::F16 => self.stored(g, id, ElementType::F16),
            _ => self.param(g, id),
        }
    }

    /// A normalisation's scale or shift in the images' type. These few numbers are stored in 32 bits, as ONNX
    /// Runtime's own operator takes them.
    fn affine(&self, g: &mut GraphBuilder, id: ParamId) -> onnx::Result<Value> {
        let value = self.stored(g, id, ElementType::F32)?;
        cast(g, value, self.images())
    }

    fn stored(&self, g: &mut GraphBuilder, id: ParamId, element: ElementType) -> onnx::Result<Value> {
        match self.weights {
            Weights::Given(values) => Ok(values[id.0]),
            Weights::Stored(weights) => {
                let param = self.graph.params.get(id);
                let data = param.kind.to_file_layout(&weights[param.range()]);
                g.initializer_rounded(&param.name, element, &param.kind.file_shape(), &data)
            }
        }
    }

    /// A number that images are multiplied by or moved by.
    fn factor(&self, g: &mut GraphBuilder, x: f32) -> onnx::Result<Value> {
        g.constant_rounded(self.images(), &[], &[x])
    }

    /// What a node does, for a reader of the file.
    fn doc(&self, node: &Node) -> String {
        let out = self.graph.shape(node.output);
        match &node.op {
            Op::TimeEmbedding { .. } => format!(
                "sinusoidal embedding of the index t = 0 .. {}, a table computed in double precision and \
                 rounded once",
                self.timesteps - 1
            ),
            Op::Conv { kernel, stride, .. } => {
                format!("{kernel}x{kernel} convolution, stride {stride}, to {} channels", out.c)
            }
            Op::Linear { .. } => format!("linear layer to {} channels", out.c),
            Op::GroupNorm { groups, silu, .. } => {
                let silu = if *silu { ", then SiLU" } else { "" };
                format!("group normalisation in {groups} groups{silu}")
            }
            Op::ClassEmbedding { .. } => "the vector of the image's class y".to_owned(),
            Op::Center => "2 x - 1: images in [0, 1] to [-1, 1]".to_owned(),
            Op::Activate { function } => match function {
                Activation::Silu => "SiLU: x sigmoid(x)",
                Activation::Mish => "Mish: x tanh(ln(1 + exp(x))) = x n / (n + 2), n = exp(x) (exp(x) + 2)",
                Activation::Gelu => "GELU: x Phi(x) = x (1 + erf(x / sqrt(2))) / 2",
                Activation::Relu => "ReLU: max(x, 0)",
            }
            .to_owned(),
            Op::AddChannels => "the time embedding, one number per channel, added to every pixel".to_owned(),
            Op::ScaleShift => {
                "the time embedding as a scale and a shift of every channel: x (1 + s) + b".to_owned()
            }
            Op::Add { scale } if *scale == 1.0 => "residual sum".to_owned(),
            Op::Add { scale } => format!("residual sum, times {scale}"),
            Op::Concat => "the skip connection's channels behind the image's".to_owned(),
            Op::Upsample => "every pixel twice in both directions".to_owned(),
            Op::AveragePool => "averages of 2 x 2 pixels".to_owned(),
            Op::Dropout { .. } => String::new(),
            Op::Attention { heads, .. } => format!(
                "attention over {} pixels in {heads} heads of {} neighbouring channels, cut out and put back",
                out.pixels(),
                out.c / heads
            ),
        }
    }
}

/// A value in another type, if it is not in that already.
fn cast(g: &mut GraphBuilder, x: Value, to: ElementType) -> onnx::Result<Value> {
    if g.element_type(x)? == to { Ok(x) } else { g.cast(x, to) }
}

/// An activation, element by element.
fn activate(g: &mut GraphBuilder, function: Activation, x: Value) -> onnx::Result<Value> {
    match function {
        Activation::Silu => g.silu(x),
        Activation::Relu => g.unary(Unary::Relu, x),
        Activation::Mish => {
            let gate = mish_gate(g, x)?;
            g.mul(x, gate.value)
        }
        Activation::Gelu => {
            let gate = gelu_gate(g, x)?;
            g.mul(x, gate.phi)
        }
    }
}

/// What Mish multiplies x by, and what its slope is made of too.
pub(super) struct MishGate {
    /// e = exp(x).
    pub e: Value,
    /// n + 2 with n = e (e + 2).
    pub rest: Value,
    /// tanh(ln(1 + e)) = n / (n + 2).
    pub value: Value,
}

/// The gate of Mish.
pub(super) fn mish_gate(g: &mut GraphBuilder, x: Value) -> onnx::Result<MishGate> {
    // Beyond 40 the quotient is 1, and the exponential could overflow.
    let bounded = g.clip(x, None, Some(40.0))?;
    let (e, two) = (g.unary(Unary::Exp, bounded)?, g.scalar(2.0)?);
    let sum = g.add(e, two)?;
    let n = g.mul(e, sum)?;
    let rest = g.add(n, two)?;
    Ok(MishGate { e, rest, value: g.div(n, rest)? })
}

/// What GELU multiplies x by.
pub(super) struct GeluGate {
    /// x / sqrt(2).
    pub z: Value,
    /// Phi(x) = (1 + erf(z)) / 2.
    pub phi: Value,
}

/// The gate of GELU.
pub(super) fn gelu_gate(g: &mut GraphBuilder, x: Value) -> onnx::Result<GeluGate> {
    let (root, one, half) = (g.scalar(std::f32::consts::FRAC_1_SQRT_2)?, g.scalar(1.0)?, g.scalar(0.5)?);
    let z = g.mul(x, root)?;
    let erf = g.unary(Unary::Erf, z)?;
    let sum = g.add(erf, one)?;
    Ok(GeluGate { z, phi: g.mul(sum, half)? })
}
