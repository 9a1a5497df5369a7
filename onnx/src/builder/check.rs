//! Checks of the operators' operands.

use super::{GraphBuilder, Op, Value, ValueData};
use crate::error::{Error, Result};
use crate::types::{Dim, ElementType, Shape, element_count};
use std::collections::HashSet;

/// The largest length of an axis and the largest number in an attribute.
const MOST: usize = i32::MAX as usize;
/// The most elements of a value.
const MOST_ELEMENTS: u64 = 1 << 47;

impl GraphBuilder {
    /// The name of the next node of this operator, for messages.
    pub(super) fn place(&self, op: Op) -> String {
        let scope = if self.scope.is_empty() { &self.name } else { &self.scope };
        format!("{} in {scope}", op.name())
    }

    pub(super) fn check(&self, value: Value) -> Result<&ValueData> {
        if value.graph != self.id {
            return Err(Error::invalid(
                format!("graph {}", self.name),
                "values of this graph",
                "a value of another graph",
                "values enter a Scan body as its inputs",
            ));
        }
        Ok(&self.values[value.index])
    }

    pub(super) fn expect_type(&self, op: Op, value: Value, expected: ElementType) -> Result<()> {
        let got = self.check(value)?.element;
        if got != expected {
            return Err(Error::invalid(self.place(op), expected.to_string(), got.to_string(), "add a cast"));
        }
        Ok(())
    }

    /// Refuses what is not of 32-bit or 16-bit floats.
    pub(super) fn expect_float(&self, op: Op, value: Value) -> Result<ElementType> {
        let element = self.check(value)?.element;
        if element != ElementType::F16 {
            self.expect_type(op, value, ElementType::F32)?;
        }
        Ok(element)
    }

    pub(super) fn expect_same_type(&self, op: Op, a: Value, b: Value) -> Result<ElementType> {
        let element = self.check(a)?.element;
        self.expect_type(op, b, element)?;
        Ok(element)
    }

    pub(super) fn expect_axis(&self, op: Op, value: Value, axis: usize) -> Result<()> {
        let shape = self.shape(value)?;
        if axis >= shape.rank() {
            return Err(Error::invalid(
                self.place(op),
                format!("an axis below the rank of {shape}"),
                axis.to_string(),
                "",
            ));
        }
        Ok(())
    }

    pub(super) fn expect_axes(&self, op: Op, value: Value, axes: &[usize]) -> Result<()> {
        let mut seen = HashSet::new();
        for &axis in axes {
            self.expect_axis(op, value, axis)?;
            if !seen.insert(axis) {
                return Err(Error::invalid(
                    self.place(op),
                    "each axis once",
                    format!("axis {axis} twice"),
                    "",
                ));
            }
        }
        Ok(())
    }

    /// The length of a dimension that has to be fixed.
    pub(super) fn expect_known(&self, op: Op, value: Value, axis: usize) -> Result<usize> {
        self.expect_axis(op, value, axis)?;
        let shape = self.shape(value)?;
        shape.dims()[axis].known().ok_or_else(|| {
            Error::invalid(self.place(op), format!("a fixed length on axis {axis}"), shape.to_string(), "")
        })
    }

    /// Refuses numbers, such as a stride or a length, that no runtime counts to: sums and products of a few
    /// of them with lengths stay within 64 bits.
    pub(super) fn expect_numbers(&self, op: Op, numbers: &[usize]) -> Result<()> {
        match numbers.iter().find(|number| **number > MOST) {
            None => Ok(()),
            Some(number) => {
                let expected = format!("numbers up to {MOST}");
                Err(Error::invalid(self.place(op), expected, number.to_string(), ""))
            }
        }
    }

    /// Refuses a shape whose lengths, or all of whose elements, no runtime counts to.
    pub(super) fn expect_countable(what: impl FnOnce() -> String, shape: &Shape) -> Result<()> {
        let known: Vec<usize> = shape.dims().iter().filter_map(Dim::known).collect();
        let total = element_count(&known).filter(|total| *total as u64 <= MOST_ELEMENTS);
        if total.is_some() && known.iter().all(|length| *length <= MOST) {
            return Ok(());
        }
        let expected = format!("lengths up to {MOST}, {MOST_ELEMENTS} elements together");
        Err(Error::invalid(what(), expected, shape.to_string(), ""))
    }

    pub(super) fn shape_error(&self, op: Op, left: &Shape, right: &Shape, rule: &'static str) -> Error {
        Error::Shape { what: self.place(op), left: left.clone(), right: right.clone(), rule }
    }
}
