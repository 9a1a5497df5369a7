//! Normalisation.

use super::{GraphBuilder, Op, ReshapeDim, Value, float, int};
use crate::error::{Error, Result};
use crate::types::{ElementType, Shape};

/// As many floats as a file of this format holds.
const MOST_OF_A_GROUP: usize = (1 << 29) - 1;

/// A group normalisation and what its gradient is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupNormParts {
    /// The result `[N, C, H, W]`.
    pub y: Value,
    /// x with mean 0 and variance 1 in every group, before scale and shift, `[N, C, H, W]`.
    pub normal: Value,
    /// 1 / sqrt(variance + epsilon) of every group, `[N, groups, 1]`.
    pub inverse_deviation: Value,
}

impl GraphBuilder {
    /// Layer normalisation (Ba et al. 2016) over all axes from `axis` on: mean 0, variance 1 (with `epsilon`
    /// added to the variance), then scaled and shifted. Mean and variance of 16-bit floats are computed in 32
    /// bits.
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
        let outputs = vec![(self.element_type(x)?, self.shape(x)?.clone())];
        Ok(self.layer_norm_node(x, axis, scale, shift, (epsilon, outputs))?[0])
    }

    /// The node with its first outputs: the result, the means, the inverse standard deviations.
    fn layer_norm_node(
        &mut self,
        x: Value,
        axis: usize,
        scale: Value,
        shift: Option<Value>,
        (epsilon, outputs): (f32, Vec<(ElementType, Shape)>),
    ) -> Result<Vec<Value>> {
        let op = Op::LayerNormalization;
        self.expect_axis(op, x, axis)?;
        let normalised = Shape(self.shape(x)?.dims()[axis..].to_vec());
        let element = self.expect_float(op, x)?;
        for value in [Some(scale), shift].into_iter().flatten() {
            self.expect_type(op, value, element)?;
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
        let attributes = vec![int("axis", axis as i64), float("epsilon", epsilon)];
        let mut inputs = vec![Some(x), Some(scale)];
        inputs.extend(shift.map(Some));
        self.node_with_outputs(op, &inputs, attributes, outputs)
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
        let (grouped, ones) = self.grouped(x, groups, [scale, shift])?;
        let normal = self.layer_norm(grouped, 2, ones, None, epsilon)?;
        let normal = self.ungrouped(normal, x)?;
        self.scale_and_shift(normal, scale, shift)
    }

    /// [`GraphBuilder::group_norm`] with what its gradient is computed from.
    ///
    /// # Errors
    /// As [`GraphBuilder::group_norm`].
    pub fn group_norm_in_parts(
        &mut self,
        x: Value,
        groups: usize,
        scale: Value,
        shift: Value,
        epsilon: f32,
    ) -> Result<GroupNormParts> {
        let (grouped, ones) = self.grouped(x, groups, [scale, shift])?;
        let shape = self.shape(grouped)?.clone();
        let per_group = Shape(vec![shape.dims()[0].clone(), groups.into(), 1.into()]);
        let outputs = [shape, per_group.clone(), per_group].map(|shape| (ElementType::F32, shape)).to_vec();
        let written = self.layer_norm_node(grouped, 2, ones, None, (epsilon, outputs))?;
        let normal = self.ungrouped(written[0], x)?;
        let y = self.scale_and_shift(normal, scale, shift)?;
        Ok(GroupNormParts { y, normal, inverse_deviation: written[2] })
    }

    /// x as `[N, groups, C H W / groups]`, and as many ones as a group has elements.
    fn grouped(&mut self, x: Value, groups: usize, [scale, shift]: [Value; 2]) -> Result<(Value, Value)> {
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
        let ones = self.constant_rounded(self.element_type(x)?, &[each], &vec![1.0; each])?;
        Ok((grouped, ones))
    }

    /// What [`GraphBuilder::grouped`] made of an image, in its shape.
    fn ungrouped(&mut self, grouped: Value, image: Value) -> Result<Value> {
        let op = Op::LayerNormalization;
        let mut shape = vec![ReshapeDim::Copy];
        for axis in 1..4 {
            shape.push(ReshapeDim::To(self.expect_known(op, image, axis)?));
        }
        self.reshape(grouped, &shape)
    }

    /// Scale and shift `[C]` per channel.
    fn scale_and_shift(&mut self, x: Value, scale: Value, shift: Value) -> Result<Value> {
        let scale = self.unsqueeze(scale, &[1, 2])?;
        let shift = self.unsqueeze(shift, &[1, 2])?;
        let scaled = self.mul(x, scale)?;
        self.add(scaled, shift)
    }
}
