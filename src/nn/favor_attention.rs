//! FAVOR+ attention of one head, equation (26), forward and backward, in O(L m d): no L x L and no L x m matrix exists,
//! only tiles of features, made anew in the backward pass.
//!
//! With the features q'_i, k'_l of [`favor_features`](super::favor_features) and v extended by a one, v~ = (v, 1), both
//! sums of (26) are one: S = sum_l v~_l k'_l^T \[d + 1, l m\], and S q'_i = (N_i, D_i). The output is O_i = N_i / D^_i with D^ the
//! [`guarded`] D.
//!
//! Backward, from dO: the derivatives by (N_i, D_i) are y_i = (dO_i / D^_i, -(dO_i . O_i) / D^_i), the last 0 where the guard is
//! active. Then
//!
//! - over the queries: dS = sum_i y_i q'_i^T, dq'_i = S^T y_i;
//! - over the keys: dv_l = dS k'_l without its last element, dk'_l = dS^T v~_l;
//! - from features to q and k by [`Features::pull_back`], and the factor d^(-1/4) by the caller.
//!
//! c and s of the features cancel in N / D and have no gradient. Where the guard is active, N stands alone: s is 0
//! (the map is trigonometric), but c = |k^_l|^2/2 at the largest key l, and O_i is proportional to exp(-c), so that
//! -(sum of dO_i . O_i over the guarded i) k^_l joins k^_l's derivative.
//!
//! Multiply-adds for one function f: 4 L m d forward, 8 L m d backward (8 and 16 operations); 6 and 12 for two.

use super::attention::{Head, HeadInput, TILE, take};
use super::favor_features::{Features, guarded, is_guarded};
use super::reductions::dot;
use crate::config::FeatureMap;
use crate::kernels::{Element, Product, transpose, vectorised};

/// Elements that [`forward`] leaves for [`backward`]: S, c, and s_i and D_i for every query.
pub(super) fn saved_len(tokens: usize, dim: usize, features: usize) -> usize {
    (dim + 2) * features + 2 * tokens
}

/// Elements of scratch for [`forward`].
pub(super) fn forward_work_len(tokens: usize, dim: usize, features: usize) -> usize {
    tokens.min(TILE) * (2 * dim + 2 + features) + (dim + 1) * features
}

/// Elements of scratch for [`backward`].
pub(super) fn backward_work_len(tokens: usize, dim: usize, features: usize) -> usize {
    tokens.min(TILE) * (2 * dim + 2 + 2 * features) + (2 * dim + 1) * features
}

/// `out` \[L, d\] and what the backward pass needs.
pub(super) fn forward<T: Element>(
    input: &HeadInput<T>,
    features: &Features<T>,
    out: &mut [T],
    mut saved: &mut [T],
    mut work: &mut [T],
) {
    let (isa, tokens, d, len) = (input.isa, input.tokens, input.dim, features.len());
    let s = take(&mut saved, (d + 1) * len);
    let c = take(&mut saved, len);
    let shifts = take(&mut saved, tokens);
    let denominators = take(&mut saved, tokens);
    let most = tokens.min(TILE);
    let x = take(&mut work, most * d);
    let v = take(&mut work, most * (d + 1));
    let f = take(&mut work, most * len);
    let factors = take(&mut work, most);
    let numerators = take(&mut work, d * len);
    let rescale = take(&mut work, len);

    c.fill(T::neg_infinity());
    for tile in input.tiles() {
        let (rows, first) = (tile.len(), tile.start == 0);
        let x = input.k.gather(isa, tile.clone(), input.scale, d, x);
        let f = &mut f[..rows * len];
        let raised = features.keys_raising_c(x, f, &mut factors[..rows], c, rescale);
        if raised && !first {
            vectorised(
                isa,
                #[inline(always)]
                || {
                    for s in s.chunks_exact_mut(len) {
                        s.iter_mut().zip(rescale.iter()).for_each(|(s, rescale)| *s *= *rescale);
                    }
                },
            );
        }
        let v = gather_extended(input, tile, v);
        let shape = Product { accumulate: !first, ..Product::transposed_a(d + 1, len, rows) };
        T::product(isa, &shape, v, f, s);
    }

    transpose(s, d, len, numerators);
    let sums = &s[d * len..];
    for tile in input.tiles() {
        let rows = tile.len();
        let x = input.q.gather(isa, tile.clone(), input.scale, d, x);
        let f = &mut f[..rows * len];
        features.queries_finding_s(x, f, c, &mut shifts[tile.clone()]);
        let out = &mut out[tile.start * d..][..rows * d];
        T::product(isa, &Product::dense(rows, d, len), f, numerators, out);
        let denominators = &mut denominators[tile];
        vectorised(
            isa,
            #[inline(always)]
            || {
                let rows = out.chunks_exact_mut(d).zip(f.chunks_exact(len)).zip(denominators);
                for ((out, f), denominator) in rows {
                    *denominator = dot(f, sums);
                    let divisor = guarded(*denominator);
                    for out in out {
                        *out /= divisor;
                    }
                }
            },
        );
    }
}

