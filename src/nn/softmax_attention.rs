//! Exact attention of one head, equation (22): O = D^-1 A V with A = exp(Q K^T / sqrt(d)) and D = diag(A
//! 1_L).
//!
//! The rows of A are computed for a tile of queries at a time and not kept: no L x L matrix is ever in
//! memory. For the backward pass, the forward pass saves z_i = log sum_l exp(s_il) of the scores s = Q K^T /
//! sqrt(d), computed as max_l s_il + log sum_l exp(s_il - max_l s_il). The normalised P_il = exp(s_il - z_i)
//! then need no further sums. With O = P V and dP = dO V^T, and since the rows of P sum to one,
//!
//! - dV = P^T dO,
//! - dS = P o (dP - delta 1^T), where o multiplies element by element and
//!   delta_i = sum_l P_il dP_il = dO_i . O_i,
//! - dQ = dS K / sqrt(d) and dK = dS^T Q / sqrt(d).
//!
//! In the code scores and z are exponents to base 2: they are multiplied by log2(e).
//!
//! Multiply-adds: 2 L^2 d forward, 5 L^2 d backward.

use super::heads::{AttentionOutput, AttentionShape, Head, Input, QkvGradient, map_row, scale_row, tiles};
use super::operands::take;
use super::reductions::dot;
use crate::kernels::{
    Element, Exp2, Exp2BelowMaxima, Exponent, Powers, PowersBelowMaxima, Product, Run, each_pair, vectorised,
};
use std::ops::Range;

/// Queries in a tile: their scores are in memory at a time.
const TILE: usize = 32;

/// Queries in a share, which is what one thread works on at a time in the forward pass, as long as there are
/// fewer than `MOST_SHARES`.
const SHARE: usize = 64;
const MOST_SHARES: usize = 16;

/// The distance between rows of L elements: an odd number of cache lines. At a power of two all rows would
/// compete for a few of the cache's sets.
fn row_stride(tokens: usize) -> usize {
    tokens.next_multiple_of(16) | 16
}

/// Queries in a share.
fn share(a: &AttentionShape) -> usize {
    let shares = a.tokens.div_ceil(SHARE).min(MOST_SHARES);
    a.tokens.div_ceil(shares).next_multiple_of(TILE)
}

/// The length of a head's transposed keys and its values.
fn prepared_len(a: &AttentionShape) -> usize {
    a.dim * row_stride(a.tokens) + a.tokens * a.dim
}

/// The length of a share's workspace: the scores of a tile, and a sum per query.
fn share_work_len(a: &AttentionShape) -> usize {
    TILE * (row_stride(a.tokens) + 1)
}

/// The length of the workspace of [`forward`].
pub(super) fn forward_work_len(a: &AttentionShape) -> usize {
    a.heads * prepared_len(a) + a.tokens.div_ceil(share(a)) * share_work_len(a)
}

/// The length of one head's part of it: d_q, d_k, d_v, and what [`head_backward`] takes.
fn backward_work_of_a_head(a: &AttentionShape) -> usize {
    let (l, d) = (a.tokens, a.dim);
    4 * l * d + 2 * TILE * d + 2 * (TILE + d) * row_stride(l)
}

/// The length of the workspace of [`backward`].
pub(super) fn backward_work_len(a: &AttentionShape) -> usize {
    a.heads * backward_work_of_a_head(a)
}

/// 1/sqrt(d), the factor of the scores.
fn scale<T: Element>(a: &AttentionShape) -> T {
    T::of((a.dim as f64).powf(-0.5))
}

/// The factor that makes q . k an exponent to base 2.
fn exponent_scale<T: Element>(a: &AttentionShape) -> T {
    T::of((a.dim as f64).powf(-0.5) * std::f64::consts::LOG2_E)
}

