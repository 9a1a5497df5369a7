//! Multi-head attention of one sample: the heads are cut out, each is attended by itself, and put back.
//!
//! The mathematics of a head stands in `softmax_attention` (exact, equation (22)) and in
//! [`favor_attention`] (FAVOR+, equations (24) to (26)).

use super::favor_features::Features;
use super::{favor_attention, softmax_attention};
use crate::config::FeatureMap;
use crate::kernels::{Element, Isa, Team, vectorised};
use std::ops::Range;

/// Tokens whose scores or features exist at a time. Fixed, so that no sum's order depends on anything but the shape.
pub(super) const TILE: usize = 64;

/// How a token attends to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionKind {
    /// Exact: equation (22).
    Softmax,
    /// FAVOR+: equation (26).
    Favor {
        /// h and f of (24).
        map: FeatureMap,
        /// m, the number of projections.
        features: usize,
    },
}

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
        self.heads * self.saved_of_a_head()
    }

    /// Elements of scratch that [`Attention::forward`] needs.
    pub fn forward_work_len(&self) -> usize {
        self.heads * self.forward_work_of_a_head()
    }

    /// Elements of scratch that [`Attention::backward`] needs.
    pub fn backward_work_len(&self) -> usize {
        self.heads * self.backward_work_of_a_head()
    }

    fn saved_of_a_head(&self) -> usize {
        match self.kind {
            AttentionKind::Softmax => self.tokens,
            AttentionKind::Favor { map, features } => {
                favor_attention::saved_len(self.tokens, self.dim, map.functions() * features)
            }
        }
    }

    fn forward_work_of_a_head(&self) -> usize {
        let (l, d) = (self.tokens, self.dim);
        let scratch = match self.kind {
            AttentionKind::Softmax => softmax_attention::forward_work_len(l, d),
            AttentionKind::Favor { map, features } => {
                favor_attention::forward_work_len(l, d, map.functions() * features)
            }
        };
        l * d + scratch
    }

    fn backward_work_of_a_head(&self) -> usize {
        let (l, d) = (self.tokens, self.dim);
        let scratch = match self.kind {
            AttentionKind::Softmax => softmax_attention::backward_work_len(l, d),
            AttentionKind::Favor { map, features } => {
                favor_attention::backward_work_len(l, d, map.functions() * features)
            }
        };
        3 * l * d + scratch
    }

    /// out = Att(q, k, v), head by head, the heads shared out over `team`; the bits do not depend on it.
    ///
    /// `saved` and `work` are lent: at least [`Attention::saved_len`] and [`Attention::forward_work_len`] elements, of
    /// any content.
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
        let len = self.tokens * self.dim;
        let (each_saved, each_work) = (self.saved_of_a_head(), self.forward_work_of_a_head());
        let saved = (&mut saved[..self.heads * each_saved], each_saved);
        let work = &mut work[..self.heads * each_work];
        team.each2(saved, (work, each_work), |head, saved, work| {
            let input = self.input(isa, head, q, k, v);
            let (out, work) = work.split_at_mut(len);
            match self.favor(isa, projections) {
                None => softmax_attention::forward(&input, out, saved, work),
                Some(features) => favor_attention::forward(&input, &features, out, saved, work),
            }
        });
        for (head, work) in work.chunks_exact(each_work).enumerate() {
            self.put_back(isa, head, T::one(), &work[..len], out);
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
        let len = self.tokens * self.dim;
        let (each_saved, each_work) = (self.saved_of_a_head(), self.backward_work_of_a_head());
        let work = &mut work[..self.heads * each_work];
        team.each(work, each_work, |head, work| {
            let input = self.input(isa, head, q, k, v);
            let (out, d_out) = (self.head(head, out), self.head(head, d_out));
            let saved = &saved[head * each_saved..][..each_saved];
            let (d_q, work) = work.split_at_mut(len);
            let (d_k, work) = work.split_at_mut(len);
            let (d_v, work) = work.split_at_mut(len);
            match self.favor(isa, projections) {
                None => softmax_attention::backward(&input, out, d_out, saved, d_q, d_k, d_v, work),
                Some(features) => {
                    favor_attention::backward(&input, &features, out, d_out, saved, d_q, d_k, d_v, work);
                }
            }
        });
        let scale = self.scale();
        for (head, work) in work.chunks_exact(each_work).enumerate() {
            self.put_back(isa, head, scale, &work[..len], d_q);
            self.put_back(isa, head, scale, &work[len..][..len], d_k);
            self.put_back(isa, head, T::one(), &work[2 * len..][..len], d_v);
        }
    }

    /// What q and k are multiplied by: together 1/sqrt(d), which softmax attention applies to the keys alone.
    fn scale<T: Element>(&self) -> T {
        let d = self.dim as f64;
        T::of(match self.kind {
            AttentionKind::Softmax => d.powf(-0.5),
            AttentionKind::Favor { .. } => d.powf(-0.25),
        })
    }

    fn favor<'a, T>(&self, isa: Isa, projections: Projections<'a, T>) -> Option<Features<'a, T>> {
        match self.kind {
            AttentionKind::Softmax => None,
            AttentionKind::Favor { map, features } => {
                Some(Features { isa, map, m: features, d: self.dim, w: projections.w, w_t: projections.w_t })
            }
        }
    }

    fn input<'a, T: Element>(
        &self,
        isa: Isa,
        head: usize,
        q: &'a [T],
        k: &'a [T],
        v: &'a [T],
    ) -> HeadInput<'a, T> {
        HeadInput {
            isa,
            tokens: self.tokens,
            dim: self.dim,
            scale: self.scale(),
            q: self.head(head, q),
            k: self.head(head, k),
            v: self.head(head, v),
        }
    }

    fn head<'a, T>(&self, head: usize, all: &'a [T]) -> Head<'a, T> {
        assert_eq!(all.len(), self.tokens * self.heads * self.dim, "{self:?}");
        Head { all, stride: self.heads * self.dim, start: head * self.dim, dim: self.dim }
    }

    /// Writes `scale` times one head's \[L, d\] to its columns of `all`.
    fn put_back<T: Element>(&self, isa: Isa, head: usize, scale: T, one: &[T], all: &mut [T]) {
        vectorised(
            isa,
            #[inline(always)]
            || {
                for (from, to) in one.chunks_exact(self.dim).zip(all.chunks_exact_mut(self.heads * self.dim))
                {
                    for (from, to) in from.iter().zip(&mut to[head * self.dim..][..self.dim]) {
                        *to = scale * *from;
                    }
                }
            },
        );
    }
}