/// `d_q` and `d_k` (both without the factor d^(-1/4)) and `d_v`, each \[L, d\].
pub(super) fn backward<T: Element>(
    input: &HeadInput<T>,
    features: &Features<T>,
    out: Head<T>,
    d_out: Head<T>,
    saved: &[T],
    d_q: &mut [T],
    d_k: &mut [T],
    d_v: &mut [T],
    mut work: &mut [T],
) {
    let (isa, tokens, d, len) = (input.isa, input.tokens, input.dim, features.len());
    let (s, saved) = saved.split_at((d + 1) * len);
    let (c, saved) = saved.split_at(len);
    let (shifts, denominators) = saved.split_at(tokens);
    let most = tokens.min(TILE);
    let x = take(&mut work, most * d);
    let y = take(&mut work, most * (d + 1));
    let f = take(&mut work, most * len);
    let g = take(&mut work, most * len);
    let factors = take(&mut work, most);
    let d_s = take(&mut work, (d + 1) * len);
    let d_numerators = take(&mut work, d * len);

    let mut guarded_rows = T::zero();
    for tile in input.tiles() {
        let (rows, first) = (tile.len(), tile.start == 0);
        let x = input.q.gather(isa, tile.clone(), input.scale, d, x);
        let (f, g) = (&mut f[..rows * len], &mut g[..rows * len]);
        features.queries(x, f, c, &shifts[tile.clone()]);
        let y = &mut y[..rows * (d + 1)];
        vectorised(
            isa,
            #[inline(always)]
            || {
                for (y, token) in y.chunks_exact_mut(d + 1).zip(tile.clone()) {
                    let (out, d_out, d_hat) =
                        (out.token(token), d_out.token(token), guarded(denominators[token]));
                    for (y, d_out) in y.iter_mut().zip(d_out) {
                        *y = *d_out / d_hat;
                    }
                    let radial = dot(out, d_out);
                    let is_guarded = is_guarded(denominators[token]);
                    y[d] = if is_guarded { T::zero() } else { -radial / d_hat };
                    guarded_rows += if is_guarded { radial } else { T::zero() };
                }
            },
        );
        let shape = Product { accumulate: !first, ..Product::transposed_a(d + 1, len, rows) };
        T::product(isa, &shape, y, f, d_s);
        T::product(isa, &Product::dense(rows, len, d + 1), y, s, g);
        features.pull_back(f, g, None);
        features.project_back(g, false, &mut d_q[tile.start * d..][..rows * d]);
    }

    transpose(d_s, d, len, d_numerators);
    let mut largest_key_found = features.map != FeatureMap::Trigonometric;
    for tile in input.tiles() {
        let rows = tile.len();
        let d_x = &mut d_k[tile.start * d..][..rows * d];
        let x = input.k.gather(isa, tile.clone(), input.scale, d, d_x);
        let (f, g) = (&mut f[..rows * len], &mut g[..rows * len]);
        features.keys(x, f, &mut factors[..rows], c);
        let d_v = &mut d_v[tile.start * d..][..rows * d];
        T::product(isa, &Product::dense(rows, d, len), f, d_numerators, d_v);
        let v = gather_extended(input, tile, y);
        T::product(isa, &Product::dense(rows, len, d + 1), v, d_s, g);
        // The largest key's factor exp(|k^|^2/2 - c) is 1.
        let largest = factors[..rows].iter().position(|a| !largest_key_found && *a == T::one());
        features.pull_back(f, g, Some(&mut factors[..rows]));
        if let Some(row) = largest {
            factors[row] -= guarded_rows;
            largest_key_found = true;
        }
        vectorised(
            isa,
            #[inline(always)]
            || {
                for (x, radial) in x.chunks_exact_mut(d).zip(factors.iter()) {
                    x.iter_mut().for_each(|x| *x *= *radial);
                }
            },
        );
        features.project_back(g, true, x);
    }
}

/// v~ = (v, 1) of the tokens, \[rows, d + 1\].
fn gather_extended<'o, T: Element>(
    input: &HeadInput<T>,
    tokens: std::ops::Range<usize>,
    out: &'o mut [T],
) -> &'o [T] {
    let width = input.dim + 1;
    let out = input.v.gather(input.isa, tokens, T::one(), width, out);
    out.iter_mut().skip(input.dim).step_by(width).for_each(|one| *one = T::one());
    out
}
