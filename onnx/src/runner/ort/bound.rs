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

/// A loop over buffers that the runner keeps from one loop to the next.
pub(super) struct BoundLoop<'a> {
    session: &'a mut Session,
    device: Device,
    input: String,
    shape: Vec<usize>,
    buffers: &'a mut Buffers,
    current: usize,
}

/// Two device buffers alternate as input and output of the state, because a runtime may write an output
/// before it has read all of an input. Every buffer keeps its address, as CUDA graphs require. Each of the
/// two alternatives is captured as a graph of its own, and later loops of the same shapes replay it.
pub(super) struct Buffers {
    turns: [Turn; 2],
    states: [DynTensor; 2],
    others: Vec<(String, DynTensor)>,
    ports: [String; 2],
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
        let mut this = BoundLoop {
            session,
            device,
            input: spec.input.to_owned(),
            shape: spec.state.shape().to_vec(),
            buffers,
            current: 0,
        };
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
        let mut states = [uploaded(&allocator, spec.state)?, uploaded(&allocator, spec.state)?];
        let others = spec
            .others
            .iter()
            .map(|(name, value)| Ok(((*name).to_owned(), uploaded(&allocator, value)?)))
            .collect::<::ort::Result<Vec<_>>>()?;
        let mut turn = |from: usize| {
            let mut binding = session.create_binding()?;
            binding.bind_input(spec.input, &states[from])?;
            binding.bind_output(spec.output, &mut states[1 - from])?;
            let mut options = RunOptions::new()?;
            if let Some(graph) = graph {
                options.set("gpu_graph_id", (graph as usize + from).to_string())?;
            }
            Ok::<_, ::ort::Error>(Turn { binding, options })
        };
        let turns = [turn(0)?, turn(1)?];
        Ok(Buffers { turns, states, others, ports: [spec.input.to_owned(), spec.output.to_owned()] })
    }

    /// Whether a loop over the same ports with values of the same shapes and types can use these buffers.
    pub(super) fn serve(&self, spec: &LoopSpec<'_>) -> bool {
        let same = |buffer: &DynTensor, value: &Tensor| {
            *buffer.data_type() == element(value) && lengths(buffer.shape()) == value.shape()
        };
        self.ports == [spec.input, spec.output]
            && same(&self.states[0], spec.state)
            && self.others.len() == spec.others.len()
            && self
                .others
                .iter()
                .zip(&spec.others)
                .all(|(ours, (name, value))| ours.0 == *name && same(&ours.1, value))
    }

    /// Replaces the contents by another loop's first values.
    pub(super) fn restart(&mut self, spec: &LoopSpec<'_>) -> ::ort::Result<()> {
        uploaded_into(spec.state, &mut self.states[0])?;
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
