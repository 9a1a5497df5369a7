//! A loop whose state stays on the device.

use super::explain;
use super::lengths;
use crate::error::Result;
use crate::runner::stepper::{check_same, unknown_input};
use crate::runner::{Backend, Device, LoopSpec, StepLoop, guarded};
use crate::types::Tensor;
use ::ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ::ort::session::{IoBinding, NoSelectedOutputs, RunOptions, Session};
use ::ort::value::{DynTensor, TensorElementType};

/// Two device buffers take turns as the state's input and output, since a runtime may write an output before it has read all
/// of an input. Every buffer keeps its address, as a CUDA graph requires; each turn is captured as a graph of its own.
pub(super) struct BoundLoop<'a> {
    session: &'a mut Session,
    device: Device,
    input: String,
    shape: Vec<usize>,
    buffers: Buffers,
    current: usize,
}

struct Buffers {
    turns: [Turn; 2],
    states: [DynTensor; 2],
    others: Vec<(String, DynTensor)>,
}

struct Turn {
    binding: IoBinding,
    options: RunOptions<NoSelectedOutputs>,
}

impl<'a> BoundLoop<'a> {
    pub(super) fn new(
        session: &'a mut Session,
        device: Device,
        cuda_graph: bool,
        spec: &LoopSpec<'_>,
    ) -> Result<Self> {
        let refuse = |error: ::ort::Error| explain(device, "run", &error.to_string(), &[]);
        let buffers = Buffers::new(session, device, cuda_graph, spec).map_err(refuse)?;
        let mut this = BoundLoop {
            session,
            device,
            input: spec.input.to_owned(),
            shape: spec.state.shape().to_vec(),
            buffers,
            current: 0,
        };
        for i in 0..spec.others.len() {
            this.bind_other(i).map_err(refuse)?;
        }
        Ok(this)
    }

    /// Binding hands the runtime the buffer itself, or a copy where it wants the value in other memory; hence it is repeated
    /// whenever the buffer's contents change.
    fn bind_other(&mut self, i: usize) -> ::ort::Result<()> {
        let (name, buffer) = &self.buffers.others[i];
        for turn in &mut self.buffers.turns {
            turn.binding.bind_input(name.as_str(), buffer)?;
        }
        Ok(())
    }

    fn advance(&mut self) -> ::ort::Result<()> {
        let turn = &mut self.buffers.turns[self.current];
        turn.binding.bind_input(self.input.as_str(), &self.buffers.states[self.current])?;
        self.session.run_binding_with_options(&turn.binding, &turn.options)?;
        self.current = 1 - self.current;
        Ok(())
    }

    fn download(&self) -> ::ort::Result<Tensor> {
        let device = &self.buffers.states[self.current];
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
        if input == self.input {
            return Err(unknown_input(input));
        }
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

    fn state(&mut self) -> Result<Tensor> {
        let tensor = guarded(Backend::OnnxRuntime, "run", || {
            self.download().map_err(|error| explain(self.device, "run", &error.to_string(), &[]))
        })?;
        check_same(&self.input, &self.shape, &tensor)?;
        Ok(tensor)
    }
}

impl Buffers {
    fn new(session: &Session, device: Device, cuda_graph: bool, spec: &LoopSpec<'_>) -> ::ort::Result<Self> {
        let allocator = match device {
            Device::Cpu => Allocator::default(),
            Device::Cuda(index) => {
                let index = i32::try_from(index).unwrap_or(i32::MAX);
                let kind = (AllocatorType::Device, MemoryType::Default);
                Allocator::new(session, MemoryInfo::new(AllocationDevice::CUDA, index, kind.0, kind.1)?)?
            }
        };
        let mut states = [uploaded(&allocator, spec.state)?, uploaded(&allocator, spec.state)?];
        let others = spec
            .others
            .iter()
            .map(|(name, value)| Ok(((*name).to_owned(), uploaded(&allocator, value)?)))
            .collect::<::ort::Result<Vec<_>>>()?;
        let mut turn = |from| turn(session, spec, &mut states, from, cuda_graph);
        let turns = [turn(0)?, turn(1)?];
        Ok(Buffers { turns, states, others })
    }
}

fn turn(
    session: &Session,
    spec: &LoopSpec<'_>,
    states: &mut [DynTensor; 2],
    from: usize,
    cuda_graph: bool,
) -> ::ort::Result<Turn> {
    let mut binding = session.create_binding()?;
    binding.bind_input(spec.input, &states[from])?;
    binding.bind_output(spec.output, &mut states[1 - from])?;
    let mut options = RunOptions::new()?;
    if cuda_graph {
        // Graphs are told apart by number, from 1 on.
        options.set("gpu_graph_id", (from + 1).to_string())?;
    }
    Ok(Turn { binding, options })
}

fn uploaded(allocator: &Allocator, value: &Tensor) -> ::ort::Result<DynTensor> {
    let element = match value {
        Tensor::F32 { .. } => TensorElementType::Float32,
        Tensor::I64 { .. } => TensorElementType::Int64,
    };
    let mut buffer = DynTensor::new(allocator, element, value.shape())?;
    uploaded_into(value, &mut buffer)?;
    Ok(buffer)
}

fn uploaded_into(value: &Tensor, buffer: &mut DynTensor) -> ::ort::Result<()> {
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
