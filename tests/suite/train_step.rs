//! The training step as an ONNX graph, in ONNX Runtime on the processor, against the engine.

use crate::support::networks::{channels_last, config, difference, kinds, normal, randomised};
use crate::support::peers::in_time;
use crate::support::runtimes::onnx_runtime;
use performer_ddpm::Pipeline;
use performer_ddpm::config::{
    Activation, Averaging, BlockAttention, DiffusionConfig, FeatureMap, LossWeight, MuonConfig, Prediction,
    Preset, Resampling, TimeScaleShift, TrainConfig, UnetConfig,
};
use performer_ddpm::equations::Schedule;
use performer_ddpm::equations::forward::eq03_q_sample;
use performer_ddpm::equations::objective::Objective;
use performer_ddpm::export::{GraphKind, GraphSpec, Metadata, ROW, Source, States, TrainStep, build};
use performer_ddpm::kernels::internals::{DropOut, Dropped, Kernel};
use performer_ddpm::kernels::{Element, Isa};
use performer_ddpm::model::graph::{Op, Shape};
use performer_ddpm::model::{Condition, Engine, Gradient, Model};
use performer_ddpm::rng::{Stream, key};
use performer_ddpm::sample::onnx::Runtime;
use performer_ddpm::train::{Adam, Optimizer, Update, clip_factor, global_norm};
use performer_ddpm_onnx::runner::Runner;
use performer_ddpm_onnx::runner::ort::OrtOptions;
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
        let mut engine = Engine::new(&model, 2, Isa::Reference).expect("an engine");
        self.gradient(&mut engine, &model, diffusion, weight)
    }

    fn gradient<T: Element>(
        &self,
        engine: &mut Engine<T>,
        model: &Model<T>,
        diffusion: &DiffusionConfig,
        weight: LossWeight,
    ) -> Gradient<T> {
        let shape = model.graph.shape(model.graph.input);
        let schedule = Schedule::from_config(diffusion).expect("a schedule");
        let objective = Objective::new(diffusion, weight, &schedule);
        let [x_0, eps] = [&self.x_0, &self.eps]
            .map(|x| channels_last(x, shape).into_iter().map(T::of).collect::<Vec<T>>());
        let example = |image: usize, x_t: &mut [T], notes: &mut [T]| {
            let part = image * shape.len()..(image + 1) * shape.len();
            let level = &schedule.levels()[self.indices[image]];
            notes[..shape.len()].copy_from_slice(&eps[part.clone()]);
            eq03_q_sample(&x_0[part.clone()], &eps[part.clone()], level.alpha_bar, x_t);
            objective.prepare(level, &x_0[part], x_t, notes);
            Condition { index: level.t.index(), class: self.classes.as_ref().map(|classes| classes[image]) }
        };
        let mut gradient = Gradient::default();
        engine
            .gradient_of(&objective, model, self.len(), &example, Some(DROPOUT), &mut gradient)
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
/// gradient; the loss; and the gradient's norm. Bound: 1e-5 of the largest gradient in the parameter, which
/// is `f32` rounding through some hundred layers; those that are 0 in theory (a softmax's key biases) are
/// compared with a thousandth of the largest of all. (A ReLU's argument that is 0 to within its rounding
/// would add the change of its gradient there; the batches have none.)
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
        for (seed, indices) in [(11, vec![999, 0, 500]), (15, vec![250])] {
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
                    if error > worst.0 || error.is_nan() {
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

/// A batch's timesteps include t = 1, where the bound has the discretised decoder.
#[test]
fn the_gradients_are_the_engine_s_where_the_variance_is_learned() {
    let base = config(BlockAttention::Favor, FeatureMap::Positive);
    let wide = UnetConfig { out_channels: 2 * base.out_channels, ..base };
    for (prediction, weight, layout) in [
        (Prediction::Epsilon, LossWeight::None, States::PerParameter),
        (Prediction::Sample, LossWeight::P2 { k: 1.0, gamma: 1.0 }, States::Rows),
        (Prediction::VPrediction, LossWeight::MinSnr { gamma: 5.0 }, States::Rows),
    ] {
        let diffusion = DiffusionConfig { prediction, learned_range: true, ..DiffusionConfig::default() };
        check(&format!("learned variance, {prediction:?}"), &wide, &diffusion, weight, layout);
    }
}

/// Everything that a step changes, from random states, against Adam and the average in `f64`. The norm is
/// above the limit, and the moments are of the gradient's size. Bound: 1e-5 of the largest number, the
/// gradient's own.
fn updates(step: TrainStep, number: u64) {
    let (_, config) = kinds().remove(0);
    let model = randomised(&config, 4);
    let diffusion = DiffusionConfig::default();
    let graph = graph(&model, &diffusion, step);
    in_time(move || {
        let Some(mut runner) = onnx_runtime(&graph) else { return };
        let batch = Batch::of(&model, 21, &[700, 30]);
        let gradient = batch.reference(&model, &diffusion, LossWeight::None);
        let size = global_norm(&gradient.weights) / (gradient.weights.len() as f64).sqrt();
        let random = |seed, spread: f64| -> Vec<f32> {
            normal(seed, model.weights.len()).iter().map(|x| (f64::from(*x) * spread) as f32).collect()
        };
        let (m, average) = (random(31, size), random(33, 1.0));
        let v: Vec<f32> = random(32, size).iter().map(|x| x * x + (size * size) as f32).collect();
        let lr = 1e-2f32;
        let mut inputs = batch.inputs(&model, lr, number as i64);
        let given = [&model.weights, &m, &v, &average].map(|state| in_files(&model, state));
        inputs.extend(states(&model, States::PerParameter, [0, 1, 2, 3].map(|i| &given[i][..])));
        let got = run(runner.as_mut(), &inputs);

        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
        let (mut w, mut average) = (wide(&model.weights), wide(&average));
        let mut adam = Adam { first_moment: wide(&m), second_moment: wide(&v) };
        let train = TrainConfig {
            beta1: step.beta1,
            beta2: step.beta2,
            adam_eps: step.adam_eps,
            muon: step.muon,
            clip_norm: step.clip_norm,
            average: step.average,
            ..Preset::Tiny.config().train
        };
        let update = Update {
            lr: f64::from(lr),
            number,
            clip: clip_factor(global_norm(&gradient.weights), train.clip_norm),
            ema_decay: train.average.decay_at(number),
        };
        let optimizer = Optimizer::new(&train, model.graph.params.iter());
        let isa = Isa::Reference;
        optimizer.update(isa, &train, update, &mut adam, &gradient.weights, &mut w, &mut average);
        for (state, want) in
            [("w", &w), ("m", &adam.first_moment), ("v", &adam.second_moment), ("ema", &average)]
        {
            for param in model.graph.params.iter() {
                let want = param.kind.to_file_layout(&want[param.range()]);
                let off = difference(&got[&format!("{state}.{}.next", param.name)], &want);
                assert!(off < 1e-5, "{state} of {}, update {number}: {off:e}", param.name);
            }
        }
    });
}

#[test]
fn an_update_is_adam_s_and_the_average_s() {
    let usual = TrainStep::default();
    // The first update, one at which the average still counts them, and one at its full length.
    for number in [1, 5, 1_000_000] {
        updates(usual, number);
    }
    let power = Averaging::Power { width: 0.1 };
    let other =
        TrainStep { beta1: 0.5, beta2: 0.99, adam_eps: 1e-3, clip_norm: 0.0, average: power, ..usual };
    for number in [1, 2, 40] {
        updates(other, number);
    }
}

/// The inner matrices by Muon, whose momentum is where Adam's is; all else by Adam. v, which the engine leaves
/// alone there, stays what was given.
#[test]
fn an_update_of_the_inner_matrices_is_muon_s() {
    let muon = Some(MuonConfig { momentum: 0.9, rate: 1.5 });
    for number in [1, 40] {
        updates(TrainStep { muon, ..TrainStep::default() }, number);
    }
}

/// The engine in `f32` and the graph from the same start, on the same batches: the losses to 1e-3 of each.
/// Both round differently, and Adam's quotients enlarge what was rounded off small gradients.
fn follows(preset: Preset, batch: usize, steps: u64) {
    let config = preset.config();
    let mut model = Model::<f32>::new(&config.unet, 1).expect("a network");
    let step = TrainStep { states: States::PerParameter, ..TrainStep::from(&config.train) };
    let graph = graph(&model, &config.diffusion, step);
    let Some(mut runner) = onnx_runtime(&graph) else { return };
    let mut engine = Engine::new(&model, 2, Isa::detect()).expect("an engine");
    let (isa, train) = (Isa::detect(), &config.train);
    let optimizer = Optimizer::new(train, model.graph.params.iter());
    let mut adam = Adam::new(model.weights.len());
    let mut average = model.weights.clone();
    let start = in_files(&model, &model.weights);
    let zeros = vec![0.0; start.len()];
    let mut carried = states(&model, States::PerParameter, [&start, &zeros, &zeros, &start]);
    let steps_of = config.diffusion.timesteps;
    for number in 1..=steps {
        let indices: Vec<usize> = (0..batch).map(|i| (number as usize * 37 + i * 11) % steps_of).collect();
        let batch = Batch::of(&model, 100 + 2 * number, &indices);
        let lr = config.train.lr_at(number);
        let want = batch.gradient(&mut engine, &model, &config.diffusion, config.train.loss_weight);
        let norm = global_norm(&want.weights);
        let update = Update {
            lr,
            number,
            clip: clip_factor(norm, config.train.clip_norm),
            ema_decay: config.train.average.decay_at(number),
        };
        let mut weights = std::mem::take(&mut model.weights);
        optimizer.update(isa, train, update, &mut adam, &want.weights, &mut weights, &mut average);
        model.weights = weights;

        let mut inputs = batch.inputs(&model, lr as f32, number as i64);
        inputs.extend(carried);
        let refs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (&**name, tensor)).collect();
        let outputs = runner.run(&refs).expect("a step");
        let loss = f64::from(outputs[0].1.as_f32().expect("floats")[0]);
        let off = (loss / want.loss - 1.0).abs();
        assert!(off < 1e-3, "step {number}: loss {loss} for {}", want.loss);
        if number == steps {
            println!("{preset:?}, step {number}: loss {loss}, {off:.1e} from the engine's");
        }
        let next = |(name, tensor): (String, Tensor)| {
            name.strip_suffix(".next").map(|name| (name.to_owned(), tensor))
        };
        carried = outputs.into_iter().filter_map(next).collect();
    }
}

#[test]
fn the_tiny_preset_follows_the_engine() {
    follows(Preset::Tiny, 3, 200);
}

/// Takes a minute or two: `cargo test --test suite -- --ignored train_step`.
#[test]
#[ignore = "takes minutes"]
fn the_fashion_preset_follows_the_engine() {
    follows(Preset::Fashion, 4, 50);
}

/// A file says what it is, and nothing samples from it.
#[test]
fn a_train_step_file_describes_itself_and_is_not_sampled_from() {
    let (_, config) = kinds().remove(0);
    let model = randomised(&config, 4);
    let average = Averaging::Power { width: 0.1 };
    for states in [States::PerParameter, States::Rows] {
        let step = TrainStep { beta2: 0.99, average, states, ..TrainStep::default() };
        let graph = graph(&model, &DiffusionConfig::default(), step);
        let metadata = Metadata::read(&graph).expect("metadata").expect("ours");
        assert_eq!((metadata.graph, metadata.training), (GraphKind::TrainStep, Some(step)));
        let summary = graph.summary().expect("a summary");
        let inputs: Vec<String> = summary.inputs.iter().map(|port| port.name.clone()).collect();
        let per_state = if states == States::Rows { 1 } else { model.graph.params.iter().len() };
        assert_eq!(inputs[..5], ["x_0", "eps", "t", "lr", "step"]);
        assert_eq!(inputs.len(), 5 + model.graph.dropouts + 4 * per_state);
        assert_eq!(summary.outputs.len(), 2 + 4 * per_state);
        let outputs: Vec<&str> = summary.outputs.iter().map(|port| &*port.name).take(2).collect();
        assert_eq!(outputs, ["loss", "grad_norm"]);
        let weights: usize =
            summary.weights.iter().map(|weight| weight.shape.iter().product::<usize>()).sum();
        let projections: usize = model.projections.iter().map(Vec::len).sum();
        assert_eq!(weights, projections, "a file of no weights but the projections");
        let runtime = Runtime::OnnxRuntime(OrtOptions::default());
        let error =
            Pipeline::from_onnx(&graph, &runtime, 1, None).expect_err("it does not sample").to_string();
        assert!(error.contains("train-step"), "{error}");
    }
}

/// What has no training step as a graph is refused by its name.
#[test]
fn networks_that_cannot_be_trained_by_a_graph_are_refused() {
    let (_, base) = kinds().remove(0);
    let plain = DiffusionConfig::default();
    let learned = DiffusionConfig { learned_range: true, ..plain.clone() };
    let wide = UnetConfig { out_channels: 2 * base.out_channels, ..base.clone() };
    for (network, diffusion, words) in
        [(&wide, &plain, "output is an image"), (&base, &learned, "an image and its variances")]
    {
        let model = randomised(network, 5);
        let step = GraphSpec::TrainStep(TrainStep::default());
        let error = build(Source::new(&model, diffusion), &step).expect_err("it cannot be").to_string();
        assert!(error.contains(words), "{error}");
    }
}