/// One head's operands in the layouts that the products read.
struct Prepared<'a, T> {
    head: usize,
    /// The keys times [`exponent_scale`], transposed, \[d, L\] with rows [`row_stride`] apart.
    k_t: &'a [T],
    /// The values \[L, d\].
    v: &'a [T],
}

/// Sets `out` \[L, heads * d\], and `log_sums` to z by share, head and token.
pub(super) fn forward<T: Element>(input: &Input<T>, out: &mut [T], log_sums: &mut [T], mut work: &mut [T]) {
    let a = &input.shape;
    let (l, d, stride) = (a.tokens, a.dim, row_stride(a.tokens));
    let prepared = take(&mut work, a.heads * prepared_len(a));
    input.team.each(prepared, prepared_len(a), |head, prepared| {
        let (k_t, v) = prepared.split_at_mut(d * stride);
        input.k(head).gather_transposed(l, exponent_scale(a), stride, k_t);
        input.v(head).gather(input.isa, 0..l, d, v);
    });
    let work = take(&mut work, forward_work_len(a) - a.heads * prepared_len(a));
    let share = share(a);
    let (out, log_sums) = ((out, share * a.stride()), (log_sums, share * a.heads));
    input.team.each3(out, log_sums, (work, share_work_len(a)), |i, out, log_sums, work| {
        let tokens = i * share..((i + 1) * share).min(l);
        let heads = prepared.chunks_exact(prepared_len(a)).zip(log_sums.chunks_exact_mut(tokens.len()));
        for (head, (prepared, log_sums)) in heads.enumerate() {
            let (k_t, v) = prepared.split_at(d * stride);
            attend(input, &Prepared { head, k_t, v }, tokens.clone(), out, log_sums, work);
        }
    });
}

/// The output and z of one head's queries `tokens`, which are a share.
fn attend<T: Element>(
    input: &Input<T>,
    prepared: &Prepared<T>,
    tokens: Range<usize>,
    out: &mut [T],
    log_sums: &mut [T],
    mut work: &mut [T],
) {
    let (isa, a) = (input.isa, &input.shape);
    let (l, d, stride) = (a.tokens, a.dim, row_stride(a.tokens));
    let Prepared { head, k_t, v } = *prepared;
    let scores = take(&mut work, TILE * stride);
    let sums = take(&mut work, TILE);
    let first = tokens.start;
    for tile in tiles(tokens, TILE) {
        let rows = tile.len();
        let q = input.q(head).from(tile.start);
        let scores = &mut scores[..rows * stride];
        let to_scores =
            Product { a_row: a.stride(), b_k: stride, c_row: stride, ..Product::dense(rows, l, d) };
        to_scores.multiply(isa, q, k_t, scores);
        let maxima = &mut log_sums[tile.start - first..][..rows];
        let sums = &mut sums[..rows];
        let powers = PowersBelowMaxima { x: scores, width: l, stride, columns: None, maxima, sums };
        Exp2BelowMaxima::run(isa, powers);
        let out = &mut out[(tile.start - first) * a.stride() + head * d..];
        let over_keys = Product { a_row: stride, c_row: a.stride(), ..Product::dense(rows, d, l) };
        over_keys.multiply(isa, scores, v, out);
        vectorised(
            isa,
            #[inline(always)]
            || {
                for (t, out) in out.chunks_mut(a.stride()).take(rows).enumerate() {
                    maxima[t] += sums[t].log2();
                    scale_row(T::one() / sums[t], &mut out[..d]);
                }
            },
        );
    }
}

