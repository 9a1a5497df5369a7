//! Roles of inputs, fixed batches, and memory that is too small.

use super::*;
use crate::config::DiffusionConfig;
use crate::equations::Schedule;
use crate::sample::{ClipX0, SampleOptions, Sampler, Spacing, sample_with};
use performer_ddpm_onnx::model::{Port, Summary};
use performer_ddpm_onnx::runner::{Backend, Capabilities, Device, LoopSpec, Runner, StepLoop};
use performer_ddpm_onnx::{Dim, ElementType, Result as OnnxResult, Shape, Tensor};
use std::sync::{Arc, Mutex};

fn port(name: &str, element: ElementType, dims: impl Into<Shape>) -> Port {
    Port { name: name.to_owned(), element, shape: Some(dims.into()) }
}

fn image(name: &str, batch: impl Into<Dim>, [c, h, w]: [usize; 3]) -> Port {
    port(name, ElementType::F32, [batch.into(), c.into(), h.into(), w.into()])
}

fn summary(inputs: Vec<Port>, outputs: Vec<Port>) -> Summary {
    Summary {
        graph: "g".into(),
        producer: String::new(),
        ir_version: 8,
        opsets: Vec::new(),
        inputs,
        outputs,
        weights: Vec::new(),
        parameters: 0,
        operators: Default::default(),
        metadata: Vec::new(),
        doc: String::new(),
    }
}

fn eps() -> Vec<Port> {
    vec![image("eps", "N", [3, 4, 5])]
}

#[test]
fn a_denoiser_s_inputs_are_found_by_role() {
    let t = crate::equations::Timestep::new(8).unwrap();
    let each = Tensor::i64([2], [7, 7]).unwrap();
    let (i64s, f32s) = (ElementType::I64, ElementType::F32);
    for (time, want) in [
        (port("t", i64s, [Dim::from("N")]), each.clone()),
        (port("t", i64s, [Dim::Unknown]), each),
        (port("t", i64s, [Dim::Known(1)]), Tensor::i64([1], [7]).unwrap()),
        (port("t", i64s, Shape::default()), Tensor::i64([], [7]).unwrap()),
        (port("t", f32s, [Dim::from("N")]), Tensor::f32([2], [7.0, 7.0]).unwrap()),
    ] {
        for swapped in [false, true] {
            let mut inputs = vec![image("sample", "B", [3, 4, 5]), time.clone()];
            if swapped {
                inputs.reverse();
            }
            let (ports, frame) = ports::denoiser("f.onnx", &summary(inputs, eps()), false).unwrap();
            assert_eq!((ports.x.as_str(), ports.t.as_str(), ports.eps.as_str()), ("sample", "t", "eps"));
            assert_eq!((frame.image, frame.batch), ([4, 5, 3], None));
            assert_eq!(ports.time(t, 2).unwrap(), want);
        }
    }
}

/// Twice the channels are a prediction and its variance; a third input is the classes' where the file says
/// so.
#[test]
fn a_variance_and_classes_are_found() {
    let inputs = || vec![image("x", "N", [3, 4, 5]), port("t", ElementType::I64, [Dim::from("N")])];
    let both = vec![image("out", "N", [6, 4, 5])];
    let (ports, _) = ports::denoiser("f.onnx", &summary(inputs(), both.clone()), false).unwrap();
    assert!(ports.has_variance);
    let (ports, _) = ports::denoiser("f.onnx", &summary(inputs(), [both, eps()].concat()), false)
        .expect("the prediction alone");
    assert_eq!((ports.eps.as_str(), ports.has_variance), ("eps", false));
    let classes = port("y", ElementType::I64, [Dim::from("N")]);
    for inputs in [[vec![classes.clone()], inputs()].concat(), [inputs(), vec![classes]].concat()] {
        let (ports, _) = ports::denoiser("f.onnx", &summary(inputs.clone(), eps()), true).unwrap();
        assert_eq!((ports.y.as_deref(), ports.t.as_str()), (Some("y"), "t"));
        let (foreign, _) = ports::denoiser("f.onnx", &summary(inputs, eps()), false).unwrap();
        assert_eq!(foreign.y, ports.y, "its name says what it is in a file of others too");
    }
    assert!(ports::denoiser("f.onnx", &summary(inputs(), eps()), true).is_err());
}

