//! How FAVOR+'s work on a sample is cut: its tokens in shares, as many as the shape alone says, a share in
//! tiles.
//!
//! Shares run one after the other or on many threads, at most sixteen at a time, and each has scratch of its
//! own; every number is summed within a share, by tiles, and then over the shares, in order. Neither cut
//! depends on the threads or on the batch.

use super::attention::{Attention, take, tiles};
use crate::config::FeatureMap;
use crate::kernels::Element;
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
    pub fn new(attention: &Attention, map: FeatureMap) -> Favor {
        let m = attention.features;
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
        let of_a_token = if backward { self.attention.dim + 1 + 2 * self.len } else { 1 + self.len };
        self.attention.heads * self.state_len() + self.tile * of_a_token + self.len
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

    /// What makes w_j . x the exponent to base 2, d^(-1/4) log2(e), or, where u is no exponent, u itself.
    pub fn exponent_scale<T: Element>(&self) -> T {
        self.scale::<T>()
            * match self.map {
                FeatureMap::Positive | FeatureMap::Hyperbolic => T::of(std::f64::consts::LOG2_E),
                FeatureMap::Trigonometric | FeatureMap::Relu => T::one(),
            }
    }

    /// Copies the projections, scaled.
    pub fn scaled<'w, T: Element>(&self, w: &[T], scale: T, work: &mut &'w mut [T]) -> &'w [T] {
        let scaled = take(work, self.m * self.attention.dim);
        scaled.iter_mut().zip(w).for_each(|(to, from)| *to = scale * *from);
        scaled
    }

    /// The rows of the share's `tokens` and of one head in a share of a \[L, heads * d\] tensor, with their
    /// stride.
    pub fn rows<'a, T>(&self, tile: &Range<usize>, head: usize, share: &'a mut [T]) -> &'a mut [T] {
        let a = &self.attention;
        let rows = &mut share[(tile.start % self.share) * a.stride() + head * a.dim..];
        &mut rows[..(tile.len() - 1) * a.stride() + a.dim]
    }
}

/// Scratch for one tile after the other.
pub(super) struct Tiles<'w, T> {
    /// \[tile, d\]; empty in the forward pass.
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
            y: take(&mut work, if backward { tile * d } else { 0 }),
            f: take(&mut work, tile * len),
            g: take(&mut work, if backward { tile * len } else { 0 }),
            row: take(&mut work, tile),
            rescale: take(&mut work, len),
        };
        (states, tiles)
    }
}

/// The tiles of a share's tokens.
pub(super) fn tiles_of(favor: &Favor, g: usize) -> impl Iterator<Item = Range<usize>> {
    tiles(favor.tokens(g), favor.tile)
}
