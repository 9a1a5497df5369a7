//! The gradients of a group normalisation. `nn/group_norm.rs` derives them.

use performer_ddpm_onnx::Result;
use performer_ddpm_onnx::builder::{GraphBuilder, GroupNormParts, Reduction, ReshapeDim, Value};

/// The gradients in a normalisation's operands.
pub(super) struct Gradient {
    /// \[N, C, H, W\].
    pub x: Value,
    /// \[C\].
    pub scale: Value,
    /// \[C\].
    pub shift: Value,
}

/// With xhat the normalised x, r the inverse deviation and n the elements of a group, and over a group the
/// sums S of gamma dZ and T of gamma dZ xhat: dX = r (gamma dZ - S / n - xhat T / n). The sums are taken over
/// the pixels of each channel first, which are what the gradients in gamma and beta are made of.
pub(super) fn backward(
    g: &mut GraphBuilder,
    parts: &GroupNormParts,
    groups: usize,
    scale: Value,
    d_z: Value,
) -> Result<Gradient> {
    let lengths: Vec<usize> = g.shape(d_z)?.dims()[1..].iter().filter_map(|dim| dim.known()).collect();
    let (channels, pixels) = (lengths[0], lengths[1] * lengths[2]);
    let each = channels / groups;
    let (inside, last) = ([ReshapeDim::Copy, ReshapeDim::To(groups), ReshapeDim::To(each)], 2);
    let whole = [ReshapeDim::Copy, ReshapeDim::To(groups), ReshapeDim::To(each * pixels)];
    let image: Vec<ReshapeDim> = std::iter::once(ReshapeDim::Copy)
        .chain(lengths.iter().map(|length| ReshapeDim::To(*length)))
        .collect();

    let product = g.mul(d_z, parts.normal)?;
    let sums = g.reduce(Reduction::Sum, d_z, &[2, 3], false)?;
    let sums_normal = g.reduce(Reduction::Sum, product, &[2, 3], false)?;
    let d_shift = g.reduce(Reduction::Sum, sums, &[0], false)?;
    let d_scale = g.reduce(Reduction::Sum, sums_normal, &[0], false)?;

    let n = g.scalar((1.0 / (each * pixels) as f64) as f32)?;
    let share = g.mul(parts.inverse_deviation, n)?;
    let mut of_group = |sums: Value| {
        let scaled = g.mul(sums, scale)?;
        let grouped = g.reshape(scaled, &inside)?;
        let total = g.reduce(Reduction::Sum, grouped, &[last], true)?;
        g.mul(total, share)
    };
    let (s, t) = (of_group(sums)?, of_group(sums_normal)?);

    let by_group = g.reshape(scale, &[ReshapeDim::To(groups), ReshapeDim::To(each)])?;
    let factor = g.mul(parts.inverse_deviation, by_group)?;
    let [c, one] = [channels, 1].map(ReshapeDim::To);
    let factor = g.reshape(factor, &[ReshapeDim::Copy, c, one, one])?;
    let direct = g.mul(d_z, factor)?;
    let direct = g.reshape(direct, &whole)?;
    let normal = g.reshape(parts.normal, &whole)?;
    let along = g.mul(normal, t)?;
    let d_x = g.sub(direct, along)?;
    let d_x = g.sub(d_x, s)?;
    Ok(Gradient { x: g.reshape(d_x, &image)?, scale: d_scale, shift: d_shift })
}
