//! The backward pass of [`favor_attention`](super::favor_attention), in the same notation.
//!
//! Given dO, the loss's gradients in the numerator and the denominator of query i are
//!
//! - dN_i = dO_i / D^_i,
//! - dD_i = -(dO_i . O_i) / D^_i, or 0 where the guard replaces D_i.
//!
//! Together they are one vector y_i = (dN_i, dD_i) of d + 1 numbers, and (N_i, D_i) = S q'_i gives
//!
//! - over the queries: dS = sum_i y_i q'_i^T and dq'_i = S^T y_i;
//! - over the keys, since S = sum_l v~_l k'_l^T: dv_l is dS k'_l without its last element, and dk'_l = dS^T
//!   v~_l.
//!
//! From features back to q and k lead [`Features::pull_back`] and [`Features::project_back`].
//!
//! The shifts c and s cancel in N / D and have no gradient, unless the guard replaces D_i. Then O_i is N_i
//! over a constant. Only trigonometric features come that near to 0; their s is 0, and their c = |k^_l|^2/2
//! is that of one key, the one of largest norm. As O_i is then proportional to exp(-c), that key's gradient
//! in k^_l gets the additional term -(sum of dO_i . O_i over the guarded queries i) k^_l.
//!
//! The work is cut into the same shares as the forward pass: first every share of the queries computes a dS
//! of its own, then these are added up in the order of the shares, then every share of the keys reads the
//! sum.

use super::favor_features::{Features, guarded, is_guarded};
use super::favor_shares::{Favor, KeyState, Tile};
use super::heads::{AttentionOutput, AttentionShape, Input, Projections, QkvGradient, map_row};
use super::operands::{Update, take};
use super::reductions::{add_columns, dot};
use crate::config::FeatureMap;
use crate::kernels::{Element, Product, transpose, vectorised};

/// What both passes, over the queries and over the keys, read.
struct Backward<'a, T> {
    favor: &'a Favor,
    input: &'a Input<'a, T>,
    features: Features<'a, T>,
    out: &'a [T],
    d_out: &'a [T],
    /// The [`KeyState`] of every head.
    states: &'a [T],
    /// The queries' normalisers s and D, share by share.
    normalisers: &'a [T],
}

/// The loss's gradient in one head's sums.
struct SumsGradient<'a, T> {
    /// The gradient in S \[d + 1, l m\].
    sums: &'a [T],
    /// Its first d rows, transposed, \[l m, d\].
    numerators_t: &'a [T],
    /// The sum of dO_i . O_i over the guarded queries.
    guarded: T,
}

/// Sets the gradients in q, k and v, given what the forward pass made and `d_out`.
pub(super) fn backward<T: Element>(
    favor: &Favor,
    input: &Input<T>,
    projections: Projections<T>,
    (output, d_out): (AttentionOutput<T>, &[T]),
    QkvGradient { d_q, d_k, d_v }: QkvGradient<T>,
    mut work: &mut [T],
) {
    let AttentionShape { heads, dim: d, .. } = favor.shape;
    let (state_len, gradient_len, numerators_len) = (favor.state_len(), favor.gradient_len(), favor.len * d);
    let w = favor.scaled(projections.w, favor.scale(), &mut work);
    let w_t = favor.scaled(projections.w_t, favor.exponent_scale(), &mut work);
    let features = Features::new(favor, input.isa, w, w_t);
    let (states, normalisers) = output.saved.split_at(heads * state_len);
    let d_sums = take(&mut work, heads * gradient_len);
    let d_numerators_t = take(&mut work, heads * numerators_len);
    let share_work = favor.share_work_len(true);
    let work = take(&mut work, favor.shares() * share_work);
    let this = Backward { favor, input, features, out: output.out, d_out, states, normalisers };

    input.team.each2((d_q, favor.share_len()), (&mut *work, share_work), |share, d_q, work| {
        let (states, mut tile) = Tile::cut(favor, work, true);
        for (head, state) in states.chunks_exact_mut(state_len).enumerate() {
            let (d_sums, rest) = state.split_at_mut(favor.sums_len());
            rest[0] = this.queries(head, share, d_sums, d_q, &mut tile);
        }
    });
    let (sums, numerators_t) = ((&mut *d_sums, gradient_len), (&mut *d_numerators_t, numerators_len));
    input.team.each2(sums, numerators_t, |head, d_sums, d_numerators_t| {
        d_sums.fill(T::zero());
        for work in work.chunks_exact(share_work) {
            let of_share = &work[head * state_len..][..gradient_len];
            d_sums.iter_mut().zip(of_share).for_each(|(sum, of_share)| *sum += *of_share);
        }
        transpose(d_sums, d, favor.len, d_numerators_t);
    });
    let (d_k, d_v) = ((d_k, favor.share_len()), (d_v, favor.share_len()));
    input.team.each3(d_k, d_v, (work, share_work), |share, d_k, d_v, work| {
        let (_, mut tile) = Tile::cut(favor, work, true);
        let heads = d_sums.chunks_exact(gradient_len).zip(d_numerators_t.chunks_exact(numerators_len));
        for (head, (d_sums, numerators_t)) in heads.enumerate() {
            let (sums, guarded) = d_sums.split_at(favor.sums_len());
            let gradient = SumsGradient { sums, numerators_t, guarded: guarded[0] };
            this.keys(head, share, &gradient, d_k, d_v, &mut tile);
        }
    });
}

