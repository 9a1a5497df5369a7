//! The network with classifier-free guidance: two passes in one batch.

use super::network::{Condition, Network};
use crate::error::Result;
use crate::model::graph::Shape;
use performer_ddpm_onnx::Result as OnnxResult;
use performer_ddpm_onnx::builder::{Binary, GraphBuilder, Reduction, ReshapeDim, Unary, Value};

/// What guides the network.
#[derive(Clone, Copy)]
pub(super) struct Guidance {
    /// The class that stands for none.
    pub null: usize,
    /// w and phi, two numbers.
    pub numbers: Value,
}

/// Writes the network's output for x \[N, C, H, W\]: without guidance the network's own, with it (G1) and
/// (G3) of [`equations::guidance`](crate::equations::guidance) for its two predictions. A learned variance is
/// the one for the class, and where w and phi are 0, which is the prediction for none, the one for none.
pub(super) fn write(
    g: &mut GraphBuilder,
    network: Network,
    shape: Shape,
    x: Value,
    condition: Condition,
    guidance: Option<Guidance>,
) -> Result<Value> {
    let (Some(Guidance { null, numbers }), Some(y)) = (guidance, condition.y) else {
        return network.write(g, x, condition);
    };
    let doc = "guidance: every image twice, with its class and with none";
    let image = [shape.c, shape.h, shape.w].map(ReshapeDim::To);
    let (x_twice, t_twice, y_twice) = g.within("guidance", doc, |g| {
        let x = twice(g, x, x, &image)?;
        let t = twice(g, condition.t, condition.t, &[])?;
        let zero = g.constant_i64(&[1], &[0])?;
        let null = g.constant_i64(&[1], &[null as i64])?;
        let none = g.mul(y, zero)?;
        let none = g.add(none, null)?;
        Ok((x, t, twice(g, y, none, &[])?))
    })?;
    let both = network.write(g, x_twice, Condition { t: t_twice, y: Some(y_twice) })?;
    let doc = "(G1) m^ = m + w (m_c - m), and (G3) phi (s_c/s^) m^ + (1 - phi) m^ with s the deviations";
    let guided = g.within("guidance", doc, |g| {
        let channels = g.shape(both)?.dims()[1].known().unwrap_or(shape.c);
        let [c, h, w] = [channels, shape.h, shape.w].map(ReshapeDim::To);
        let apart = g.reshape(both, &[ReshapeDim::To(2), ReshapeDim::Infer, c, h, w])?;
        let passes = g.split(apart, 0, &[1, 1])?;
        let with_class = g.squeeze(passes[0], &[0])?;
        let without = g.squeeze(passes[1], &[0])?;
        if channels == shape.c {
            return combined(g, with_class, without, numbers);
        }
        let lengths = [shape.c, channels - shape.c];
        let (of_class, of_none) = (g.split(with_class, 1, &lengths)?, g.split(without, 1, &lengths)?);
        let prediction = combined(g, of_class[0], of_none[0], numbers)?;
        let (zero, sum) = (g.scalar(0.0)?, g.reduce(Reduction::Sum, numbers, &[0], false)?);
        let leads = g.binary(Binary::Less, zero, sum)?;
        let variance = g.choose(leads, of_class[1], of_none[1])?;
        g.concat(1, &[prediction, variance])
    })?;
    Ok(guided)
}

fn combined(g: &mut GraphBuilder, with_class: Value, without: Value, numbers: Value) -> OnnxResult<Value> {
    let numbers = g.split(numbers, 0, &[1, 1])?;
    let difference = g.sub(with_class, without)?;
    let further = g.mul(numbers[0], difference)?;
    let guided = g.add(without, further)?;
    let (wanted, got) = (deviation(g, with_class)?, deviation(g, guided)?);
    let (zero, one) = (g.scalar(0.0)?, g.scalar(1.0)?);
    let ratio = g.div(wanted, got)?;
    // Where all numbers are the same, nothing changes.
    let varies = g.binary(Binary::Less, zero, got)?;
    let ratio = g.choose(varies, ratio, one)?;
    let excess = g.sub(ratio, one)?;
    let part = g.mul(numbers[1], excess)?;
    let factor = g.add(one, part)?;
    g.mul(factor, guided)
}

/// The standard deviation of each image's numbers about their mean: \[N, 1, 1, 1\].
fn deviation(g: &mut GraphBuilder, x: Value) -> OnnxResult<Value> {
    let mean = g.reduce(Reduction::Mean, x, &[1, 2, 3], true)?;
    let off = g.sub(x, mean)?;
    let squares = g.mul(off, off)?;
    let variance = g.reduce(Reduction::Mean, squares, &[1, 2, 3], true)?;
    g.unary(Unary::Sqrt, variance)
}

/// a and then b along the first axis; the other axes are those of `rest`.
fn twice(g: &mut GraphBuilder, a: Value, b: Value, rest: &[ReshapeDim]) -> OnnxResult<Value> {
    let (a, b) = (g.unsqueeze(a, &[0])?, g.unsqueeze(b, &[0])?);
    let stacked = g.concat(0, &[a, b])?;
    let target: Vec<ReshapeDim> = [ReshapeDim::Infer].into_iter().chain(rest.iter().copied()).collect();
    g.reshape(stacked, &target)
}
