//! Runs models in tract, a runtime in pure Rust.

use super::stepper::HostLoop;
use super::{
    Backend, Capabilities, Description, Device, LoopSpec, Port, Runner, StepLoop, guarded, match_inputs,
};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::types::{Dim, ElementType, Tensor};
use std::io::Cursor;
use std::sync::Arc;
use tract_onnx::prelude::{
    Datum, Framework, InferenceModelExt, IntoRunnable, IntoTValue, SymbolValues, TDim, TValue, TVec,
    TractResult, TypedRunnableModel,
};

/// A model loaded in tract. It runs on the CPU, on one thread.
pub struct TractRunner {
    plan: Arc<TypedRunnableModel>,
    description: Description,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl TractRunner {
    /// Loads and optimises a model; symbols stay open, so that one load serves every batch size.
    ///
    /// # Errors
    /// [`Error::Run`] when tract does not accept the model, [`Error::Invalid`] when its weights are in
    /// another file.
    pub fn load(model: &Model) -> Result<Self> {
        let summary = model.summary()?;
        let bytes = model.runnable_bytes()?;
        let plan = guarded(Backend::Tract, "load", || {
            tract_onnx::onnx()
                .model_for_read(&mut Cursor::new(bytes))
                .and_then(|model| model.into_optimized())
                .and_then(|model| model.into_runnable())
                .map_err(|error| refused("load", &error))
        })?;
        let description = Description {
            backend: Backend::Tract,
            version: VERSION.to_owned(),
            device: Device::Cpu,
            tf32: false,
            library: String::new(),
            placement: Vec::new(),
        };
        Ok(TractRunner { plan, description, inputs: summary.inputs, outputs: summary.outputs })
    }
}

/// The series that `Cargo.toml` requires; tract does not report its own version.
const VERSION: &str = "0.23";

impl Runner for TractRunner {
    fn describe(&self) -> &Description {
        &self.description
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>> {
        let tensors = match_inputs(&self.inputs, inputs)?;
        let symbols = self.symbols(&tensors);
        let inputs: TVec<TValue> = tensors.into_iter().map(to_tract).collect::<Result<_>>()?;
        let values =
            guarded(Backend::Tract, "run", || self.plan.run(inputs).map_err(|error| refused("run", &error)))?;
        self.outputs
            .iter()
            .zip(values)
            .map(|(port, value)| Ok((port.name.clone(), from_tract(port, &value, &symbols)?)))
            .collect()
    }

    fn step_loop<'a>(&'a mut self, spec: &LoopSpec<'_>) -> Result<Box<dyn StepLoop + 'a>> {
        Ok(Box::new(HostLoop::new(self, spec)?))
    }
}

impl TractRunner {
    /// The values of the model's symbols in this run.
    fn symbols(&self, tensors: &[&Tensor]) -> SymbolValues {
        let mut values = SymbolValues::default();
        for (port, tensor) in self.inputs.iter().zip(tensors) {
            let dims = port.shape.iter().flat_map(|shape| shape.dims());
            for (dim, &length) in dims.zip(tensor.shape()) {
                if let Dim::Symbol(name) = dim
                    && let Some(symbol) = self.plan.model().symbols.get(name)
                {
                    values.set(&symbol, i64::try_from(length).unwrap_or(i64::MAX));
                }
            }
        }
        values
    }
}

fn refused(action: &'static str, error: &tract_onnx::prelude::TractError) -> Error {
    Error::Run { backend: Backend::Tract.name(), action, reason: format!("{error:#}") }
}

fn to_tract(tensor: &Tensor) -> Result<TValue> {
    let converted = match tensor {
        Tensor::F32 { shape, data } => tract_onnx::prelude::Tensor::from_shape(shape, data),
        Tensor::I64 { shape, data } => tract_onnx::prelude::Tensor::from_shape(shape, data),
    };
    converted.map(IntoTValue::into_tvalue).map_err(|error| refused("run", &error))
}

fn from_tract(port: &Port, value: &TValue, symbols: &SymbolValues) -> Result<Tensor> {
    let shape = value.shape();
    match port.element {
        ElementType::F32 => {
            let view = value.to_plain_array_view::<f32>().map_err(|error| refused("run", &error))?;
            Tensor::f32(shape, view.iter().copied().collect::<Vec<f32>>())
        }
        ElementType::I64 => {
            let data = integers(value, symbols).map_err(|error| refused("run", &error))?;
            Tensor::i64(shape, data)
        }
        other => {
            Err(Error::invalid(format!("output {}", port.name), "f32 or i64 elements", other.to_string(), ""))
        }
    }
}

/// Lengths that the graph computes are expressions in the symbols, everything else is numbers.
fn integers(value: &TValue, symbols: &SymbolValues) -> TractResult<Vec<i64>> {
    if value.datum_type() == TDim::datum_type() {
        let lengths = value.to_plain_array_view::<TDim>()?;
        return lengths.iter().map(|length| length.eval_to_i64(symbols)).collect();
    }
    Ok(value.to_plain_array_view::<i64>()?.iter().copied().collect())
}