impl<T: Element> Backward<'_, T> {
    /// The sums over one head's keys.
    fn state(&self, head: usize) -> KeyState<&[T]> {
        let len = self.favor.state_len();
        KeyState::of(self.favor, &self.states[head * len..][..len])
    }

    /// The normalisers s and D of a head's queries in one share.
    fn normalisers(&self, head: usize, share: usize) -> (&[T], &[T]) {
        let tokens = self.favor.tokens(share).len();
        let of_share = &self.normalisers[share * self.favor.normalisers_len()..];
        of_share[2 * head * tokens..][..2 * tokens].split_at(tokens)
    }

    /// Sets d_q of a head's queries in one share, and d_sums \[d + 1, l m\] to what they contribute to dS.
    /// Returns the sum of dO_i . O_i over the guarded queries.
    fn queries(&self, head: usize, share: usize, d_sums: &mut [T], d_q: &mut [T], tile: &mut Tile<T>) -> T {
        let Backward { favor, input, features, .. } = self;
        let (isa, d, len) = (input.isa, favor.shape.dim, favor.len);
        let (out, d_out) = (favor.shape.head(head, self.out), favor.shape.head(head, self.d_out));
        let keys = self.state(head);
        let first = favor.tokens(share).start;
        let (shifts, denominators) = self.normalisers(head, share);
        let (d_sum_numerators, d_sum_denominators) = d_sums.split_at_mut(d * len);
        d_sum_denominators.fill(T::zero());
        let mut guarded_sum = T::zero();
        for (i, tokens) in favor.tiles(share).enumerate() {
            let (at, rows) = (tokens.start - first, tokens.len());
            let (shifts, denominators) = (&shifts[at..][..rows], &denominators[at..][..rows]);
            let (f, d_f) = (&mut tile.features[..rows * len], &mut tile.d_features[..rows * len]);
            features.queries(input.q(head), tokens.clone(), f, keys.c, shifts);
            let d_numerators = &mut tile.d_numerators[..rows * d];
            let d_denominators = &mut tile.per_token[..rows];
            vectorised(
                isa,
                #[inline(always)]
                || {
                    for (t, d_numerator) in d_numerators.chunks_exact_mut(d).enumerate() {
                        let token = tokens.start + t;
                        let (out, d_out) = (out.token(token), d_out.token(token));
                        let inverse = T::one() / guarded(denominators[t]);
                        map_row(d_out, d_numerator, |d_out| d_out * inverse);
                        let along = dot(out, d_out);
                        let is_guarded = is_guarded(denominators[t]);
                        d_denominators[t] = if is_guarded { T::zero() } else { -along * inverse };
                        guarded_sum += if is_guarded { along } else { T::zero() };
                    }
                },
            );
            vectorised(
                isa,
                #[inline(always)]
                || add_columns(d_sum_denominators, f, Some(d_denominators)),
            );
            let over_queries = Product { accumulate: i > 0, ..Product::transposed_a(d, len, rows) };
            over_queries.multiply(isa, d_numerators, f, d_sum_numerators);
            Product::dense(rows, len, d).multiply(isa, d_numerators, keys.numerators, d_f);
            features.pull_back(f, d_f, (Some(d_denominators), keys.denominators), None);
            let d_q = favor.rows(&tokens, head, d_q);
            features.project_back(d_f, rows, favor.shape.stride(), Update::Set, d_q);
        }
        guarded_sum
    }

    /// Sets d_k and d_v of a head's keys and values in one share.
    fn keys(
        &self,
        head: usize,
        share: usize,
        gradient: &SumsGradient<T>,
        d_k: &mut [T],
        d_v: &mut [T],
        tile: &mut Tile<T>,
    ) {
        let Backward { favor, input, features, .. } = self;
        let (isa, d, len, stride) = (input.isa, favor.shape.dim, favor.len, favor.shape.stride());
        let (k, v, c) = (input.k(head), input.v(head), self.state(head).c);
        let (d_numerators, d_denominators) = gradient.sums.split_at(d * len);
        let square = favor.scale::<T>() * favor.scale();
        let largest = self.largest_key(head, gradient.guarded);
        for tokens in favor.tiles(share) {
            let rows = tokens.len();
            let f = &mut tile.features[..rows * len];
            features.keys(k, tokens.clone(), f, &mut tile.per_token[..rows], c);
            let d_v = favor.rows(&tokens, head, d_v);
            let to_values = Product { c_row: stride, ..Product::dense(rows, d, len) };
            to_values.multiply(isa, f, gradient.numerators_t, d_v);
            let d_f = &mut tile.d_features[..rows * len];
            let to_features = Product { a_row: stride, ..Product::dense(rows, len, d) };
            to_features.multiply(isa, v.from(tokens.start), d_numerators, d_f);
            features.pull_back(f, d_f, (None, d_denominators), Some(&mut tile.per_token[..rows]));
            if let Some(token) = largest.filter(|token| tokens.contains(token)) {
                tile.per_token[token - tokens.start] -= gradient.guarded;
            }
            let d_k = favor.rows(&tokens, head, d_k);
            vectorised(
                isa,
                #[inline(always)]
                || {
                    for (t, d_k) in d_k.chunks_mut(stride).enumerate() {
                        let factor = square * tile.per_token[t];
                        map_row(k.token(tokens.start + t), d_k, |x| factor * x);
                    }
                },
            );
            features.project_back(d_f, rows, stride, Update::Add, d_k);
        }
    }

    /// The key of largest norm, if the guard is active for any query: its |k^_l|^2/2 is c.
    fn largest_key(&self, head: usize, guarded_sum: T) -> Option<usize> {
        let Backward { favor, input, features, .. } = self;
        if favor.map != FeatureMap::Trigonometric || guarded_sum == T::zero() {
            return None;
        }
        let (k, c) = (input.k(head), self.state(head).c);
        (0..favor.shape.tokens).find(|token| features.half_norm(k.token(*token)) == c[0])
    }
}
