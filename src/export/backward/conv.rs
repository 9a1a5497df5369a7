//! The gradients of a convolution.

use crate::model::graph::Shape;
use crate::nn::Window;
use performer_ddpm_onnx::builder::{
    ConvSpec, ConvTransposeSpec, GraphBuilder, Reduction, ReshapeDim, SliceRange, Value,
};
use performer_ddpm_onnx::{Dim, Error, Result};

/// The window of a layer that looks at one pixel.
pub(super) const POINT: Window = Window { kernel: 1, stride: 1, pad_before: 0, pad_after: 0 };

/// The gradient in x \[N, C_in, H, W\] of `shape`: the transposed convolution of d_y.
///
/// Padding that differs before and behind is left on and cut off afterwards: ONNX Runtime gives cuDNN, for a
/// transposed convolution, the padding before alone.
pub(super) fn input_gradient(
    g: &mut GraphBuilder,
    d_y: Value,
    weight: Value,
    window: &Window,
    shape: Shape,
) -> Result<Value> {
    let Window { kernel, stride, pad_before, pad_after } = *window;
    let is_even = pad_before == pad_after;
    let padding = if is_even { pad_before } else { 0 };
    let beyond = if is_even { 0 } else { pad_before + pad_after };
    let [h, w] = [shape.h, shape.w].map(|length| length + beyond);
    let mut missing = [0; 2];
    for ((missing, axis), length) in missing.iter_mut().zip([2, 3]).zip([h, w]) {
        let steps = g.shape(d_y)?.dims()[axis].known().unwrap_or(1) - 1;
        // Rows that no window reaches: their gradient is 0.
        *missing = length + 2 * padding - (steps * stride + kernel);
    }
    let spec = ConvTransposeSpec {
        strides: [stride; 2],
        pads: [padding; 4],
        output_padding: missing,
        ..ConvTransposeSpec::default()
    };
    let d_x = g.conv_transpose(d_y, weight, None, &spec)?;
    if is_even {
        return Ok(d_x);
    }
    let inner = |axis, length| SliceRange { axis, start: pad_before, end: pad_before + length, step: 1 };
    g.slice(d_x, &[inner(2, shape.h), inner(3, shape.w)])
}

/// The gradient in the weight, its elements in the order \[C_out, C_in, k, k\]: with the pixels that each place of
/// the window meets as rows, \[N, C_in k k, P\], the product of d_y \[N, C_out, P\] with them over the P output
/// pixels of every image.
///
/// The rows are a convolution of every channel by itself with kernels of a single 1. An image's products are added
/// up afterwards, or where they would be larger than the rows, all images' pixels are one long sum.
pub(super) fn weight_gradient(g: &mut GraphBuilder, x: Value, d_y: Value, window: &Window) -> Result<Value> {
    let known = |g: &GraphBuilder, value: Value| -> Result<Vec<usize>> {
        Ok(g.shape(value)?.dims()[1..].iter().filter_map(Dim::known).collect())
    };
    let (from, to) = (known(g, x)?, known(g, d_y)?);
    let (&[c_in, height, width], &[c_out, rows, columns]) = (&from[..], &to[..]) else {
        return Err(Error::invalid("a convolution's gradient", "images of known size", "others", ""));
    };
    let Window { kernel, stride, pad_before, pad_after } = *window;
    let (places, pixels) = (kernel * kernel, rows * columns);
    let met = if *window == POINT {
        x
    } else {
        let [one, height, width] = [1, height, width].map(ReshapeDim::To);
        let channels = g.reshape(x, &[ReshapeDim::Infer, one, height, width])?;
        let picks: Vec<f32> =
            (0..places * places).map(|i| if i % (places + 1) == 0 { 1.0 } else { 0.0 }).collect();
        let picks = g.constant_f32(&[places, 1, kernel, kernel], &picks)?;
        let spec = ConvSpec {
            strides: [stride; 2],
            pads: [pad_before, pad_before, pad_after, pad_after],
            ..ConvSpec::default()
        };
        g.conv(channels, picks, None, &spec)?
    };
    let flat = |channels: usize| [ReshapeDim::Infer, ReshapeDim::To(channels), ReshapeDim::To(pixels)];
    let met = g.reshape(met, &flat(c_in * places))?;
    let d_y = g.reshape(d_y, &flat(c_out))?;
    let met = g.transpose(met, &[0, 2, 1])?;
    if c_out < pixels {
        let products = g.matmul(d_y, met)?;
        return g.reduce(Reduction::Sum, products, &[0], false);
    }
    let d_y = g.transpose(d_y, &[1, 0, 2])?;
    let d_y = g.reshape(d_y, &[ReshapeDim::Copy, ReshapeDim::Infer])?;
    let met = g.reshape(met, &[ReshapeDim::Infer, ReshapeDim::To(c_in * places)])?;
    g.matmul(d_y, met)
}
