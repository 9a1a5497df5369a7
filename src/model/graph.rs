//! The network as data: values, and the operations between them in order of execution.
//!
//! The architecture is written once ([`super::unet`]) and walked by the forward pass, the backward pass, the
//! exporter and `info`; each walk is one exhaustive match over [`Op`]. Shapes are those of one sample,
//! channels last.

use super::params::{ParamId, ParamKind, ParamTable};
use crate::config::{Activation, AttentionKind};
use crate::error::{Error, Result};
use crate::nn::Window;

/// The shape of one sample's value: height, width, channels. A vector is 1 x 1 x C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Height.
    pub h: usize,
    /// Width.
    pub w: usize,
    /// Channels, contiguous in memory.
    pub c: usize,
}

impl Shape {
    /// Number of elements.
    pub fn len(self) -> usize {
        self.h * self.w * self.c
    }

    /// The number of elements of any shape; `None` if they are more than a tensor may have.
    fn elements(self) -> Option<usize> {
        let len = self.h.checked_mul(self.w)?.checked_mul(self.c)?;
        (len <= 1 << if usize::BITS == 64 { 40 } else { 24 }).then_some(len)
    }

    /// Whether it has no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Number of pixels, L in the attention's terms.
    pub fn pixels(self) -> usize {
        self.h * self.w
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.h, self.w, self.c)
    }
}

/// A value's place in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub(crate) usize);

/// A FAVOR+ projection's place in the graph's list of projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectionId(pub(crate) usize);

/// An operation. Inputs are listed in the order in which [`Node::inputs`] has them.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// () -> sinusoidal embedding of the timestep's index.
    TimeEmbedding {
        /// Whether cosines come first.
        flip_sin_to_cos: bool,
        /// Taken from the frequencies' denominator.
        freq_shift: f64,
    },
    /// () -> the vector of the sample's class.
    ClassEmbedding {
        /// \[classes, c\].
        weight: ParamId,
    },
    /// x -> 2 x - 1.
    Center,
    /// x -> convolution of x.
    Conv {
        /// \[k, k, c_in, c_out\].
        weight: ParamId,
        /// \[c_out\].
        bias: ParamId,
        /// k.
        kernel: usize,
        /// Pixels between outputs.
        stride: usize,
        /// Rows and columns of zeros above and left.
        pad_before: usize,
        /// Rows and columns of zeros below and right.
        pad_after: usize,
    },
    /// x -> x W + b on every pixel.
    Linear {
        /// \[c_in, c_out\].
        weight: ParamId,
        /// \[c_out\].
        bias: ParamId,
    },
    /// x -> group normalisation of x, then SiLU if asked for.
    GroupNorm {
        /// \[c\].
        weight: ParamId,
        /// \[c\].
        bias: ParamId,
        /// Groups of neighbouring channels.
        groups: usize,
        /// Added to the variance.
        eps: f64,
        /// Whether SiLU follows.
        silu: bool,
    },
    /// x -> f(x), element by element.
    Activate {
        /// f.
        function: Activation,
    },
    /// x, v -> x + v, v one number per channel.
    AddChannels,
    /// x, (s, b) -> x (1 + s) + b, s and b one number per channel.
    ScaleShift,
    /// a, b -> (a + b) * scale.
    Add {
        /// The factor.
        scale: f64,
    },
    /// a, b -> channels of a, then of b.
    Concat,
    /// x -> every pixel twice in both directions.
    Upsample,
    /// x -> the averages of 2 x 2 pixels.
    AveragePool,
    /// x -> in training, x / (1 - p) with probability 1 - p and 0 otherwise; x when sampling.
    Dropout {
        /// Probability of dropping.
        p: f64,
        /// Which dropout it is, for its random numbers.
        index: usize,
    },
    /// q, k, v -> attention over the pixels.
    Attention {
        /// Heads, each over neighbouring channels.
        heads: usize,
        /// Exact or FAVOR+.
        kind: AttentionKind,
        /// The projections of FAVOR+; `None` where the attention is exact.
        projection: Option<ProjectionId>,
    },
}

