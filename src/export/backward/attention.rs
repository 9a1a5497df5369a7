//! The gradients of attention in q, k and v. `nn/softmax_attention.rs` and `nn/favor_backward.rs` derive
//! them, in the same notation; `export/attention.rs` has the layouts.

use crate::equations::features::RELU_CONSTANT;
use crate::export::attention::{Favor, Inner, Map, ROWS, Saved, TOKENS};
use performer_ddpm_onnx::builder::{Binary, GraphBuilder, Reduction, ReshapeDim, Unary, Value};
use performer_ddpm_onnx::{Error, Result};

/// The gradients in q, k and v \[N, C, H, W\], given that in the output.
pub(super) fn backward(g: &mut GraphBuilder, saved: &Saved, d_out: Value) -> Result<[Value; 3]> {
    let image: Vec<ReshapeDim> = std::iter::once(ReshapeDim::Copy)
        .chain(g.shape(d_out)?.dims()[1..].iter().filter_map(|dim| dim.known().map(ReshapeDim::To)))
        .collect();
    let lengths: Vec<usize> = g.shape(saved.q)?.dims()[1..].iter().filter_map(|dim| dim.known()).collect();
    let &[heads, dim, tokens] = &lengths[..] else {
        return Err(Error::invalid("an attention's gradient", "heads of known size", "others", ""));
    };
    let by_head = [ReshapeDim::Copy, ReshapeDim::To(heads), ReshapeDim::To(dim), ReshapeDim::To(tokens)];
    let d_out = g.reshape(d_out, &by_head)?;
    // dO_i . O_i, \[N, heads, 1, L\].
    let products = g.mul(d_out, saved.out)?;
    let along = g.reduce(Reduction::Sum, products, &[ROWS], true)?;
    let d = match &saved.inner {
        Inner::Softmax(a) => softmax(g, saved, *a, dim, d_out, along)?,
        Inner::Favor(favor) => self::favor(g, saved, favor, dim, d_out, along)?,
    };
    let mut whole = |d: Value| g.reshape(d, &image);
    Ok([whole(d[0])?, whole(d[1])?, whole(d[2])?])
}

/// The last two axes exchanged.
fn transposed(g: &mut GraphBuilder, x: Value) -> Result<Value> {
    g.transpose(x, &[0, 1, TOKENS, ROWS])
}

/// dV = A^T dO, dA = dO V^T, and with dS = A (dA - dO . O) the gradients dQ = dS K / sqrt(d), dK = dS^T Q /
/// sqrt(d).
fn softmax(
    g: &mut GraphBuilder,
    saved: &Saved,
    a: Value,
    dim: usize,
    d_out: Value,
    along: Value,
) -> Result<[Value; 3]> {
    let d_v = g.matmul(d_out, a)?;
    let rows = transposed(g, d_out)?;
    let d_a = g.matmul(rows, saved.v)?;
    let along = transposed(g, along)?;
    let off = g.sub(d_a, along)?;
    let d_scores = g.mul(a, off)?;
    let scale = g.scalar((dim as f64).powf(-0.5) as f32)?;
    let over_keys = transposed(g, d_scores)?;
    let d_q = g.matmul(saved.k, over_keys)?;
    let d_k = g.matmul(saved.q, d_scores)?;
    Ok([g.mul(d_q, scale)?, g.mul(d_k, scale)?, d_v])
}

