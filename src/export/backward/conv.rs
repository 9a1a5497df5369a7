//! The gradients of a convolution.

use crate::model::graph::Shape;
use crate::nn::Window;
use performer_ddpm_onnx::builder::{
    ConvSpec, ConvTransposeSpec, GraphBuilder, PadMode, Reduction, ReshapeDim, SliceRange, Value,
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

/// The gradient in the weight \[C_out, C_in, k, k\], over the P output pixels of every image.
pub(super) fn weight_gradient(g: &mut GraphBuilder, x: Value, d_y: Value, window: &Window) -> Result<Value> {
    let known = |g: &GraphBuilder, value: Value| -> Result<Vec<usize>> {
        Ok(g.shape(value)?.dims()[1..].iter().filter_map(Dim::known).collect())
    };
    let (from, to) = (known(g, x)?, known(g, d_y)?);
    let (&[c_in, height, width], &[c_out, ..]) = (&from[..], &to[..]) else {
        return Err(Error::invalid("a convolution's gradient", "images of known size", "others", ""));
    };
    if *window == POINT {
        return by_image(g, x, d_y, [c_in, c_out]);
    }
    // As measured on a GPU: of many channels on many pixels the products of single images are faster.
    let is_large = c_in.max(c_out) >= 128 && height * width >= 1024;
    if is_large { by_place(g, x, d_y, window) } else { over_the_batch(g, x, d_y, window) }
}

/// A convolution whose channels are the images: of x as \[C_in, N, H, W\] with the kernel d_y as \[C_out, N,
/// OH, OW\], whose elements are as far apart as the layer's windows.
fn over_the_batch(g: &mut GraphBuilder, x: Value, d_y: Value, window: &Window) -> Result<Value> {
    let Window { kernel, stride, pad_before, pad_after } = *window;
    let (images, slopes) = (g.transpose(x, &[1, 0, 2, 3])?, g.transpose(d_y, &[1, 0, 2, 3])?);
    let spec = ConvSpec {
        pads: [pad_before, pad_before, pad_after, pad_after],
        dilations: [stride; 2],
        ..ConvSpec::default()
    };
    let sums = g.conv(images, slopes, None, &spec)?;
    // Rows and columns that no window of the layer reaches.
    let within = [2, 3].map(|axis| SliceRange { axis, start: 0, end: kernel, step: 1 });
    let is_whole = g.shape(sums)?.dims()[2..].iter().all(|dim| *dim == Dim::Known(kernel));
    let sums = if is_whole { sums } else { g.slice(sums, &within)? };
    g.transpose(sums, &[1, 0, 2, 3])
}

/// For every place of the window the product of d_y \[N, C_out, P\] with the pixels \[N, P, C_in\] under that
/// place.
fn by_place(g: &mut GraphBuilder, x: Value, d_y: Value, window: &Window) -> Result<Value> {
    let Window { kernel, stride, pad_before, pad_after } = *window;
    let length = |g: &GraphBuilder, value: Value, axis: usize| -> Result<usize> {
        Ok(g.shape(value)?.dims()[axis].known().unwrap_or(0))
    };
    let (c_in, c_out) = (length(g, x, 1)?, length(g, d_y, 1)?);
    let (height, width) = (length(g, d_y, 2)?, length(g, d_y, 3)?);
    let flat = |channels| [ReshapeDim::Copy, ReshapeDim::To(channels), ReshapeDim::To(height * width)];
    let slopes = g.reshape(d_y, &flat(c_out))?;
    let pads = (pad_before, pad_after);
    let padded = g.pad(x, &[(0, 0), (0, 0), pads, pads], PadMode::Constant(0.0))?;
    let mut products = Vec::with_capacity(kernel * kernel);
    for place in 0..kernel * kernel {
        let range = |axis, start, count| {
            let end = start + (count - 1) * stride + 1;
            SliceRange { axis, start, end, step: stride }
        };
        let (y, x) = (place / kernel, place % kernel);
        let met = g.slice(padded, &[range(2, y, height), range(3, x, width)])?;
        let met = g.reshape(met, &flat(c_in))?;
        let met = g.transpose(met, &[0, 2, 1])?;
        products.push(g.matmul(slopes, met)?);
    }
    let products = g.concat(2, &products)?;
    let sum = g.reduce(Reduction::Sum, products, &[0], false)?;
    let [places, c_in] = [kernel * kernel, c_in].map(ReshapeDim::To);
    let apart = g.reshape(sum, &[ReshapeDim::Copy, places, c_in])?;
    g.transpose(apart, &[0, 2, 1])
}

/// The sum over the images of d_y \[C_out, P\] times x \[P, C_in\].
fn by_image(g: &mut GraphBuilder, x: Value, d_y: Value, [c_in, c_out]: [usize; 2]) -> Result<Value> {
    let flat = |channels: usize| [ReshapeDim::Copy, ReshapeDim::To(channels), ReshapeDim::Infer];
    let (x, d_y) = (g.reshape(x, &flat(c_in))?, g.reshape(d_y, &flat(c_out))?);
    let pixels = g.transpose(x, &[0, 2, 1])?;
    let products = g.matmul(d_y, pixels)?;
    g.reduce(Reduction::Sum, products, &[0], false)
}

#[cfg(test)]
mod tests;
