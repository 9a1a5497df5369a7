//! Operators that work element by element.

use super::{GraphBuilder, Op, Value, int};
use crate::error::Result;
use crate::types::{Dim, ElementType, Shape};

/// Operators of one operand; floats in, floats out, except that [`Unary::Identity`] takes any type,
/// [`Unary::Neg`], [`Unary::Abs`] and [`Unary::Sign`] take integers too, and [`Unary::Sqrt`] 64-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// |x|.
    Abs,
    /// cos x, in radians.
    Cos,
    /// The error function.
    Erf,
    /// e^x.
    Exp,
    /// The largest whole number that is not above x.
    Floor,
    /// x.
    Identity,
    /// Natural logarithm.
    Log,
    /// -x.
    Neg,
    /// max(x, 0).
    Relu,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// -1, 0 or 1.
    Sign,
    /// sin x, in radians.
    Sin,
    /// Square root.
    Sqrt,
}

impl Unary {
    fn takes_integers(self) -> bool {
        match self {
            Unary::Abs | Unary::Identity | Unary::Neg | Unary::Sign => true,
            Unary::Cos
            | Unary::Erf
            | Unary::Exp
            | Unary::Floor
            | Unary::Log
            | Unary::Relu
            | Unary::Sigmoid
            | Unary::Sin
            | Unary::Sqrt => false,
        }
    }
}

/// Operators of two operands of one type whose shapes are broadcast together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// a + b.
    Add,
    /// a / b.
    Div,
    /// Whether a = b.
    Equal,
    /// Whether a < b.
    Less,
    /// The larger.
    Max,
    /// The smaller.
    Min,
    /// a b.
    Mul,
    /// a to the power of b.
    Pow,
    /// a - b.
    Sub,
}

impl Binary {
    fn result(self, operand: ElementType) -> ElementType {
        match self {
            Binary::Equal | Binary::Less => ElementType::Bool,
            Binary::Add
            | Binary::Div
            | Binary::Max
            | Binary::Min
            | Binary::Mul
            | Binary::Pow
            | Binary::Sub => operand,
        }
    }
}

impl GraphBuilder {
    /// An operator of one operand; the result has its shape.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the operator does not take the operand's type.
    pub fn unary(&mut self, op: Unary, x: Value) -> Result<Value> {
        let element = self.element_type(x)?;
        let taken = match element {
            ElementType::I64 => op.takes_integers(),
            ElementType::F64 => op == Unary::Sqrt,
            ElementType::F16 => true,
            _ => false,
        };
        if !(op == Unary::Identity || taken) {
            self.expect_type(Op::Unary(op), x, ElementType::F32)?;
        }
        let shape = self.shape(x)?.clone();
        self.node(Op::Unary(op), &[Some(x)], vec![], element, shape)
    }

    /// An operator of two operands, broadcast together: floats of 16, 32 or 64 bits, or integers.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the types differ or are others,
    /// [`Shape`](crate::Error::Shape) when the shapes cannot be broadcast.
    pub fn binary(&mut self, op: Binary, a: Value, b: Value) -> Result<Value> {
        let element = self.expect_same_type(Op::Binary(op), a, b)?;
        if !matches!(element, ElementType::I64 | ElementType::F64 | ElementType::F16) {
            self.expect_type(Op::Binary(op), a, ElementType::F32)?;
        }
        let shape = self.broadcast(Op::Binary(op), a, b)?;
        self.node(Op::Binary(op), &[Some(a), Some(b)], vec![], op.result(element), shape)
    }

    /// a + b.
    ///
    /// # Errors
    /// As [`GraphBuilder::binary`].
    pub fn add(&mut self, a: Value, b: Value) -> Result<Value> {
        self.binary(Binary::Add, a, b)
    }

    /// a - b.
    ///
    /// # Errors
    /// As [`GraphBuilder::binary`].
    pub fn sub(&mut self, a: Value, b: Value) -> Result<Value> {
        self.binary(Binary::Sub, a, b)
    }

    /// a b.
    ///
    /// # Errors
    /// As [`GraphBuilder::binary`].
    pub fn mul(&mut self, a: Value, b: Value) -> Result<Value> {
        self.binary(Binary::Mul, a, b)
    }

    /// a / b.
    ///
    /// # Errors
    /// As [`GraphBuilder::binary`].
    pub fn div(&mut self, a: Value, b: Value) -> Result<Value> {
        self.binary(Binary::Div, a, b)
    }

    /// `if_true` where the condition holds, `if_false` elsewhere; all three are broadcast together.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the condition is not of truth values or the others' types
    /// differ, [`Shape`](crate::Error::Shape) when the shapes cannot be broadcast.
    pub fn choose(&mut self, condition: Value, if_true: Value, if_false: Value) -> Result<Value> {
        self.expect_type(Op::Where, condition, ElementType::Bool)?;
        let element = self.expect_same_type(Op::Where, if_true, if_false)?;
        let branches = self.broadcast(Op::Where, if_true, if_false)?;
        let shape = self.broadcast_shapes(Op::Where, self.shape(condition)?, &branches)?;
        self.node(Op::Where, &[Some(condition), Some(if_true), Some(if_false)], vec![], element, shape)
    }

    /// x clamped to `[low, high]`; `None` is no bound.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when x is not of floats.
    pub fn clip(&mut self, x: Value, low: Option<f32>, high: Option<f32>) -> Result<Value> {
        self.expect_type(Op::Clip, x, ElementType::F32)?;
        let low = low.map(|low| self.scalar(low)).transpose()?;
        let high = high.map(|high| self.scalar(high)).transpose()?;
        let shape = self.shape(x)?.clone();
        self.node(Op::Clip, &[Some(x), low, high], vec![], ElementType::F32, shape)
    }

    /// x in another element type.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the value is of another graph.
    pub fn cast(&mut self, x: Value, to: ElementType) -> Result<Value> {
        let shape = self.shape(x)?.clone();
        self.node(Op::Cast, &[Some(x)], vec![int("to", i64::from(to.code()))], to, shape)
    }

    /// x sigmoid(x), the swish or SiLU activation (Ramachandran et al. 2017), in two nodes.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when x is not of floats.
    pub fn silu(&mut self, x: Value) -> Result<Value> {
        let gate = self.unary(Unary::Sigmoid, x)?;
        self.mul(x, gate)
    }

    pub(super) fn broadcast(&self, op: Op, a: Value, b: Value) -> Result<Shape> {
        self.broadcast_shapes(op, self.shape(a)?, self.shape(b)?)
    }

    /// NumPy's rule: shapes are aligned at their last dimension, and a dimension of length 1 (or a missing
    /// one) gets the length of the other.
    pub(super) fn broadcast_shapes(&self, op: Op, a: &Shape, b: &Shape) -> Result<Shape> {
        let rank = a.rank().max(b.rank());
        let at = |shape: &Shape, i: usize| {
            (i + shape.rank()).checked_sub(rank).map_or(Dim::Known(1), |i| shape.dims()[i].clone())
        };
        (0..rank)
            .map(|i| match (at(a, i), at(b, i)) {
                (left, right) if left == right => Ok(left),
                (Dim::Known(1), other) | (other, Dim::Known(1)) => Ok(other),
                _ => Err(self.shape_error(op, a, b, "broadcast dimensions must be equal or 1")),
            })
            .collect::<Result<Vec<Dim>>>()
            .map(Shape)
    }
}
