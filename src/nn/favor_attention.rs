//! FAVOR+ attention, equation (26), in O(L m d): no L x L and no L x m matrix exists, only tiles of features, made anew in the
//! backward pass.
//!
//! For a head with the features q'_i, k'_l of [`favor_features`](super::favor_features) and v extended by a one, v~ = (v, 1), both
//! sums of (26) are one: S = sum_l v~_l k'_l^T \[d + 1, l m\], and S q'_i = (N_i, D_i). The output is O_i = N_i / D^_i with D^ the
//! [`guarded`] D.
//!
//! The tokens are cut into shares, as many as the shape alone says. First every share of the keys has its own S and c, which
//! are then merged in the shares' order, S = sum over shares g of exp(c_g - c) S_g with c = max_g c_g; then every share of the
//! queries reads them. Shares run one after the other or on many threads, and hold their scratch.
//!
//! Multiply-adds for one function f: 4 L m d forward, 8 L m d backward (8 and 16 operations); 6 and 12 for two.

use super::attention::{Attention, Input, Projections, scale_row, take, tiles};
use super::favor_features::{Features, guarded};
use crate::config::FeatureMap;
use crate::kernels::{Element, Exponent, Product, transpose, vectorised};
use std::ops::Range;

/// Features that exist at a time: half of a first-level cache.
const TILE_FEATURES: usize = 4096;

/// Tokens in a share, until there are `MOST_SHARES`: many enough that merging costs about a hundredth.
const SHARE: usize = 128;
const MOST_SHARES: usize = 16;

/// Sizes of a sample's FAVOR+ attention.
#[derive(Clone, Copy)]
pub(super) struct Favor {
    pub attention: Attention,
    pub map: FeatureMap,
    /// m.
    pub m: usize,
    /// l m, the number of features.
    pub len: usize,
    /// Tokens whose features exist at a time.
    pub tile: usize,
    /// Tokens in a share; the last may have fewer.
    share: usize,
}

impl Favor {
    pub fn new(attention: &Attention, map: FeatureMap, m: usize) -> Favor {
        let len = map.functions() * m;
        let tile = (TILE_FEATURES / len).clamp(16, SHARE).next_multiple_of(8);
        let shares = attention.tokens.div_ceil(SHARE).min(MOST_SHARES);
        let share = attention.tokens.div_ceil(shares).next_multiple_of(tile);
        Favor { attention: *attention, map, m, len, tile, share }
    }

    /// S of all heads' keys and c; s_i and D_i of all queries.
    pub fn saved_len(&self) -> usize {
        let a = &self.attention;
        a.heads * self.state_len() + 2 * a.heads * a.tokens
    }

    /// The projections scaled, the numerators' part of S, and the shares' scratch.
    pub fn forward_work_len(&self) -> usize {
        let a = &self.attention;
        (self.m + a.heads * self.len) * a.dim + self.shares() * self.share_work_len(false)
    }

    /// The projections scaled and their transpose, dS, its numerators' part, and the shares' scratch.
    pub fn backward_work_len(&self) -> usize {
        let a = &self.attention;
        let sums = a.heads * (self.sums_len() + 1 + self.len * a.dim);
        2 * self.m * a.dim + sums + self.shares() * self.share_work_len(true)
    }

    /// Elements of one head's S.
    pub fn sums_len(&self) -> usize {
        (self.attention.dim + 1) * self.len
    }

    /// Elements of one head's S and c, or of dS and one number more.
    pub fn state_len(&self) -> usize {
        self.sums_len() + self.len
    }

    pub fn shares(&self) -> usize {
        self.attention.tokens.div_ceil(self.share)
    }

    /// Every head's state over the share's tokens, and tiles.
    pub fn share_work_len(&self, backward: bool) -> usize {
        let d = self.attention.dim;
        let tiles = if backward { 2 } else { 1 };
        self.attention.heads * self.state_len() + self.tile * (d + 2 + tiles * self.len) + self.len
    }

    /// The tokens of share `g`.
    pub fn tokens(&self, g: usize) -> Range<usize> {
        g * self.share..((g + 1) * self.share).min(self.attention.tokens)
    }

    /// Elements of a share of a \[L, heads * d\] tensor.
    pub fn share_len(&self) -> usize {
        self.share * self.attention.stride()
    }

