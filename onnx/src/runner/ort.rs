//! Runs models in ONNX Runtime, a library that is found and loaded with the first model.

mod bound;
mod cuda;
mod diagnose;
mod locate;

pub use super::ort_options::OrtOptions;

use super::{
    Backend, Capabilities, Description, Device, LoopSpec, Port, Runner, StepLoop, guarded, match_inputs,
};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::types::{ElementType, Tensor};
use ::ort::environment::Environment;
use ::ort::ep::cuda::ConvAlgorithmSearch;
use ::ort::logging::LogLevel;
use ::ort::session::builder::GraphOptimizationLevel;
use ::ort::session::{Session, SessionInputValue};
use ::ort::value::{DynValue, TensorRef};
use bound::{BoundLoop, Buffers};
use diagnose::explain;
use locate::Search;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A model loaded in ONNX Runtime.
pub struct OrtRunner {
    // Buffers on the device are dropped before the session that owns the device.
    buffers: Option<Buffers>,
    graphs: u32,
    session: Session,
    description: Description,
    cuda_graph: bool,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

/// The first minor version with which the binding can copy to a device: it uses an optimisation level that
/// older versions refuse.
const COPIES_FROM: u32 = 23;

/// The first minor version whose CUDA provider is asked for channels last.
const CHANNELS_LAST_FROM: u32 = 23;

/// The process's one runtime: ONNX Runtime allows no second environment.
struct Loaded {
    environment: Environment,
    library: PathBuf,
    version: String,
}

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

impl OrtRunner {
    /// Finds ONNX Runtime and loads a model.
    ///
    /// # Errors
    /// [`Error::RuntimeMissing`] when there is no usable library, [`Error::Device`] when the device cannot be
    /// used, [`Error::OutOfMemory`], [`Error::Run`] when the runtime refuses the model, [`Error::Invalid`]
    /// when its weights are in another file, the options contradict each other, or another library is loaded
    /// already.
    pub fn load(model: &Model, options: &OrtOptions) -> Result<Self> {
        if options.device == Device::Cpu && options.cuda_graph {
            return Err(Error::invalid("cuda_graph", "a CUDA device", "cpu", "leave it off on the CPU"));
        }
        let summary = model.summary()?;
        let (environment, library, version) = environment(options.library.as_deref())?;
        let half = summary.weights.iter().any(|weight| weight.element == ElementType::F16);
        let fused =
            prefers_channels_last(options, half, &version).then(|| model.with_fused_group_norms()).flatten();
        let channels_last = fused.is_some();
        let bytes = fused.as_ref().unwrap_or(model).runnable_bytes()?;
        let preloaded = match options.device {
            Device::Cpu => Vec::new(),
            Device::Cuda(_) => cuda::preload(&library),
        };
        let placement = Arc::new(Mutex::new(Vec::new()));
        let session = guarded(Backend::OnnxRuntime, "load", || {
            open(&environment, &bytes, options, channels_last, &placement)
                .map_err(|error| explain(options.device, "load", &error.to_string(), &preloaded))
        })?;
        let description = Description {
            backend: Backend::OnnxRuntime,
            version,
            device: options.device,
            tf32: options.tf32,
            library: library.display().to_string(),
            placement: std::mem::take(&mut *placement.lock().unwrap_or_else(PoisonError::into_inner)),
        };
        Ok(OrtRunner {
            buffers: None,
            graphs: 0,
            session,
            description,
            cuda_graph: options.cuda_graph,
            inputs: summary.inputs,
            outputs: summary.outputs,
        })
    }
}

impl Runner for OrtRunner {
    fn describe(&self) -> &Description {
        &self.description
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { device_state: true, cuda_graph: self.cuda_graph }
    }

    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>> {
        let tensors = match_inputs(&self.inputs, inputs)?;
        let device = self.description.device;
        guarded(Backend::OnnxRuntime, "run", || {
            let refuse = |error: ::ort::Error| explain(device, "run", &error.to_string(), &[]);
            let values = self
                .inputs
                .iter()
                .zip(tensors)
                .map(|(port, tensor)| Ok((Cow::Borrowed(port.name.as_str()), borrowed(tensor)?)))
                .collect::<::ort::Result<Vec<_>>>()
                .map_err(refuse)?;
            let written = self.session.run(values).map_err(refuse)?;
            self.outputs
                .iter()
                .map(|port| {
                    let value = written.get(&port.name).ok_or_else(|| {
                        explain(device, "run", &format!("output {} was not written", port.name), &[])
                    })?;
                    Ok((port.name.clone(), to_host(port, value, device)?))
                })
                .collect()
        })
    }