/// With y_i = (dN_i, dD_i) and S the sums over the keys of (v_l, 1) k'_l^T: dS = sum_i y_i q'_i^T, dq'_i =
/// S^T y_i, dv_l = dS k'_l and dk'_l = dS^T (v_l, 1).
fn favor(
    g: &mut GraphBuilder,
    saved: &Saved,
    favor: &Favor,
    dim: usize,
    d_out: Value,
    along: Value,
) -> Result<[Value; 3]> {
    let guarded = match favor.map {
        // Their D is never near 0.
        Map::Exponential | Map::Relu => None,
        Map::Trigonometric { half_norm, largest } => {
            let is_kept = g.binary(Binary::Equal, favor.denominator, favor.divisor)?;
            Some((is_kept, half_norm, largest))
        }
    };
    let d_numerator = g.div(d_out, favor.divisor)?;
    let quotient = g.div(along, favor.divisor)?;
    let d_denominator = g.unary(Unary::Neg, quotient)?;
    let zero = g.scalar(0.0)?;
    let d_denominator = match guarded {
        None => d_denominator,
        Some((is_kept, ..)) => g.choose(is_kept, d_denominator, zero)?,
    };
    let d_pair = g.concat(ROWS, &[d_numerator, d_denominator])?;

    let columns = transposed(g, favor.sums)?;
    let columns = g.concat(TOKENS, &[columns, favor.total])?;
    let d_queries = g.matmul(columns, d_pair)?;
    let tokens_first = transposed(g, favor.queries)?;
    let d_state = g.matmul(d_pair, tokens_first)?;
    let parts = g.split(d_state, ROWS, &[dim, 1])?;
    let d_v = g.matmul(parts[0], favor.keys)?;
    let (d_sums, d_total) = (transposed(g, parts[0])?, transposed(g, parts[1])?);
    let d_keys = g.matmul(d_sums, saved.v)?;
    let d_keys = g.add(d_keys, d_total)?;

    let back = g.transpose(favor.w, &[1, 0])?;
    let d_u = pull_back(g, favor, favor.queries, d_queries)?;
    let d_q = g.matmul(back, d_u)?;
    let d_u = pull_back(g, favor, favor.keys, d_keys)?;
    let d_k = g.matmul(back, d_u)?;
    // What the keys' factor h = exp(-+|k^|^2/2) contributes, as the gradient in |k^_l|^2/2.
    let radial = match favor.map {
        Map::Relu => return Ok([d_q, d_k, d_v]),
        Map::Exponential => {
            let sum = g.reduce(Reduction::Sum, d_u, &[ROWS], true)?;
            g.unary(Unary::Neg, sum)?
        }
        Map::Trigonometric { .. } => {
            let products = g.mul(favor.keys, d_keys)?;
            g.reduce(Reduction::Sum, products, &[ROWS], true)?
        }
    };
    let radial = match guarded {
        None => radial,
        Some((is_kept, half_norm, largest)) => {
            let guarded = g.choose(is_kept, zero, along)?;
            of_largest(g, radial, guarded, half_norm, largest)?
        }
    };
    let square = g.scalar((dim as f64).powf(-0.5) as f32)?;
    let factor = g.mul(radial, square)?;
    let outward = g.mul(saved.k, factor)?;
    Ok([d_q, g.add(d_k, outward)?, d_v])
}

/// From the gradients in features to those in u \[N, heads, m, L\]; for the hyperbolic map in (u, -u), whose
/// rows of w are (w, -w).
fn pull_back(g: &mut GraphBuilder, favor: &Favor, features: Value, d: Value) -> Result<Value> {
    match favor.map {
        Map::Exponential => g.mul(d, features),
        Map::Relu => {
            let (constant, zero) = (g.scalar(RELU_CONSTANT as f32)?, g.scalar(0.0)?);
            let positive = g.binary(Binary::Less, constant, features)?;
            g.choose(positive, d, zero)
        }
        Map::Trigonometric { .. } => {
            let m = g.shape(favor.w)?.dims()[0].known().unwrap_or(0);
            let (f, d) = (g.split(features, ROWS, &[m, m])?, g.split(d, ROWS, &[m, m])?);
            let (with_cosine, with_sine) = (g.mul(d[0], f[1])?, g.mul(d[1], f[0])?);
            g.sub(with_cosine, with_sine)
        }
    }
}

/// `radial` less the sum of the guarded queries' dO_i . O_i, at the key whose |k^_l|^2/2 is c; in equal parts
/// where several keys are as large.
fn of_largest(
    g: &mut GraphBuilder,
    radial: Value,
    guarded: Value,
    half_norm: Value,
    largest: Value,
) -> Result<Value> {
    let sum = g.reduce(Reduction::Sum, guarded, &[TOKENS], true)?;
    let is_largest = g.binary(Binary::Equal, half_norm, largest)?;
    let is_largest = g.cast(is_largest, performer_ddpm_onnx::ElementType::F32)?;
    let count = g.reduce(Reduction::Sum, is_largest, &[TOKENS], true)?;
    let each = g.div(sum, count)?;
    let part = g.mul(is_largest, each)?;
    g.sub(radial, part)
}

#[cfg(test)]
mod tests;
