//! Element types, dimensions, shapes and host tensors.

use crate::error::{Error, Result};
use std::fmt;

/// The type of a tensor's elements, with ONNX's codes (`TensorProto.DataType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// 32-bit float.
    F32,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 16-bit integer.
    U16,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// Text.
    String,
    /// Truth value, one byte each.
    Bool,
    /// IEEE 16-bit float.
    F16,
    /// 64-bit float.
    F64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// Brain 16-bit float.
    Bf16,
    /// Any other code, from a foreign file.
    Other(i32),
}

impl ElementType {
    /// The type of an ONNX code.
    pub fn from_code(code: i32) -> Self {
        match code {
            1 => ElementType::F32,
            2 => ElementType::U8,
            3 => ElementType::I8,
            4 => ElementType::U16,
            5 => ElementType::I16,
            6 => ElementType::I32,
            7 => ElementType::I64,
            8 => ElementType::String,
            9 => ElementType::Bool,
            10 => ElementType::F16,
            11 => ElementType::F64,
            12 => ElementType::U32,
            13 => ElementType::U64,
            16 => ElementType::Bf16,
            other => ElementType::Other(other),
        }
    }

    /// The ONNX code of the type.
    pub fn code(self) -> i32 {
        match self {
            ElementType::F32 => 1,
            ElementType::U8 => 2,
            ElementType::I8 => 3,
            ElementType::U16 => 4,
            ElementType::I16 => 5,
            ElementType::I32 => 6,
            ElementType::I64 => 7,
            ElementType::String => 8,
            ElementType::Bool => 9,
            ElementType::F16 => 10,
            ElementType::F64 => 11,
            ElementType::U32 => 12,
            ElementType::U64 => 13,
            ElementType::Bf16 => 16,
            ElementType::Other(code) => code,
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ElementType::Other(code) => write!(f, "type {code}"),
            named => write!(f, "{}", format!("{named:?}").to_lowercase()),
        }
    }
}

/// One dimension of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A fixed length.
    Known(usize),
    /// A length that is fixed only when the model runs; equal names mean equal lengths.
    Symbol(String),
    /// A foreign file does not say.
    Unknown,
}

impl Dim {
    /// The length, where it is fixed.
    pub fn known(&self) -> Option<usize> {
        match self {
            Dim::Known(length) => Some(*length),
            Dim::Symbol(_) | Dim::Unknown => None,
        }
    }
}

impl From<usize> for Dim {
    fn from(length: usize) -> Self {
        Dim::Known(length)
    }
}

impl From<&str> for Dim {
    fn from(symbol: &str) -> Self {
        Dim::Symbol(symbol.to_owned())
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(length) => write!(f, "{length}"),
            Dim::Symbol(name) => f.write_str(name),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// The dimensions of a value, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The dimensions.
    pub fn dims(&self) -> &[Dim] {
        &self.0
    }

    /// Every length, where all are fixed.
    pub fn known(&self) -> Option<Vec<usize>> {
        self.0.iter().map(Dim::known).collect()
    }
}

impl From<&[usize]> for Shape {
    fn from(lengths: &[usize]) -> Self {
        Shape(lengths.iter().copied().map(Dim::Known).collect())
    }
}

impl<const R: usize> From<[usize; R]> for Shape {
    fn from(lengths: [usize; R]) -> Self {
        lengths.as_slice().into()
    }
}

impl<const R: usize> From<[Dim; R]> for Shape {
    fn from(dims: [Dim; R]) -> Self {
        Shape(dims.into())
    }
}

impl From<Vec<Dim>> for Shape {
    fn from(dims: Vec<Dim>) -> Self {
        Shape(dims)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

/// A host tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor {
    /// 32-bit floats.
    F32 {
        /// The lengths, outermost first.
        shape: Vec<usize>,
        /// The elements, the last dimension fastest.
        data: Vec<f32>,
    },
    /// 64-bit integers.
    I64 {
        /// The lengths, outermost first.
        shape: Vec<usize>,
        /// The elements, the last dimension fastest.
        data: Vec<i64>,
    },
}

impl Tensor {
    /// A float tensor.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the number of elements is not the product of the lengths.
    pub fn f32(shape: impl Into<Vec<usize>>, data: impl Into<Vec<f32>>) -> Result<Self> {
        let (shape, data) = (shape.into(), data.into());
        check_count("f32 tensor", &shape, data.len())?;
        Ok(Tensor::F32 { shape, data })
    }

    /// An integer tensor.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the number of elements is not the product of the lengths.
    pub fn i64(shape: impl Into<Vec<usize>>, data: impl Into<Vec<i64>>) -> Result<Self> {
        let (shape, data) = (shape.into(), data.into());
        check_count("i64 tensor", &shape, data.len())?;
        Ok(Tensor::I64 { shape, data })
    }

    /// The lengths, outermost first.
    pub fn shape(&self) -> &[usize] {
        match self {
            Tensor::F32 { shape, .. } | Tensor::I64 { shape, .. } => shape,
        }
    }

    /// The element type.
    pub fn element_type(&self) -> ElementType {
        match self {
            Tensor::F32 { .. } => ElementType::F32,
            Tensor::I64 { .. } => ElementType::I64,
        }
    }

    /// The floats, or `None` when the tensor holds integers.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match self {
            Tensor::F32 { data, .. } => Some(data),
            Tensor::I64 { .. } => None,
        }
    }

    /// The integers, or `None` when the tensor holds floats.
    pub fn as_i64(&self) -> Option<&[i64]> {
        match self {
            Tensor::I64 { data, .. } => Some(data),
            Tensor::F32 { .. } => None,
        }
    }

    /// The floats by value.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the tensor holds integers.
    pub fn into_f32(self) -> Result<Vec<f32>> {
        match self {
            Tensor::F32 { data, .. } => Ok(data),
            Tensor::I64 { .. } => Err(Error::invalid("tensor", "f32 elements", "i64 elements", "")),
        }
    }
}

/// The product of the lengths, or `None` beyond `usize`.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length))
}

pub(crate) fn check_count(what: &str, shape: &[usize], got: usize) -> Result<()> {
    match element_count(shape) {
        Some(count) if count == got => Ok(()),
        Some(count) => {
            Err(Error::invalid(what, format!("{count} elements for shape {shape:?}"), got.to_string(), ""))
        }
        None => Err(Error::invalid(what, "a shape that fits in memory", format!("{shape:?}"), "")),
    }
}