impl Op {
    /// The number of its inputs.
    pub fn arity(&self) -> usize {
        match self {
            Op::TimeEmbedding { .. } | Op::ClassEmbedding { .. } => 0,
            Op::Center
            | Op::Conv { .. }
            | Op::Linear { .. }
            | Op::GroupNorm { .. }
            | Op::Activate { .. }
            | Op::Upsample
            | Op::AveragePool
            | Op::Dropout { .. } => 1,
            Op::AddChannels | Op::ScaleShift | Op::Add { .. } | Op::Concat => 2,
            Op::Attention { .. } => 3,
        }
    }

    /// Its weight, if it has parameters, and its bias, if it has one.
    pub fn params(&self) -> Option<(ParamId, Option<ParamId>)> {
        match self {
            Op::Conv { weight, bias, .. }
            | Op::Linear { weight, bias }
            | Op::GroupNorm { weight, bias, .. } => Some((*weight, Some(*bias))),
            Op::ClassEmbedding { weight } => Some((*weight, None)),
            Op::TimeEmbedding { .. }
            | Op::Center
            | Op::Activate { .. }
            | Op::AddChannels
            | Op::ScaleShift
            | Op::Add { .. }
            | Op::Concat
            | Op::Upsample
            | Op::AveragePool
            | Op::Dropout { .. }
            | Op::Attention { .. } => None,
        }
    }
}

/// An operation with its inputs and its output.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it stands, in diffusers' terms, such as `down_blocks.0.resnets.1.conv1`.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// What it reads.
    pub inputs: Vec<ValueId>,
    /// What it writes; every value but the graph's input is written by one node.
    pub output: ValueId,
}

/// A FAVOR+ projection: stored with the model, not trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// The name in files, such as `mid_block.attentions.0.projection`.
    pub name: String,
    /// m, the number of rows.
    pub features: usize,
    /// d, the channels of a head.
    pub dim: usize,
}

/// A network.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Every value's shape.
    pub values: Vec<Shape>,
    /// The operations in order of execution.
    pub nodes: Vec<Node>,
    /// x_t.
    pub input: ValueId,
    /// eps_theta.
    pub output: ValueId,
    /// The trained parameters.
    pub params: ParamTable,
    /// The FAVOR+ projections.
    pub projections: Vec<Projection>,
    /// How many dropouts there are.
    pub dropouts: usize,
}

impl Graph {
    /// A graph of just its input.
    pub(crate) fn new(input: Shape) -> Graph {
        Graph {
            values: vec![input],
            nodes: Vec::new(),
            input: ValueId(0),
            output: ValueId(0),
            params: ParamTable::default(),
            projections: Vec::new(),
            dropouts: 0,
        }
    }

    /// A value's shape.
    pub fn shape(&self, value: ValueId) -> Shape {
        self.values[value.0]
    }

    /// Appends an operation. The shape of its output follows from those of its inputs.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the shapes of the inputs do not fit the operation.
    pub(crate) fn push(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        let shape = self.output_shape(name, &op, inputs)?;
        self.output = self.append(name, op, inputs, shape);
        Ok(self.output)
    }

    /// Appends the timestep's embedding, a vector of `dim` numbers.
    pub(crate) fn push_time_embedding(&mut self, name: &str, op: Op, dim: usize) -> ValueId {
        self.append(name, op, &[], Shape { h: 1, w: 1, c: dim })
    }

    fn append(&mut self, name: &str, op: Op, inputs: &[ValueId], shape: Shape) -> ValueId {
        let output = ValueId(self.values.len());
        self.values.push(shape);
        self.nodes.push(Node { name: name.to_owned(), op, inputs: inputs.to_vec(), output });
        output
    }

