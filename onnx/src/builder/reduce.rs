//! Reductions.

use super::{GraphBuilder, Op, Value, int, ints};
use crate::error::{Error, Result};
use crate::types::{Dim, ElementType, Shape};

/// The kind of a reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The largest.
    Max,
    /// The mean.
    Mean,
    /// The sum.
    Sum,
}

impl GraphBuilder {
    /// Reduces x along these axes, which are kept with length 1 when `keep` is set and dropped otherwise.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when an axis is not there or x is not of floats.
    pub fn reduce(&mut self, reduction: Reduction, x: Value, axes: &[usize], keep: bool) -> Result<Value> {
        let op = match reduction {
            Reduction::Max => Op::ReduceMax,
            Reduction::Mean => Op::ReduceMean,
            Reduction::Sum => Op::ReduceSum,
        };
        self.expect_type(op, x, ElementType::F32)?;
        self.expect_axes(op, x, axes)?;
        let mut dims = Vec::new();
        for (i, dim) in self.shape(x)?.dims().iter().enumerate() {
            match (axes.contains(&i), keep) {
                (false, _) => dims.push(dim.clone()),
                (true, true) => dims.push(Dim::Known(1)),
                (true, false) => {}
            }
        }
        let mut attributes = vec![int("keepdims", i64::from(keep))];
        let mut inputs = vec![Some(x)];
        // At opset 17 the sum takes its axes as an input, the others as an attribute.
        match reduction {
            Reduction::Sum => {
                let codes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
                inputs.push(Some(self.constant_i64(&[codes.len()], &codes)?));
            }
            Reduction::Max | Reduction::Mean => attributes.push(ints("axes", axes)),
        }
        self.node(op, &inputs, attributes, ElementType::F32, Shape(dims))
    }

    /// The `k` largest elements along an axis, the largest first (the operator's second output, where they
    /// were, is not used).
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when x is not of floats, or the axis' length is not fixed or less
    /// than `k`.
    pub fn largest(&mut self, x: Value, axis: usize, k: usize) -> Result<Value> {
        self.expect_type(Op::TopK, x, ElementType::F32)?;
        let length = self.expect_known(Op::TopK, x, axis)?;
        if k > length {
            return Err(Error::invalid(
                self.place(Op::TopK),
                format!("at most {length}, the length of axis {axis}"),
                k.to_string(),
                "",
            ));
        }
        let mut shape = self.shape(x)?.clone();
        shape.0[axis] = Dim::Known(k);
        let count = self.constant_i64(&[1], &[k as i64])?;
        let outputs = vec![(ElementType::F32, shape.clone()), (ElementType::I64, shape)];
        let attributes = vec![int("axis", axis as i64), int("largest", 1), int("sorted", 1)];
        Ok(self.node_with_outputs(Op::TopK, &[Some(x), Some(count)], attributes, outputs)?[0])
    }

    /// e^x divided by its sum along an axis.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the axis is not there or x is not of floats.
    pub fn softmax(&mut self, x: Value, axis: usize) -> Result<Value> {
        self.expect_type(Op::Softmax, x, ElementType::F32)?;
        self.expect_axis(Op::Softmax, x, axis)?;
        let shape = self.shape(x)?.clone();
        self.node(Op::Softmax, &[Some(x)], vec![int("axis", axis as i64)], ElementType::F32, shape)
    }
}
