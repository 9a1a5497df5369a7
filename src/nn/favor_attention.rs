//! FAVOR+ attention, equation (26), in O(L m d): no L x L and no L x m matrix exists, only tiles of features,
//! made anew in the backward pass.
//!
//! For a head with the features q'_i, k'_l of [`favor_features`](super::favor_features) and v extended by a
//! one, v~ = (v, 1), both sums of (26) are one: S = sum_l v~_l k'_l^T \[d + 1, l m\], and S q'_i = (N_i,
//! D_i). The output is O_i = N_i / D^_i with D^ the [`guarded`] D.
//!
//! The tokens are cut into [shares](super::favor_shares). First every share of the keys has its own S and c,
//! which are then merged in the shares' order, S = sum over shares g of 2^(c_g - c) S_g with c = max_g c_g;
//! then every share of the queries reads them.
//!
//! Multiply-adds for one function f: 4 L m d forward, 8 L m d backward (8 and 16 operations); 6 and 12 for
//! two.

use super::attention::{Attention, Input, Projections, scale_row, take};
use super::favor_features::{Features, guarded};
use super::favor_shares::{Favor, Tiles, tiles_of};
use super::reductions::add_columns;
use crate::kernels::{Element, Exp2, Exponent, Powers, Product, Run, transpose, vectorised};

/// `out` \[L, heads * d\] and what the backward pass needs.
pub(super) fn forward<T: Element>(
    favor: &Favor,
    input: &Input<T>,
    projections: Projections<T>,
    out: &mut [T],
    saved: &mut [T],
    mut work: &mut [T],
) {
    let Attention { heads, dim: d, .. } = favor.attention;
    let (state_len, sums_len, numerators_len) = (favor.state_len(), favor.sums_len(), favor.len * d);
    let w_t = favor.scaled(projections.w_t, favor.exponent_scale(), &mut work);
    let features = Features { isa: input.isa, map: favor.map, m: favor.m, d, w: &[], w_t };
    let numerators = take(&mut work, heads * numerators_len);
    let share_work = favor.share_work_len(false);
    let work = take(&mut work, favor.shares() * share_work);
    let (states, marks) = saved[..favor.saved_len()].split_at_mut(heads * state_len);

    input.team.each(work, share_work, |g, work| {
        let (states, mut tiles) = Tiles::cut(favor, work, false);
        for (head, state) in states.chunks_exact_mut(state_len).enumerate() {
            let (s, c) = state.split_at_mut(sums_len);
            sum_keys(favor, input, &features, head, g, s, c, &mut tiles);
        }
    });
    input.team.each2((states, state_len), (numerators, numerators_len), |head, state, numerators| {
        let (s, c) = state.split_at_mut(sums_len);
        let parts = work
            .chunks_exact(share_work)
            .map(|work| work[head * state_len..][..state_len].split_at(sums_len));
        merge(input, parts, s, c, &mut numerators[..favor.len]);
        transpose(s, d, favor.len, numerators);
    });
    let out = (out, favor.share_len());
    input.team.each3(out, (marks, favor.marks_len()), (work, share_work), |g, out, marks, work| {
        let (_, mut tiles) = Tiles::cut(favor, work, false);
        let states = states.chunks_exact(state_len).zip(numerators.chunks_exact(numerators_len));
        let rows = favor.tokens(g).len();
        for (head, ((state, numerators), marks)) in states.zip(marks.chunks_exact_mut(2 * rows)).enumerate() {
            let (s, c) = state.split_at(sums_len);
            let sums = &s[d * favor.len..];
            attend(favor, input, &features, head, g, numerators, sums, c, out, marks, &mut tiles);
        }
    });
}