/// One head's view of the input.
pub(super) struct HeadInput<'a, T> {
    pub isa: Isa,
    pub tokens: usize,
    pub dim: usize,
    /// See [`Attention::scale`].
    pub scale: T,
    pub q: Head<'a, T>,
    pub k: Head<'a, T>,
    pub v: Head<'a, T>,
}

impl<T> HeadInput<'_, T> {
    /// The cut of the tokens into tiles.
    pub fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<T> {
        let tokens = self.tokens;
        (0..tokens).step_by(TILE).map(move |start| start..(start + TILE).min(tokens))
    }
}

/// One head's columns of a \[L, heads * d\] tensor.
#[derive(Clone, Copy)]
pub(super) struct Head<'a, T> {
    all: &'a [T],
    stride: usize,
    start: usize,
    dim: usize,
}

impl<'a, T: Element> Head<'a, T> {
    /// Row `token`, \[d\].
    #[inline(always)]
    pub fn token(&self, token: usize) -> &'a [T] {
        &self.all[token * self.stride + self.start..][..self.dim]
    }

    /// `scale` times the `tokens`, each to the first d of `out`'s rows of `width`; returns the rows.
    pub fn gather<'o>(
        &self,
        isa: Isa,
        tokens: Range<usize>,
        scale: T,
        width: usize,
        out: &'o mut [T],
    ) -> &'o mut [T] {
        let out = &mut out[..tokens.len() * width];
        vectorised(
            isa,
            #[inline(always)]
            || {
                for (row, token) in out.chunks_exact_mut(width).zip(tokens) {
                    for (to, from) in row.iter_mut().zip(self.token(token)) {
                        *to = scale * *from;
                    }
                }
            },
        );
        out
    }

    /// `scale` times all tokens, transposed to the first L of `out`'s d rows of `width`.
    pub fn gather_transposed(&self, tokens: usize, scale: T, width: usize, out: &mut [T]) {
        for token in 0..tokens {
            for (i, x) in self.token(token).iter().enumerate() {
                out[i * width + token] = scale * *x;
            }
        }
    }
}

/// Cuts the next `len` elements off the lent scratch.
pub(super) fn take<'w, T>(work: &mut &'w mut [T], len: usize) -> &'w mut [T] {
    let (taken, rest) = std::mem::take(work).split_at_mut(len);
    *work = rest;
    taken
}

#[cfg(test)]
mod tests;
