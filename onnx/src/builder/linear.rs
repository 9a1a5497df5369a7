//! Matrix products, convolutions and resampling.

use super::{GraphBuilder, Op, Value, int, ints, text};
use crate::error::{Error, Result};
use crate::types::{Dim, ElementType, Shape};

/// The geometry of a two-dimensional convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvSpec {
    /// Steps along height and width.
    pub strides: [usize; 2],
    /// Zeros added at the top, left, bottom and right.
    pub pads: [usize; 4],
    /// Distances between the kernel's elements along height and width.
    pub dilations: [usize; 2],
    /// The number of groups that the channels are cut into.
    pub groups: usize,
}

impl Default for ConvSpec {
    fn default() -> Self {
        ConvSpec { strides: [1, 1], pads: [0; 4], dilations: [1, 1], groups: 1 }
    }
}

/// The geometry of a two-dimensional transposed convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvTransposeSpec {
    /// Steps along height and width.
    pub strides: [usize; 2],
    /// Rows and columns removed at the top, left, bottom and right.
    pub pads: [usize; 4],
    /// Rows and columns added at the bottom and right; below the stride.
    pub output_padding: [usize; 2],
    /// The number of groups that the channels are cut into.
    pub groups: usize,
}

impl Default for ConvTransposeSpec {
    fn default() -> Self {
        ConvTransposeSpec { strides: [1, 1], pads: [0; 4], output_padding: [0, 0], groups: 1 }
    }
}

impl GraphBuilder {
    /// The matrix product of the last two axes; the axes before them are broadcast together.
    ///
    /// # Errors
    /// [`Error::Shape`] when an operand has fewer than two axes, the inner lengths differ or the outer ones
    /// cannot be broadcast; [`Error::Invalid`] when the operands are not floats.
    pub fn matmul(&mut self, a: Value, b: Value) -> Result<Value> {
        self.expect_type(Op::MatMul, a, ElementType::F32)?;
        self.expect_type(Op::MatMul, b, ElementType::F32)?;
        let (left, right) = (self.shape(a)?, self.shape(b)?);
        let (Some(outer_a), Some(outer_b)) = (left.rank().checked_sub(2), right.rank().checked_sub(2)) else {
            return Err(self.shape_error(Op::MatMul, left, right, "matrices have at least two axes"));
        };
        let ((l, r), (batch_a, batch_b)) =
            ((left.dims(), right.dims()), (&left.dims()[..outer_a], &right.dims()[..outer_b]));
        if l[outer_a + 1] != r[outer_b] {
            return Err(self.shape_error(
                Op::MatMul,
                left,
                right,
                "the left matrix has as many columns as the right one has rows",
            ));
        }
        let (batch_a, batch_b) = (Shape(batch_a.to_vec()), Shape(batch_b.to_vec()));
        let mut dims = self
            .broadcast_shapes(Op::MatMul, &batch_a, &batch_b)
            .map_err(|_| self.shape_error(Op::MatMul, left, right, "outer dimensions must be equal or 1"))?
            .0;
        dims.extend([l[outer_a].clone(), r[outer_b + 1].clone()]);
        self.node(Op::MatMul, &[Some(a), Some(b)], vec![], ElementType::F32, dims.into())
    }

