//! Operators that move, cut and join elements.

use super::{GraphBuilder, Op, Value, int, ints, text};
use crate::error::{Error, Result};
use crate::types::{Dim, ElementType, Shape, element_count};

/// One dimension of the target of [`GraphBuilder::reshape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReshapeDim {
    /// The length of the operand's dimension at the same place.
    Copy,
    /// The length that keeps the number of elements; at most once.
    Infer,
    /// This length.
    To(usize),
}

/// A half-open range along one axis, every `step`-th element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceRange {
    /// The axis, whose length must be fixed.
    pub axis: usize,
    /// The first element.
    pub start: usize,
    /// The end, which is not included; at most the length.
    pub end: usize,
    /// The distance between elements; at least 1.
    pub step: usize,
}

/// The values that [`GraphBuilder::pad`] adds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// This number.
    Constant(f32),
    /// The nearest element.
    Edge,
    /// The elements mirrored at the border, the border itself not repeated.
    Reflect,
}

impl GraphBuilder {
    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`Shape`](Error::Shape) when the element counts differ or cannot be shown to be equal.
    pub fn reshape(&mut self, x: Value, target: &[ReshapeDim]) -> Result<Value> {
        let from = self.shape(x)?.clone();
        let element = self.element_type(x)?;
        let shape = self.reshaped(&from, target)?;
        let codes: Vec<i64> = target
            .iter()
            .map(|dim| match dim {
                ReshapeDim::Copy => 0,
                ReshapeDim::Infer => -1,
                ReshapeDim::To(length) => *length as i64,
            })
            .collect();
        let codes = self.constant_i64(&[codes.len()], &codes)?;
        self.node(Op::Reshape, &[Some(x), Some(codes)], vec![], element, shape)
    }

    /// Counts elements on both sides as (product of lengths, symbols); copied dimensions cancel, and a symbol
    /// such as `2*N`, which an earlier reshape made, counts as 2 and N.
    fn reshaped(&self, from: &Shape, target: &[ReshapeDim]) -> Result<Shape> {
        let shown = || {
            Shape(
                target
                    .iter()
                    .map(|dim| match dim {
                        ReshapeDim::Copy => Dim::from("copy"),
                        ReshapeDim::Infer => Dim::from("infer"),
                        ReshapeDim::To(length) => Dim::Known(*length),
                    })
                    .collect(),
            )
        };
        let refuse = |rule| self.shape_error(Op::Reshape, from, &shown(), rule);
        let mut left: Vec<&Dim> = Vec::new();
        for (i, dim) in from.dims().iter().enumerate() {
            if target.get(i) != Some(&ReshapeDim::Copy) {
                left.push(dim);
            }
        }
        let counted: Vec<(usize, Option<&str>)> = left.iter().map(|dim| factors(dim)).collect();
        let symbols: Vec<&str> = counted.iter().filter_map(|(_, symbol)| *symbol).collect();
        let product: Vec<usize> = counted.iter().map(|(length, _)| *length).collect();
        let product = element_count(&product).ok_or_else(|| refuse("the elements cannot be counted"))?;
        let given: Vec<usize> = target
            .iter()
            .filter_map(|dim| if let ReshapeDim::To(length) = dim { Some(*length) } else { None })
            .collect();
        let given = element_count(&given).ok_or_else(|| refuse("a reshape keeps the number of elements"))?;
        let infers = target.iter().filter(|&&dim| dim == ReshapeDim::Infer).count();
        let inferred = match (infers, symbols.as_slice()) {
            (0, []) if product == given => Dim::Known(1),
            (0, _) => return Err(refuse("a reshape keeps the number of elements")),
            (1, _) if given == 0 || !product.is_multiple_of(given) => {
                return Err(refuse("the inferred length must come out whole"));
            }
            (1, []) => Dim::Known(product / given),
            (1, [symbol]) if product == given => Dim::from(*symbol),
            (1, [symbol]) => Dim::Symbol(format!("{}*{symbol}", product / given)),
            (1, _) => return Err(refuse("an inferred length holds one symbol at most")),
            _ => return Err(refuse("one length at most can be inferred")),
        };
        target
            .iter()
            .enumerate()
            .map(|(i, dim)| match dim {
                ReshapeDim::Copy => {
                    from.dims().get(i).cloned().ok_or_else(|| refuse("there is no dimension to copy"))
                }
                ReshapeDim::Infer => Ok(inferred.clone()),
                ReshapeDim::To(length) => Ok(Dim::Known(*length)),
            })
            .collect::<Result<Vec<Dim>>>()
            .map(Shape)
    }

    /// The axes in another order: axis i of the result is axis `order[i]` of x.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the order is not a permutation of the axes.
    pub fn transpose(&mut self, x: Value, order: &[usize]) -> Result<Value> {
        self.expect_axes(Op::Transpose, x, order)?;
        let from = self.shape(x)?;
        if order.len() != from.rank() {
            return Err(Error::invalid(
                self.place(Op::Transpose),
                format!("an order of the axes of {from}"),
                format!("{order:?}"),
                "",
            ));
        }
        let shape = Shape(order.iter().map(|&axis| from.dims()[axis].clone()).collect());
        let element = self.element_type(x)?;
        self.node(Op::Transpose, &[Some(x)], vec![ints("perm", order)], element, shape)
    }

    /// The values one after the other along an axis.
    ///
    /// # Errors
    /// [`Shape`](Error::Shape) when another axis differs, [`Error::Invalid`] when types differ, there is
    /// nothing to join, or the axis' length is not fixed.
    pub fn concat(&mut self, axis: usize, parts: &[Value]) -> Result<Value> {
        let Some(&first) = parts.first() else {
            return Err(Error::invalid(self.place(Op::Concat), "at least one value", "none", ""));
        };
        let mut length = 0;
        for &part in parts {
            self.expect_same_type(Op::Concat, first, part)?;
            length += self.expect_known(Op::Concat, part, axis)?;
            let (a, b) = (self.shape(first)?, self.shape(part)?);
            let same = a.rank() == b.rank()
                && a.dims().iter().zip(b.dims()).enumerate().all(|(i, (a, b))| i == axis || a == b);
            if !same {
                return Err(self.shape_error(Op::Concat, a, b, "joined values agree on every other axis"));
            }
        }
        let shape = self.with_length(first, axis, length)?;
        let element = self.element_type(first)?;
        let inputs: Vec<Option<Value>> = parts.iter().copied().map(Some).collect();
        self.node(Op::Concat, &inputs, vec![int("axis", axis as i64)], element, shape)
    }

    /// The elements in these ranges, one range per axis at most.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a range does not lie within the axis or the axis' length is not fixed.
    pub fn slice(&mut self, x: Value, ranges: &[SliceRange]) -> Result<Value> {
        let axes: Vec<usize> = ranges.iter().map(|range| range.axis).collect();
        self.expect_axes(Op::Slice, x, &axes)?;
        let mut shape = self.shape(x)?.clone();
        for range in ranges {
            let length = self.expect_known(Op::Slice, x, range.axis)?;
            if range.start > range.end || range.end > length || range.step == 0 {
                return Err(Error::invalid(
                    self.place(Op::Slice),
                    format!("a range within {}", self.shape(x)?),
                    format!("{range:?}"),
                    "",
                ));
            }
            shape.0[range.axis] = Dim::Known((range.end - range.start).div_ceil(range.step));
        }
        let element = self.element_type(x)?;
        let mut inputs = vec![Some(x)];
        let picks: [fn(&SliceRange) -> usize; 4] = [|r| r.start, |r| r.end, |r| r.axis, |r| r.step];
        for pick in picks {
            let numbers: Vec<i64> = ranges.iter().map(|range| pick(range) as i64).collect();
            inputs.push(Some(self.constant_i64(&[numbers.len()], &numbers)?));
        }
        self.node(Op::Slice, &inputs, vec![], element, shape)
    }

    /// x cut along an axis into pieces of these lengths.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the lengths do not add up to the axis' or it is not fixed.
    pub fn split(&mut self, x: Value, axis: usize, lengths: &[usize]) -> Result<Vec<Value>> {
        self.expect_numbers(Op::Split, lengths)?;
        let length = self.expect_known(Op::Split, x, axis)?;
        if lengths.is_empty() || lengths.iter().sum::<usize>() != length {
            return Err(Error::invalid(
                self.place(Op::Split),
                format!("lengths adding up to {length} (axis {axis} of {})", self.shape(x)?),
                format!("{lengths:?}"),
                "",
            ));
        }
        let element = self.element_type(x)?;
        let outputs = lengths
            .iter()
            .map(|&length| Ok((element, self.with_length(x, axis, length)?)))
            .collect::<Result<Vec<_>>>()?;
        let codes: Vec<i64> = lengths.iter().map(|&length| length as i64).collect();
        let codes = self.constant_i64(&[codes.len()], &codes)?;
        self.node_with_outputs(Op::Split, &[Some(x), Some(codes)], vec![int("axis", axis as i64)], outputs)
    }

    /// x with `(before, after)` elements added on every axis.
    ///
    /// # Errors
    /// [`Error::Invalid`] when x is not of floats, the pairs are not one per axis, or an axis without a fixed
    /// length is padded.
    pub fn pad(&mut self, x: Value, amounts: &[(usize, usize)], mode: PadMode) -> Result<Value> {
        self.expect_type(Op::Pad, x, ElementType::F32)?;
        let mut shape = self.shape(x)?.clone();
        if amounts.len() != shape.rank() {
            return Err(Error::invalid(
                self.place(Op::Pad),
                format!("one pair for each axis of {shape}"),
                format!("{} pairs", amounts.len()),
                "",
            ));
        }
        self.expect_numbers(Op::Pad, &amounts.iter().flat_map(|pair| [pair.0, pair.1]).collect::<Vec<_>>())?;
        for (axis, &(before, after)) in amounts.iter().enumerate() {
            if before + after > 0 {
                shape.0[axis] = Dim::Known(before + self.expect_known(Op::Pad, x, axis)? + after);
            }
        }
        let codes: Vec<i64> =
            amounts.iter().map(|p| p.0 as i64).chain(amounts.iter().map(|p| p.1 as i64)).collect();
        let codes = self.constant_i64(&[codes.len()], &codes)?;
        let (name, fill) = match mode {
            PadMode::Constant(fill) => ("constant", Some(self.scalar(fill)?)),
            PadMode::Edge => ("edge", None),
            PadMode::Reflect => ("reflect", None),
        };
        let mut inputs = vec![Some(x), Some(codes)];
        inputs.extend(fill.map(Some));
        self.node(Op::Pad, &inputs, vec![text("mode", name)], ElementType::F32, shape)
    }

    /// x with an axis of length 1 inserted at each of these positions of the result, given in ascending
    /// order.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a position is outside the result or the positions do not ascend.
    pub fn unsqueeze(&mut self, x: Value, axes: &[usize]) -> Result<Value> {
        let mut shape = self.shape(x)?.clone();
        for (i, &axis) in axes.iter().enumerate() {
            if axis > shape.rank() || i > 0 && axes[i - 1] >= axis {
                return Err(Error::invalid(
                    self.place(Op::Unsqueeze),
                    format!("ascending positions within the result for {}", self.shape(x)?),
                    format!("{axes:?}"),
                    "",
                ));
            }
            shape.0.insert(axis, Dim::Known(1));
        }
        self.reaxed(Op::Unsqueeze, x, axes, shape)
    }

    /// x without these axes, each of length 1.
    ///
    /// # Errors
    /// [`Error::Invalid`] when an axis is not there or not of length 1.
    pub fn squeeze(&mut self, x: Value, axes: &[usize]) -> Result<Value> {
        self.expect_axes(Op::Squeeze, x, axes)?;
        let from = self.shape(x)?;
        if let Some(axis) = axes.iter().find(|&&axis| from.dims()[axis] != Dim::Known(1)) {
            return Err(Error::invalid(
                self.place(Op::Squeeze),
                format!("length 1 on axis {axis}"),
                from.to_string(),
                "",
            ));
        }
        let kept = from.dims().iter().enumerate().filter(|(i, _)| !axes.contains(i));
        let shape = Shape(kept.map(|(_, dim)| dim.clone()).collect());
        // tract takes them in ascending order only.
        let mut ascending = axes.to_vec();
        ascending.sort_unstable();
        self.reaxed(Op::Squeeze, x, &ascending, shape)
    }

    fn reaxed(&mut self, op: Op, x: Value, axes: &[usize], shape: Shape) -> Result<Value> {
        let element = self.element_type(x)?;
        let codes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
        let codes = self.constant_i64(&[codes.len()], &codes)?;
        self.node(op, &[Some(x), Some(codes)], vec![], element, shape)
    }

    /// The lengths of x as integers `[rank]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value is of another graph.
    pub fn shape_of(&mut self, x: Value) -> Result<Value> {
        let rank = self.shape(x)?.rank();
        self.node(Op::Shape, &[Some(x)], vec![], ElementType::I64, [rank].into())
    }

    /// x repeated to the shape that it has when broadcast with `like` (two nodes: `Shape`, `Expand`).
    ///
    /// # Errors
    /// [`Shape`](Error::Shape) when the shapes cannot be broadcast.
    pub fn expand_like(&mut self, x: Value, like: Value) -> Result<Value> {
        let shape = self.broadcast(Op::Expand, x, like)?;
        let lengths = self.shape_of(like)?;
        let element = self.element_type(x)?;
        self.node(Op::Expand, &[Some(x), Some(lengths)], vec![], element, shape)
    }

    /// The entries of x along an axis at these indices: the axis is replaced by the indices' axes.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the axis is not there or the indices are not integers.
    pub fn gather(&mut self, x: Value, axis: usize, indices: Value) -> Result<Value> {
        self.expect_axis(Op::Gather, x, axis)?;
        self.expect_type(Op::Gather, indices, ElementType::I64)?;
        let mut dims = self.shape(x)?.0.clone();
        dims.splice(axis..=axis, self.shape(indices)?.0.iter().cloned());
        let element = self.element_type(x)?;
        self.node(Op::Gather, &[Some(x), Some(indices)], vec![int("axis", axis as i64)], element, dims.into())
    }

    fn with_length(&self, x: Value, axis: usize, length: usize) -> Result<Shape> {
        let mut shape = self.shape(x)?.clone();
        shape.0[axis] = Dim::Known(length);
        Ok(shape)
    }
}

/// A dimension as a length times a symbol; one without a name is a symbol of its own.
fn factors(dim: &Dim) -> (usize, Option<&str>) {
    match dim {
        Dim::Known(length) => (*length, None),
        Dim::Unknown => (1, Some("?")),
        Dim::Symbol(name) => match name.split_once('*') {
            Some((length, symbol)) => match length.parse() {
                Ok(length) => (length, Some(symbol)),
                Err(_) => (1, Some(name)),
            },
            None => (1, Some(name)),
        },
    }
}