    fn step_loop<'a>(&'a mut self, spec: &LoopSpec<'_>) -> Result<Box<dyn StepLoop + 'a>> {
        let (device, buffers) = (self.description.device, self.started(spec)?);
        let buffers = self.buffers.insert(buffers);
        Ok(Box::new(BoundLoop { session: &mut self.session, device, buffers }))
    }
}

impl OrtRunner {
    /// The same loop, which keeps the runner: for loops that go on as long as the program.
    ///
    /// # Errors
    /// As [`Runner::step_loop`].
    pub fn into_step_loop(mut self, spec: &LoopSpec<'_>) -> Result<OrtLoop> {
        let buffers = self.started(spec)?;
        Ok(OrtLoop { buffers, session: self.session, description: self.description })
    }

    /// Buffers with a loop's first values, those of the last loop if they fit.
    fn started(&mut self, spec: &LoopSpec<'_>) -> Result<Buffers> {
        super::stepper::check_states(self, spec)?;
        match_inputs(&self.inputs, &spec.inputs())?;
        let device = self.description.device;
        if device != Device::Cpu && locate::minor(&self.description.version) < COPIES_FROM {
            return Err(Error::invalid(
                "ONNX Runtime for a loop whose state stays on the GPU",
                format!("1.{COPIES_FROM} or newer"),
                self.description.version.clone(),
                "install a newer one, or take the steps on the host",
            ));
        }
        let wanted = self.outputs.iter().filter(|port| spec.wanted.contains(&port.name.as_str()));
        let of_port = |name: &&str| wanted.clone().find(|port| port.name == **name);
        let lengths = spec.wanted.iter().filter_map(of_port).map(super::stepper::known_lengths);
        let lengths = lengths.collect::<Result<Vec<_>>>()?;
        let OrtRunner { buffers, graphs, session, cuda_graph, .. } = self;
        guarded(Backend::OnnxRuntime, "run", || {
            let refuse = |error: ::ort::Error| explain(device, "run", &error.to_string(), &[]);
            if let Some(mut kept) = buffers.take().filter(|buffers| buffers.serve(spec)) {
                kept.restart(spec).map_err(refuse)?;
                return Ok(kept);
            }
            // Graphs are numbered from 1; a loop captures two.
            let graph = cuda_graph.then_some(2 * *graphs + 1);
            *graphs += 1;
            Buffers::new(session, device, graph, spec, &lengths).map_err(refuse)
        })
    }
}

/// A [`StepLoop`] with the model that it runs.
pub struct OrtLoop {
    // Dropped before the session, as in a runner.
    buffers: Buffers,
    session: Session,
    description: Description,
}

impl OrtLoop {
    /// The runtime, version and device that run the loop.
    pub fn describe(&self) -> &Description {
        &self.description
    }

    /// Begins again with the first values of `spec`, in the same buffers.
    ///
    /// # Errors
    /// [`Error::Invalid`] for other ports, types or lengths than the loop's, [`Error::Run`] from the runtime.
    pub fn restart(&mut self, spec: &LoopSpec<'_>) -> Result<()> {
        if !self.buffers.serve(spec) {
            let expected = "the ports, types and lengths that it has";
            return Err(Error::invalid("a loop that begins again", expected, "others", ""));
        }
        let device = self.description.device;
        guarded(Backend::OnnxRuntime, "run", || {
            self.buffers.restart(spec).map_err(|error| explain(device, "run", &error.to_string(), &[]))
        })
    }

    fn bound(&mut self) -> BoundLoop<'_> {
        let OrtLoop { buffers, session, description } = self;
        BoundLoop { session, device: description.device, buffers }
    }
}

impl StepLoop for OrtLoop {
    fn set(&mut self, input: &str, value: &Tensor) -> Result<()> {
        self.bound().set(input, value)
    }

    fn step(&mut self) -> Result<()> {
        self.bound().step()
    }

    fn state(&mut self, input: &str) -> Result<Tensor> {
        self.bound().state(input)
    }

    fn output(&mut self, name: &str) -> Result<Tensor> {
        self.bound().output(name)
    }
}

/// Whether a network's images should have their channels last on the device. Tensor cores, which compute in
/// TF32 and on `half` floats, want them so: on an H200 Ho et al.'s network takes 9.6 ms in place of 13.2 ms
/// at batch 64. Without them the other order is a little faster.
fn prefers_channels_last(options: &OrtOptions, half: bool, version: &str) -> bool {
    (options.tf32 || half) && options.device != Device::Cpu && locate::minor(version) >= CHANNELS_LAST_FROM
}

