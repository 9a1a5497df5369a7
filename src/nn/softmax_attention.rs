//! Exact attention of one head, equation (22): O = D^-1 A V with A = exp(Q K^T / sqrt(d)) and D = diag(A 1_L).
//!
//! A's rows are made a tile of queries at a time and never kept. The forward pass saves z_i = log sum_l exp(s_il) of the
//! scores s = Q K^T / sqrt(d), taken as z_i = max_l s_il + log sum_l exp(s_il - max_l s_il), so that the backward pass makes the
//! normalised P_il = exp(s_il - z_i) again without sums. With O = P V, dP = dO V^T, and P's rows summing to one,
//!
//! - dV = P^T dO,
//! - dS = P o (dP - delta 1^T) with delta_i = sum_l P_il dP_il = dO_i . O_i,
//! - dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d); the factor is applied by the caller.
//!
//! Multiply-adds: 2 L^2 d forward, 5 L^2 d backward. No L x L matrix exists, only tiles of it.

use super::attention::{Head, HeadInput, TILE, take};
use super::reductions::{dot, max, sum};
use crate::kernels::{Element, Product, vectorised};

/// Distance between rows of L elements. At powers of two all rows would lie in a few of the cache's sets, which an odd
/// multiple of 16 elements, a cache line, avoids.
fn row_stride(tokens: usize) -> usize {
    tokens | 16
}

/// Elements of scratch for [`forward`].
pub(super) fn forward_work_len(tokens: usize, dim: usize) -> usize {
    tokens * dim + TILE * dim + (TILE + dim) * row_stride(tokens)
}

/// Elements of scratch for [`backward`].
pub(super) fn backward_work_len(tokens: usize, dim: usize) -> usize {
    tokens * dim + 2 * TILE * dim + 2 * (TILE + dim) * row_stride(tokens) + TILE
}

/// `out` \[L, d\] and, in `log_sums` \[L\], z.
pub(super) fn forward<T: Element>(
    input: &HeadInput<T>,
    out: &mut [T],
    log_sums: &mut [T],
    mut work: &mut [T],
) {
    let (isa, l, d) = (input.isa, input.tokens, input.dim);
    let stride = row_stride(l);
    let k_t = take(&mut work, d * stride);
    let v = take(&mut work, l * d);
    let q = take(&mut work, TILE * d);
    let scores = take(&mut work, TILE * stride);
    input.k.gather_transposed(l, input.scale, stride, k_t);
    input.v.gather(isa, 0..l, T::one(), d, v);
    for tile in input.tiles() {
        let rows = tile.len();
        let q = input.q.gather(isa, tile.clone(), T::one(), d, q);
        let a = &mut scores[..rows * stride];
        let to_scores = Product { b_k: stride, c_row: stride, ..Product::dense(rows, l, d) };
        T::product(isa, &to_scores, q, k_t, a);
        let log_sums = &mut log_sums[tile.clone()];
        vectorised(
            isa,
            #[inline(always)]
            || {
                for (a, shift) in a.chunks_exact_mut(stride).zip(log_sums.iter_mut()) {
                    let a = &mut a[..l];
                    *shift = max(a);
                    for a in a {
                        *a -= *shift;
                    }
                }
            },
        );
        a.chunks_exact_mut(stride).for_each(|a| T::exp_in_place(isa, &mut a[..l]));
        let out = &mut out[tile.start * d..][..rows * d];
        let over_keys = Product { a_row: stride, ..Product::dense(rows, d, l) };
        T::product(isa, &over_keys, a, v, out);
        vectorised(
            isa,
            #[inline(always)]
            || {
                for ((out, a), log_sum) in out.chunks_exact_mut(d).zip(a.chunks_exact(stride)).zip(log_sums) {
                    let sum = sum(&a[..l]);
                    *log_sum += sum.ln();
                    for out in out {
                        *out /= sum;
                    }
                }
            },
        );
    }
}

/// `d_q` and `d_k` (both without the factor 1/sqrt(d)) and `d_v`, each \[L, d\].
pub(super) fn backward<T: Element>(
    input: &HeadInput<T>,
    out: Head<T>,
    d_out: Head<T>,
    log_sums: &[T],
    d_q: &mut [T],
    d_k: &mut [T],
    d_v: &mut [T],
    mut work: &mut [T],
) {
    let (isa, l, d) = (input.isa, input.tokens, input.dim);
    let stride = row_stride(l);
    let k = take(&mut work, l * d);
    let k_t = take(&mut work, d * stride);
    let v_t = take(&mut work, d * stride);
    let q = take(&mut work, TILE * d);
    let d_o = take(&mut work, TILE * d);
    let probabilities = take(&mut work, TILE * stride);
    let d_probabilities = take(&mut work, TILE * stride);
    let delta = take(&mut work, TILE);
    input.k.gather(isa, 0..l, T::one(), d, k);
    input.k.gather_transposed(l, input.scale, stride, k_t);
    input.v.gather_transposed(l, T::one(), stride, v_t);
    for tile in input.tiles() {
        let rows = tile.len();
        let q = input.q.gather(isa, tile.clone(), T::one(), d, q);
        let d_o = d_out.gather(isa, tile.clone(), T::one(), d, d_o);
        let p = &mut probabilities[..rows * stride];
        let to_scores = Product { b_k: stride, c_row: stride, ..Product::dense(rows, l, d) };
        T::product(isa, &to_scores, q, k_t, p);
        vectorised(
            isa,
            #[inline(always)]
            || {
                for ((p, token), delta) in p.chunks_exact_mut(stride).zip(tile.clone()).zip(delta.iter_mut())
                {
                    *delta = dot(out.token(token), d_out.token(token));
                    for p in &mut p[..l] {
                        *p -= log_sums[token];
                    }
                }
            },
        );
        p.chunks_exact_mut(stride).for_each(|p| T::exp_in_place(isa, &mut p[..l]));
        let d_p = &mut d_probabilities[..rows * stride];
        T::product(isa, &to_scores, d_o, v_t, d_p);
        vectorised(
            isa,
            #[inline(always)]
            || {
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
        T::product(isa, &over_queries, p, d_o, d_v);
        T::product(isa, &over_queries, d_p, q, d_k);
        let over_keys = Product { a_row: stride, ..Product::dense(rows, d, l) };
        T::product(isa, &over_keys, d_p, k, &mut d_q[tile.start * d..][..rows * d]);
    }
}