#[test]
fn what_is_no_denoiser_is_listed() {
    let x = || image("x", "N", [3, 4, 5]);
    let t = || port("t", ElementType::I64, [Dim::from("N")]);
    let open = port("x", ElementType::F32, [Dim::from("N"), 3.into(), Dim::Unknown, Dim::Unknown]);
    for (inputs, outputs, words) in [
        (vec![x()], eps(), ["inputs", "got x f32 [N, 3, 4, 5]"]),
        (vec![], eps(), ["inputs", "got none"]),
        (vec![x(), t(), port("mask", ElementType::I64, [Dim::from("N")])], eps(), ["inputs", "mask i64 [N]"]),
        (
            vec![x(), t(), port("class", ElementType::F32, [Dim::from("N")])],
            eps(),
            ["inputs", "class f32 [N]"],
        ),
        (vec![x(), image("y", "N", [3, 4, 5])], eps(), ["inputs", "y f32 [N, 3, 4, 5]"]),
        (vec![x(), port("t", ElementType::F64, [Dim::from("N")])], eps(), ["inputs", "t f64 [N]"]),
        (vec![x(), port("t", ElementType::I64, [2, 2])], eps(), ["inputs", "t i64 [2, 2]"]),
        (vec![open, t()], eps(), ["C, H and W fixed", "x f32 [N, 3, ?, ?]"]),
        (vec![x(), t()], vec![image("y", "N", [7, 4, 5])], ["outputs", "got y f32 [N, 7, 4, 5]"]),
    ] {
        let error = ports::denoiser("f.onnx", &summary(inputs, outputs), false).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        let text = error.to_string();
        assert!(text.starts_with("f.onnx") && words.iter().all(|word| text.contains(word)), "{text}");
    }
}

/// A denoiser with eps = x on a device with memory for `most` images.
struct Small {
    most: usize,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    batches: Arc<Mutex<Vec<usize>>>,
    description: Description,
}

impl Runner for Small {
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

    fn run(&mut self, inputs: &[(&str, &Tensor)]) -> OnnxResult<Vec<(String, Tensor)>> {
        let x = inputs[0].1.clone();
        self.batches.lock().unwrap().push(x.shape()[0]);
        if x.shape()[0] > self.most {
            let (device, reason) = ("cuda:0".to_owned(), "Failed to allocate memory".to_owned());
            return Err(OnnxError::OutOfMemory { device, bytes: Some(1 << 30), reason });
        }
        Ok(vec![("eps".to_owned(), x)])
    }

    fn step_loop<'a>(&'a mut self, _: &LoopSpec<'_>) -> OnnxResult<Box<dyn StepLoop + 'a>> {
        Err(OnnxError::invalid("loop", "", "", ""))
    }
}

fn small(most: usize, batch: Option<usize>) -> (OnnxDenoiser, Arc<Mutex<Vec<usize>>>) {
    let batches = Arc::new(Mutex::new(Vec::new()));
    let dim = || batch.map_or(Dim::from("N"), Dim::Known);
    let inputs = vec![image("x", dim(), [1, 2, 2]), port("t", ElementType::I64, [dim()])];
    let outputs = vec![image("eps", dim(), [1, 2, 2])];
    let (ports, frame) = ports::denoiser("f.onnx", &summary(inputs.clone(), outputs.clone()), false).unwrap();
    let description = Description {
        backend: Backend::Native,
        version: String::new(),
        device: Device::Cuda(0),
        tf32: false,
        library: String::new(),
        placement: Vec::new(),
    };
    let runner = Small { most, inputs, outputs, batches: Arc::clone(&batches), description };
    let loaded = Loaded { runner: Box::new(runner), frame };
    (
        OnnxDenoiser {
            kind: Kind::Denoiser(ports),
            loaded,
            takes: Takes::default(),
            classes: Classes::default(),
        },
        batches,
    )
}

fn options(count: usize, batch: usize) -> SampleOptions {
    SampleOptions {
        count,
        batch,
        seed: 0,
        sampler: Sampler::Ddim { eta: 0.0 },
        steps: Some(2),
        spacing: Spacing::Trailing,
        clip_x0: ClipX0::KeepEps,
        ..SampleOptions::default()
    }
}

#[test]
fn a_batch_that_does_not_fit_is_told_with_one_that_does() {
    let schedule = Schedule::from_config(&DiffusionConfig::default()).unwrap();
    for (most, batch, words) in [
        (10, 40, "no memory for a batch of 40; a batch of 10 fits"),
        (12, 40, "a batch of 10 fits"),
        (1, 3, "a batch of 1 fits"),
        (0, 3, "no smaller one was seen to fit"),
    ] {
        let (mut denoiser, _) = small(most, None);
        let error = sample_with(&mut denoiser, &schedule, &options(50, batch), None, |_| {}).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        let text = error.to_string();
        assert!(text.starts_with("cuda:0") && text.contains(words), "{text}");
    }
    let (mut denoiser, batches) = small(10, None);
    sample_with(&mut denoiser, &schedule, &options(15, 10), None, |_| {}).unwrap();
    assert_eq!(*batches.lock().unwrap(), [10, 10, 5, 5]);
}

#[test]
fn a_fixed_batch_is_filled_up() {
    let schedule = Schedule::from_config(&DiffusionConfig::default()).unwrap();
    let (mut open, _) = small(9, None);
    let want = sample_with(&mut open, &schedule, &options(5, 4), None, |_| {}).unwrap();
    let (mut fixed, batches) = small(9, Some(4));
    assert_eq!(fixed.fixed_batch(), Some(4));
    assert_eq!(sample_with(&mut fixed, &schedule, &options(5, 4), None, |_| {}).unwrap(), want);
    assert_eq!(*batches.lock().unwrap(), [4; 4]);
    let error = sample_with(&mut fixed, &schedule, &options(5, 5), None, |_| {}).unwrap_err();
    assert!(error.to_string().contains("`SampleOptions::batch`: expected at most 4"), "{error}");
}
