//! Running a model: one trait over the runtimes.
//!
//! ```no_run
//! # #[cfg(feature = "ort")] {
//! use performer_ddpm_onnx::runner::{Runner, ort};
//! use performer_ddpm_onnx::{Model, Tensor};
//!
//! let model = Model::read("model.onnx")?;
//! let mut runner = ort::OrtRunner::load(&model, &ort::OrtOptions::default())?;
//! println!("{}", runner.describe());
//! let x = Tensor::f32([1, 3, 32, 32], vec![0.0; 3 * 32 * 32])?;
//! let t = Tensor::i64([1], [999])?;
//! let outputs = runner.run(&[("x", &x), ("t", &t)])?;
//! println!("{:?}", outputs[0].1.shape());
//! # }
//! # Ok::<(), performer_ddpm_onnx::Error>(())
//! ```

#[cfg(all(feature = "ort", not(target_family = "wasm")))]
pub mod ort;
#[cfg(all(feature = "ort", target_family = "wasm"))]
#[path = "runner/no_ort.rs"]
pub mod ort;
#[cfg(feature = "ort")]
mod ort_options;
#[cfg(feature = "tract")]
pub mod tract;

mod stepper;

pub use stepper::{Carried, HostLoop, LoopSpec, StepLoop};

use crate::error::{Error, Result};
use crate::model::Model;
pub use crate::model::Port;
use crate::types::{Dim, Shape, Tensor};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this index.
    Cuda(u32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// Reads `cpu`, `cuda` or `cuda:INDEX`.
    fn from_str(text: &str) -> Result<Self> {
        let index = |index: &str| index.parse().ok().map(Device::Cuda);
        match text {
            "cpu" => Some(Device::Cpu),
            "cuda" => Some(Device::Cuda(0)),
            other => other.strip_prefix("cuda:").and_then(index),
        }
        .ok_or_else(|| Error::invalid("device", "cpu, cuda or cuda:INDEX", text, ""))
    }
}

/// A runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// tract, pure Rust.
    Tract,
    /// ONNX Runtime, a library found at run time.
    OnnxRuntime,
    /// An engine of the program's own behind the same trait.
    Native,
}

impl Backend {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Tract => "tract",
            Backend::OnnxRuntime => "ONNX Runtime",
            Backend::Native => "native",
        }
    }
}

/// The runtime, version and device that run a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The runtime.
    pub backend: Backend,
    /// Its version.
    pub version: String,
    /// The device.
    pub device: Device,
    /// Whether products are computed in TF32 (about three decimal digits) on a GPU that has it.
    pub tf32: bool,
    /// Where the runtime's library was found; empty when it is built in.
    pub library: String,
    /// Which nodes run where, as the runtime reports it; empty unless it was asked for.
    pub placement: Vec<String>,
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} on {}", self.backend.name(), self.version, self.device)?;
        if matches!(self.device, Device::Cuda(_)) {
            write!(f, ", TF32 {}", if self.tf32 { "on" } else { "off" })?;
        }
        if !self.library.is_empty() {
            write!(f, " ({})", self.library)?;
        }
        Ok(())
    }
}

/// What a loaded model's runner can do beyond [`Runner::run`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// [`Runner::step_loop`] keeps the states on the device between steps.
    pub device_state: bool,
    /// The steps are captured once and replayed as a CUDA graph.
    pub cuda_graph: bool,
}

/// A model that is loaded and can be run.
pub trait Runner: Send {
    /// The runtime, version and device that run the model.
    fn describe(&self) -> &Description;

    /// What this runner can do beyond running.
    fn capabilities(&self) -> Capabilities;

    /// The inputs, in the file's order.
    fn inputs(&self) -> &[Port];

    /// The outputs, in the file's order.
    fn outputs(&self) -> &[Port];

    /// Runs the model on named tensors and returns every output by name, in the file's order.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a missing, unknown or wrongly typed input, [`Error::Shape`] for one of another
    /// shape, [`Error::OutOfMemory`] and [`Error::Run`] from the runtime.
    fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>>;