    /// Elements of a share of what is saved of the queries: for every head s of all tokens, then D.
    pub fn marks_len(&self) -> usize {
        2 * self.attention.heads * self.share
    }

    /// d^(-1/4), what q and k are multiplied by: here the projections are.
    pub fn scale<T: Element>(&self) -> T {
        T::of((self.attention.dim as f64).powf(-0.25))
    }

    /// Copies the projections, scaled.
    pub fn scaled<'w, T: Element>(&self, w: &[T], work: &mut &'w mut [T]) -> &'w [T] {
        let scale = self.scale::<T>();
        let scaled = take(work, self.m * self.attention.dim);
        scaled.iter_mut().zip(w).for_each(|(to, from)| *to = scale * *from);
        scaled
    }

    /// The rows of the share's `tokens` and of one head in a share of a \[L, heads * d\] tensor, with their stride.
    pub fn rows<'a, T>(&self, tile: &Range<usize>, head: usize, share: &'a mut [T]) -> &'a mut [T] {
        let a = &self.attention;
        let rows = &mut share[(tile.start % self.share) * a.stride() + head * a.dim..];
        &mut rows[..(tile.len() - 1) * a.stride() + a.dim]
    }
}

/// Scratch for one tile after the other.
pub(super) struct Tiles<'w, T> {
    /// \[tile, d + 1\].
    pub y: &'w mut [T],
    /// Features, \[tile, l m\].
    pub f: &'w mut [T],
    /// Their derivatives, \[tile, l m\]; empty in the forward pass.
    pub g: &'w mut [T],
    /// A number a row.
    pub row: &'w mut [T],
    /// A number a feature.
    pub rescale: &'w mut [T],
}

impl<'w, T: Element> Tiles<'w, T> {
    /// Cuts a share's scratch into the heads' states and tiles.
    pub fn cut(favor: &Favor, mut work: &'w mut [T], backward: bool) -> (&'w mut [T], Tiles<'w, T>) {
        let (d, len, tile) = (favor.attention.dim, favor.len, favor.tile);
        let states = take(&mut work, favor.attention.heads * favor.state_len());
        let tiles = Tiles {
            y: take(&mut work, tile * (d + 1)),
            f: take(&mut work, tile * len),
            g: take(&mut work, if backward { tile * len } else { 0 }),
            row: take(&mut work, tile),
            rescale: take(&mut work, len),
        };
        (states, tiles)
    }
}

/// v~ = (v, 1) of a head's tokens, \[rows, d + 1\].
pub(super) fn gather_values<'y, T: Element>(
    input: &Input<T>,
    head: usize,
    tokens: Range<usize>,
    y: &'y mut [T],
) -> &'y [T] {
    let d = input.attention.dim;
    let y = input.attention.head(head, input.v).gather(input.isa, tokens, d + 1, y);
    y.iter_mut().skip(d).step_by(d + 1).for_each(|one| *one = T::one());
    y
}

/// The tiles of a share's tokens.
pub(super) fn tiles_of(favor: &Favor, g: usize) -> impl Iterator<Item = Range<usize>> {
    tiles(favor.tokens(g), favor.tile)
}

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
    let w_t = favor.scaled(projections.w_t, &mut work);
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
    for (i, tile) in tiles_of(favor, g).enumerate() {
        let rows = tile.len();
        let k = favor.attention.head(head, input.k);
        let f = &mut tiles.f[..rows * len];
        let raised = features.keys_raising_c(k, tile.clone(), f, &mut tiles.row[..rows], c, tiles.rescale);
        if raised && i > 0 {
            scale_columns(input, tiles.rescale, s);
        }
        let y = gather_values(input, head, tile, tiles.y);
        let shape = Product { accumulate: i > 0, ..Product::transposed_a(d + 1, len, rows) };
        T::product(isa, &shape, y, f, s);
    }
}

/// S = sum_g exp(c_g - c) S_g, c = max_g c_g; `factors` \[l m\] is scratch.
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
        T::exp_of(input.isa, factors, c.len(), c.len(), Exponent::RowsThenColumns(&[T::zero()], c));
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
        T::product(isa, &Product { c_row: stride, ..Product::dense(rows, d, len) }, f, numerators, out);
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
