//! The training step as an ONNX graph, in ONNX Runtime on the processor, against the engine.

use crate::support::networks::{channels_last, config, kinds, normal, randomised};
use crate::support::peers::in_time;
use crate::support::runtimes::onnx_runtime;
use performer_ddpm::config::{
    Activation, BlockAttention, DiffusionConfig, FeatureMap, LossWeight, Prediction, Resampling,
    TimeScaleShift, UnetConfig,
};
use performer_ddpm::equations::Schedule;
use performer_ddpm::equations::forward::eq03_q_sample;
use performer_ddpm::equations::objective::Objective;
use performer_ddpm::export::{GraphSpec, ROW, Source, States, TrainStep, build};
use performer_ddpm::kernels::Isa;
use performer_ddpm::kernels::internals::{DropOut, Dropped, Kernel};
use performer_ddpm::model::graph::{Op, Shape};
use performer_ddpm::model::{Condition, Engine, Gradient, Model};
use performer_ddpm::rng::{Stream, key};
use performer_ddpm_onnx::runner::Runner;
use performer_ddpm_onnx::{Model as OnnxModel, Tensor};
use std::collections::HashMap;

/// The seed and the step of dropout's masks.
const DROPOUT: (u64, u64) = (5, 3);

/// A batch, its images \[n, c, h, w\].
struct Batch {
    x_0: Vec<f32>,
    eps: Vec<f32>,
    indices: Vec<usize>,
    classes: Option<Vec<usize>>,
}

impl Batch {
    fn of(model: &Model<f32>, seed: u64, indices: &[usize]) -> Batch {
        let n = indices.len();
        let len = n * model.input_len();
        let classes = model.graph.classes().map(|classes| (0..n).map(|i| (2 * i + 1) % classes).collect());
        Batch { x_0: normal(seed, len), eps: normal(seed + 1, len), indices: indices.to_vec(), classes }
    }

    fn len(&self) -> usize {
        self.indices.len()
    }

    /// The engine's loss and gradient in `f64` with the reference kernels.
    fn reference(
        &self,
        model: &Model<f32>,
        diffusion: &DiffusionConfig,
        weight: LossWeight,
    ) -> Gradient<f64> {
        let model: Model<f64> = model.cast();
        let shape = model.graph.shape(model.graph.input);
        let schedule = Schedule::from_config(diffusion).expect("a schedule");
        let objective = Objective::new(diffusion, weight, &schedule);
        let (x_0, eps) = (channels_last(&self.x_0, shape), channels_last(&self.eps, shape));
        let example = |image: usize, x_t: &mut [f64], notes: &mut [f64]| {
            let part = image * shape.len()..(image + 1) * shape.len();
            let level = &schedule.levels()[self.indices[image]];
            notes[..shape.len()].copy_from_slice(&eps[part.clone()]);
            eq03_q_sample(&x_0[part.clone()], &eps[part.clone()], level.alpha_bar, x_t);
            objective.prepare(level, &x_0[part], x_t, notes);
            Condition { index: level.t.index(), class: self.classes.as_ref().map(|classes| classes[image]) }
        };
        let mut engine = Engine::new(&model, 2, Isa::Reference).expect("an engine");
        let mut gradient = Gradient::default();
        engine
            .gradient_of(&objective, &model, self.len(), &example, Some(DROPOUT), &mut gradient)
            .expect("a gradient");
        gradient
    }

