//! A loop whose states stay on the device.

use super::explain;
use super::lengths;
use crate::error::{Error, Result};
use crate::runner::stepper::{check_same, unknown_input, unknown_output, unknown_state};
use crate::runner::{Backend, Carried, Device, LoopSpec, StepLoop, guarded};
use crate::types::Tensor;
use ::ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ::ort::session::{IoBinding, NoSelectedOutputs, RunOptions, Session};
use ::ort::value::{DynTensor, TensorElementType};

/// A loop over buffers that its owner keeps from one loop to the next.
pub(super) struct BoundLoop<'a> {
    pub(super) session: &'a mut Session,
    pub(super) device: Device,
    pub(super) buffers: &'a mut Buffers,
}

/// Two device buffers alternate as input and output of each state, because a runtime may write an output
/// before it has read all of an input. Every buffer keeps its address, as CUDA graphs require. Each of the
/// two alternatives is captured as a graph of its own, and later loops of the same shapes replay it.
pub(super) struct Buffers {
    turns: [Turn; 2],
    /// The turn that is next.
    current: usize,
    states: Vec<State>,
    others: Vec<Other>,
    wanted: Vec<(String, DynTensor)>,
}

struct State {
    input: String,
    output: String,
    buffers: [DynTensor; 2],
}

/// An input that is no state. A captured graph reads it where it was captured, on the device. Otherwise it is
/// on the host, and the runtime copies it to wherever its reader needs it.
struct Other {
    input: String,
    buffer: DynTensor,
    /// Whether each turn has still to be given what the buffer holds now.
    is_new: [bool; 2],
}

struct Turn {
    binding: IoBinding,
    options: RunOptions<NoSelectedOutputs>,
}

impl BoundLoop<'_> {
    fn refused(&self, error: &::ort::Error) -> Error {
        explain(self.device, "run", &error.to_string(), &[])
    }

    /// Binding gives the runtime the buffer itself, or a copy where it needs the value in other memory. So it
    /// is repeated whenever the contents of the buffer change, unless there is no other memory.
    fn advance(&mut self) -> ::ort::Result<()> {
        let current = self.buffers.current;
        let turn = &mut self.buffers.turns[current];
        if self.device != Device::Cpu {
            for state in &self.buffers.states {
                turn.binding.bind_input(state.input.as_str(), &state.buffers[current])?;
            }
        }
        for other in &mut self.buffers.others {
            if std::mem::take(&mut other.is_new[current]) {
                turn.binding.bind_input(other.input.as_str(), &other.buffer)?;
            }
        }
        self.session.run_binding_with_options(&turn.binding, &turn.options)?;
        self.buffers.current = 1 - current;
        Ok(())
    }

    fn download(&self, buffer: &DynTensor) -> ::ort::Result<Tensor> {
        let copied = match buffer.memory_info().is_cpu_accessible() {
            true => None,
            false => Some(buffer.to(AllocationDevice::CPU, 0)?),
        };
        let host = copied.as_ref().unwrap_or(buffer);
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

    fn read(&self, name: &str, buffer: &DynTensor) -> Result<Tensor> {
        let tensor = guarded(Backend::OnnxRuntime, "run", || {
            self.download(buffer).map_err(|error| self.refused(&error))
        })?;
        check_same(name, &lengths(buffer.shape()), &tensor)?;
        Ok(tensor)
    }
}

impl StepLoop for BoundLoop<'_> {
    fn set(&mut self, input: &str, value: &Tensor) -> Result<()> {
        let device = self.device;
        let other = self.buffers.others.iter_mut().find(|other| other.input == input);
        let other = other.ok_or_else(|| unknown_input(input))?;
        check_same(input, &lengths(other.buffer.shape()), value)?;
        guarded(Backend::OnnxRuntime, "run", || {
            uploaded_into(value, &mut other.buffer)
                .map_err(|error| explain(device, "run", &error.to_string(), &[]))
        })?;
        other.is_new = [true; 2];
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        guarded(Backend::OnnxRuntime, "run", || self.advance().map_err(|error| self.refused(&error)))
    }

    fn state(&mut self, input: &str) -> Result<Tensor> {
        let state = self.buffers.states.iter().find(|state| state.input == input);
        let state = state.ok_or_else(|| unknown_state(input))?;
        self.read(input, &state.buffers[self.buffers.current])
    }

    fn output(&mut self, name: &str) -> Result<Tensor> {
        let wanted = self.buffers.wanted.iter().find(|(wanted, _)| wanted == name);
        let (_, buffer) = wanted.ok_or_else(|| unknown_output(name))?;
        self.read(name, buffer)
    }
}

