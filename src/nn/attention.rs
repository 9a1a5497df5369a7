//! Multi-head attention of one sample.
//!
//! The mathematics of a head stands in `softmax_attention` (exact, equation (22)) and in `favor_attention`
//! and `favor_backward` (FAVOR+, equations (24) to (26)).

use super::favor_shares::Favor;
use super::heads::{AttentionOutput, AttentionShape, Input, Projections, Qkv, QkvGradient};
use super::operands::{Context, elements, expect_len};
use super::{favor_attention, favor_backward, softmax_attention};
use crate::config::AttentionKind;
use crate::error::Result;
use crate::kernels::Element;

/// An attention layer: a kind of attention and its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    kind: AttentionKind,
    shape: AttentionShape,
}

impl Attention {
    /// A layer of these sizes.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if a size is 0 or makes a tensor too large to address.
    pub fn new(kind: AttentionKind, shape: AttentionShape) -> Result<Attention> {
        let AttentionShape { tokens, heads, dim, features } = shape;
        elements("an attention's tokens x heads x channels of a head", &[tokens, heads, dim])?;
        if let AttentionKind::Favor(map) = kind {
            let what = "an attention's heads x channels of a head x functions x projections";
            elements(what, &[heads, dim, map.functions(), features])?;
        }
        Ok(Attention { kind, shape })
    }

    /// The kind of attention.
    pub fn kind(&self) -> AttentionKind {
        self.kind
    }

    /// The sizes.
    pub fn shape(&self) -> AttentionShape {
        self.shape
    }

    /// The number of elements that [`Attention::forward`] saves for [`Attention::backward`]: O(L + m d) per
    /// head.
    pub fn saved_len(&self) -> usize {
        match self.kind {
            AttentionKind::Softmax => self.shape.heads * self.shape.tokens,
            AttentionKind::Favor(map) => Favor::new(self.shape, map).saved_len(),
        }
    }

    /// The length of the workspace that [`Attention::forward`] needs.
    pub fn forward_work_len(&self) -> usize {
        match self.kind {
            AttentionKind::Softmax => softmax_attention::forward_work_len(&self.shape),
            AttentionKind::Favor(map) => Favor::new(self.shape, map).forward_work_len(),
        }
    }

    /// The length of the workspace that [`Attention::backward`] needs.
    pub fn backward_work_len(&self) -> usize {
        match self.kind {
            AttentionKind::Softmax => softmax_attention::backward_work_len(&self.shape),
            AttentionKind::Favor(map) => Favor::new(self.shape, map).backward_work_len(),
        }
    }

    /// out = Att(q, k, v).
    ///
    /// `saved` has [`Attention::saved_len`] elements, the workspace at least
    /// [`Attention::forward_work_len`]; both may hold anything before.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an operand of another length.
    pub fn forward<T: Element>(
        &self,
        context: &mut Context<T>,
        projections: Projections<T>,
        qkv: Qkv<T>,
        out: &mut [T],
        saved: &mut [T],
    ) -> Result<()> {
        self.check(projections, qkv)?;
        expect_len("an attention's output", self.shape.len(), out)?;
        expect_len("what an attention saves", self.saved_len(), saved)?;
        let input = Input { shape: self.shape, isa: context.isa(), team: context.team, qkv };
        let work = context.workspace(self.forward_work_len())?;
        match self.kind {
            AttentionKind::Softmax => softmax_attention::forward(&input, out, saved, work),
            AttentionKind::Favor(map) => {
                let favor = Favor::new(self.shape, map);
                favor_attention::forward(&favor, &input, projections, out, saved, work);
            }
        }
        Ok(())
    }

    /// The loss's gradients in q, k and v from `d_out`, the gradient in the output.
    ///
    /// `output` is what [`Attention::forward`] made of the same input; the workspace has at least
    /// [`Attention::backward_work_len`] elements, and may hold anything.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an operand of another length.
    pub fn backward<T: Element>(
        &self,
        context: &mut Context<T>,
        projections: Projections<T>,
        qkv: Qkv<T>,
        output: AttentionOutput<T>,
        d_out: &[T],
        gradient: QkvGradient<T>,
    ) -> Result<()> {
        self.check(projections, qkv)?;
        expect_len("an attention's output", self.shape.len(), output.out)?;
        expect_len("what an attention saved", self.saved_len(), output.saved)?;
        expect_len("the gradient in an attention's output", self.shape.len(), d_out)?;
        gradient.check(self.shape.len())?;
        let input = Input { shape: self.shape, isa: context.isa(), team: context.team, qkv };
        let work = context.workspace(self.backward_work_len())?;
        match self.kind {
            AttentionKind::Softmax => softmax_attention::backward(&input, output, d_out, gradient, work),
            AttentionKind::Favor(map) => {
                let favor = Favor::new(self.shape, map);
                favor_backward::backward(&favor, &input, projections, (output, d_out), gradient, work);
            }
        }
        Ok(())
    }

    fn check<T>(&self, projections: Projections<T>, qkv: Qkv<T>) -> Result<()> {
        if self.kind != AttentionKind::Softmax {
            let len = self.shape.features * self.shape.dim;
            expect_len("FAVOR+'s projections", len, projections.w)?;
            expect_len("FAVOR+'s transposed projections", len, projections.w_t)?;
        }
        qkv.check(self.shape.len())
    }
}

#[cfg(test)]
mod tests;