    /// Starts a loop whose states go from outputs back to inputs, on the device where the runtime can.
    ///
    /// # Errors
    /// As [`Runner::run`], and [`Error::Invalid`] when a state's ports are not there or differ in type or
    /// shape.
    fn step_loop<'a>(&'a mut self, spec: &LoopSpec<'_>) -> Result<Box<dyn StepLoop + 'a>>;
}

/// Whether tract is a part of this program (the feature `tract`).
pub const TRACT_BUILT_IN: bool = cfg!(feature = "tract");

/// Loads a model in tract.
///
/// # Errors
/// [`Error::NotBuiltIn`] without the feature `tract`, otherwise as `TractRunner::load`.
pub fn load_tract(model: &Model) -> Result<Box<dyn Runner>> {
    #[cfg(feature = "tract")]
    return Ok(Box::new(tract::TractRunner::load(model)?));
    #[cfg(not(feature = "tract"))]
    Err(Error::NotBuiltIn {
        backend: Backend::Tract.name(),
        feature: "tract",
        help: format!("or run {} in another runtime", model.origin()),
    })
}

/// Checks named inputs against the model's ports and returns them in the ports' order, for implementations of
/// [`Runner`].
///
/// # Errors
/// [`Error::Invalid`] for a missing, unknown, repeated or wrongly typed input, [`Error::Shape`] for one of
/// another shape.
pub fn match_inputs<'t>(ports: &[Port], inputs: &[(&str, &'t Tensor)]) -> Result<Vec<&'t Tensor>> {
    let listed = || {
        let ports: Vec<String> = ports.iter().map(Port::to_string).collect();
        format!("the model takes: {}", ports.join("; "))
    };
    for (i, (name, _)) in inputs.iter().enumerate() {
        let known = ports.iter().any(|port| port.name == *name);
        if !known || inputs[..i].iter().any(|(earlier, _)| earlier == name) {
            let got = if known { format!("{name} twice") } else { (*name).to_owned() };
            return Err(Error::invalid("model inputs", "the model's own, each once", got, listed()));
        }
    }
    let mut symbols = HashMap::new();
    ports
        .iter()
        .map(|port| {
            let tensor = inputs.iter().find(|(name, _)| *name == port.name).map(|(_, tensor)| *tensor);
            let tensor = tensor.ok_or_else(|| {
                Error::invalid("model inputs", format!("a tensor for {port}"), "none", listed())
            })?;
            match_port(port, tensor, &mut symbols)?;
            Ok(tensor)
        })
        .collect()
}

/// Checks one tensor against its port; a symbol stands for one length in all ports.
fn match_port<'p>(port: &'p Port, tensor: &Tensor, symbols: &mut HashMap<&'p str, usize>) -> Result<()> {
    let what = || format!("input {}", port.name);
    if port.element != tensor.element_type() {
        return Err(Error::invalid(what(), port.element.to_string(), tensor.element_type().to_string(), ""));
    }
    let Some(shape) = &port.shape else { return Ok(()) };
    let lengths = tensor.shape();
    let fits = shape.rank() == lengths.len()
        && shape.dims().iter().zip(lengths).all(|(dim, &length)| match dim {
            Dim::Known(known) => *known == length,
            Dim::Symbol(name) => *symbols.entry(name).or_insert(length) == length,
            Dim::Unknown => true,
        });
    if !fits {
        return Err(Error::Shape {
            what: what(),
            left: shape.clone(),
            right: Shape::from(lengths),
            rule: "the input has the model's lengths, and a symbol is one length throughout",
        });
    }
    Ok(())
}

/// Turns a panic of the runtime into an error: a foreign file may violate an assumption of the runtime, which
/// must not end this program.
#[cfg(any(feature = "tract", all(feature = "ort", not(target_family = "wasm"))))]
pub(crate) fn guarded<T>(
    backend: Backend,
    action: &'static str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Error::Run {
            backend: backend.name(),
            action,
            reason: format!("it panicked: {}", text.unwrap_or_default()),
        })
    })
}
