//! Attention as ONNX operators: exact (22), and FAVOR+ (26) with the engine's features, its stabilisation and
//! its guard.
//!
//! Everything is channels first, q, k, v \[N, heads, d, L\] and features \[N, heads, l m, L\], so that no
//! image is transposed on the way in or out. FAVOR+ never forms an L x L matrix. `favor_features` in
//! [`crate::nn`] explains the symbols, and why nothing overflows or divides by zero.

use crate::config::FeatureMap;
use crate::equations::features::RELU_CONSTANT;
use crate::nn::DENOMINATOR_GUARD;
use performer_ddpm_onnx::Result;
use performer_ddpm_onnx::builder::{Binary, GraphBuilder, Reduction, ReshapeDim, Unary, Value};

/// The axis of d or l m, and that of L.
pub(super) const ROWS: usize = 2;
pub(super) const TOKENS: usize = 3;

/// What the backward pass of an attention reads. q, k, v and the output are \[N, heads, d, L\].
pub(super) struct Saved {
    pub q: Value,
    pub k: Value,
    pub v: Value,
    pub out: Value,
    pub inner: Inner,
}

/// What it reads of one kind of attention.
pub(super) enum Inner {
    /// Of (22): A \[N, heads, L, L\] with normalised rows.
    Softmax(Value),
    /// Of (26).
    Favor(Favor),
}

/// What the backward pass of (26) reads.
pub(super) struct Favor {
    /// What multiplies a query or a key: w / d^(1/4), and for the hyperbolic map -w / d^(1/4) behind it.
    pub w: Value,
    /// Q' \[N, heads, l m, L\].
    pub queries: Value,
    /// K' \[N, heads, l m, L\].
    pub keys: Value,
    /// V K'^T \[N, heads, d, l m\].
    pub sums: Value,
    /// The keys' sum over L \[N, heads, l m, 1\].
    pub total: Value,
    /// D \[N, heads, 1, L\].
    pub denominator: Value,
    /// D^, what the output was divided by.
    pub divisor: Value,
    pub map: Map,
}

/// What it reads of one feature map.
pub(super) enum Map {
    /// Of the positive and the hyperbolic map: nothing more.
    Exponential,
    /// Of the trigonometric map.
    Trigonometric {
        /// |k_l|^2/2 \[N, heads, 1, L\].
        half_norm: Value,
        /// c, the largest of them \[N, heads, 1, 1\].
        largest: Value,
    },
    /// Of ReLU: nothing more.
    Relu,
}

/// Writes attention over the pixels of q, k, v \[N, C, H, W\], its heads over neighbouring channels; exact,
/// or FAVOR+ with a feature map and its projections \[m, d\].
pub(super) fn write(
    g: &mut GraphBuilder,
    heads: usize,
    features: Option<(FeatureMap, Value)>,
    q: Value,
    k: Value,
    v: Value,
) -> Result<(Value, Saved)> {
    let lengths: Vec<usize> = g.shape(q)?.dims()[1..].iter().filter_map(|dim| dim.known()).collect();
    let image: Vec<ReshapeDim> = std::iter::once(ReshapeDim::Copy)
        .chain(lengths.iter().map(|length| ReshapeDim::To(*length)))
        .collect();
    let (channels, tokens) = (lengths[0], lengths[1..].iter().product());
    let dim = channels / heads;
    let by_head = [ReshapeDim::Copy, ReshapeDim::To(heads), ReshapeDim::To(dim), ReshapeDim::To(tokens)];
    let mut cut = |x: Value| g.reshape(x, &by_head);
    let (q, k, v) = (cut(q)?, cut(k)?, cut(v)?);
    let (out, inner) = match features {
        None => g.within("softmax", "(22) Att = D^-1 A V, A = exp(Q K^T / sqrt(d))", |g| {
            softmax(g, dim, q, k, v)
        })?,
        Some((map, w)) => favor(g, map, w, dim, q, k, v)?,
    };
    Ok((g.reshape(out, &image)?, Saved { q, k, v, out, inner }))
}

/// (22). The Softmax operator normalises A's rows; it subtracts their maximum before it exponentiates.
fn softmax(g: &mut GraphBuilder, dim: usize, q: Value, k: Value, v: Value) -> Result<(Value, Inner)> {
    let queries = g.transpose(q, &[0, 1, TOKENS, ROWS])?;
    let products = g.matmul(queries, k)?;
    let scale = g.scalar((dim as f64).powf(-0.5) as f32)?;
    let scores = g.mul(products, scale)?;
    let a = g.softmax(scores, TOKENS)?;
    let over_keys = g.transpose(a, &[0, 1, TOKENS, ROWS])?;
    Ok((g.matmul(v, over_keys)?, Inner::Softmax(a)))
}

