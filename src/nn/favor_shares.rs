//! How FAVOR+'s work on one sample is divided: its tokens into shares, and each share into tiles.
//!
//! A share is what one thread works on at a time. There are at most sixteen, and each has a workspace of its
//! own. A tile is as many tokens as have features in memory at a time. Every sum runs over the tiles of a
//! share first, and then over the shares, in order. Both cuts follow from the shape of the layer, not from
//! the number of threads or the batch, so that the result has the same bits for any of those.

use super::heads::{AttentionShape, tiles};
use super::operands::take;
use crate::config::FeatureMap;
use crate::kernels::Element;
use std::ops::Range;

/// Features in memory at a time: they fill half of a first-level cache.
const TILE_FEATURES: usize = 4096;

/// Tokens in a share, as long as there are fewer than `MOST_SHARES`. With so many, adding up the shares'
/// sums takes about a hundredth of the time.
const SHARE: usize = 128;
const MOST_SHARES: usize = 16;

/// The sizes of a FAVOR+ layer on one sample, and its cut into shares and tiles.
#[derive(Clone, Copy)]
pub(super) struct Favor {
    pub shape: AttentionShape,
    pub map: FeatureMap,
    /// l m, the number of features of a token.
    pub len: usize,
    /// Tokens in a tile.
    pub tile: usize,
    /// Tokens in a share; the last may have fewer.
    share: usize,
}

impl Favor {
    pub fn new(shape: AttentionShape, map: FeatureMap) -> Favor {
        let len = map.functions() * shape.features;
        let tile = (TILE_FEATURES / len).clamp(16, SHARE).next_multiple_of(8);
        let shares = shape.tokens.div_ceil(SHARE).min(MOST_SHARES);
        let share = shape.tokens.div_ceil(shares).next_multiple_of(tile);
        Favor { shape, map, len, tile, share }
    }

    /// The length of what the forward pass saves: the [`KeyState`] of every head, and the normalisers s_i and
    /// D_i of every query.
    pub fn saved_len(&self) -> usize {
        let AttentionShape { heads, tokens, .. } = self.shape;
        heads * self.state_len() + 2 * heads * tokens
    }

    /// The length of the forward pass's workspace: the scaled projections, every head's sums with values
    /// transposed, and the shares' workspaces.
    pub fn forward_work_len(&self) -> usize {
        let AttentionShape { heads, dim, features: m, .. } = self.shape;
        (m + heads * self.len) * dim + self.shares() * self.share_work_len(false)
    }

    /// The length of the backward pass's workspace: the projections and their transpose, both scaled, every
    /// head's gradient in its sums, that with values transposed, and the shares' workspaces.
    pub fn backward_work_len(&self) -> usize {
        let AttentionShape { heads, dim, features: m, .. } = self.shape;
        let sums = heads * (self.gradient_len() + self.len * dim);
        2 * m * dim + sums + self.shares() * self.share_work_len(true)
    }

    /// Elements of S of one head.
    pub fn sums_len(&self) -> usize {
        (self.shape.dim + 1) * self.len
    }

    /// Elements of a [`KeyState`]: S and c of one head.
    pub fn state_len(&self) -> usize {
        self.sums_len() + self.len
    }

    /// Elements of a head's gradient in S, and the one number that stands behind it (see `favor_backward`).
    pub fn gradient_len(&self) -> usize {
        self.sums_len() + 1
    }

    /// The number of shares.
    pub fn shares(&self) -> usize {
        self.shape.tokens.div_ceil(self.share)
    }

    /// The length of a share's workspace: the sums over its tokens of every head, in room for a [`KeyState`]
    /// each, and the [`Tile`].
    pub fn share_work_len(&self, backward: bool) -> usize {
        let per_token = if backward { self.shape.dim + 1 + 2 * self.len } else { 1 + self.len };
        self.shape.heads * self.state_len() + self.tile * per_token + self.len
    }

    /// The tokens of a share.
    pub fn tokens(&self, share: usize) -> Range<usize> {
        share * self.share..((share + 1) * self.share).min(self.shape.tokens)
    }

    /// The tiles of a share's tokens.
    pub fn tiles(&self, share: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        tiles(self.tokens(share), self.tile)
    }

    /// Elements of a share of a \[L, heads * d\] tensor.
    pub fn share_len(&self) -> usize {
        self.share * self.shape.stride()
    }

