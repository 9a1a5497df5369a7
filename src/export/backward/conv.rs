//! The gradients of a convolution.

use crate::model::graph::Shape;
use crate::nn::Window;
use performer_ddpm_onnx::builder::{
    ConvTransposeSpec, GraphBuilder, PadMode, Reduction, ReshapeDim, SliceRange, Value,
};
use performer_ddpm_onnx::{Error, Result};

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

/// The gradient in the weight, its elements in the order \[C_out, C_in, k, k\]: for every place of the window, the
/// product of d_y \[C_out, P\] with the pixels under that place \[P, C_in\], over the P output pixels of every
/// image.
pub(super) fn weight_gradient(g: &mut GraphBuilder, x: Value, d_y: Value, window: &Window) -> Result<Value> {
    let Window { kernel, stride, pad_before, pad_after } = *window;
    let known = |g: &GraphBuilder, value: Value| -> Result<Vec<usize>> {
        let dims = g.shape(value)?.dims()[1..].iter();
        Ok(dims.filter_map(|dim| dim.known()).collect())
    };
    let (from, to) = (known(g, x)?, known(g, d_y)?);
    let (&[c_in, _, _], &[c_out, height, width]) = (&from[..], &to[..]) else {
        return Err(Error::invalid("a convolution's gradient", "images of known size", "others", ""));
    };
    let pixels = height * width;
    let flat = |channels: usize| [ReshapeDim::Copy, ReshapeDim::To(channels), ReshapeDim::To(pixels)];
    let rows = g.reshape(d_y, &flat(c_out))?;
    let padded = if pad_before + pad_after > 0 {
        let pads = (pad_before, pad_after);
        g.pad(x, &[(0, 0), (0, 0), pads, pads], PadMode::Constant(0.0))?
    } else {
        x
    };
    let mut taps = Vec::with_capacity(kernel * kernel);
    for y in 0..kernel {
        for x in 0..kernel {
            let range = |axis, start, count| {
                let end = start + (count - 1) * stride + 1;
                SliceRange { axis, start, end, step: stride }
            };
            let under = match (kernel, stride) {
                (1, 1) => padded,
                _ => g.slice(padded, &[range(2, y, height), range(3, x, width)])?,
            };
            let under = g.reshape(under, &flat(c_in))?;
            let columns = g.transpose(under, &[0, 2, 1])?;
            taps.push(g.matmul(rows, columns)?);
        }
    }
    let of_images = if taps.len() == 1 { taps[0] } else { g.concat(2, &taps)? };
    let sum = g.reduce(Reduction::Sum, of_images, &[0], false)?;
    if kernel == 1 {
        return Ok(sum);
    }
    let [c_in, places] = [c_in, kernel * kernel].map(ReshapeDim::To);
    let by_place = g.reshape(sum, &[ReshapeDim::Copy, places, c_in])?;
    g.transpose(by_place, &[0, 2, 1])
}
