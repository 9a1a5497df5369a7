//! The network as data: values, and the operations between them in order of execution.
//!
//! The architecture is written once ([`super::unet`]) and walked by the forward pass, the backward pass, the
//! exporter and `info`; each walk is one exhaustive match over [`Op`]. Shapes are those of one sample,
//! channels last.

use super::params::{ParamId, ParamKind, ParamTable};
use crate::config::AttentionKind;

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
    /// x -> x / (1 + exp(-x)).
    Silu,
    /// x, v -> x + v, v one number per channel.
    AddChannels,
    /// a, b -> (a + b) * scale.
    Add {
        /// The factor.
        scale: f64,
    },
    /// a, b -> channels of a, then of b.
    Concat,
    /// x -> every pixel twice in both directions.
    Upsample,
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

    /// Appends an operation; its output's shape follows from its inputs'.
    ///
    /// # Panics
    /// If the inputs' shapes do not fit the operation: configurations are validated before a graph is built.
    pub(crate) fn push(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> ValueId {
        let shapes: Vec<Shape> = inputs.iter().map(|v| self.shape(*v)).collect();
        let shape = self.output_shape(name, &op, &shapes);
        let output = ValueId(self.values.len());
        self.values.push(shape);
        self.nodes.push(Node { name: name.to_owned(), op, inputs: inputs.to_vec(), output });
        self.output = output;
        output
    }

    fn output_shape(&self, name: &str, op: &Op, inputs: &[Shape]) -> Shape {
        let fits = |ok: bool| assert!(ok, "{name}: {op:?} does not fit {inputs:?}");
        match *op {
            Op::TimeEmbedding { .. } => unreachable!("made by `push_time_embedding`"),
            Op::Conv { weight, kernel, stride, pad_before, pad_after, .. } => {
                let ParamKind::Conv { c_in, c_out, .. } = self.params.get(weight).kind else {
                    panic!("{name}: the weight is no convolution's")
                };
                let x = inputs[0];
                fits(x.c == c_in);
                let side = |n: usize| (n + pad_before + pad_after - kernel) / stride + 1;
                Shape { h: side(x.h), w: side(x.w), c: c_out }
            }
            Op::Linear { weight, .. } => {
                let (c_in, c_out) = match self.params.get(weight).kind {
                    ParamKind::Linear { c_in, c_out } | ParamKind::Conv { kernel: 1, c_in, c_out } => {
                        (c_in, c_out)
                    }
                    kind => panic!("{name}: {kind:?} is no linear layer's weight"),
                };
                fits(inputs[0].c == c_in);
                Shape { c: c_out, ..inputs[0] }
            }
            Op::GroupNorm { groups, .. } => {
                fits(inputs[0].c.is_multiple_of(groups));
                inputs[0]
            }
            Op::Silu | Op::Dropout { .. } => inputs[0],
            Op::AddChannels => {
                fits(inputs[1] == Shape { h: 1, w: 1, c: inputs[0].c });
                inputs[0]
            }
            Op::Add { .. } => {
                fits(inputs[0] == inputs[1]);
                inputs[0]
            }
            Op::Concat => {
                fits(inputs[0].h == inputs[1].h && inputs[0].w == inputs[1].w);
                Shape { c: inputs[0].c + inputs[1].c, ..inputs[0] }
            }
            Op::Upsample => Shape { h: 2 * inputs[0].h, w: 2 * inputs[0].w, c: inputs[0].c },
            Op::Attention { heads, kind, projection } => {
                fits(inputs.iter().all(|x| *x == inputs[0]) && inputs[0].c.is_multiple_of(heads));
                fits(kind.map().is_some() == projection.is_some());
                inputs[0]
            }
        }
    }

    /// Appends the timestep's embedding, a vector of `dim` numbers.
    pub(crate) fn push_time_embedding(&mut self, name: &str, op: Op, dim: usize) -> ValueId {
        let output = ValueId(self.values.len());
        self.values.push(Shape { h: 1, w: 1, c: dim });
        self.nodes.push(Node { name: name.to_owned(), op, inputs: Vec::new(), output });
        output
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
            | Op::GroupNorm { .. }
            | Op::Silu
            | Op::AddChannels
            | Op::Add { .. }
            | Op::Concat
            | Op::Upsample
            | Op::Dropout { .. } => 0,
        }
    }
}
