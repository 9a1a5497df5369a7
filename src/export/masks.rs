//! The masks of a network's dropouts as a training step's graph is given them.

use super::network::images;
use crate::error::Result;
use crate::kernels::dropped_scale;
use crate::model::graph::{Graph, Op, Shape};
use performer_ddpm_onnx as onnx;
use performer_ddpm_onnx::builder::{GraphBuilder, ReshapeDim, SliceRange, Unary, Value};
use performer_ddpm_onnx::{Dim, ElementType};
use serde::{Deserialize, Serialize};

/// How a training step's graph is given the mask of a dropout, the input `dropout.INDEX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Masks {
    /// The factors, f32 \[N, C, H, W\]: 0 or 1 / (1 - p).
    #[default]
    Factors,
    /// f32 \[N, K\]: whole numbers whose [`WORD`] binary digits, from the lowest on, say of as many elements
    /// of \[H, W, C\] which of them are kept; K = ceil(H W C / [`WORD`]). A sixteenth of the numbers to send
    /// to a device.
    Bits,
}

impl Masks {
    pub(super) fn is_default(&self) -> bool {
        *self == Masks::default()
    }
}

/// The elements that a number of [`Masks::Bits`] tells of: an f32 holds every whole number of so many digits.
pub const WORD: usize = 16;

/// The inputs of the dropouts' masks, in the order of their indices, as factors \[N, C, H, W\].
pub(super) fn write(g: &mut GraphBuilder, graph: &Graph, masks: Masks) -> Result<Vec<Option<Value>>> {
    let mut values = vec![None; graph.dropouts];
    for node in &graph.nodes {
        if let Op::Dropout { p, index } = node.op
            && p > 0.0
        {
            let (name, shape) = (format!("dropout.{index}"), graph.shape(node.output));
            let value = match masks {
                Masks::Factors => g.input(&name, ElementType::F32, images(shape))?,
                Masks::Bits => {
                    let words = shape.len().div_ceil(WORD);
                    let packed = g.input(&name, ElementType::F32, [Dim::from("N"), words.into()])?;
                    let scale = dropped_scale(p) as f32;
                    g.within(&format!("masks/{index}"), "the digits of each number", |g| {
                        factors(g, packed, shape, scale)
                    })?
                }
            };
            values[index] = Some(value);
        }
    }
    Ok(values)
}

/// The k-th digit of a number m is floor(2 (u - floor(u))) with u = m / 2^(k + 1), all exact; times `scale`.
fn factors(g: &mut GraphBuilder, packed: Value, shape: Shape, scale: f32) -> onnx::Result<Value> {
    let words = shape.len().div_ceil(WORD);
    let powers: Vec<f32> = (1..=WORD as i32).map(|k| 2f32.powi(-k)).collect();
    let powers = g.constant_f32(&[WORD], &powers)?;
    let column = g.unsqueeze(packed, &[2])?;
    let shifted = g.mul(column, powers)?;
    let above = g.unary(Unary::Floor, shifted)?;
    let rest = g.sub(shifted, above)?;
    let doubled = g.add(rest, rest)?;
    let digits = g.unary(Unary::Floor, doubled)?;
    let scale = g.scalar(scale)?;
    let kept = g.mul(digits, scale)?;
    let mut flat = g.reshape(kept, &[ReshapeDim::Copy, ReshapeDim::To(words * WORD)])?;
    if words * WORD != shape.len() {
        flat = g.slice(flat, &[SliceRange { axis: 1, start: 0, end: shape.len(), step: 1 }])?;
    }
    let [h, w, c] = [shape.h, shape.w, shape.c].map(ReshapeDim::To);
    let last = g.reshape(flat, &[ReshapeDim::Copy, h, w, c])?;
    g.transpose(last, &[0, 3, 1, 2])
}
