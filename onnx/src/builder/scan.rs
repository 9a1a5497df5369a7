//! Scan: a sub-graph run once per slice of its inputs, carrying state.

use super::write::{attribute, int};
use super::{GraphBuilder, Op, Value};
use crate::error::{Error, Result};
use crate::proto::{AttributeProto, AttributeType};
use crate::types::{Dim, Shape};

/// The outputs of a Scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanOutputs {
    /// The states after the last step.
    pub states: Vec<Value>,
    /// The other outputs of all steps, stacked along a new first axis.
    pub stacked: Vec<Value>,
}

impl GraphBuilder {
    /// Runs `body` once for each index of the scanned values' first axis.
    ///
    /// The body's inputs are first the states, then one slice of each scanned value (without its first axis).
    /// Its outputs are first the states for the next step, then the values to be stacked. It cannot use
    /// values of the outer graph: weights belong into the body, where ONNX Runtime can still optimise their
    /// layout.
    ///
    /// # Errors
    /// [`Error::Shape`] when a state or slice does not have the type and shape that the body declares, a step
    /// changes a state's shape, or the scanned values' first axes differ; [`Error::Invalid`] when there is
    /// nothing to scan, a type or a number of inputs or outputs is wrong.
    pub fn scan(&mut self, body: GraphBuilder, states: &[Value], scanned: &[Value]) -> Result<ScanOutputs> {
        let op = Op::Scan;
        let Some(&first) = scanned.first() else {
            return Err(Error::invalid(self.place(op), "at least one scanned value", "none", ""));
        };
        if body.inputs.len() != states.len() + scanned.len() || body.outputs.len() < states.len() {
            return Err(Error::invalid(
                self.place(op),
                format!(
                    "a body of {} inputs and {} outputs or more",
                    states.len() + scanned.len(),
                    states.len()
                ),
                format!("{} inputs and {} outputs", body.inputs.len(), body.outputs.len()),
                "",
            ));
        }
        if let Some(name) = body.names.intersection(&self.names).min() {
            return Err(Error::invalid(
                self.place(op),
                "names in the body that the outer graph does not use",
                name.clone(),
                "begin the body with GraphBuilder::body",
            ));
        }
        self.names.extend(body.names.iter().cloned());
        for (i, &state) in states.iter().enumerate() {
            let shape = self.shape(state)?.clone();
            self.expect_body(&body, body.inputs[i], state, &shape)?;
            self.expect_body(&body, body.outputs[i], state, &shape)?;
        }
        self.expect_axis(op, first, 0)?;
        let steps = self.shape(first)?.dims()[0].clone();
        for (i, &value) in scanned.iter().enumerate() {
            self.expect_axis(op, value, 0)?;
            let shape = self.shape(value)?;
            if shape.dims()[0] != steps {
                return Err(self.shape_error(
                    op,
                    self.shape(first)?,
                    shape,
                    "scanned values have as many steps",
                ));
            }
            let slice = Shape(shape.dims()[1..].to_vec());
            self.expect_body(&body, body.inputs[states.len() + i], value, &slice)?;
        }
        let outputs = body
            .outputs
            .iter()
            .enumerate()
            .map(|(i, value)| {
                let data = &body.values[value.index];
                let mut dims: Vec<Dim> = if i < states.len() { vec![] } else { vec![steps.clone()] };
                dims.extend(data.shape.dims().iter().cloned());
                (data.element, Shape(dims))
            })
            .collect();
        let graph = AttributeProto { g: Some(body.into_graph()?), ..attribute("body", AttributeType::Graph) };
        let attributes = vec![graph, int("num_scan_inputs", scanned.len() as i64)];
        let inputs: Vec<Option<Value>> = states.iter().chain(scanned).copied().map(Some).collect();
        let mut written = self.node_with_outputs(op, &inputs, attributes, outputs)?;
        let stacked = written.split_off(states.len());
        Ok(ScanOutputs { states: written, stacked })
    }

    fn expect_body(&self, body: &GraphBuilder, inner: Value, outer: Value, shape: &Shape) -> Result<()> {
        let data = &body.values[inner.index];
        let element = self.element_type(outer)?;
        if data.element != element {
            let what = format!("{} ({} of the body)", self.place(Op::Scan), data.name);
            return Err(Error::invalid(what, element.to_string(), data.element.to_string(), ""));
        }
        if data.shape != *shape {
            return Err(self.shape_error(
                Op::Scan,
                shape,
                &data.shape,
                "the body's value has the state's or the slice's shape",
            ));
        }
        Ok(())
    }
}
