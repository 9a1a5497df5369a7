//! What both kinds of attention are written with: a layer's shape and operands, a head's columns in them,
//! tiles of tokens, and arithmetic on short rows.

use super::operands::expect_len;
use crate::error::Result;
use crate::kernels::{Element, Isa, Team, each_pair, vectorised};
use std::ops::Range;

/// The sizes of an attention layer. q, k, v and the output of a sample are \[tokens, heads * dim\],
/// row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// L, the number of tokens.
    pub tokens: usize,
    /// The number of heads.
    pub heads: usize,
    /// d, the channels of one head.
    pub dim: usize,
    /// m, the number of FAVOR+'s projections; softmax attention has none and does not read it.
    pub features: usize,
}

impl AttentionShape {
    /// The distance between the rows of a \[L, heads * d\] tensor.
    pub(super) fn stride(&self) -> usize {
        self.heads * self.dim
    }

    /// The elements of a \[L, heads * d\] tensor.
    pub(super) fn len(&self) -> usize {
        self.tokens * self.stride()
    }

    /// A head's columns of a \[L, heads * d\] tensor.
    pub(super) fn head<'a, T>(&self, head: usize, all: &'a [T]) -> Head<'a, T> {
        Head { all, stride: self.stride(), start: head * self.dim, dim: self.dim }
    }
}

/// The queries, keys and values of one sample, each \[tokens, heads * dim\].
#[derive(Clone, Copy, Debug)]
pub struct Qkv<'a, T> {
    /// The queries.
    pub q: &'a [T],
    /// The keys.
    pub k: &'a [T],
    /// The values.
    pub v: &'a [T],
}

impl<T> Qkv<'_, T> {
    pub(super) fn check(&self, len: usize) -> Result<()> {
        expect_len("an attention's q", len, self.q)?;
        expect_len("an attention's k", len, self.k)?;
        expect_len("an attention's v", len, self.v)
    }
}

/// The loss's gradients in q, k and v, each \[tokens, heads * dim\], which a backward pass overwrites.
#[derive(Debug)]
pub struct QkvGradient<'a, T> {
    /// The gradient in the queries.
    pub d_q: &'a mut [T],
    /// The gradient in the keys.
    pub d_k: &'a mut [T],
    /// The gradient in the values.
    pub d_v: &'a mut [T],
}

impl<T> QkvGradient<'_, T> {
    pub(super) fn check(&self, len: usize) -> Result<()> {
        expect_len("the gradient in an attention's q", len, self.d_q)?;
        expect_len("the gradient in an attention's k", len, self.d_k)?;
        expect_len("the gradient in an attention's v", len, self.d_v)
    }
}

/// FAVOR+'s projections w_1 .. w_m, shared by the heads; empty (the default) for softmax attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct Projections<'a, T> {
    /// W \[m, d\], row-major: w_i is row i.
    pub w: &'a [T],
    /// The transpose of W \[d, m\], row-major.
    pub w_t: &'a [T],
}

/// What a forward pass made, as the backward pass reads it.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOutput<'a, T> {
    /// The output \[tokens, heads * dim\].
    pub out: &'a [T],
    /// What the forward pass saved.
    pub saved: &'a [T],
}

/// What one call of an attention layer reads, and what it computes with.
#[derive(Clone, Copy)]
pub(super) struct Input<'a, T> {
    pub shape: AttentionShape,
    pub isa: Isa,
    pub team: Team<'a>,
    pub qkv: Qkv<'a, T>,
}

impl<'a, T> Input<'a, T> {
    /// The queries of a head.
    pub fn q(&self, head: usize) -> Head<'a, T> {
        self.shape.head(head, self.qkv.q)
    }

    /// The keys of a head.
    pub fn k(&self, head: usize) -> Head<'a, T> {
        self.shape.head(head, self.qkv.k)
    }

    /// The values of a head.
    pub fn v(&self, head: usize) -> Head<'a, T> {
        self.shape.head(head, self.qkv.v)
    }
}

/// Cuts `range` into tiles of at most `tile`. The cut follows from the shape, so that the order of no sum
/// depends on anything else.
pub(super) fn tiles(range: Range<usize>, tile: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(tile).map(move |start| start..(start + tile).min(range.end))
}

/// One head's columns of a \[L, heads * d\] tensor.
#[derive(Clone, Copy)]
pub(super) struct Head<'a, T> {
    all: &'a [T],
    /// Distance between rows.
    pub stride: usize,
    start: usize,
    dim: usize,
}

impl<'a, T: Element> Head<'a, T> {
    /// Row `token`, \[d\].
    #[inline(always)]
    pub fn token(&self, token: usize) -> &'a [T] {
        &self.all[token * self.stride + self.start..][..self.dim]
    }

    /// Everything from the first element of row `token` on; rows are `stride` apart.
    pub fn from(&self, token: usize) -> &'a [T] {
        &self.all[token * self.stride + self.start..]
    }

    /// Copies the rows of `tokens` to the first d columns of the rows of `out`, which are `width` apart;
    /// returns those rows.
    pub fn gather<'o>(&self, isa: Isa, tokens: Range<usize>, width: usize, out: &'o mut [T]) -> &'o mut [T] {
        let out = &mut out[..tokens.len() * width];
        vectorised(
            isa,
            #[inline(always)]
            || {
                for (row, token) in out.chunks_exact_mut(width).zip(tokens) {
                    map_row(self.token(token), row, |x| x);
                }
            },
        );
        out
    }

    /// Copies the first `tokens` rows, times `scale` and transposed, to the first columns of the d rows of
    /// `out`, which are `width` apart.
    pub fn gather_transposed(&self, tokens: usize, scale: T, width: usize, out: &mut [T]) {
        for token in 0..tokens {
            for (to, x) in out[token..].iter_mut().step_by(width).zip(self.token(token)) {
                *to = scale * *x;
            }
        }
    }
}

/// Sets to_i = f(from_i) for all of `from`. Rows are short, so this goes by blocks of a length that the
/// compiler knows.
#[inline(always)]
pub(super) fn map_row<T: Element>(from: &[T], to: &mut [T], f: impl Fn(T) -> T) {
    let (to, _) = to.split_at_mut(from.len());
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<16>(), to.as_chunks_mut::<16>());
    for block in 0..from.len() {
        for i in 0..16 {
            to[block][i] = f(from[block][i]);
        }
    }
    each_pair(to_rest, from_rest, |to, from| *to = f(*from));
}

/// Multiplies a row by `factor`, in blocks like [`map_row`].
#[inline(always)]
pub(super) fn scale_row<T: Element>(factor: T, row: &mut [T]) {
    let (row, rest) = row.as_chunks_mut::<16>();
    for row in row {
        for i in 0..16 {
            row[i] *= factor;
        }
    }
    rest.iter_mut().for_each(|x| *x *= factor);
}
