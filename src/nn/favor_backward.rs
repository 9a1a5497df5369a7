//! The backward pass of [`favor_attention`](super::favor_attention), in its terms.
//!
//! From dO: the derivatives by (N_i, D_i) are y_i = (dO_i / D^_i, -(dO_i . O_i) / D^_i), the last 0 where the
//! guard is active. Then
//!
//! - over the queries: dS = sum_i y_i q'_i^T, dq'_i = S^T y_i;
//! - over the keys: dv_l = dS k'_l without its last element, dk'_l = dS^T v~_l;
//! - from features to q and k by [`Features::pull_back`] and [`Features::project_back`].
//!
//! c and s of the features cancel in N / D and have no gradient. Where the guard is active, N stands alone: s
//! is 0 (the map is trigonometric), but c = |k^_l|^2/2 at the largest key l, and O_i is proportional to
//! exp(-c), so that -(sum of dO_i . O_i over the guarded i) k^_l joins k^_l's derivative.
//!
//! Shares as in the forward pass: first those of the queries, each with a dS of its own, which are added up
//! in order, then those of the keys.

use super::attention::{Attention, Input, Projections, map_row, take};
use super::favor_features::{Features, guarded, is_guarded};
use super::favor_shares::{Favor, Tiles, tiles_of};
use super::reductions::{add_columns, dot};
use crate::config::FeatureMap;
use crate::kernels::{Element, Product, transpose, vectorised};

/// What both halves read.
struct Backward<'a, T> {
    favor: &'a Favor,
    input: &'a Input<'a, T>,
    features: Features<'a, T>,
    out: &'a [T],
    d_out: &'a [T],
    /// Every head's S and c.
    states: &'a [T],
    /// Every share's s and D.
    marks: &'a [T],
}

/// d_q, d_k and d_v, each \[L, heads * d\].
pub(super) fn backward<T: Element>(
    favor: &Favor,
    input: &Input<T>,
    projections: Projections<T>,
    out: &[T],
    d_out: &[T],
    saved: &[T],
    [d_q, d_k, d_v]: [&mut [T]; 3],
    mut work: &mut [T],
) {
    let Attention { heads, dim: d, .. } = favor.attention;
    let (state_len, sums_len, numerators_len) = (favor.state_len(), favor.sums_len(), favor.len * d);
    let w = favor.scaled(projections.w, favor.scale(), &mut work);
    let w_t = favor.scaled(projections.w_t, favor.exponent_scale(), &mut work);
    let features = Features { isa: input.isa, map: favor.map, m: favor.m, d, w, w_t };
    let (states, marks) = saved[..favor.saved_len()].split_at(heads * state_len);
    let d_sums = take(&mut work, heads * (sums_len + 1));
    let d_numerators = take(&mut work, heads * numerators_len);
    let share_work = favor.share_work_len(true);
    let work = take(&mut work, favor.shares() * share_work);
    let this = Backward { favor, input, features, out, d_out, states, marks };

    input.team.each2((d_q, favor.share_len()), (&mut *work, share_work), |g, d_q, work| {
        let (states, mut tiles) = Tiles::cut(favor, work, true);
        for (head, state) in states.chunks_exact_mut(state_len).enumerate() {
            let (d_s, rest) = state.split_at_mut(sums_len);
            rest[0] = this.queries(head, g, d_s, d_q, &mut tiles);
        }
    });
    // Beside dS what the guarded queries leave to the largest key.
    input.team.each2((d_sums, sums_len + 1), (d_numerators, numerators_len), |head, d_sums, d_numerators| {
        d_sums.fill(T::zero());
        for work in work.chunks_exact(share_work) {
            let of_share = &work[head * state_len..][..sums_len + 1];
            d_sums.iter_mut().zip(of_share).for_each(|(sum, of_share)| *sum += *of_share);
        }
        transpose(d_sums, d, favor.len, d_numerators);
    });
    let (d_k, d_v) = ((d_k, favor.share_len()), (d_v, favor.share_len()));
    input.team.each3(d_k, d_v, (work, share_work), |g, d_k, d_v, work| {
        let (_, mut tiles) = Tiles::cut(favor, work, true);
        let sums = d_sums.chunks_exact(sums_len + 1).zip(d_numerators.chunks_exact(numerators_len));
        for (head, (d_sums, d_numerators)) in sums.enumerate() {
            let (d_s, guarded) = d_sums.split_at(sums_len);
            this.keys(head, g, d_s, d_numerators, guarded[0], d_k, d_v, &mut tiles);
        }
    });
}

