//! A loop whose states stay on the device.

use super::explain;
use super::lengths;
use crate::error::Result;
use crate::runner::stepper::{check_same, unknown_input, unknown_state};
use crate::runner::{Backend, Carried, Device, LoopSpec, StepLoop, guarded};
use crate::types::Tensor;
use ::ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ::ort::session::{IoBinding, NoSelectedOutputs, RunOptions, Session};
use ::ort::value::{DynTensor, TensorElementType};

/// A loop over buffers that the runner keeps from one loop to the next.
pub(super) struct BoundLoop<'a> {
    session: &'a mut Session,
    device: Device,
    buffers: &'a mut Buffers,
    current: usize,
}

/// Two device buffers alternate as input and output of each state, because a runtime may write an output
/// before it has read all of an input. Every buffer keeps its address, as CUDA graphs require. Each of the
/// two alternatives is captured as a graph of its own, and later loops of the same shapes replay it.
pub(super) struct Buffers {
    turns: [Turn; 2],
    states: Vec<State>,
    others: Vec<(String, DynTensor)>,
}

struct State {
    input: String,
    output: String,
    buffers: [DynTensor; 2],
}

struct Turn {
    binding: IoBinding,
    options: RunOptions<NoSelectedOutputs>,
}

impl<'a> BoundLoop<'a> {
    /// Starts a loop; `buffers` are those of `spec`.
    pub(super) fn new(
        session: &'a mut Session,
        device: Device,
        buffers: &'a mut Buffers,
        spec: &LoopSpec<'_>,
    ) -> Result<Self> {
        let mut this = BoundLoop { session, device, buffers, current: 0 };
        for i in 0..spec.others.len() {
            this.bind_other(i).map_err(|error| explain(device, "run", &error.to_string(), &[]))?;
        }
        Ok(this)
    }

    /// Binding gives the runtime the buffer itself, or a copy where it needs the value in other memory. So it
    /// is repeated whenever the contents of the buffer change.
    fn bind_other(&mut self, i: usize) -> ::ort::Result<()> {
        let (name, buffer) = &self.buffers.others[i];
        for turn in &mut self.buffers.turns {
            turn.binding.bind_input(name.as_str(), buffer)?;
        }
        Ok(())
    }

    fn advance(&mut self) -> ::ort::Result<()> {
        let turn = &mut self.buffers.turns[self.current];
        for state in &self.buffers.states {
            turn.binding.bind_input(state.input.as_str(), &state.buffers[self.current])?;
        }
        self.session.run_binding_with_options(&turn.binding, &turn.options)?;
        self.current = 1 - self.current;
        Ok(())
    }

    fn download(&self, state: &State) -> ::ort::Result<Tensor> {
        let device = &state.buffers[self.current];
        let copied = match self.device {
            Device::Cpu => None,
            Device::Cuda(_) => Some(device.to(AllocationDevice::CPU, 0)?),
        };
        let host = copied.as_ref().unwrap_or(device);
        Ok(match host.data_type() {
            TensorElementType::Int64 => {
                let (shape, data) = host.try_extract_tensor::<i64>()?;
                Tensor::I64 { shape: lengths(shape), data: data.to_vec() }
            }
            _ => {
                let (shape, data) = host.try_extract_tensor::<f32>()?;
                Tensor::F32 { shape: lengths(shape), data: data.to_vec() }
            }
        })
    }
}

impl StepLoop for BoundLoop<'_> {
    fn set(&mut self, input: &str, value: &Tensor) -> Result<()> {
        let device = self.device;
        let i = self
            .buffers
            .others
            .iter()
            .position(|(name, _)| name == input)
            .ok_or_else(|| unknown_input(input))?;
        check_same(input, &lengths(self.buffers.others[i].1.shape()), value)?;
        guarded(Backend::OnnxRuntime, "run", || {
            uploaded_into(value, &mut self.buffers.others[i].1)
                .and_then(|()| self.bind_other(i))
                .map_err(|error| explain(device, "run", &error.to_string(), &[]))
        })
    }

    fn step(&mut self) -> Result<()> {
        let device = self.device;
        guarded(Backend::OnnxRuntime, "run", || {
            self.advance().map_err(|error| explain(device, "run", &error.to_string(), &[]))
        })
    }

    fn state(&mut self, input: &str) -> Result<Tensor> {
        let state = self.buffers.states.iter().find(|state| state.input == input);
        let state = state.ok_or_else(|| unknown_state(input))?;
        let tensor = guarded(Backend::OnnxRuntime, "run", || {
            self.download(state).map_err(|error| explain(self.device, "run", &error.to_string(), &[]))
        })?;
        check_same(input, &lengths(state.buffers[0].shape()), &tensor)?;
        Ok(tensor)
    }
}