    /// Elements of a share of the queries' normalisers: for every head s of all the share's tokens, then D.
    pub fn normalisers_len(&self) -> usize {
        2 * self.shape.heads * self.share
    }

    /// d^(-1/4), the factor of q and k. It is applied to the projections instead.
    pub fn scale<T: Element>(&self) -> T {
        T::of((self.shape.dim as f64).powf(-0.25))
    }

    /// The factor that makes w_j . x an exponent to base 2, d^(-1/4) log2(e); for maps whose u is no exponent
    /// it is [`Favor::scale`].
    pub fn exponent_scale<T: Element>(&self) -> T {
        self.scale::<T>()
            * match self.map {
                FeatureMap::Positive | FeatureMap::Hyperbolic => T::of(std::f64::consts::LOG2_E),
                FeatureMap::Trigonometric | FeatureMap::Relu => T::one(),
            }
    }

    /// Copies the projections, times `scale`, to the next part of a workspace.
    pub fn scaled<'w, T: Element>(&self, w: &[T], scale: T, workspace: &mut &'w mut [T]) -> &'w [T] {
        let scaled = take(workspace, self.shape.features * self.shape.dim);
        scaled.iter_mut().zip(w).for_each(|(to, from)| *to = scale * *from);
        scaled
    }

    /// The rows of `tile` in one share of a \[L, heads * d\] tensor, from a head's first column on. The rows
    /// are a stride apart.
    pub fn rows<'a, T>(&self, tile: &Range<usize>, head: usize, share: &'a mut [T]) -> &'a mut [T] {
        let AttentionShape { dim, .. } = self.shape;
        let stride = self.shape.stride();
        let rows = &mut share[(tile.start % self.share) * stride + head * dim..];
        &mut rows[..(tile.len() - 1) * stride + dim]
    }
}

/// What the queries need to know of one head's keys and values: S and the shifts c of the keys' features.
/// `S` is `&[T]` or `&mut [T]`.
pub(super) struct KeyState<S> {
    /// sum_l v_l k'_l^T \[d, l m\], the sums that become numerators.
    pub numerators: S,
    /// sum_l k'_l \[l m\], those that become denominators: the last row of S.
    pub denominators: S,
    /// c \[l m\].
    pub c: S,
}

impl<'a, T> KeyState<&'a [T]> {
    /// The parts of a head's saved state.
    pub fn of(favor: &Favor, state: &'a [T]) -> Self {
        let (sums, c) = state.split_at(favor.sums_len());
        let (numerators, denominators) = sums.split_at(favor.shape.dim * favor.len);
        KeyState { numerators, denominators, c }
    }
}

impl<'a, T> KeyState<&'a mut [T]> {
    /// The same, to be written.
    pub fn of_mut(favor: &Favor, state: &'a mut [T]) -> Self {
        let (sums, c) = state.split_at_mut(favor.sums_len());
        let (numerators, denominators) = sums.split_at_mut(favor.shape.dim * favor.len);
        KeyState { numerators, denominators, c }
    }
}

/// The workspace of one tile at a time.
pub(super) struct Tile<'w, T> {
    /// The gradients in the numerators, \[tile, d\]; empty in the forward pass.
    pub d_numerators: &'w mut [T],
    /// Features, \[tile, l m\].
    pub features: &'w mut [T],
    /// The gradients in the features, \[tile, l m\]; empty in the forward pass.
    pub d_features: &'w mut [T],
    /// One number per token.
    pub per_token: &'w mut [T],
    /// One number per feature.
    pub per_feature: &'w mut [T],
}

impl<'w, T: Element> Tile<'w, T> {
    /// Cuts a share's workspace into the heads' sums and the tile.
    pub fn cut(favor: &Favor, mut workspace: &'w mut [T], backward: bool) -> (&'w mut [T], Tile<'w, T>) {
        let (d, len, tile) = (favor.shape.dim, favor.len, favor.tile);
        let sums = take(&mut workspace, favor.shape.heads * favor.state_len());
        let tile = Tile {
            d_numerators: take(&mut workspace, if backward { tile * d } else { 0 }),
            features: take(&mut workspace, tile * len),
            d_features: take(&mut workspace, if backward { tile * len } else { 0 }),
            per_token: take(&mut workspace, tile),
            per_feature: take(&mut workspace, len),
        };
        (sums, tile)
    }
}
