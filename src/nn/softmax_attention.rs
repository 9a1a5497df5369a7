//! Exact attention of one head, equation (22): O = D^-1 A V with A = exp(Q K^T / sqrt(d)) and D = diag(A
//! 1_L).
//!
//! A's rows are made a tile of queries at a time and never kept. The forward pass saves z_i = log sum_l
//! exp(s_il) of the scores s = Q K^T / sqrt(d), taken as z_i = max_l s_il + log sum_l exp(s_il - max_l s_il),
//! so that the backward pass makes the normalised P_il = exp(s_il - z_i) again without sums. With O = P V,
//! dP = dO V^T, and P's rows summing to one,
//!
//! - dV = P^T dO,
//! - dS = P o (dP - delta 1^T) with delta_i = sum_l P_il dP_il = dO_i . O_i,
//! - dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d); the factor is applied by the caller.
//!
//! In the code scores and z are to base 2: times log2(e).
//!
//! Multiply-adds: 2 L^2 d forward, 5 L^2 d backward. No L x L matrix exists, only tiles of it.

use super::attention::{Attention, Head, Input, map_row, scale_row, take, tiles};
use super::reductions::dot;
use crate::kernels::{
    Element, Exp2, Exp2BelowMaxima, Exponent, Powers, PowersBelowMaxima, Product, Run, vectorised,
};
use std::ops::Range;

/// Queries whose scores exist at a time.
const TILE: usize = 32;

/// Queries in a share of the forward pass, until there are `MOST_SHARES`.
const SHARE: usize = 64;
const MOST_SHARES: usize = 16;

/// Distance between rows of L elements: whole cache lines, and an odd number of them, since at powers of two
/// all rows would lie in a few of the cache's sets.
fn row_stride(tokens: usize) -> usize {
    tokens.next_multiple_of(16) | 16
}

/// Queries in a share.
fn share(a: &Attention) -> usize {
    let shares = a.tokens.div_ceil(SHARE).min(MOST_SHARES);
    a.tokens.div_ceil(shares).next_multiple_of(TILE)
}

/// One head's keys, transposed, and values.
fn prepared_len(a: &Attention) -> usize {
    a.dim * row_stride(a.tokens) + a.tokens * a.dim
}

fn share_work_len(a: &Attention) -> usize {
    TILE * (row_stride(a.tokens) + 1)
}

/// Elements of scratch for [`forward`].
pub(super) fn forward_work_len(a: &Attention) -> usize {
    a.heads * prepared_len(a) + a.tokens.div_ceil(share(a)) * share_work_len(a)
}

fn backward_work_of_a_head(a: &Attention) -> usize {
    let (l, d) = (a.tokens, a.dim);
    4 * l * d + 2 * TILE * d + 2 * (TILE + d) * row_stride(l) + TILE
}

/// Elements of scratch for [`backward`].
pub(super) fn backward_work_len(a: &Attention) -> usize {
    a.heads * backward_work_of_a_head(a)
}

/// 1/sqrt(d), which the keys are multiplied by.
fn scale<T: Element>(a: &Attention) -> T {
    T::of((a.dim as f64).powf(-0.5))
}

/// What makes q . k the exponent to base 2.
fn exponent_scale<T: Element>(a: &Attention) -> T {
    T::of((a.dim as f64).powf(-0.5) * std::f64::consts::LOG2_E)
}

/// `out` \[L, heads * d\] and, in `log_sums`, z by share, head and token.
pub(super) fn forward<T: Element>(input: &Input<T>, out: &mut [T], log_sums: &mut [T], mut work: &mut [T]) {
    let a = &input.attention;
    let (l, d, stride) = (a.tokens, a.dim, row_stride(a.tokens));
    let prepared = take(&mut work, a.heads * prepared_len(a));
    input.team.each(prepared, prepared_len(a), |head, prepared| {
        let (k_t, v) = prepared.split_at_mut(d * stride);
        a.head(head, input.k).gather_transposed(l, exponent_scale(a), stride, k_t);
        a.head(head, input.v).gather(input.isa, 0..l, d, v);
    });
    let work = take(&mut work, forward_work_len(a) - a.heads * prepared_len(a));
    let share = share(a);
    let log_sums = (&mut log_sums[..a.heads * l], share * a.heads);
    input.team.each3(
        (out, share * a.stride()),
        log_sums,
        (work, share_work_len(a)),
        |i, out, log_sums, work| {
            let tokens = i * share..((i + 1) * share).min(l);
            let heads = prepared.chunks_exact(prepared_len(a)).zip(log_sums.chunks_exact_mut(tokens.len()));
            for (head, (prepared, log_sums)) in heads.enumerate() {
                let (k_t, v) = prepared.split_at(d * stride);
                attend(input, head, tokens.clone(), k_t, v, out, log_sums, work);
            }
        },
    );
}