/// S and c of a head's keys in share `g`.
fn sum_keys<T: Element>(
    favor: &Favor,
    input: &Input<T>,
    features: &Features<T>,
    head: usize,
    g: usize,
    s: &mut [T],
    c: &mut [T],
    tiles: &mut Tiles<T>,
) {
    let (isa, d, len) = (input.isa, favor.attention.dim, favor.len);
    features.start_c(c);
    let (numerators, sums) = s.split_at_mut(d * len);
    sums.fill(T::zero());
    for (i, tile) in tiles_of(favor, g).enumerate() {
        let rows = tile.len();
        let k = favor.attention.head(head, input.k);
        let f = &mut tiles.f[..rows * len];
        let raised = features.keys_raising_c(k, tile.clone(), f, &mut tiles.row[..rows], c, tiles.rescale);
        if raised && i > 0 {
            scale_columns(input, tiles.rescale, numerators);
            scale_columns(input, tiles.rescale, sums);
        }
        vectorised(
            isa,
            #[inline(always)]
            || add_columns(sums, f, None),
        );
        let v = favor.attention.head(head, input.v);
        let shape = Product { a_k: v.stride, accumulate: i > 0, ..Product::transposed_a(d, len, rows) };
        shape.multiply(isa, v.from(tile.start), f, numerators);
    }
}

/// S = sum_g 2^(c_g - c) S_g, c = max_g c_g; `factors` \[l m\] is scratch.
fn merge<'p, T: Element>(
    input: &Input<T>,
    parts: impl Iterator<Item = (&'p [T], &'p [T])> + Clone,
    s: &mut [T],
    c: &mut [T],
    factors: &mut [T],
) {
    c.fill(T::neg_infinity());
    for (_, c_g) in parts.clone() {
        c.iter_mut().zip(c_g).for_each(|(c, c_g)| *c = if *c_g > *c { *c_g } else { *c });
    }
    s.fill(T::zero());
    for (s_g, c_g) in parts {
        factors.copy_from_slice(c_g);
        let exponent = Exponent::RowsThenColumns(&[T::zero()], c);
        Exp2::run(input.isa, Powers::dense(factors, c.len(), exponent));
        vectorised(
            input.isa,
            #[inline(always)]
            || {
                for (s, s_g) in s.chunks_exact_mut(c.len()).zip(s_g.chunks_exact(c.len())) {
                    for ((s, s_g), factor) in s.iter_mut().zip(s_g).zip(factors.iter()) {
                        *s += *factor * *s_g;
                    }
                }
            },
        );
    }
}

/// `out`, s and D of a head's queries in share `g`.
fn attend<T: Element>(
    favor: &Favor,
    input: &Input<T>,
    features: &Features<T>,
    head: usize,
    g: usize,
    numerators: &[T],
    sums: &[T],
    c: &[T],
    out: &mut [T],
    marks: &mut [T],
    tiles: &mut Tiles<T>,
) {
    let (isa, d, len) = (input.isa, favor.attention.dim, favor.len);
    let (shifts, denominators) = marks.split_at_mut(marks.len() / 2);
    let first = favor.tokens(g).start;
    for tile in tiles_of(favor, g) {
        let rows = tile.len();
        let q = favor.attention.head(head, input.q);
        let f = &mut tiles.f[..rows * len];
        let at = tile.start - first;
        let (shifts, denominators) = (&mut shifts[at..][..rows], &mut denominators[at..][..rows]);
        features.queries_attending(q, tile.clone(), f, c, sums, shifts, denominators);
        let out = favor.rows(&tile, head, out);
        let stride = favor.attention.stride();
        Product { c_row: stride, ..Product::dense(rows, d, len) }.multiply(isa, f, numerators, out);
        vectorised(
            isa,
            #[inline(always)]
            || {
                for (out, denominator) in out.chunks_mut(stride).zip(denominators.iter()) {
                    scale_row(T::one() / guarded(*denominator), &mut out[..d]);
                }
            },
        );
    }
}

/// Multiplies the columns of S by `factors` \[l m\].
fn scale_columns<T: Element>(input: &Input<T>, factors: &[T], s: &mut [T]) {
    vectorised(
        input.isa,
        #[inline(always)]
        || {
            for s in s.chunks_exact_mut(factors.len()) {
                s.iter_mut().zip(factors).for_each(|(s, factor)| *s *= *factor);
            }
        },
    );
}