    /// The shape that an operation gives its output; that of a time embedding is its own to choose.
    fn output_shape(&self, name: &str, op: &Op, inputs: &[ValueId]) -> Result<Shape> {
        let misfit = |expected: &str| {
            let shapes: Vec<String> =
                inputs.iter().filter_map(|v| self.values.get(v.0)).map(ToString::to_string).collect();
            let got = format!("{op:?} of inputs {}", shapes.join(", "));
            Error::invalid(format!("the network's {name}"), expected, got, "")
        };
        let fits = |ok: bool, expected: &str| if ok { Ok(()) } else { Err(misfit(expected)) };
        let shapes: Option<Vec<Shape>> = inputs.iter().map(|v| self.values.get(v.0).copied()).collect();
        let shapes = shapes.filter(|shapes| shapes.len() == op.arity());
        let shapes = shapes.ok_or_else(|| misfit("as many inputs as the operation reads"))?;
        let kind = |id: ParamId| self.params.find(id).map(|param| param.kind);
        let bias_of = |bias: ParamId, c: usize| kind(bias) == Some(ParamKind::Bias { len: c });
        match *op {
            Op::TimeEmbedding { .. } => Err(misfit("an operation with inputs")),
            Op::ClassEmbedding { weight } => match kind(weight) {
                Some(ParamKind::Embedding { dim, .. }) => Ok(Shape { h: 1, w: 1, c: dim }),
                _ => Err(misfit("a table with a vector for each class")),
            },
            Op::Conv { weight, bias, kernel, stride, pad_before, pad_after } => {
                let Some(ParamKind::Conv { kernel: k, c_in, c_out }) = kind(weight) else {
                    return Err(misfit("a convolution's weight"));
                };
                let x = shapes[0];
                fits(x.c == c_in && k == kernel && bias_of(bias, c_out), "channels as the weight has them")?;
                let window = Window { kernel, stride, pad_before, pad_after };
                let sides = window.outputs(x.h).zip(window.outputs(x.w));
                let (h, w) = sides.ok_or_else(|| misfit("a window that fits into the image"))?;
                Ok(Shape { h, w, c: c_out })
            }
            Op::Linear { weight, bias } => {
                let (c_in, c_out) = match kind(weight) {
                    Some(ParamKind::Linear { c_in, c_out } | ParamKind::Conv { kernel: 1, c_in, c_out }) => {
                        (c_in, c_out)
                    }
                    _ => return Err(misfit("a linear layer's weight")),
                };
                fits(shapes[0].c == c_in && bias_of(bias, c_out), "channels as the weight has them")?;
                Ok(Shape { c: c_out, ..shapes[0] })
            }
            Op::GroupNorm { weight, bias, groups, .. } => {
                let c = shapes[0].c;
                let per_channel = kind(weight) == Some(ParamKind::Scale { len: c }) && bias_of(bias, c);
                fits(per_channel, "a scale and a shift for each channel")?;
                fits(groups > 0 && c.is_multiple_of(groups), "groups that divide the channels")?;
                Ok(shapes[0])
            }
            Op::Center | Op::Activate { .. } => Ok(shapes[0]),
            Op::Dropout { p, .. } => {
                fits((0.0..1.0).contains(&p), "a probability of at least 0 and below 1")?;
                Ok(shapes[0])
            }
            Op::AddChannels => {
                let vector = Shape { h: 1, w: 1, c: shapes[0].c };
                fits(shapes[1] == vector, "a number for each channel")?;
                Ok(shapes[0])
            }
            Op::ScaleShift => {
                let vector = Shape { h: 1, w: 1, c: shapes[0].c.saturating_mul(2) };
                fits(shapes[1] == vector, "two numbers for each channel")?;
                Ok(shapes[0])
            }
            Op::Add { .. } => {
                fits(shapes[0] == shapes[1], "two of one shape")?;
                Ok(shapes[0])
            }
            Op::Concat => {
                let [a, b] = [shapes[0], shapes[1]];
                fits(a.h == b.h && a.w == b.w, "two of one height and width")?;
                Ok(Shape { c: a.c.saturating_add(b.c), ..a })
            }
            Op::Upsample => {
                let Shape { h, w, c } = shapes[0];
                Ok(Shape { h: h.saturating_mul(2), w: w.saturating_mul(2), c })
            }
            Op::AveragePool => {
                let Shape { h, w, c } = shapes[0];
                fits(h.is_multiple_of(2) && w.is_multiple_of(2), "an even height and width")?;
                Ok(Shape { h: h / 2, w: w / 2, c })
            }
            Op::Attention { heads, kind, projection } => {
                let c = shapes[0].c;
                fits(shapes.iter().all(|x| *x == shapes[0]), "q, k and v of one shape")?;
                fits(heads > 0 && c.is_multiple_of(heads), "heads that divide the channels")?;
                let dims = projection.map(|id| self.projections.get(id.0).map(|spec| spec.dim));
                let expected = kind.map().map(|_| Some(c / heads));
                fits(dims == expected, "projections of a head's channels for FAVOR+, and only for that")?;
                Ok(shapes[0])
            }
        }
    }