impl Buffers {
    /// Buffers with the loop's first values. Captured graphs need distinct numbers: `graph`, and the next one
    /// for the second alternative.
    pub(super) fn new(
        session: &Session,
        device: Device,
        graph: Option<u32>,
        spec: &LoopSpec<'_>,
    ) -> ::ort::Result<Self> {
        let allocator = match device {
            Device::Cpu => Allocator::default(),
            Device::Cuda(index) => {
                let index = i32::try_from(index).unwrap_or(i32::MAX);
                let kind = (AllocatorType::Device, MemoryType::Default);
                Allocator::new(session, MemoryInfo::new(AllocationDevice::CUDA, index, kind.0, kind.1)?)?
            }
        };
        let state = |state: &Carried<'_>| {
            Ok(State {
                input: state.input.to_owned(),
                output: state.output.to_owned(),
                buffers: [uploaded(&allocator, state.first)?, uploaded(&allocator, state.first)?],
            })
        };
        let mut states = spec.states.iter().map(state).collect::<::ort::Result<Vec<_>>>()?;
        let others = spec
            .others
            .iter()
            .map(|(name, value)| Ok(((*name).to_owned(), uploaded(&allocator, value)?)))
            .collect::<::ort::Result<Vec<_>>>()?;
        let mut turn = |from: usize| {
            let mut binding = session.create_binding()?;
            for state in &mut states {
                binding.bind_input(state.input.as_str(), &state.buffers[from])?;
                binding.bind_output(state.output.as_str(), &mut state.buffers[1 - from])?;
            }
            let mut options = RunOptions::new()?;
            if let Some(graph) = graph {
                options.set("gpu_graph_id", (graph as usize + from).to_string())?;
            }
            Ok::<_, ::ort::Error>(Turn { binding, options })
        };
        let turns = [turn(0)?, turn(1)?];
        Ok(Buffers { turns, states, others })
    }

    /// Whether a loop over the same ports with values of the same shapes and types can use these buffers.
    pub(super) fn serve(&self, spec: &LoopSpec<'_>) -> bool {
        let same = |buffer: &DynTensor, value: &Tensor| {
            *buffer.data_type() == element(value) && lengths(buffer.shape()) == value.shape()
        };
        let carries = |ours: &State, wanted: &Carried<'_>| {
            ours.input == wanted.input && ours.output == wanted.output && same(&ours.buffers[0], wanted.first)
        };
        self.states.len() == spec.states.len()
            && self.states.iter().zip(&spec.states).all(|(ours, wanted)| carries(ours, wanted))
            && self.others.len() == spec.others.len()
            && self
                .others
                .iter()
                .zip(&spec.others)
                .all(|(ours, (name, value))| ours.0 == *name && same(&ours.1, value))
    }

    /// Replaces the contents by another loop's first values.
    pub(super) fn restart(&mut self, spec: &LoopSpec<'_>) -> ::ort::Result<()> {
        for (state, wanted) in self.states.iter_mut().zip(&spec.states) {
            uploaded_into(wanted.first, &mut state.buffers[0])?;
        }
        for ((_, buffer), (_, value)) in self.others.iter_mut().zip(&spec.others) {
            uploaded_into(value, buffer)?;
        }
        Ok(())
    }
}

fn element(value: &Tensor) -> TensorElementType {
    match value {
        Tensor::F32 { .. } => TensorElementType::Float32,
        Tensor::I64 { .. } => TensorElementType::Int64,
    }
}

fn uploaded(allocator: &Allocator, value: &Tensor) -> ::ort::Result<DynTensor> {
    let mut buffer = DynTensor::new(allocator, element(value), value.shape())?;
    uploaded_into(value, &mut buffer)?;
    Ok(buffer)
}

/// Values are written into host memory directly; the binding copies them to a device by a session of its own.
fn uploaded_into(value: &Tensor, buffer: &mut DynTensor) -> ::ort::Result<()> {
    if buffer.memory_info().is_cpu_accessible() {
        match value {
            Tensor::F32 { data, .. } => buffer.try_extract_tensor_mut::<f32>()?.1.copy_from_slice(data),
            Tensor::I64 { data, .. } => buffer.try_extract_tensor_mut::<i64>()?.1.copy_from_slice(data),
        }
        return Ok(());
    }
    let host: DynTensor = match value {
        Tensor::F32 { shape, data } => {
            ::ort::value::Tensor::from_array((shape.as_slice(), data.clone()))?.upcast()
        }
        Tensor::I64 { shape, data } => {
            ::ort::value::Tensor::from_array((shape.as_slice(), data.clone()))?.upcast()
        }
    };
    host.copy_into(buffer)
}