impl Buffers {
    /// Buffers with the loop's first values. `wanted` are the lengths of the wanted outputs. Captured graphs
    /// need distinct numbers: `graph`, and the next one for the second alternative.
    pub(super) fn new(
        session: &Session,
        device: Device,
        graph: Option<u32>,
        spec: &LoopSpec<'_>,
        wanted: &[Vec<usize>],
    ) -> ::ort::Result<Self> {
        let host = Allocator::default();
        let on_device = match device {
            Device::Cpu => None,
            Device::Cuda(index) => {
                let index = i32::try_from(index).unwrap_or(i32::MAX);
                let kind = (AllocatorType::Device, MemoryType::Default);
                let memory = MemoryInfo::new(AllocationDevice::CUDA, index, kind.0, kind.1)?;
                Some(Allocator::new(session, memory)?)
            }
        };
        let for_states = on_device.as_ref().unwrap_or(&host);
        let for_others = on_device.as_ref().filter(|_| graph.is_some()).unwrap_or(&host);
        let state = |state: &Carried<'_>| {
            Ok(State {
                input: state.input.to_owned(),
                output: state.output.to_owned(),
                buffers: [uploaded(for_states, state.first)?, uploaded(for_states, state.first)?],
            })
        };
        let mut states = spec.states.iter().map(state).collect::<::ort::Result<Vec<_>>>()?;
        let other = |(input, value): &(&str, &Tensor)| {
            let buffer = uploaded(for_others, value)?;
            Ok(Other { input: (*input).to_owned(), buffer, is_new: [true; 2] })
        };
        let others = spec.others.iter().map(other).collect::<::ort::Result<Vec<_>>>()?;
        let buffer = |(name, shape): (&&str, &Vec<usize>)| {
            let buffer = DynTensor::new(for_others, TensorElementType::Float32, shape.as_slice())?;
            Ok(((*name).to_owned(), buffer))
        };
        let mut wanted = spec
            .wanted
            .iter()
            .zip(wanted)
            .map(buffer)
            .collect::<::ort::Result<Vec<(String, DynTensor)>>>()?;
        let mut turn = |from: usize| {
            let mut binding = session.create_binding()?;
            for state in &mut states {
                binding.bind_input(state.input.as_str(), &state.buffers[from])?;
                binding.bind_output(state.output.as_str(), &mut state.buffers[1 - from])?;
            }
            for (name, buffer) in &mut wanted {
                binding.bind_output(name.as_str(), buffer)?;
            }
            let mut options = RunOptions::new()?;
            if let Some(graph) = graph {
                options.set("gpu_graph_id", (graph as usize + from).to_string())?;
            }
            Ok::<_, ::ort::Error>(Turn { binding, options })
        };
        let turns = [turn(0)?, turn(1)?];
        Ok(Buffers { turns, current: 0, states, others, wanted })
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
                .all(|(ours, (name, value))| ours.input == *name && same(&ours.buffer, value))
            && self.wanted.iter().map(|(name, _)| name.as_str()).eq(spec.wanted.iter().copied())
    }

    /// Replaces the contents by another loop's first values.
    pub(super) fn restart(&mut self, spec: &LoopSpec<'_>) -> ::ort::Result<()> {
        self.current = 0;
        for (state, wanted) in self.states.iter_mut().zip(&spec.states) {
            uploaded_into(wanted.first, &mut state.buffers[0])?;
        }
        for (other, (_, value)) in self.others.iter_mut().zip(&spec.others) {
            uploaded_into(value, &mut other.buffer)?;
            other.is_new = [true; 2];
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