    /// The convolution of x `[N, C, H, W]` with a kernel `[M, C / groups, kh, kw]`, plus a bias `[M]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when channels, groups, bias or kernel size do not fit; [`Error::Invalid`] when height
    /// or width is not fixed or the operands are not floats.
    pub fn conv(&mut self, x: Value, kernel: Value, bias: Option<Value>, spec: &ConvSpec) -> Result<Value> {
        let op = Op::Conv;
        let element = self.expect_conv_operands(op, x, kernel, bias)?;
        let ConvSpec { strides, pads, dilations, groups } = *spec;
        self.expect_numbers(op, &[&strides[..], &pads, &dilations, &[groups]].concat())?;
        let (image, taps) = (self.shape(x)?, self.shape(kernel)?);
        let outputs = self.expect_known(op, kernel, 0)?;
        let inputs = match &taps.dims()[1] {
            Dim::Known(each) => Dim::Known(each * groups),
            // A symbol is only ever equal to itself.
            other if groups == 1 => other.clone(),
            _ => Dim::Known(self.expect_known(op, kernel, 1)?),
        };
        if image.dims()[1] != inputs || groups == 0 || !outputs.is_multiple_of(groups) {
            return Err(self.shape_error(op, image, taps, "the kernel takes the image's channels"));
        }
        self.expect_bias(op, bias, outputs)?;
        let mut dims = vec![image.dims()[0].clone(), Dim::Known(outputs)];
        for i in 0..2 {
            let padded = self.expect_known(op, x, i + 2)? + spec.pads[i] + spec.pads[i + 2];
            let reach = self
                .expect_known(op, kernel, i + 2)?
                .checked_sub(1)
                .map(|steps| steps * spec.dilations[i])
                .filter(|&reach| reach < padded && spec.strides[i] > 0)
                .ok_or_else(|| self.shape_error(op, image, taps, "the kernel fits into the padded image"))?;
            dims.push(Dim::Known((padded - reach - 1) / spec.strides[i] + 1));
        }
        let attributes = vec![
            ints("dilations", &spec.dilations),
            int("group", spec.groups as i64),
            ints("kernel_shape", &self.kernel_size(op, kernel)?),
            ints("pads", &spec.pads),
            ints("strides", &spec.strides),
        ];
        let inputs = with_bias(x, kernel, bias);
        self.node(op, &inputs, attributes, element, dims.into())
    }

    /// The transposed convolution of x `[N, C, H, W]` with a kernel `[C, M / groups, kh, kw]`, plus a bias
    /// `[M]`.
    ///
    /// # Errors
    /// As [`GraphBuilder::conv`].
    pub fn conv_transpose(
        &mut self,
        x: Value,
        kernel: Value,
        bias: Option<Value>,
        spec: &ConvTransposeSpec,
    ) -> Result<Value> {
        let op = Op::ConvTranspose;
        let element = self.expect_conv_operands(op, x, kernel, bias)?;
        let ConvTransposeSpec { strides, pads, output_padding, groups } = *spec;
        self.expect_numbers(op, &[&strides[..], &pads, &output_padding, &[groups]].concat())?;
        let (image, taps) = (self.shape(x)?, self.shape(kernel)?);
        let inputs = self.expect_known(op, kernel, 0)?;
        let outputs = self.expect_known(op, kernel, 1)? * spec.groups;
        if image.dims()[1] != Dim::Known(inputs) || spec.groups == 0 || !inputs.is_multiple_of(spec.groups) {
            return Err(self.shape_error(op, image, taps, "the kernel takes the image's channels"));
        }
        self.expect_bias(op, bias, outputs)?;
        let mut dims = vec![image.dims()[0].clone(), Dim::Known(outputs)];
        for i in 0..2 {
            let steps = self.expect_known(op, x, i + 2)?.checked_sub(1);
            let length = steps
                .map(|steps| steps * spec.strides[i])
                .zip(self.expect_known(op, kernel, i + 2).ok())
                .map(|(span, taps)| span + taps + spec.output_padding[i])
                .and_then(|full| full.checked_sub(spec.pads[i] + spec.pads[i + 2]))
                .filter(|&length| length > 0 && spec.output_padding[i] < spec.strides[i].max(1))
                .ok_or_else(|| self.shape_error(op, image, taps, "the result keeps a row and a column"))?;
            dims.push(Dim::Known(length));
        }
        let attributes = vec![
            int("group", spec.groups as i64),
            ints("kernel_shape", &self.kernel_size(op, kernel)?),
            ints("output_padding", &spec.output_padding),
            ints("pads", &spec.pads),
            ints("strides", &spec.strides),
        ];
        let inputs = with_bias(x, kernel, bias);
        self.node(op, &inputs, attributes, element, dims.into())
    }

