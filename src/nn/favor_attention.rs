//! FAVOR+ attention, equation (26), in O(L m d). Neither an L x L nor an L x m matrix is ever in memory: the
//! features exist a tile at a time, and the backward pass computes them again.
//!
//! For one head, with the features q'_i and k'_l of [`favor_features`](super::favor_features), extend every
//! value by a one: v~ = (v, 1). Then both sums of (26) are one matrix S = sum_l v~_l k'_l^T \[d + 1, l m\],
//! and S q'_i = (N_i, D_i) gives a query's numerator and denominator. The output is O_i = N_i / D^_i, where
//! D^ is the [`guarded`] D.
//!
//! The tokens are cut into [shares](super::favor_shares), and the work has three steps:
//!
//! 1. Every share g of the keys computes its own sums S_g with its own shifts c_g of the exponents.
//! 2. These are added up in the order of the shares: c = max_g c_g and S = sum_g 2^(c_g - c) S_g.
//! 3. Every share of the queries reads S and c.
//!
//! Multiply-adds with one function f: 4 L m d forward and 8 L m d backward (8 and 16 operations); with two
//! functions 6 and 12.

use super::favor_features::{Features, guarded};
use super::favor_shares::{Favor, KeyState, Tile};
use super::heads::{AttentionShape, Input, Projections, scale_row};
use super::operands::take;
use super::reductions::add_columns;
use crate::kernels::{Element, Exp2, Exponent, Isa, Powers, Product, Run, each_pair, transpose, vectorised};

/// What the three steps read.
struct Forward<'a, T> {
    favor: &'a Favor,
    input: &'a Input<'a, T>,
    features: Features<'a, T>,
}

/// What a share of the queries reads of one head: its [`KeyState`], with S's numerators transposed too.
struct Keys<'a, T> {
    state: KeyState<&'a [T]>,
    /// sum_l k'_l v_l^T \[l m, d\].
    numerators_t: &'a [T],
}

/// Sets `out` \[L, heads * d\], and `saved` to what the backward pass needs.
pub(super) fn forward<T: Element>(
    favor: &Favor,
    input: &Input<T>,
    projections: Projections<T>,
    out: &mut [T],
    saved: &mut [T],
    mut work: &mut [T],
) {
    let AttentionShape { heads, dim: d, .. } = favor.shape;
    let (state_len, numerators_len) = (favor.state_len(), favor.len * d);
    let w_t = favor.scaled(projections.w_t, favor.exponent_scale(), &mut work);
    let features = Features::new(favor, input.isa, &[], w_t);
    let numerators_t = take(&mut work, heads * numerators_len);
    let share_work = favor.share_work_len(false);
    let work = take(&mut work, favor.shares() * share_work);
    let (states, normalisers) = saved.split_at_mut(heads * state_len);
    let this = Forward { favor, input, features };

    input.team.each(work, share_work, |share, work| {
        let (states, mut tile) = Tile::cut(favor, work, false);
        for (head, state) in states.chunks_exact_mut(state_len).enumerate() {
            this.sum_keys(head, share, KeyState::of_mut(favor, state), &mut tile);
        }
    });
    input.team.each2((states, state_len), (numerators_t, numerators_len), |head, state, numerators_t| {
        let (s, c) = state.split_at_mut(favor.sums_len());
        let parts = work
            .chunks_exact(share_work)
            .map(|work| work[head * state_len..][..state_len].split_at(favor.sums_len()));
        merge(input.isa, parts, s, c, &mut numerators_t[..favor.len]);
        transpose(s, d, favor.len, numerators_t);
    });
    let (out, normalisers) = ((out, favor.share_len()), (normalisers, favor.normalisers_len()));
    input.team.each3(out, normalisers, (work, share_work), |share, out, normalisers, work| {
        let (_, mut tile) = Tile::cut(favor, work, false);
        let heads = states.chunks_exact(state_len).zip(numerators_t.chunks_exact(numerators_len));
        let normalisers = normalisers.chunks_exact_mut(2 * favor.tokens(share).len());
        for (head, ((state, numerators_t), normalisers)) in heads.zip(normalisers).enumerate() {
            let keys = Keys { state: KeyState::of(favor, state), numerators_t };
            this.attend(head, share, &keys, out, normalisers, &mut tile);
        }
    });
}