/// (26) from the features of `map`.
fn favor(
    g: &mut GraphBuilder,
    map: FeatureMap,
    w: Value,
    dim: usize,
    q: Value,
    k: Value,
    v: Value,
) -> Result<(Value, Inner)> {
    let w = g.within("features", "w / d^(1/4): what (24) and (25) multiply a query or a key by", |g| {
        let scale = g.scalar((dim as f64).powf(-0.25) as f32)?;
        let w = g.mul(w, scale)?;
        match map {
            FeatureMap::Positive | FeatureMap::Trigonometric | FeatureMap::Relu => Ok(w),
            FeatureMap::Hyperbolic => {
                let minus = g.unary(Unary::Neg, w)?;
                g.concat(0, &[w, minus])
            }
        }
    })?;
    let (queries, keys, map) = match map {
        FeatureMap::Positive | FeatureMap::Hyperbolic => {
            let (queries, keys) = exponential(g, map, w, dim, q, k)?;
            (queries, keys, Map::Exponential)
        }
        FeatureMap::Trigonometric => trigonometric(g, w, dim, q, k)?,
        FeatureMap::Relu => {
            let doc = "(24) with h = 1, f(u) = max(u, 0) + c";
            let queries = g.within("queries", doc, |g| relu(g, w, q))?;
            (queries, g.within("keys", doc, |g| relu(g, w, k))?, Map::Relu)
        }
    };
    let doc = "(26) Att^ = D^^-1 (Q' ((K')^T V)), D^ = diag(Q' ((K')^T 1_L))";
    g.within("product", doc, |g| {
        let rows = g.transpose(keys, &[0, 1, TOKENS, ROWS])?;
        let sums = g.matmul(v, rows)?;
        let numerator = g.matmul(sums, queries)?;
        let total = g.reduce(Reduction::Sum, keys, &[TOKENS], true)?;
        let row = g.transpose(total, &[0, 1, TOKENS, ROWS])?;
        let denominator = g.matmul(row, queries)?;
        let divisor = guarded(g, denominator)?;
        let out = g.div(numerator, divisor)?;
        Ok((out, Inner::Favor(Favor { w, queries, keys, sums, total, denominator, divisor, map })))
    })
}

/// The features of (25), without the factors that cancel in (26): keys exp(e_lj - c_j) with e_lj = u_lj -
/// |k_l|^2/2 and c_j = max_l e_lj, queries exp(u_ij + c_j - s_i) with s_i = max_j (u_ij + c_j).
fn exponential(
    g: &mut GraphBuilder,
    map: FeatureMap,
    w: Value,
    dim: usize,
    q: Value,
    k: Value,
) -> Result<(Value, Value)> {
    let equation = match map {
        FeatureMap::Hyperbolic => "(24) with f(u) = exp(u), exp(-u)",
        _ => "(25)",
    };
    let doc = format!("{equation}, stabilised: exp(e_lj - c_j), e_lj = u_lj - |k_l|^2/2, c_j = max_l e_lj");
    let (keys, c) = g.within("keys", &doc, |g| {
        let u = g.matmul(w, k)?;
        let half_norm = half_norm(g, dim, k)?;
        let e = g.sub(u, half_norm)?;
        let c = g.reduce(Reduction::Max, e, &[TOKENS], true)?;
        let shifted = g.sub(e, c)?;
        Ok((g.unary(Unary::Exp, shifted)?, c))
    })?;
    let doc = format!("{equation}, stabilised: exp(u_ij + c_j - s_i), s_i = max_j (u_ij + c_j)");
    let queries = g.within("queries", &doc, |g| {
        let u = g.matmul(w, q)?;
        let e = g.add(u, c)?;
        let s = g.reduce(Reduction::Max, e, &[ROWS], true)?;
        let shifted = g.sub(e, s)?;
        g.unary(Unary::Exp, shifted)
    })?;
    Ok((queries, keys))
}

/// Queries (sin u, cos u), keys exp(|k_l|^2/2 - c) (sin u, cos u) with c = max_l |k_l|^2/2.
fn trigonometric(
    g: &mut GraphBuilder,
    w: Value,
    dim: usize,
    q: Value,
    k: Value,
) -> Result<(Value, Value, Map)> {
    let waves = |g: &mut GraphBuilder, x: Value| {
        let u = g.matmul(w, x)?;
        let (sine, cosine) = (g.unary(Unary::Sin, u)?, g.unary(Unary::Cos, u)?);
        g.concat(ROWS, &[sine, cosine])
    };
    let queries = g.within("queries", "(24) with f(u) = sin u, cos u", |g| waves(g, q))?;
    let doc = "(24) with f(u) = sin u, cos u, stabilised: times exp(|k_l|^2/2 - max_l |k_l|^2/2)";
    let (keys, saved) = g.within("keys", doc, |g| {
        let half_norm = half_norm(g, dim, k)?;
        let largest = g.reduce(Reduction::Max, half_norm, &[TOKENS], true)?;
        let shifted = g.sub(half_norm, largest)?;
        let factor = g.unary(Unary::Exp, shifted)?;
        let waves = waves(g, k)?;
        Ok((g.mul(waves, factor)?, Map::Trigonometric { half_norm, largest }))
    })?;
    Ok((queries, keys, saved))
}

fn relu(g: &mut GraphBuilder, w: Value, x: Value) -> Result<Value> {
    let u = g.matmul(w, x)?;
    let positive = g.unary(Unary::Relu, u)?;
    let constant = g.scalar(RELU_CONSTANT as f32)?;
    g.add(positive, constant)
}

/// |x^|^2 / 2 of every token with x^ = x / d^(1/4): \[N, heads, 1, L\].
fn half_norm(g: &mut GraphBuilder, dim: usize, x: Value) -> Result<Value> {
    let squares = g.mul(x, x)?;
    let factor = 0.5 * (dim as f64).powf(-0.5);
    let row = g.constant_f32(&[1, dim], &vec![factor as f32; dim])?;
    g.matmul(row, squares)
}

/// The layer's guard, `nn::favor_features::guarded`: D where |D| >= 2^-20, elsewhere 2^-20 with D's sign. NaN
/// stays.
fn guarded(g: &mut GraphBuilder, d: Value) -> Result<Value> {
    let guard = g.scalar(DENOMINATOR_GUARD as f32)?;
    let minus = g.scalar(-DENOMINATOR_GUARD as f32)?;
    let zero = g.scalar(0.0)?;
    let magnitude = g.unary(Unary::Abs, d)?;
    let small = g.binary(Binary::Less, magnitude, guard)?;
    let negative = g.binary(Binary::Less, d, zero)?;
    let replacement = g.choose(negative, minus, guard)?;
    g.choose(small, replacement, d)
}

#[cfg(test)]
mod tests;