/// One head's queries `tokens`.
fn attend<T: Element>(
    input: &Input<T>,
    head: usize,
    tokens: Range<usize>,
    k_t: &[T],
    v: &[T],
    out: &mut [T],
    log_sums: &mut [T],
    mut work: &mut [T],
) {
    let (isa, a) = (input.isa, &input.attention);
    let (l, d, stride) = (a.tokens, a.dim, row_stride(a.tokens));
    let scores = take(&mut work, TILE * stride);
    let sums = take(&mut work, TILE);
    let first = tokens.start;
    for tile in tiles(tokens, TILE) {
        let rows = tile.len();
        let q = a.head(head, input.q).from(tile.start);
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
                for ((out, log_sum), sum) in out.chunks_mut(a.stride()).zip(maxima).zip(sums.iter()) {
                    *log_sum += sum.log2();
                    scale_row(T::one() / *sum, &mut out[..d]);
                }
            },
        );
    }
}

/// d_q, d_k and d_v, each \[L, heads * d\], a head at a time.
pub(super) fn backward<T: Element>(
    input: &Input<T>,
    out: &[T],
    d_out: &[T],
    log_sums: &[T],
    d: [&mut [T]; 3],
    mut work: &mut [T],
) {
    let a = &input.attention;
    let (len, each) = (a.tokens * a.dim, backward_work_of_a_head(a));
    let work = take(&mut work, backward_work_len(a));
    input.team.each(work, each, |head, work| {
        let (results, work) = work.split_at_mut(3 * len);
        head_backward(input, head, a.head(head, out), a.head(head, d_out), log_sums, results, work);
    });
    let scales = [scale(a), scale(a), T::one()];
    for ((i, all), scale) in d.into_iter().enumerate().zip(scales) {
        vectorised(
            input.isa,
            #[inline(always)]
            || {
                for (head, work) in work.chunks_exact(each).enumerate() {
                    let rows = all.chunks_exact_mut(a.stride());
                    for (row, from) in rows.zip(work[i * len..][..len].chunks_exact(a.dim)) {
                        map_row(from, &mut row[head * a.dim..], |x| scale * x);
                    }
                }
            },
        );
    }
}

/// d_q and d_k (both without the factor 1/sqrt(d)) and d_v of one head, each \[L, d\], in `results`.
fn head_backward<T: Element>(
    input: &Input<T>,
    head: usize,
    out: Head<T>,
    d_out: Head<T>,
    log_sums: &[T],
    results: &mut [T],
    mut work: &mut [T],
) {
    let (isa, a) = (input.isa, &input.attention);
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
    let delta = take(&mut work, TILE);
    a.head(head, input.k).gather(isa, 0..l, d, k);
    a.head(head, input.k).gather_transposed(l, exponent_scale(a), stride, k_t);
    a.head(head, input.v).gather_transposed(l, T::one(), stride, v_t);
    for tokens in tiles(0..l, share(a)) {
        let log_sums = &log_sums[tokens.start * a.heads..][head * tokens.len()..][..tokens.len()];
        for tile in tiles(tokens.clone(), TILE) {
            let rows = tile.len();
            let q = a.head(head, input.q).gather(isa, tile.clone(), d, q);
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
                    for (delta, token) in delta.iter_mut().zip(tile.clone()) {
                        *delta = dot(out.token(token), d_out.token(token));
                    }
                    for ((d_p, p), delta) in
                        d_p.chunks_exact_mut(stride).zip(p.chunks_exact(stride)).zip(delta.iter())
                    {
                        for (d_p, p) in d_p.iter_mut().zip(&p[..l]) {
                            *d_p = *p * (*d_p - *delta);
                        }
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