impl<T: Element> Forward<'_, T> {
    /// Step 1: S and c over the keys of one head in one share.
    fn sum_keys(&self, head: usize, share: usize, state: KeyState<&mut [T]>, tile: &mut Tile<T>) {
        let Forward { favor, input, features } = self;
        let (isa, d, len) = (input.isa, favor.shape.dim, favor.len);
        let (k, v) = (input.k(head), input.v(head));
        let KeyState { numerators, denominators, c } = state;
        features.start_c(c);
        denominators.fill(T::zero());
        for (i, tokens) in favor.tiles(share).enumerate() {
            let rows = tokens.len();
            let f = &mut tile.features[..rows * len];
            let half_norms = &mut tile.per_token[..rows];
            let raised = features.keys_raising_c(k, tokens.clone(), f, half_norms, c, tile.per_feature);
            if raised && i > 0 {
                scale_columns(isa, tile.per_feature, numerators);
                scale_columns(isa, tile.per_feature, denominators);
            }
            vectorised(
                isa,
                #[inline(always)]
                || add_columns(denominators, f, None),
            );
            let shape = Product { a_k: v.stride, accumulate: i > 0, ..Product::transposed_a(d, len, rows) };
            shape.multiply(isa, v.from(tokens.start), f, numerators);
        }
    }

    /// Step 3: the output of a head's queries in one share, and their normalisers: s of all of them, then D.
    fn attend(
        &self,
        head: usize,
        share: usize,
        keys: &Keys<T>,
        out: &mut [T],
        normalisers: &mut [T],
        tile: &mut Tile<T>,
    ) {
        let Forward { favor, input, features } = self;
        let (isa, d, len, stride) = (input.isa, favor.shape.dim, favor.len, favor.shape.stride());
        let tokens = favor.tokens(share);
        let (shifts, denominators) = normalisers.split_at_mut(tokens.len());
        for part in favor.tiles(share) {
            let (at, rows) = (part.start - tokens.start, part.len());
            let (shifts, denominators) = (&mut shifts[at..][..rows], &mut denominators[at..][..rows]);
            let f = &mut tile.features[..rows * len];
            features.queries_attending(input.q(head), part.clone(), f, &keys.state, shifts, denominators);
            let out = favor.rows(&part, head, out);
            let shape = Product { c_row: stride, ..Product::dense(rows, d, len) };
            shape.multiply(isa, f, keys.numerators_t, out);
            vectorised(
                isa,
                #[inline(always)]
                || {
                    for (t, out) in out.chunks_mut(stride).enumerate() {
                        scale_row(T::one() / guarded(denominators[t]), &mut out[..d]);
                    }
                },
            );
        }
    }
}

/// Step 2: c = max_g c_g and S = sum_g 2^(c_g - c) S_g over the parts (S_g, c_g). `factors` \[l m\] is
/// overwritten.
fn merge<'p, T: Element>(
    isa: Isa,
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
        Exp2::run(isa, Powers::dense(factors, c.len(), exponent));
        vectorised(
            isa,
            #[inline(always)]
            || {
                let len = c.len();
                for (row, s) in s.chunks_exact_mut(len).enumerate() {
                    let s_g = &s_g[row * len..][..len];
                    for j in 0..len {
                        s[j] += factors[j] * s_g[j];
                    }
                }
            },
        );
    }
}

/// Multiplies every row of S by `factors` \[l m\], column by column.
fn scale_columns<T: Element>(isa: Isa, factors: &[T], s: &mut [T]) {
    vectorised(
        isa,
        #[inline(always)]
        || {
            for s in s.chunks_exact_mut(factors.len()) {
                each_pair(s, factors, |s, factor| *s *= *factor);
            }
        },
    );
}