    /// The graph's inputs but for the states.
    fn inputs(&self, model: &Model<f32>, lr: f32, step: i64) -> Vec<(String, Tensor)> {
        let n = self.len();
        let image = |shape: Shape| vec![n, shape.c, shape.h, shape.w];
        let shape = image(model.graph.shape(model.graph.input));
        let integers = |numbers: &[usize]| {
            let numbers: Vec<i64> = numbers.iter().map(|number| *number as i64).collect();
            Tensor::i64([n], numbers).expect("a number for each image")
        };
        let mut inputs = vec![
            ("x_0".to_owned(), Tensor::f32(shape.clone(), &self.x_0[..]).expect("images")),
            ("eps".to_owned(), Tensor::f32(shape, &self.eps[..]).expect("images")),
            ("t".to_owned(), integers(&self.indices)),
            ("lr".to_owned(), Tensor::f32([1], [lr]).expect("a number")),
            ("step".to_owned(), Tensor::i64([1], [step]).expect("a number")),
        ];
        inputs.extend(self.classes.as_ref().map(|classes| ("y".to_owned(), integers(classes))));
        for node in &model.graph.nodes {
            let Op::Dropout { p, index } = node.op else { continue };
            let shape = model.graph.shape(node.output);
            let mut mask = Vec::new();
            for sample in 0..n {
                let step = DROPOUT.1 | (index as u64) << 48;
                let mut x = vec![1.0f32; shape.len()];
                let key = key(DROPOUT.0, Stream::Dropout, step, sample as u64);
                DropOut::try_run(Isa::Reference, Dropped { key: &key, p, x: &mut x }).expect("a probability");
                let pixels = shape.pixels();
                mask.extend((0..shape.len()).map(|i| x[i % pixels * shape.c + i / pixels]));
            }
            inputs.push((format!("dropout.{index}"), Tensor::f32(image(shape), mask).expect("a mask")));
        }
        inputs
    }
}

/// A vector of all parameters in the files' order.
fn in_files(model: &Model<f32>, numbers: &[f32]) -> Vec<f32> {
    let params = model.graph.params.iter();
    params.flat_map(|param| param.kind.to_file_layout(&numbers[param.range()])).collect()
}

/// The states' inputs; each state is in the files' order.
fn states(model: &Model<f32>, layout: States, states: [&[f32]; 4]) -> Vec<(String, Tensor)> {
    let mut inputs = Vec::new();
    for (state, numbers) in ["w", "m", "v", "ema"].into_iter().zip(states) {
        match layout {
            States::Rows => {
                let mut rows = Vec::new();
                for param in model.graph.params.iter() {
                    rows.extend_from_slice(&numbers[param.range()]);
                    rows.resize(rows.len().next_multiple_of(ROW), 0.0);
                }
                let tensor = Tensor::f32([rows.len() / ROW, ROW], rows).expect("rows");
                inputs.push((state.to_owned(), tensor));
            }
            States::PerParameter => inputs.extend(model.graph.params.iter().map(|param| {
                let tensor = Tensor::f32(param.kind.file_shape(), &numbers[param.range()]).expect("a tensor");
                (format!("{state}.{}", param.name), tensor)
            })),
        }
    }
    inputs
}

fn run(runner: &mut dyn Runner, inputs: &[(String, Tensor)]) -> HashMap<String, Vec<f32>> {
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (&**name, tensor)).collect();
    let outputs = runner.run(&inputs).unwrap_or_else(|error| panic!("{error}"));
    outputs.into_iter().map(|(name, tensor)| (name, tensor.into_f32().expect("floats"))).collect()
}

fn graph(model: &Model<f32>, diffusion: &DiffusionConfig, step: TrainStep) -> OnnxModel {
    let built = build(Source::new(model, diffusion), &GraphSpec::TrainStep(step)).expect("a graph");
    OnnxModel::from_bytes("train.onnx", &built.to_bytes().expect("bytes")).expect("a model")
}

