//! Reductions.

use super::{GraphBuilder, Op, Value, int, ints};
use crate::error::Result;
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