    /// x `[N, C, H, W]` with every pixel repeated `factor` times along height and width.
    ///
    /// # Errors
    /// [`Error::Invalid`] when x is not a batch of images of fixed size or the factor is 0.
    pub fn upsample_nearest(&mut self, x: Value, factor: usize) -> Result<Value> {
        let op = Op::Resize;
        let element = self.expect_float(op, x)?;
        self.expect_numbers(op, &[factor])?;
        let mut shape = self.shape(x)?.clone();
        if shape.rank() != 4 || factor == 0 {
            return Err(Error::invalid(
                self.place(op),
                "images [N, C, H, W] and a factor of at least 1",
                format!("{shape}, {factor}"),
                "",
            ));
        }
        for axis in [2, 3] {
            shape.0[axis] = Dim::Known(self.expect_known(op, x, axis)? * factor);
        }
        let scales = self.constant_f32(&[4], &[1.0, 1.0, factor as f32, factor as f32])?;
        let attributes = vec![
            text("coordinate_transformation_mode", "asymmetric"),
            text("mode", "nearest"),
            text("nearest_mode", "floor"),
        ];
        self.node(op, &[Some(x), None, Some(scales)], attributes, element, shape)
    }

    /// The means of x `[N, C, H, W]` over squares of `side` x `side` pixels, which do not overlap and cover
    /// it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when x is not a batch of images of floats whose fixed height and width `side`
    /// divides.
    pub fn average_pool(&mut self, x: Value, side: usize) -> Result<Value> {
        let op = Op::AveragePool;
        self.expect_type(op, x, ElementType::F32)?;
        self.expect_numbers(op, &[side])?;
        let mut shape = self.shape(x)?.clone();
        for axis in [2, 3] {
            let length = self.expect_known(op, x, axis)?;
            if shape.rank() != 4 || side == 0 || !length.is_multiple_of(side) {
                return Err(Error::invalid(
                    self.place(op),
                    "images [N, C, H, W] and a side that divides height and width",
                    format!("{shape}, {side}"),
                    "",
                ));
            }
            shape.0[axis] = Dim::Known(length / side);
        }
        let attributes = vec![ints("kernel_shape", &[side; 2]), ints("strides", &[side; 2])];
        self.node(op, &[Some(x)], attributes, ElementType::F32, shape)
    }

    /// The operands' common type: floats of 32 or 16 bits.
    fn expect_conv_operands(
        &self,
        op: Op,
        x: Value,
        kernel: Value,
        bias: Option<Value>,
    ) -> Result<ElementType> {
        let element = self.expect_float(op, x)?;
        for value in [Some(kernel), bias].into_iter().flatten() {
            self.expect_type(op, value, element)?;
        }
        let (image, taps) = (self.shape(x)?, self.shape(kernel)?);
        if image.rank() != 4 || taps.rank() != 4 {
            return Err(self.shape_error(op, image, taps, "image and kernel have four axes"));
        }
        Ok(element)
    }

    fn expect_bias(&self, op: Op, bias: Option<Value>, outputs: usize) -> Result<()> {
        let Some(bias) = bias else { return Ok(()) };
        let (expected, got) = (Shape::from([outputs]), self.shape(bias)?);
        if *got != expected {
            return Err(self.shape_error(op, &expected, got, "the bias has one entry per output channel"));
        }
        Ok(())
    }

    fn kernel_size(&self, op: Op, kernel: Value) -> Result<[usize; 2]> {
        Ok([self.expect_known(op, kernel, 2)?, self.expect_known(op, kernel, 3)?])
    }
}

fn with_bias(x: Value, kernel: Value, bias: Option<Value>) -> Vec<Option<Value>> {
    let mut inputs = vec![Some(x), Some(kernel)];
    inputs.extend(bias.map(Some));
    inputs
}