/// Every parameter's gradient after one step from moments of 0, where the first moment is 0.1 of the clipped
/// gradient; the loss; and the gradient's norm. Bound: 1e-5 of the largest gradient in the parameter, which is
/// `f32` rounding through some hundred layers; those that are 0 in theory (a softmax's key biases) are compared with
/// a thousandth of the largest of all.
fn check(
    name: &str,
    config: &UnetConfig,
    diffusion: &DiffusionConfig,
    loss_weight: LossWeight,
    layout: States,
) {
    let model = randomised(config, 3);
    let step = TrainStep { loss_weight, states: layout, ..TrainStep::default() };
    let graph = graph(&model, diffusion, step);
    let (name, diffusion) = (name.to_owned(), diffusion.clone());
    in_time(move || {
        let Some(mut runner) = onnx_runtime(&graph) else { return };
        let w = in_files(&model, &model.weights);
        let zeros = vec![0.0; w.len()];
        for (seed, indices) in [(11, vec![999, 0, 500]), (13, vec![250])] {
            let batch = Batch::of(&model, seed, &indices);
            let want = batch.reference(&model, &diffusion, loss_weight);
            let mut inputs = batch.inputs(&model, 1e-3, 1);
            inputs.extend(states(&model, layout, [&w, &zeros, &zeros, &w]));
            let got = run(runner.as_mut(), &inputs);
            let norm = want.weights.iter().map(|g| g * g).sum::<f64>().sqrt();
            let of = |name: &str| f64::from(got[name][0]);
            let close = |what: &str, got: f64, want: f64| {
                assert!((got / want - 1.0).abs() < 1e-5, "{name}: {what} {got} for {want}");
            };
            close("loss", of("loss"), want.loss);
            close("norm", of("grad_norm"), norm);
            let factor = 0.1 * (1.0 / (norm + 1e-6)).min(1.0);
            let largest = |x: &[f64]| x.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            let least = 1e-3 * largest(&want.weights);
            let mut worst = (0.0, String::new());
            let mut start = 0;
            for param in model.graph.params.iter() {
                let want = param.kind.to_file_layout(&want.weights[param.range()]);
                let moments = match layout {
                    States::Rows => &got["m.next"][start..start + want.len()],
                    States::PerParameter => &got[&format!("m.{}.next", param.name)][..],
                };
                start += want.len().next_multiple_of(ROW);
                let scale = largest(&want).max(least);
                assert_eq!(moments.len(), want.len());
                for (m, want) in moments.iter().zip(&want) {
                    let error = (f64::from(*m) / factor - want).abs() / scale;
                    if !(error <= worst.0) {
                        worst = (error, param.name.clone());
                    }
                }
            }
            println!("{name}, {} images: {:.1e} in {}", batch.len(), worst.0, worst.1);
            assert!(worst.0 < 1e-5, "{name}, {} images: {:e} in {}", batch.len(), worst.0, worst.1);
        }
    });
}

fn check_kind(kind: usize) {
    let (name, config) = kinds().remove(kind);
    check(&name, &config, &DiffusionConfig::default(), LossWeight::None, States::PerParameter);
}

#[test]
fn the_gradients_are_the_engine_s_with_softmax() {
    check_kind(0);
}

#[test]
fn the_gradients_are_the_engine_s_with_positive_features() {
    check_kind(1);
}

#[test]
fn the_gradients_are_the_engine_s_with_hyperbolic_features() {
    check_kind(2);
}

#[test]
fn the_gradients_are_the_engine_s_with_trigonometric_features() {
    check_kind(3);
}

#[test]
fn the_gradients_are_the_engine_s_with_relu_features() {
    check_kind(4);
}

#[test]
fn the_gradients_are_the_engine_s_in_networks_of_every_kind() {
    let base = config(BlockAttention::Favor, FeatureMap::Positive);
    let diffusion = DiffusionConfig::default();
    let (resnet, scale_shift) = (vec![Resampling::Resnet; 2], TimeScaleShift::ScaleShift);
    let of = |prediction| DiffusionConfig { prediction, ..DiffusionConfig::default() };
    let networks = [
        (
            "classes, scale_shift, mish, v",
            UnetConfig {
                num_class_embeds: Some(3),
                resnet_time_scale_shift: scale_shift,
                downsampling: resnet.clone(),
                act_fn: Activation::Mish,
                ..base.clone()
            },
            of(Prediction::VPrediction),
            LossWeight::MinSnr { gamma: 5.0 },
        ),
        (
            "gelu, centred, x_0",
            UnetConfig { act_fn: Activation::Gelu, center_input_sample: true, ..base.clone() },
            of(Prediction::Sample),
            LossWeight::P2 { k: 1.0, gamma: 1.0 },
        ),
        (
            "relu, one class, upsampling blocks",
            UnetConfig {
                act_fn: Activation::Relu,
                num_class_embeds: Some(1),
                upsampling: resnet,
                ..base.clone()
            },
            diffusion.clone(),
            LossWeight::P2 { k: 1.0, gamma: 0.5 },
        ),
        (
            "scale_shift, no dropout",
            UnetConfig { resnet_time_scale_shift: scale_shift, dropout: 0.0, ..base },
            diffusion,
            LossWeight::None,
        ),
    ];
    for (name, config, diffusion, weight) in networks {
        check(name, &config, &diffusion, weight, States::Rows);
    }
}