/// The process's runtime, found and loaded by the first call.
fn environment(explicit: Option<&Path>) -> Result<(Environment, PathBuf, String)> {
    let mut slot = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.is_none() {
        let search = Search::from_environment(explicit);
        let (builder, library) = search.find(|path| {
            // A library that is not ONNX Runtime may violate an assumption of the binding.
            guarded(Backend::OnnxRuntime, "load", || {
                ::ort::init_from(path).map_err(|error| Error::Run {
                    backend: Backend::OnnxRuntime.name(),
                    action: "load",
                    reason: error.to_string(),
                })
            })
            .map_err(|error| match error {
                Error::Run { reason, .. } => reason,
                other => other.to_string(),
            })
        })?;
        // The library's messages are returned as errors, so it must not print them as well.
        let environment = builder
            .with_name("performer-ddpm-onnx")
            .with_telemetry(false)
            .with_logger(Arc::new(|_, _, _, _, _| {}))
            .build()
            .map_err(|error| explain(Device::Cpu, "load", &error.to_string(), &[]))?;
        environment.set_log_level(LogLevel::Error);
        let version = locate::version(&library);
        *slot = Some(Loaded { environment, library, version });
    }
    let Some(loaded) = &*slot else { return Err(Error::RuntimeMissing { tried: Vec::new() }) };
    if let Some(explicit) = explicit
        && !locate::same_library(explicit, &loaded.library)
    {
        return Err(Error::invalid(
            "ONNX Runtime library",
            format!("{}, which this process has loaded already", loaded.library.display()),
            explicit.display().to_string(),
            "use one library per process",
        ));
    }
    Ok((loaded.environment.clone(), loaded.library.clone(), loaded.version.clone()))
}

fn open(
    environment: &Environment,
    bytes: &[u8],
    options: &OrtOptions,
    channels_last: bool,
    placement: &Arc<Mutex<Vec<String>>>,
) -> ::ort::Result<Session> {
    // The binding's default is a level that older versions refuse, see COPIES_FROM.
    let builder = Session::builder(environment)?.with_optimization_level(GraphOptimizationLevel::All)?;
    let mut builder =
        builder.with_log_level(if options.placement { LogLevel::Verbose } else { LogLevel::Error })?;
    if options.placement {
        let placement = Arc::clone(placement);
        builder = builder.with_logger(Arc::new(move |_, _, _, location, message| {
            // The function that reports each node's device when a session opens.
            if location.contains("VerifyEachNodeIsAssignedToAnEp") {
                placement.lock().unwrap_or_else(PoisonError::into_inner).push(message.trim().to_owned());
            }
        }))?;
    }
    if let Some(threads) = options.threads {
        builder = builder.with_intra_threads(threads)?;
    }
    if options.repeatable {
        builder = builder.with_deterministic_compute(true)?;
    }
    if let Device::Cuda(index) = options.device {
        let mut provider = ::ort::ep::CUDA::default()
            .with_device_id(i32::try_from(index).unwrap_or(i32::MAX))
            .with_tf32(options.tf32)
            .with_cuda_graph(options.cuda_graph)
            .with_prefer_nhwc(channels_last);
        if options.repeatable {
            provider = provider.with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic);
        }
        builder = builder.with_execution_providers([provider.build().error_on_failure()])?;
    }
    builder.commit_from_memory(bytes)
}

/// A host tensor borrowed by the runtime, not copied.
fn borrowed(tensor: &Tensor) -> ::ort::Result<SessionInputValue<'_>> {
    Ok(match tensor {
        Tensor::F32 { shape, data } => {
            TensorRef::from_array_view((shape.as_slice(), data.as_slice()))?.into()
        }
        Tensor::I64 { shape, data } => {
            TensorRef::from_array_view((shape.as_slice(), data.as_slice()))?.into()
        }
    })
}

fn to_host(port: &Port, value: &DynValue, device: Device) -> Result<Tensor> {
    let refuse = |error: ::ort::Error| explain(device, "run", &error.to_string(), &[]);
    match port.element {
        ElementType::F32 => {
            let (shape, data) = value.try_extract_tensor::<f32>().map_err(refuse)?;
            Tensor::f32(lengths(shape), data)
        }
        ElementType::I64 => {
            let (shape, data) = value.try_extract_tensor::<i64>().map_err(refuse)?;
            Tensor::i64(lengths(shape), data)
        }
        other => {
            Err(Error::invalid(format!("output {}", port.name), "f32 or i64 elements", other.to_string(), ""))
        }
    }
}

/// The lengths of a computed tensor, which are never negative.
fn lengths(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|&length| usize::try_from(length).unwrap_or(0)).collect()
}
