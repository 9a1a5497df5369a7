//! Multi-head attention of one sample.
//!
//! The mathematics of a head stands in `softmax_attention` (exact, equation (22)) and in `favor_attention`
//! and `favor_backward` (FAVOR+, equations (24) to (26)).

use super::favor_shares::Favor;
use super::{favor_attention, favor_backward, softmax_attention};
use crate::config::AttentionKind;
use crate::kernels::{Element, Isa, Team, vectorised};
use std::ops::Range;

/// An attention's sizes, each at least 1. q, k, v and the output are \[tokens, heads * dim\], row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// L.
    pub tokens: usize,
    /// Number of heads.
    pub heads: usize,
    /// d, the channels of one head.
    pub dim: usize,
    /// Exact or FAVOR+.
    pub kind: AttentionKind,
    /// m, the number of FAVOR+'s projections; not read where the attention is exact.
    pub features: usize,
}

/// FAVOR+'s projections w_1 .. w_m, shared by the heads; empty (the default) for softmax attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct Projections<'a, T> {
    /// W \[m, d\], row-major: w_i is row i.
    pub w: &'a [T],
    /// W's transpose \[d, m\], row-major.
    pub w_t: &'a [T],
}

impl Attention {
    /// Elements that [`Attention::forward`] leaves for [`Attention::backward`]: O(L + m d) a head.
    pub fn saved_len(&self) -> usize {
        match self.kind {
            AttentionKind::Softmax => self.heads * self.tokens,
            AttentionKind::Favor(map) => Favor::new(self, map).saved_len(),
        }
    }

    /// Elements of scratch that [`Attention::forward`] needs.
    pub fn forward_work_len(&self) -> usize {
        match self.kind {
            AttentionKind::Softmax => softmax_attention::forward_work_len(self),
            AttentionKind::Favor(map) => Favor::new(self, map).forward_work_len(),
        }
    }

    /// Elements of scratch that [`Attention::backward`] needs.
    pub fn backward_work_len(&self) -> usize {
        match self.kind {
            AttentionKind::Softmax => softmax_attention::backward_work_len(self),
            AttentionKind::Favor(map) => Favor::new(self, map).backward_work_len(),
        }
    }

    /// out = Att(q, k, v), the work shared out over `team`; the bits do not depend on it.
    ///
    /// `saved` and `work` are lent: at least [`Attention::saved_len`] and [`Attention::forward_work_len`]
    /// elements, of any content.
    pub fn forward<T: Element>(
        &self,
        isa: Isa,
        team: Team,
        projections: Projections<T>,
        q: &[T],
        k: &[T],
        v: &[T],
        out: &mut [T],
        saved: &mut [T],
        work: &mut [T],
    ) {
        let input = self.input(isa, team, q, k, v);
        match self.kind {
            AttentionKind::Softmax => softmax_attention::forward(&input, out, saved, work),
            AttentionKind::Favor(map) => {
                let favor = Favor::new(self, map);
                favor_attention::forward(&favor, &input, projections, out, saved, work);
            }
        }
    }

    /// The loss's derivatives by q, k and v, which are overwritten, from `d_out`, that by the output.
    ///
    /// `out` and `saved` are what [`Attention::forward`] made of the same input; `work` has at least
    /// [`Attention::backward_work_len`] elements, of any content.
    pub fn backward<T: Element>(
        &self,
        isa: Isa,
        team: Team,
        projections: Projections<T>,
        q: &[T],
        k: &[T],
        v: &[T],
        out: &[T],
        d_out: &[T],
        saved: &[T],
        d_q: &mut [T],
        d_k: &mut [T],
        d_v: &mut [T],
        work: &mut [T],
    ) {
        let input = self.input(isa, team, q, k, v);
        let d = [d_q, d_k, d_v];
        match self.kind {
            AttentionKind::Softmax => {
                softmax_attention::backward(&input, out, d_out, saved, d, work);
            }
            AttentionKind::Favor(map) => {
                let favor = Favor::new(self, map);
                favor_backward::backward(&favor, &input, projections, out, d_out, saved, d, work);
            }
        }
    }

    fn input<'a, T>(&self, isa: Isa, team: Team<'a>, q: &'a [T], k: &'a [T], v: &'a [T]) -> Input<'a, T> {
        Input { attention: *self, isa, team, q, k, v }
    }

    /// Distance between a head's rows.
    pub(super) fn stride(&self) -> usize {
        self.heads * self.dim
    }

    /// A head's columns of a \[L, heads * d\] tensor.
    pub(super) fn head<'a, T>(&self, head: usize, all: &'a [T]) -> Head<'a, T> {
        assert_eq!(all.len(), self.tokens * self.stride(), "{self:?}");
        Head { all, stride: self.stride(), start: head * self.dim, dim: self.dim }
    }
}

/// What an attention reads, and who works on it.
#[derive(Clone, Copy)]
pub(super) struct Input<'a, T> {
    pub attention: Attention,
    pub isa: Isa,
    pub team: Team<'a>,
    pub q: &'a [T],
    pub k: &'a [T],
    pub v: &'a [T],
}

/// `range` in tiles of at most `tile`. Fixed by the shape, so that no sum's order depends on anything else.
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

    /// All from row `token`'s first element on; rows are `stride` apart.
    pub fn from(&self, token: usize) -> &'a [T] {
        &self.all[token * self.stride + self.start..]
    }

    /// The `tokens`, each to the first d of `out`'s rows of `width`; returns the rows.
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

    /// `scale` times all tokens, transposed to the first L of `out`'s d rows of `width`.
    pub fn gather_transposed(&self, tokens: usize, scale: T, width: usize, out: &mut [T]) {
        for token in 0..tokens {
            for (to, x) in out[token..].iter_mut().step_by(width).zip(self.token(token)) {
                *to = scale * *x;
            }
        }
    }
}

/// to_i <- f(from_i) for all of `from`: rows are short, so in vectors of a length that the compiler knows.
#[inline(always)]
pub(super) fn map_row<T: Element>(from: &[T], to: &mut [T], f: impl Fn(T) -> T) {
    let (to, _) = to.split_at_mut(from.len());
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<16>(), to.as_chunks_mut::<16>());
    for (to, from) in to.iter_mut().zip(from) {
        for i in 0..16 {
            to[i] = f(from[i]);
        }
    }
    to_rest.iter_mut().zip(from_rest).for_each(|(to, from)| *to = f(*from));
}

/// row_i <- factor row_i, like [`map_row`].
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

/// Cuts the next `len` elements off the lent scratch.
pub(super) fn take<'w, T>(work: &mut &'w mut [T], len: usize) -> &'w mut [T] {
    let (taken, rest) = std::mem::take(work).split_at_mut(len);
    *work = rest;
    taken
}

#[cfg(test)]
mod tests;
