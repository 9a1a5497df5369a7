//! The residual block that every program computes, its numbers, and the trait of the programs.

use performer_ddpm::config::{BlockAttention, Preset};
use performer_ddpm::model::Model;
use performer_ddpm::model::params::ParamKind;
use performer_ddpm::rng::{Stream, fill_normal, rng};
use std::collections::HashMap;

/// Groups of both normalisations.
pub const GROUPS: usize = 32;
/// Added to their variance.
pub const EPS: f64 = 1e-6;

/// The sizes of a block: `c_in` to `c_out` channels, images of `side` x `side`, `batch` of them.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub batch: usize,
    pub side: usize,
    pub c_in: usize,
    pub c_out: usize,
}

impl Sizes {
    /// Floating-point operations of the block's convolutions and linear layers, forward; a backward pass has
    /// twice as many.
    pub fn forward_flops(&self) -> f64 {
        let taps = 9 * (self.c_in + self.c_out) + if self.c_in == self.c_out { 0 } else { self.c_in };
        2.0 * (self.batch * self.c_out * (self.side * self.side * taps + 4 * self.c_out)) as f64
    }
}

/// A block with its numbers, tensors in PyTorch's layouts.
pub struct Block {
    pub sizes: Sizes,
    /// \[batch, c_in, side, side\].
    pub x: Vec<f32>,
    /// \[batch, c_out, side, side\]: the loss is the mean square of the difference to it.
    pub target: Vec<f32>,
    /// \[4 c_out\]: the activated embedding of the timestep, the same for every image.
    pub time: Vec<f32>,
    /// The block's parameters, by names such as `conv1.weight`.
    pub parameters: HashMap<String, Vec<f32>>,
    /// A network with this block and these numbers in it, at [`Block::path`].
    pub network: Model<f32>,
}

impl Block {
    /// A block with numbers of about the size that training starts with.
    pub fn new(sizes: Sizes) -> performer_ddpm::Result<Block> {
        let mut config = Preset::Fashion.config().unet;
        config.sample_size = [sizes.side; 2];
        config.block_out_channels = vec![sizes.c_out];
        config.layers_per_block = 1;
        config.down_attention = vec![BlockAttention::None];
        config.mid_attention = BlockAttention::None;
        config.up_attention = vec![BlockAttention::None];
        config.norm_num_groups = GROUPS;
        config.norm_eps = EPS;
        config.dropout = 0.0;
        let mut network: Model<f32> = Model::new(&config, 0)?;

        let mut parameters = HashMap::new();
        let mut time = Vec::new();
        for (i, param) in network.graph.params.iter().enumerate() {
            let numbers = &mut network.weights[param.range()];
            let (mean, deviation) = match param.kind {
                ParamKind::Conv { kernel, c_in, .. } => (0.0, 1.0 / ((kernel * kernel * c_in) as f32).sqrt()),
                // This makes the timestep's embedding the same for every t, so that the other programs need
                // not compute it.
                ParamKind::Linear { .. } if param.name == "time_embedding.linear_2.weight" => (0.0, 0.0),
                ParamKind::Linear { c_in, .. } => (0.0, 1.0 / (c_in as f32).sqrt()),
                ParamKind::Embedding { .. } => (0.0, 1.0),
                ParamKind::Bias { .. } => (0.0, 0.5),
                ParamKind::Scale { .. } => (1.0, 0.1),
            };
            fill_normal(&mut rng(0, Stream::Check, i as u64, 0), numbers);
            numbers.iter_mut().for_each(|x| *x = mean + deviation * *x);
            if param.name == "time_embedding.linear_2.bias" {
                time = numbers.iter().map(|x| x / (1.0 + (-x).exp())).collect();
            }
            if let Some(name) = param.name.strip_prefix(Self::path(sizes)) {
                parameters.insert(name.to_owned(), param.kind.to_file_layout(numbers));
            }
        }
        let pixels = sizes.batch * sizes.side * sizes.side;
        let [x, target] = [(sizes.c_in, 1), (sizes.c_out, 2)].map(|(channels, id)| {
            let mut numbers = vec![0.0; pixels * channels];
            fill_normal(&mut rng(0, Stream::Check, 0, id), &mut numbers);
            numbers
        });
        Ok(Block { sizes, x, target, time, parameters, network })
    }

    /// The place of the block in the network: on the way down blocks keep the channels, on the way up they
    /// halve the concatenated ones.
    pub fn path(sizes: Sizes) -> &'static str {
        if sizes.c_in == sizes.c_out { "down_blocks.0.resnets.0." } else { "up_blocks.0.resnets.0." }
    }

    /// A parameter with its shape in PyTorch's layout, if the block has it.
    pub fn parameter(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        let params = self.network.graph.params.iter();
        let mut matching = params.filter(|p| p.name.strip_prefix(Self::path(self.sizes)) == Some(name));
        matching.next().map(|param| (param.kind.file_shape(), self.parameters[name].clone()))
    }
}

/// The results of a pass, to check that all programs compute the same; sums of squares do not depend on a
/// tensor's layout.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The mean square of the difference to the target.
    pub loss: f64,
    /// The sum of squares of the loss's gradient in x, and in the first convolution's weight.
    pub gradients: [f64; 2],
}

impl Found {
    /// Whether the two agree to single precision's accuracy after some thousand additions.
    pub fn agrees(&self, other: &Found) -> bool {
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-3 * a.abs();
        close(self.loss, other.loss)
            && self.gradients.iter().zip(&other.gradients).all(|(a, b)| close(*a, *b))
    }
}

/// A program that computes the block.
pub trait Peer {
    /// Name and version.
    fn name(&self) -> String;
    /// The block's output, gradients not wanted.
    fn forward(&mut self);
    /// The loss and its gradients in x and in every parameter.
    fn forward_backward(&mut self);
    /// What the last [`Peer::forward_backward`] found.
    fn found(&self) -> Found;
}

/// The sum of squares.
pub fn squares(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum()
}
