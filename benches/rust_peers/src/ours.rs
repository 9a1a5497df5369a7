//! The block in this engine: cut out of a network's graph and run like one.

use crate::block::{Block, Found, Peer, Sizes, squares};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::graph::{Graph, Shape, ValueId};
use performer_ddpm::model::{Engine, Gradient, Model};
use std::collections::HashSet;

pub struct Ours {
    model: Model<f32>,
    engine: Engine<f32>,
    /// The block's first convolution in the weights.
    conv1: std::ops::Range<usize>,
    batch: usize,
    x: Vec<f32>,
    target: Vec<f32>,
    out: Vec<f32>,
    gradient: Gradient<f32>,
}

impl Ours {
    pub fn new(block: &Block, threads: usize) -> performer_ddpm::Result<Ours> {
        let Sizes { batch, c_in, c_out, .. } = block.sizes;
        let path = Block::path(block.sizes);
        let mut model = block.network.clone();
        model.graph = cut(Graph::clone(&model.graph), path).into();
        let conv1 = format!("{path}conv1.weight");
        let conv1 =
            model.graph.params.iter().find(|param| param.name == conv1).expect("a convolution").range();
        let isa = Isa::detect();
        Ok(Ours {
            engine: Engine::with_input_gradient(&model, threads, isa, true)?,
            conv1,
            batch,
            x: channels_last(&block.x, c_in, batch),
            target: channels_last(&block.target, c_out, batch),
            out: vec![0.0; block.target.len()],
            gradient: Gradient::default(),
            model,
        })
    }
}

impl Peer for Ours {
    fn name(&self) -> String {
        format!("performer-ddpm ({})", self.engine.kernels().isa)
    }

    fn forward(&mut self) {
        let indices = vec![0; self.batch];
        self.engine.forward(&self.model, &self.x, &indices, &mut self.out).expect("lengths that fit");
    }

    fn forward_backward(&mut self) {
        let (len_in, len_out) = (self.model.input_len(), self.model.output_len());
        let (x, target) = (&self.x, &self.target);
        let example = |i: usize, x_t: &mut [f32], eps: &mut [f32]| {
            x_t.copy_from_slice(&x[i * len_in..][..len_in]);
            eps.copy_from_slice(&target[i * len_out..][..len_out]);
            0
        };
        self.engine
            .gradient(&self.model, self.batch, &example, None, &mut self.gradient)
            .expect("lengths that fit");
    }

    fn found(&self) -> Found {
        let Gradient { loss, weights, input } = &self.gradient;
        Found { loss: *loss, gradients: [squares(input), squares(&weights[self.conv1.clone()])] }
    }
}

/// The part of a graph that is the residual block at `path` and the timestep's embedding, which is its second
/// input.
fn cut(mut graph: Graph, path: &str) -> Graph {
    let inside = |name: &str| name.starts_with(path);
    let first = graph
        .nodes
        .iter()
        .find(|node| inside(&node.name) && node.op != performer_ddpm::model::graph::Op::Concat);
    graph.input = first.expect("the block's normalisation").inputs[0];
    let input = graph.input;
    let output = graph.nodes.iter().rfind(|node| inside(&node.name)).expect("the block's sum").output;
    // Values are numbered in the order in which they are written, the graph's input first.
    let written: Vec<ValueId> = graph.nodes.iter().map(|node| node.output).collect();
    graph.nodes.retain(|node| {
        let embeds = node.name.starts_with("time_");
        (inside(&node.name) && node.output != input) || embeds
    });
    graph.output = output;
    let kept: HashSet<ValueId> = graph.nodes.iter().map(|node| node.output).chain([input]).collect();
    graph.values[0] = Shape { h: 0, w: 0, c: 0 };
    for (shape, value) in graph.values[1..].iter_mut().zip(&written) {
        if !kept.contains(value) {
            *shape = Shape { h: 0, w: 0, c: 0 };
        }
    }
    graph
}

/// \[n, c, h, w\] -> \[n, h, w, c\].
fn channels_last(x: &[f32], channels: usize, batch: usize) -> Vec<f32> {
    let pixels = x.len() / batch / channels;
    let mut out = vec![0.0; x.len()];
    for (image, out) in x.chunks_exact(channels * pixels).zip(out.chunks_exact_mut(channels * pixels)) {
        for (c, plane) in image.chunks_exact(pixels).enumerate() {
            for (pixel, x) in plane.iter().enumerate() {
                out[pixel * channels + c] = *x;
            }
        }
    }
    out
}
