//! Normalisation.

use super::{GraphBuilder, Op, ReshapeDim, Value, float, int};
use crate::error::{Error, Result};
use crate::types::{ElementType, Shape};

/// As many floats as a file of this format holds.
const MOST_OF_A_GROUP: usize = (1 << 29) - 1;

impl GraphBuilder {
    /// Layer normalisation (Ba et al. 2016) over all axes from `axis` on: mean 0, variance 1 (with `epsilon`
    /// added to the variance), then scaled and shifted.
    ///
    /// # Errors
    /// [`Error::Shape`] when scale or shift do not have the shape of the normalised axes, [`Error::Invalid`]
    /// when a value is not of floats or the axis is not there.
    pub fn layer_norm(
        &mut self,
        x: Value,
        axis: usize,
        scale: Value,
        shift: Option<Value>,
        epsilon: f32,
    ) -> Result<Value> {
        let op = Op::LayerNormalization;
        self.expect_axis(op, x, axis)?;
        let normalised = Shape(self.shape(x)?.dims()[axis..].to_vec());
        for value in [Some(x), Some(scale), shift].into_iter().flatten() {
            self.expect_type(op, value, ElementType::F32)?;
        }
        for value in [Some(scale), shift].into_iter().flatten() {
            let got = self.shape(value)?;
            if *got != normalised {
                return Err(self.shape_error(
                    op,
                    &normalised,
                    got,
                    "scale and shift cover the normalised axes",
                ));
            }
        }
        let shape = self.shape(x)?.clone();
        let attributes = vec![int("axis", axis as i64), float("epsilon", epsilon)];
        let mut inputs = vec![Some(x), Some(scale)];
        inputs.extend(shift.map(Some));
        self.node(op, &inputs, attributes, ElementType::F32, shape)
    }

    /// Group normalisation (Wu & He 2018) of x `[N, C, H, W]`: mean 0 and variance 1 (with `epsilon` added)
    /// within each of `groups` runs of channels, then scale and shift `[C]` per channel.
    ///
    /// Written as a reshape to `[N, groups, C H W / groups]`, a layer normalisation over the last axis, and
    /// the reverse reshape: GroupNormalization itself is newer than this opset, and ONNX Runtime inlines it
    /// into many more nodes.
    ///
    /// # Errors
    /// [`Error::Invalid`] when x is not a batch of images of fixed size or the groups do not divide the
    /// channels, [`Error::Shape`] when scale or shift are not `[C]`.
    pub fn group_norm(
        &mut self,
        x: Value,
        groups: usize,
        scale: Value,
        shift: Value,
        epsilon: f32,
    ) -> Result<Value> {
        let op = Op::LayerNormalization;
        let [channels, height, width] =
            [self.expect_known(op, x, 1)?, self.expect_known(op, x, 2)?, self.expect_known(op, x, 3)?];
        if groups == 0 || !channels.is_multiple_of(groups) || self.shape(x)?.rank() != 4 {
            return Err(Error::invalid(
                self.place(op),
                format!("groups that divide the channels of {}", self.shape(x)?),
                groups.to_string(),
                "",
            ));
        }
        for value in [scale, shift] {
            let (expected, got) = (Shape::from([channels]), self.shape(value)?);
            if *got != expected {
                return Err(self.shape_error(
                    op,
                    &expected,
                    got,
                    "scale and shift have one entry per channel",
                ));
            }
        }
        let each = channels / groups * height * width;
        if each > MOST_OF_A_GROUP {
            return Err(Error::invalid(
                self.place(op),
                format!("at most {MOST_OF_A_GROUP} elements in a group, whose scales are a constant"),
                each.to_string(),
                "take more groups",
            ));
        }
        let grouped = self.reshape(x, &[ReshapeDim::Copy, ReshapeDim::To(groups), ReshapeDim::Infer])?;
        let ones = self.constant_f32(&[each], &vec![1.0; each])?;
        let normal = self.layer_norm(grouped, 2, ones, None, epsilon)?;
        let image = self.reshape(
            normal,
            &[ReshapeDim::Copy, ReshapeDim::To(channels), ReshapeDim::To(height), ReshapeDim::To(width)],
        )?;
        let scale = self.unsqueeze(scale, &[1, 2])?;
        let shift = self.unsqueeze(shift, &[1, 2])?;
        let scaled = self.mul(image, scale)?;
        self.add(scaled, shift)
    }
}