impl<T: Element> Backward<'_, T> {
    /// One head's S and c.
    fn state(&self, head: usize) -> (&[T], &[T]) {
        let len = self.favor.state_len();
        self.states[head * len..][..len].split_at(self.favor.sums_len())
    }

    /// d_q of a head's queries in share `g` and what they add to dS; returns the sum of dO_i . O_i over the
    /// guarded.
    fn queries(&self, head: usize, g: usize, d_s: &mut [T], d_q: &mut [T], tiles: &mut Tiles<T>) -> T {
        let Backward { favor, input, features, .. } = self;
        let (isa, d, len) = (input.isa, favor.attention.dim, favor.len);
        let (q, out, d_out) = (
            favor.attention.head(head, input.q),
            favor.attention.head(head, self.out),
            favor.attention.head(head, self.d_out),
        );
        let (s, c) = self.state(head);
        let tokens = favor.tokens(g);
        let marks = &self.marks[g * favor.marks_len()..][2 * head * tokens.len()..][..2 * tokens.len()];
        let (shifts, denominators) = marks.split_at(tokens.len());
        let (numerators, sums) = s.split_at(d * len);
        let (d_numerators, d_sums) = d_s.split_at_mut(d * len);
        d_sums.fill(T::zero());
        let mut guarded_rows = T::zero();
        for (i, tile) in tiles_of(favor, g).enumerate() {
            let rows = tile.len();
            let at = tile.start - tokens.start;
            let (shifts, denominators) = (&shifts[at..][..rows], &denominators[at..][..rows]);
            let (f, g) = (&mut tiles.f[..rows * len], &mut tiles.g[..rows * len]);
            features.queries(q, tile.clone(), f, c, shifts);
            let (y, y_last) = (&mut tiles.y[..rows * d], &mut tiles.row[..rows]);
            vectorised(
                isa,
                #[inline(always)]
                || {
                    let rows =
                        y.chunks_exact_mut(d).zip(y_last.iter_mut()).zip(tile.clone()).zip(denominators);
                    for (((y, y_last), token), denominator) in rows {
                        let (out, d_out) = (out.token(token), d_out.token(token));
                        let inverse = T::one() / guarded(*denominator);
                        map_row(d_out, y, |d_out| d_out * inverse);
                        let radial = dot(out, d_out);
                        let is_guarded = is_guarded(*denominator);
                        *y_last = if is_guarded { T::zero() } else { -radial * inverse };
                        guarded_rows += if is_guarded { radial } else { T::zero() };
                    }
                },
            );
            vectorised(
                isa,
                #[inline(always)]
                || add_columns(d_sums, f, Some(y_last)),
            );
            let shape = Product { accumulate: i > 0, ..Product::transposed_a(d, len, rows) };
            shape.multiply(isa, y, f, d_numerators);
            Product::dense(rows, len, d).multiply(isa, y, numerators, g);
            features.pull_back(f, g, (Some(y_last), sums), None);
            features.project_back(g, rows, favor.attention.stride(), false, favor.rows(&tile, head, d_q));
        }
        guarded_rows
    }

    /// d_k and d_v of a head's keys and values in share `g`; `guarded_rows` is the sum that
    /// [`Backward::queries`] returned.
    fn keys(
        &self,
        head: usize,
        g: usize,
        d_s: &[T],
        d_numerators: &[T],
        guarded_rows: T,
        d_k: &mut [T],
        d_v: &mut [T],
        tiles: &mut Tiles<T>,
    ) {
        let Backward { favor, input, features, .. } = self;
        let (isa, d, len, stride) = (input.isa, favor.attention.dim, favor.len, favor.attention.stride());
        let k = favor.attention.head(head, input.k);
        let v = favor.attention.head(head, input.v);
        let (_, c) = self.state(head);
        let square = favor.scale::<T>() * favor.scale();
        let largest = if favor.map == FeatureMap::Trigonometric && guarded_rows != T::zero() {
            (0..favor.attention.tokens).find(|token| features.half_norm(k.token(*token)) == c[0])
        } else {
            None
        };
        for tile in tiles_of(favor, g) {
            let rows = tile.len();
            let f = &mut tiles.f[..rows * len];
            features.keys(k, tile.clone(), f, &mut tiles.row[..rows], c);
            let d_v = favor.rows(&tile, head, d_v);
            Product { c_row: stride, ..Product::dense(rows, d, len) }.multiply(isa, f, d_numerators, d_v);
            let g = &mut tiles.g[..rows * len];
            let shape = Product { a_row: stride, ..Product::dense(rows, len, d) };
            shape.multiply(isa, v.from(tile.start), &d_s[..d * len], g);
            features.pull_back(f, g, (None, &d_s[d * len..]), Some(&mut tiles.row[..rows]));
            if let Some(token) = largest.filter(|token| tile.contains(token)) {
                tiles.row[token - tile.start] -= guarded_rows;
            }
            let d_x = favor.rows(&tile, head, d_k);
            vectorised(
                isa,
                #[inline(always)]
                || {
                    let rows = d_x.chunks_mut(stride).zip(tile.clone()).zip(tiles.row.iter());
                    for ((d_x, token), radial) in rows {
                        let factor = square * *radial;
                        map_row(k.token(token), d_x, |x| factor * x);
                    }
                },
            );
            features.project_back(g, rows, stride, true, d_x);
        }
    }
}
