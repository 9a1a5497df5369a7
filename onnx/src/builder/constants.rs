//! Weights and small constants.

use super::write::{attribute, tensor};
use super::{ConstantKey, GraphBuilder, Op, Value};
use crate::error::{Error, Result};
use crate::proto::{AttributeProto, AttributeType};
use crate::types::{ElementType, check_count};
use half::{bf16, f16};

impl GraphBuilder {
    /// Adds a float initialiser (a weight) of this shape; the elements are row-major.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the name is empty or taken, or the number of elements is not
    /// the shape's.
    pub fn initializer_f32(&mut self, name: &str, shape: &[usize], data: &[f32]) -> Result<Value> {
        check_count(&format!("initialiser {name}"), shape, data.len())?;
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.initializer(name, ElementType::F32, shape, bytes)
    }

    /// Adds an initialiser of this shape whose elements are rounded to floats of another type: `F32`, `F16`
    /// or `Bf16`.
    ///
    /// # Errors
    /// As [`GraphBuilder::initializer_f32`]; [`Invalid`](crate::Error::Invalid) for another type, and for a
    /// number that is beyond the type's largest.
    pub fn initializer_rounded(
        &mut self,
        name: &str,
        element: ElementType,
        shape: &[usize],
        data: &[f32],
    ) -> Result<Value> {
        check_count(&format!("initialiser {name}"), shape, data.len())?;
        let bytes = rounded(&format!("initialiser {name}"), element, data)?;
        self.initializer(name, element, shape, bytes)
    }

    /// Adds an integer initialiser of this shape; the elements are row-major.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the name is empty or taken, or the number of elements is not
    /// the shape's.
    pub fn initializer_i64(&mut self, name: &str, shape: &[usize], data: &[i64]) -> Result<Value> {
        check_count(&format!("initialiser {name}"), shape, data.len())?;
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.initializer(name, ElementType::I64, shape, bytes)
    }

    /// The initialiser of this name, if there is one.
    pub fn find_initializer(&self, name: &str) -> Option<Value> {
        self.initializer_values.get(name).copied()
    }

    /// A float constant inside the graph (a `Constant` node; equal ones are shared).
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the number of elements is not the shape's.
    pub fn constant_f32(&mut self, shape: &[usize], data: &[f32]) -> Result<Value> {
        check_count("constant", shape, data.len())?;
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(ElementType::F32, shape, bytes)
    }

    /// [`GraphBuilder::constant_f32`] with the elements rounded to floats of another type: `F32`, `F16` or
    /// `Bf16`.
    ///
    /// # Errors
    /// As [`GraphBuilder::initializer_rounded`].
    pub fn constant_rounded(&mut self, element: ElementType, shape: &[usize], data: &[f32]) -> Result<Value> {
        check_count("constant", shape, data.len())?;
        let bytes = rounded("constant", element, data)?;
        self.constant(element, shape, bytes)
    }

    /// An integer constant inside the graph (a `Constant` node; equal ones are shared).
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the number of elements is not the shape's.
    pub fn constant_i64(&mut self, shape: &[usize], data: &[i64]) -> Result<Value> {
        check_count("constant", shape, data.len())?;
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(ElementType::I64, shape, bytes)
    }

    /// A 64-bit float constant inside the graph without dimensions (a `Constant` node; equal ones are
    /// shared).
    ///
    /// # Errors
    /// None for a scalar; the signature is that of the other constants.
    pub fn scalar_f64(&mut self, x: f64) -> Result<Value> {
        self.constant(ElementType::F64, &[], x.to_le_bytes().to_vec())
    }

    /// A float constant without dimensions, which can be broadcast to any shape.
    ///
    /// # Errors
    /// None for a scalar; the signature is that of the other constants.
    pub fn scalar(&mut self, x: f32) -> Result<Value> {
        self.constant_f32(&[], &[x])
    }

    fn initializer(
        &mut self,
        name: &str,
        element: ElementType,
        shape: &[usize],
        bytes: Vec<u8>,
    ) -> Result<Value> {
        self.claim(name)?;
        self.initializers.push(tensor(name, element, shape, bytes));
        let value = self.push_value(name.to_owned(), element, shape.into());
        self.initializer_values.insert(name.to_owned(), value);
        Ok(value)
    }

    fn constant(&mut self, element: ElementType, shape: &[usize], bytes: Vec<u8>) -> Result<Value> {
        let key = ConstantKey { element, shape: shape.to_vec(), bytes };
        if let Some(&value) = self.constants.get(&key) {
            return Ok(value);
        }
        let attribute = AttributeProto {
            t: Some(tensor("", element, shape, key.bytes.clone())),
            ..attribute("value", AttributeType::Tensor)
        };
        let value = self.node(Op::Constant, &[], vec![attribute], element, shape.into())?;
        self.constants.insert(key, value);
        Ok(value)
    }
}

/// The bytes of numbers rounded to a type.
fn rounded(what: &str, element: ElementType, data: &[f32]) -> Result<Vec<u8>> {
    let (bytes, largest): (Vec<u8>, f32) = match element {
        ElementType::F32 => (data.iter().flat_map(|x| x.to_le_bytes()).collect(), f32::MAX),
        ElementType::F16 => {
            (data.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(), f16::MAX.to_f32())
        }
        ElementType::Bf16 => {
            (data.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(), bf16::MAX.to_f32())
        }
        other => return Err(Error::invalid(what, "f32, f16 or bf16 elements", other.to_string(), "")),
    };
    match data.iter().find(|x| x.is_finite() && x.abs() > largest) {
        None => Ok(bytes),
        Some(x) => {
            let expected = format!("numbers up to {largest:e}, which {element} holds");
            Err(Error::invalid(what, expected, x.to_string(), "take a type with a larger range"))
        }
    }
}