/// Sets the gradients in q, k and v, given what the forward pass made and `d_out`. The heads are shared out
/// over the team.
pub(super) fn backward<T: Element>(
    input: &Input<T>,
    output: AttentionOutput<T>,
    d_out: &[T],
    QkvGradient { d_q, d_k, d_v }: QkvGradient<T>,
    mut work: &mut [T],
) {
    let a = &input.shape;
    let (len, each) = (a.tokens * a.dim, backward_work_of_a_head(a));
    let work = take(&mut work, backward_work_len(a));
    input.team.each(work, each, |head, work| {
        let (results, work) = work.split_at_mut(3 * len);
        let (out, d_out) = (a.head(head, output.out), a.head(head, d_out));
        head_backward(input, head, (out, d_out), output.saved, results, work);
    });
    let scales = [scale(a), scale(a), T::one()];
    for ((i, all), scale) in [d_q, d_k, d_v].into_iter().enumerate().zip(scales) {
        vectorised(
            input.isa,
            #[inline(always)]
            || {
                for (head, work) in work.chunks_exact(each).enumerate() {
                    let from = &work[i * len..][..len];
                    for (token, row) in all.chunks_exact_mut(a.stride()).enumerate() {
                        map_row(&from[token * a.dim..][..a.dim], &mut row[head * a.dim..], |x| scale * x);
                    }
                }
            },
        );
    }
}

/// Sets `results` to d_q, d_k and d_v of one head, each \[L, d\]; the first two lack the factor 1/sqrt(d).
fn head_backward<T: Element>(
    input: &Input<T>,
    head: usize,
    (out, d_out): (Head<T>, Head<T>),
    log_sums: &[T],
    results: &mut [T],
    mut work: &mut [T],
) {
    let (isa, a) = (input.isa, &input.shape);
    let (l, d, stride) = (a.tokens, a.dim, row_stride(a.tokens));
    let (d_q, d_kv) = results.split_at_mut(l * d);
    let (d_k, d_v) = d_kv.split_at_mut(l * d);
    let k = take(&mut work, l * d);
    let k_t = take(&mut work, d * stride);
    let v_t = take(&mut work, d * stride);
    let q = take(&mut work, TILE * d);
    let d_o = take(&mut work, TILE * d);
    let probabilities = take(&mut work, TILE * stride);
    let d_probabilities = take(&mut work, TILE * stride);
    input.k(head).gather(isa, 0..l, d, k);
    input.k(head).gather_transposed(l, exponent_scale(a), stride, k_t);
    input.v(head).gather_transposed(l, T::one(), stride, v_t);
    for tokens in tiles(0..l, share(a)) {
        let log_sums = &log_sums[tokens.start * a.heads..][head * tokens.len()..][..tokens.len()];
        for tile in tiles(tokens.clone(), TILE) {
            let rows = tile.len();
            let q = input.q(head).gather(isa, tile.clone(), d, q);
            let d_o = d_out.gather(isa, tile.clone(), d, d_o);
            let p = &mut probabilities[..rows * stride];
            let to_scores = Product { b_k: stride, c_row: stride, ..Product::dense(rows, l, d) };
            to_scores.multiply(isa, q, k_t, p);
            let log_sums = &log_sums[tile.start - tokens.start..][..rows];
            Exp2::run(isa, Powers { x: p, width: l, stride, exponent: Exponent::Rows(log_sums) });
            let d_p = &mut d_probabilities[..rows * stride];
            to_scores.multiply(isa, d_o, v_t, d_p);
            vectorised(
                isa,
                #[inline(always)]
                || {
                    for (t, d_p) in d_p.chunks_exact_mut(stride).enumerate() {
                        let token = tile.start + t;
                        let delta = dot(out.token(token), d_out.token(token));
                        each_pair(d_p, &p[t * stride..][..l], |d_p, p| *d_p = *p * (*d_p - delta));
                    }
                },
            );
            let over_queries =
                Product { a_k: stride, accumulate: tile.start > 0, ..Product::transposed_a(l, d, rows) };
            over_queries.multiply(isa, p, d_o, d_v);
            over_queries.multiply(isa, d_p, q, d_k);
            let over_keys = Product { a_row: stride, ..Product::dense(rows, d, l) };
            over_keys.multiply(isa, d_p, k, &mut d_q[tile.start * d..][..rows * d]);
        }
    }
}