    /// Checks that the nodes can be executed in their order: that each reads what was written before, writes
    /// a value that no other does, and gives it the shape that follows from its inputs.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first node that does not fit.
    pub fn check(&self) -> Result<()> {
        let misfit = |name: &str, expected: &str, got: String| {
            Err(Error::invalid(format!("the network's {name}"), expected, got, ""))
        };
        let mut written = vec![false; self.values.len()];
        let mut params = vec![false; self.params.iter().len()];
        let is_set = |set: &[bool], i: usize| set.get(i).copied().unwrap_or(false);
        let mut readers = vec![0; self.values.len()];
        if self.input.0 >= self.values.len() {
            return misfit("input", "one of its values", format!("value {}", self.input.0));
        }
        if self.shape(self.input).elements().is_none() {
            return misfit("input", "one that fits into memory", self.shape(self.input).to_string());
        }
        written[self.input.0] = true;
        for node in &self.nodes {
            for value in &node.inputs {
                if !is_set(&written, value.0) {
                    return misfit(&node.name, "inputs that were written", format!("value {}", value.0));
                }
                readers[value.0] += 1;
            }
            let output = node.output;
            if output.0 >= self.values.len() || std::mem::replace(&mut written[output.0], true) {
                return misfit(&node.name, "an output of its own", format!("value {}", output.0));
            }
            let shape = self.shape(output);
            let expected = match node.op {
                Op::TimeEmbedding { .. } => Shape { h: 1, w: 1, c: shape.c },
                _ => self.output_shape(&node.name, &node.op, &node.inputs)?,
            };
            if shape != expected || shape.elements().is_none() {
                let expected = format!("an output of {expected} that fits into memory");
                return misfit(&node.name, &expected, shape.to_string());
            }
            if let Some((weight, bias)) = node.op.params()
                && (bias.is_some_and(|bias| bias.0 != weight.0 + 1)
                    || std::mem::replace(&mut params[weight.0], true))
            {
                let got = format!("parameters {weight:?} and {bias:?}");
                return misfit(&node.name, "a weight of its own, and its bias behind it", got);
            }
        }
        // The backward pass of attention overwrites the gradients in its inputs: it has to be their only
        // reader.
        let attends = self.nodes.iter().filter(|node| matches!(node.op, Op::Attention { .. }));
        for node in attends {
            if node.inputs.iter().any(|value| readers[value.0] > 1) {
                return misfit(&node.name, "inputs that nothing else reads", "others".to_owned());
            }
        }
        if !is_set(&written, self.output.0) || self.output == self.input {
            return misfit("output", "a value that a node writes", format!("value {}", self.output.0));
        }
        Ok(())
    }

    /// The number of classes; `None` for a network that takes none.
    pub fn classes(&self) -> Option<usize> {
        let tables = self.nodes.iter().filter_map(|node| match node.op {
            Op::ClassEmbedding { weight } => self.params.find(weight),
            _ => None,
        });
        let rows = tables.filter_map(|param| match param.kind {
            ParamKind::Embedding { rows, .. } => Some(rows),
            _ => None,
        });
        rows.min()
    }

