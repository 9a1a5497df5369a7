//! A step's batch as the inputs of the training step's graph.

use crate::error::Result;
use crate::export::WORD;
use crate::kernels::{Isa, transpose};
use crate::model::DropoutKey;
use crate::model::graph::{Graph, Node, Op, Shape};
use crate::train::draws::Draws;
use performer_ddpm_onnx::Tensor;
use rayon::prelude::*;

/// A word of a mask with every other element kept.
const SOME_KEPT: f32 = 0x5555 as f32;

/// The inputs that are another batch's at every step.
#[derive(Debug)]
pub(super) struct Batch {
    /// The step that it is for, counted from 1; 0 for none.
    step: u64,
    image: Shape,
    /// \[n, c, h, w\].
    x_0: Tensor,
    /// \[n, c, h, w\].
    eps: Tensor,
    /// \[n\].
    t: Tensor,
    /// The classes \[n\], for a network that takes some.
    y: Option<Tensor>,
    masks: Vec<Mask>,
}

/// The mask of one of the network's dropouts.
#[derive(Debug)]
struct Mask {
    name: String,
    p: f64,
    index: usize,
    /// Numbers of a sample that it is for.
    len: usize,
    /// [`Masks::Bits`](crate::export::Masks::Bits), \[n, k\].
    bits: Tensor,
}

impl Batch {
    /// `n` samples of a network that are no step's, to measure by: some numbers.
    ///
    /// # Errors
    /// None, since the lengths are those of the shapes.
    pub(super) fn new(graph: &Graph, n: usize) -> Result<Batch> {
        let of = |shape: Shape| {
            let numbers: Vec<f32> = (0..n * shape.len()).map(some).collect();
            Tensor::f32([n, shape.c, shape.h, shape.w], numbers)
        };
        let indices = || Tensor::i64([n], vec![0; n]);
        let mask = |node: &Node| match node.op {
            Op::Dropout { p, index } => {
                let (name, len) = (format!("dropout.{index}"), graph.shape(node.output).len());
                let words = len.div_ceil(WORD);
                let bits = Tensor::f32([n, words], vec![SOME_KEPT; n * words]);
                Some(bits.map(|bits| Mask { name, p, index, len, bits }))
            }
            _ => None,
        };
        let image = graph.shape(graph.input);
        Ok(Batch {
            step: 0,
            image,
            x_0: of(image)?,
            eps: of(image)?,
            t: indices()?,
            y: graph.classes().map(|_| indices()).transpose()?,
            masks: graph.nodes.iter().filter_map(mask).collect::<Result<_, _>>()?,
        })
    }

    /// The number of its samples.
    pub(super) fn len(&self) -> usize {
        self.t.shape().iter().product()
    }

    /// The step that it is for, counted from 1; 0 for none.
    pub(super) fn step(&self) -> u64 {
        self.step
    }

    /// Becomes the batch of a step. The samples are shared out over the thread pool that this runs in.
    ///
    /// # Errors
    /// Those of [`Draws::image`]; the batch is then for no step.
    pub(super) fn draw(&mut self, draws: &Draws, dropout: DropoutKey, isa: Isa) -> Result<()> {
        self.step = 0;
        let (pixels, channels, len) = (self.image.h * self.image.w, self.image.c, self.image.len());
        let images = floats(&mut self.x_0).par_chunks_mut(len);
        let conditions = images
            .zip(floats(&mut self.eps).par_chunks_mut(len))
            .enumerate()
            .map_init(
                || [vec![0.0; len], vec![0.0; len], vec![0.0; len]],
                |[x0, noise, x_t], (sample, (image, eps))| {
                    draws.image(sample, x0)?;
                    let (_, condition) = draws.noise(sample, x0, noise, x_t);
                    transpose(x0, pixels, channels, image);
                    transpose(noise, pixels, channels, eps);
                    Ok(condition)
                },
            )
            .collect::<Result<Vec<_>>>()?;
        for (t, condition) in integers(&mut self.t).iter_mut().zip(&conditions) {
            *t = condition.index as i64;
        }
        let classes = conditions.iter().filter_map(|condition| condition.class);
        for (y, class) in self.y.iter_mut().flat_map(integers).zip(classes) {
            *y = class as i64;
        }
        for Mask { p, index, len, bits, .. } in &mut self.masks {
            let words = len.div_ceil(WORD);
            floats(bits).par_chunks_mut(words).enumerate().for_each_init(Vec::new, |kept, (s, bits)| {
                kept.clear();
                kept.resize(*len, 1f32);
                dropout.drop_out(isa, *p, *index, s, kept);
                for (bits, kept) in bits.iter_mut().zip(kept.chunks(WORD)) {
                    let digits = kept.iter().enumerate().map(|(k, kept)| u32::from(*kept != 0.0) << k);
                    *bits = digits.sum::<u32>() as f32;
                }
            });
        }
        self.step = dropout.step;
        Ok(())
    }

    /// The inputs by name.
    pub(super) fn inputs(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let masks = self.masks.iter().map(|mask| (mask.name.as_str(), &mask.bits));
        let named = [("x_0", &self.x_0), ("eps", &self.eps), ("t", &self.t)];
        named.into_iter().chain(self.y.iter().map(|y| ("y", y))).chain(masks)
    }
}

/// A number in [-1, 1] for a place.
pub(super) fn some(i: usize) -> f32 {
    (i % 17) as f32 / 8.0 - 1.0
}

fn floats(tensor: &mut Tensor) -> &mut [f32] {
    match tensor {
        Tensor::F32 { data, .. } => data,
        Tensor::I64 { .. } => &mut [],
    }
}

fn integers(tensor: &mut Tensor) -> &mut [i64] {
    match tensor {
        Tensor::I64 { data, .. } => data,
        Tensor::F32 { .. } => &mut [],
    }
}