    /// m, the number of an attention's projections; 0 where it has none.
    pub fn features(&self, projection: Option<ProjectionId>) -> usize {
        projection.map_or(0, |id| self.projections[id.0].features)
    }

    /// Multiply-adds of a node's forward pass on one sample; 0 where there are only element-wise operations.
    pub fn multiply_adds(&self, node: &Node) -> usize {
        let out = self.shape(node.output);
        match node.op {
            Op::Conv { kernel, .. } => out.len() * kernel * kernel * self.shape(node.inputs[0]).c,
            Op::Linear { .. } => out.len() * self.shape(node.inputs[0]).c,
            Op::Attention { kind: AttentionKind::Softmax, .. } => 2 * out.pixels() * out.len(),
            Op::Attention { kind: AttentionKind::Favor(map), projection, .. } => {
                (2 + 2 * map.functions()) * self.features(projection) * out.len()
            }
            Op::TimeEmbedding { .. }
            | Op::ClassEmbedding { .. }
            | Op::Center
            | Op::GroupNorm { .. }
            | Op::Activate { .. }
            | Op::AddChannels
            | Op::ScaleShift
            | Op::Add { .. }
            | Op::Concat
            | Op::Upsample
            | Op::AveragePool
            | Op::Dropout { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::model::unet;

    fn graph() -> Graph {
        unet::build(&Preset::Tiny.config().unet).expect("a network")
    }

    fn node(graph: &mut Graph, wanted: fn(&Op) -> bool) -> &mut Node {
        graph.nodes.iter_mut().find(|node| wanted(&node.op)).expect("the network has one")
    }

    #[test]
    fn networks_pass_the_check() {
        for preset in Preset::ALL {
            unet::build(&preset.config().unet).expect("a network").check().expect("it can be executed");
        }
    }

    #[test]
    fn graphs_that_cannot_be_executed_are_refused() {
        let far = ValueId(usize::MAX);
        let is_conv = |op: &Op| matches!(op, Op::Conv { .. });
        let is_attention = |op: &Op| matches!(op, Op::Attention { .. });
        let damages: [&dyn Fn(&mut Graph); 16] = [
            &|g| g.input = far,
            &|g| g.output = far,
            &|g| g.output = g.input,
            &|g| g.nodes.swap(3, 4),
            &|g| g.nodes.clear(),
            &|g| g.values[0].h = usize::MAX,
            &|g| g.values.truncate(4),
            &|g| g.nodes[5].inputs[0] = far,
            &|g| g.nodes[5].inputs.clear(),
            &|g| g.nodes[5].output = g.nodes[4].output,
            &|g| g.projections.clear(),
            &|g| g.params = ParamTable::default(),
            &|g| {
                if let Op::Conv { stride, .. } = &mut node(g, is_conv).op {
                    *stride = 0;
                }
            },
            &|g| {
                if let Op::Conv { pad_after, .. } = &mut node(g, is_conv).op {
                    *pad_after = usize::MAX;
                }
            },
            &|g| {
                if let Op::GroupNorm { groups, .. } = &mut node(g, |op| matches!(op, Op::GroupNorm { .. })).op
                {
                    *groups = 0;
                }
            },
            &|g| {
                if let Op::Attention { heads, .. } = &mut node(g, is_attention).op {
                    *heads = 0;
                }
            },
        ];
        for (i, damage) in damages.into_iter().enumerate() {
            let mut graph = graph();
            damage(&mut graph);
            let checked = graph.check();
            assert!(checked.is_err(), "damage {i}");
        }
        // Its gradient is overwritten by attention's backward pass.
        let mut shared = graph();
        let q = node(&mut shared, is_attention).inputs[0];
        let add = node(&mut shared, |op| matches!(op, Op::Add { .. }));
        add.inputs[0] = q;
        assert!(shared.check().is_err());
    }
}
