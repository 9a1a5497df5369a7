//! Exported graphs against the engine's `f64` reference, in every available runtime.

use crate::support::networks::{
    channels_first, channels_last, difference, kinds, normal, randomised, reference,
};
use crate::support::peers::in_time;
use crate::support::runtimes::run;
use crate::support::runtimes::runners;
use performer_ddpm::Error;
use performer_ddpm::config::{
    Activation, DiffusionConfig, Prediction, Resampling, TimeScaleShift, UnetConfig, VarianceKind,
};
use performer_ddpm::equations::algorithms::alg2_sample;
use performer_ddpm::equations::ddim::{ClipX0, Ddim, ddim_sample};
use performer_ddpm::equations::reverse::Reverse;
use performer_ddpm::equations::solver::{DdimChoice, DpmSolver, Limit, Method, Scheduler, UniPc, Variance};
use performer_ddpm::equations::update::ReverseProcess;
use performer_ddpm::equations::{Schedule, Spacing, Timestep};
use performer_ddpm::export::{Expectation, GraphSpec, Source, build};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::{Engine, Model};
use performer_ddpm_onnx::{Model as OnnxModel, Tensor};

fn exported(model: &Model<f32>, spec: &GraphSpec) -> OnnxModel {
    let diffusion = DiffusionConfig::default();
    let built = build(Source::new(model, &diffusion), spec).expect("a graph");
    // Test the model as it is read from the file.
    OnnxModel::from_bytes("exported.onnx", &built.to_bytes().expect("bytes")).expect("a model")
}

fn images(n: usize, config: &UnetConfig, x: &[f32]) -> Tensor {
    let [h, w] = config.sample_size;
    Tensor::f32([n, config.in_channels, h, w], x).expect("whole images")
}

/// Every kind of attention, batches of 1, 3 and 17, t at both ends and between. Tolerance: f32 rounding
/// (6e-8) through some fifty layers and sums of up to 300 terms.
#[test]
fn the_denoiser_agrees_with_the_engine() {
    for (name, config) in kinds() {
        let model = randomised(&config, 1);
        let graph = exported(&model, &GraphSpec::Denoiser);
        in_time(move || {
            let mut loaded = runners(&graph);
            for (n, indices) in [(1, vec![0]), (1, vec![999]), (3, vec![999, 0, 500]), (17, vec![1; 17])] {
                let x = normal(n as u64, n * model.input_len());
                let want = reference(&model, &x, &indices);
                let t: Vec<i64> = indices.iter().map(|t| *t as i64).collect();
                let (x, t) = (images(n, &config, &x), Tensor::i64([n], t).expect("a vector"));
                for runner in &mut loaded {
                    let (runtime, got) = run(runner.as_mut(), &[("x", &x), ("t", &t)]);
                    let off = difference(&got, &want);
                    assert!(off < 2e-5, "{name} in {runtime}, batch {n}, t {indices:?}: {off:e}");
                }
            }
        });
    }
}

/// One step of both samplers, t at both ends and between, by the check that `export` makes.
#[test]
fn a_step_agrees_with_the_engine() {
    for (name, config) in kinds() {
        let model = randomised(&config, 2);
        let graph = exported(&model, &GraphSpec::Step);
        in_time(move || {
            let diffusion = DiffusionConfig::default();
            let source = Source::new(&model, &diffusion);
            let expectation =
                Expectation::new(source, &GraphSpec::Step, 2, &mut |_| {}).expect("the engine's results");
            for mut runner in runners(&graph) {
                let runtime = runner.describe().to_string();
                let outcome = expectation.compare(runner.as_mut());
                outcome.unwrap_or_else(|error| panic!("{name} in {runtime}: {error}"));
            }
        });
    }
}

/// Networks with classes, scale and shift, residual resampling, a centred input and every activation, by the
/// check that `export` makes; the sampler in two runs.
#[test]
fn networks_of_every_kind_agree_with_the_engine() {
    let (_, base) = kinds().remove(1);
    let (resnet, scale_shift) = (vec![Resampling::Resnet; 2], TimeScaleShift::ScaleShift);
    let networks = [
        UnetConfig {
            num_class_embeds: Some(3),
            resnet_time_scale_shift: scale_shift,
            downsampling: resnet.clone(),
            act_fn: Activation::Mish,
            ..base.clone()
        },
        UnetConfig { act_fn: Activation::Gelu, center_input_sample: true, ..base.clone() },
        UnetConfig {
            act_fn: Activation::Relu,
            num_class_embeds: Some(1),
            upsampling: resnet,
            ..base.clone()
        },
        UnetConfig { resnet_time_scale_shift: scale_shift, ..base },
    ];
    let process = ReverseProcess::Alg2(Reverse { variance: VarianceKind::FixedLarge, clip_x0: true });
    let scheduler = Scheduler::of_text(process, Spacing::Trailing);
    let sampler = GraphSpec::Sampler { scheduler, steps: Some(3), per_run: Some(2) };
    for config in networks {
        let model = well_conditioned(&config, 7);
        for spec in [GraphSpec::Denoiser, GraphSpec::Step, sampler] {
            let (model, config, graph) = (model.clone(), config.clone(), exported(&model, &spec));
            in_time(move || {
                let diffusion = DiffusionConfig::default();
                let source = Source::new(&model, &diffusion);
                let expectation =
                    Expectation::new(source, &spec, 2, &mut |_| {}).expect("the engine's results");
                for mut runner in runners(&graph) {
                    let runtime = runner.describe().to_string();
                    let outcome = expectation.compare(runner.as_mut());
                    outcome.unwrap_or_else(|error| panic!("{config:?} {spec:?} in {runtime}: {error}"));
                }
            });
        }
    }
}

/// Samplers of every kind for networks that predict eps, x_0 and v, with and without a learned variance,
/// clipping and thresholding, by the check that `export` makes: one step, and all steps in two runs.
#[test]
fn every_sampler_agrees_with_the_engine() {
    let (_, base) = kinds().remove(1);
    let [eps, x0, v] = [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction];
    let dpm = |order, sde| Method::DpmSolver(DpmSolver { order, sde, ..DpmSolver::default() });
    let unipc = |order| Method::UniPc(UniPc { order, ..UniPc::default() });
    let ddpm = |variance| Method::Ddpm { variance, noise_at_last: true };
    let ddim = Method::Ddim(DdimChoice { eta: 0.5, set_alpha_to_one: false, ..DdimChoice::default() });
    let clip = Limit::Clip { range: 1.0 };
    let threshold = |ratio| Limit::Threshold { ratio, max: 1.5 };
    for (i, (method, prediction, limit)) in [
        (dpm(2, false), eps, Limit::Off),
        (dpm(3, true), v, threshold(0.9)),
        (unipc(2), x0, Limit::Off),
        (unipc(3), eps, threshold(0.995)),
        (ddpm(Variance::LearnedRange), eps, clip),
        (ddpm(Variance::FixedLarge), v, threshold(1.0)),
        (ddim, x0, clip),
        (ddim, v, Limit::Off),
    ]
    .into_iter()
    .enumerate()
    {
        let has_variance = method == ddpm(Variance::LearnedRange) || i % 4 == 1;
        let channels = if has_variance { 2 * base.in_channels } else { base.in_channels };
        let config = UnetConfig { out_channels: channels, ..base.clone() };
        let model = well_conditioned(&config, 8 + i as u64);
        let diffusion =
            DiffusionConfig { prediction, zero_terminal_snr: prediction == v, ..DiffusionConfig::default() };
        let scheduler = Scheduler { limit, method, ..Scheduler::of(&diffusion) };
        agrees(model, diffusion, scheduler, false);
    }
}

/// Two passes in one batch, their outputs put together by w and phi, which differ from step to step.
#[test]
fn guidance_agrees_with_two_passes_of_the_engine() {
    let (_, base) = kinds().remove(1);
    let unipc = Method::UniPc(UniPc::default());
    for (method, out_channels) in [
        (Method::Ddim(DdimChoice { eta: 1.0, ..DdimChoice::default() }), base.out_channels),
        (unipc, base.out_channels),
        (Method::Ddpm { variance: Variance::LearnedRange, noise_at_last: true }, 2 * base.out_channels),
    ] {
        let class_names = ["cat", "dog", "hound"].map(str::to_owned).to_vec();
        let config = UnetConfig { num_class_embeds: Some(4), class_names, out_channels, ..base.clone() };
        let diffusion = DiffusionConfig::default();
        let scheduler = Scheduler { method, ..Scheduler::of(&diffusion) };
        agrees(well_conditioned(&config, 21), diffusion, scheduler, true);
    }
}

/// A network with random parameters and a small output, which keeps a chain well conditioned, as a trained
/// one.
fn well_conditioned(config: &UnetConfig, seed: u64) -> Model<f32> {
    let mut model = randomised(config, seed);
    let last = model.graph.params.iter().find(|param| param.name == "conv_out.weight").expect("it has one");
    model.weights[last.range()].iter_mut().for_each(|w| *w *= 0.1);
    model
}

/// The step graph and the sampler graph in two runs, in every runtime at hand.
fn agrees(model: Model<f32>, diffusion: DiffusionConfig, scheduler: Scheduler, guided: bool) {
    let sampler = GraphSpec::Sampler { scheduler, steps: Some(5), per_run: Some(3) };
    for spec in [GraphSpec::Step, sampler] {
        let (model, diffusion) = (model.clone(), diffusion.clone());
        in_time(move || {
            let source = Source { scheduler, guided, ..Source::new(&model, &diffusion) };
            let bytes = build(source, &spec).expect("a graph").to_bytes().expect("bytes");
            let graph = OnnxModel::from_bytes("exported.onnx", &bytes).expect("a model");
            let expectation = Expectation::new(source, &spec, 2, &mut |_| {}).expect("the engine's results");
            for mut runner in runners(&graph) {
                let runtime = runner.describe().to_string();
                let outcome = expectation.compare(runner.as_mut());
                let difference =
                    outcome.unwrap_or_else(|error| panic!("{scheduler:?} {spec:?} in {runtime}: {error}"));
                println!("{:?} in {runtime}: {difference:?}", scheduler.method);
                // The check allows a chain more that enlarges a rounding, by 1/sqrt(abar_T) = 157 at its
                // start. These networks and seeds are fixed, and stay below what is asked of whole pipelines.
                assert!(difference.relative() < 1e-4, "{scheduler:?} {spec:?} in {runtime}: {difference:?}");
            }
        });
    }
}

/// What cannot be a graph is refused by its name.
#[test]
fn graphs_that_cannot_be_are_refused() {
    let (_, base) = kinds().remove(0);
    let model = randomised(&base, 9);
    let classes = randomised(&UnetConfig { num_class_embeds: Some(4), ..base.clone() }, 9);
    let diffusion = DiffusionConfig::default();
    let usual = Scheduler::of(&diffusion);
    let learned = Method::Ddpm { variance: Variance::Learned, noise_at_last: true };
    let three = randomised(&UnetConfig { out_channels: 3, ..base }, 9);
    let source = Source::new(&model, &diffusion);
    for (source, words) in [
        (Source { scheduler: Scheduler { method: learned, ..usual }, ..source }, "learned variance"),
        (
            Source { scheduler: Scheduler { prediction: Prediction::Sample, ..usual }, ..source },
            "predicts eps",
        ),
        (Source { guided: true, ..source }, "a network without classes"),
        (Source { guided: true, ..Source::new(&classes, &diffusion) }, "none of which is the null class"),
        (Source::new(&three, &diffusion), "twice as many channels"),
    ] {
        let scheduler = source.scheduler;
        for spec in [GraphSpec::Step, GraphSpec::Sampler { scheduler, steps: Some(3), per_run: None }] {
            let error = build(source, &spec).expect_err("it cannot be").to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}

/// The check must notice a bias that is off by a hundredth, and a NaN that is followed by correct numbers.
#[test]
fn the_check_refuses_a_graph_that_computes_something_else() {
    let (_, config) = kinds().remove(0);
    let model = randomised(&config, 6);
    let bias =
        model.graph.params.iter().find(|param| param.name == "conv_out.bias").expect("it has one").range();
    let process = ReverseProcess::Ddim(Ddim { eta: 1.0, clip_x0: ClipX0::Off });
    let scheduler = Scheduler::of_text(process, Spacing::Leading);
    let sampler = GraphSpec::Sampler { scheduler, steps: Some(2), per_run: None };
    for spec in [GraphSpec::Denoiser, GraphSpec::Step, sampler] {
        for change in [1e-2, f32::NAN] {
            let mut other = model.clone();
            other.weights[bias.start] += change;
            let (model, graph) = (model.clone(), exported(&other, &spec));
            in_time(move || {
                let diffusion = DiffusionConfig::default();
                let source = Source::new(&model, &diffusion);
                let expectation =
                    Expectation::new(source, &spec, 2, &mut |_| {}).expect("the engine's results");
                for mut runner in runners(&graph) {
                    let refused = expectation.compare(runner.as_mut()).expect_err("another network");
                    assert!(
                        matches!(refused, Error::Disagrees { .. }) && refused.exit_status() == 1,
                        "{refused}"
                    );
                }
            });
        }
    }
}

/// The engine's images from x_T and the steps' noise, \[n, c, h, w\] each.
fn chain(
    model: &Model<f32>,
    process: ReverseProcess,
    kept: &Schedule,
    start: &[f32],
    noise: &[f32],
) -> Vec<f64> {
    let model: Model<f64> = model.cast();
    let shape = model.graph.shape(model.graph.input);
    let mut engine = Engine::new(&model, 2, Isa::Reference).expect("an engine");
    let mut x = channels_last(start, shape);
    let len = x.len();
    let z = |k: usize, _: Timestep, out: &mut [f64]| {
        out.copy_from_slice(&channels_last(&noise[k * len..][..len], shape));
    };
    let eps_theta = |x: &[f64], t: Timestep, out: &mut [f64]| {
        engine.forward(&model, x, &vec![t.index(); len / shape.len()], out).expect("lengths that fit");
        Ok(())
    };
    match process {
        ReverseProcess::Alg2(reverse) => alg2_sample(kept, reverse, &mut x, z, eps_theta, |_, _, _| {}),
        ReverseProcess::Ddim(ddim) => ddim_sample(kept, ddim, &mut x, z, eps_theta, |_, _, _| {}),
    }
    .expect("images");
    channels_first(&x, shape)
}

/// 50 steps of DDIM without noise and with clipping, and of Algorithm 2, in one run each. The images, in [-1,
/// 1], agree to 1e-3: a small output of the network keeps the chain well conditioned, as in a trained
/// network.
#[test]
fn the_sampler_agrees_with_the_engine() {
    let ddim = ReverseProcess::Ddim(Ddim { eta: 0.0, clip_x0: ClipX0::KeepEps });
    let alg2 = ReverseProcess::Alg2(Reverse { variance: VarianceKind::FixedLarge, clip_x0: true });
    for (i, (name, config)) in kinds().into_iter().enumerate() {
        let model = well_conditioned(&config, 3);
        for process in [ddim, alg2] {
            // The loop is the same for all kinds of attention; softmax and positive features are enough for
            // Algorithm 2.
            if process == alg2 && i > 1 {
                continue;
            }
            let scheduler = Scheduler::of_text(process, Spacing::Trailing);
            let spec = GraphSpec::Sampler { scheduler, steps: Some(50), per_run: None };
            let graph = exported(&model, &spec);
            let (model, config, name) = (model.clone(), config.clone(), name.clone());
            in_time(move || {
                let full = Schedule::from_config(&DiffusionConfig::default()).expect("a schedule");
                let kept = full.strided(Some(50), Spacing::Trailing).expect("50 of 1000");
                let (n, len) = (2, model.input_len());
                let (start, noise) = (normal(5, n * len), normal(6, 50 * n * len));
                let want = chain(&model, process, &kept, &start, &noise);
                let [h, w] = config.sample_size;
                let noise = Tensor::f32([50, n, config.in_channels, h, w], noise).expect("whole images");
                let start = images(n, &config, &start);
                for mut runner in runners(&graph) {
                    let (runtime, got) = run(runner.as_mut(), &[("x_T", &start), ("noise", &noise)]);
                    assert_eq!(got.len(), want.len());
                    for (got, want) in got.iter().zip(&want) {
                        let off = (f64::from(*got) - want).abs();
                        assert!(off < 1e-3, "{name} in {runtime}, {process:?}: {got} for {want}");
                    }
                }
            });
        }
    }
}

/// A sampler without noise has the input, but does not read it.
#[test]
fn ddim_without_noise_ignores_it() {
    let (_, config) = kinds().remove(1);
    let model = randomised(&config, 4);
    let process = ReverseProcess::Ddim(Ddim { eta: 0.0, clip_x0: ClipX0::KeepEps });
    let scheduler = Scheduler::of_text(process, Spacing::Leading);
    let steps = GraphSpec::Sampler { scheduler, steps: Some(2), per_run: None };
    let graph = exported(&model, &steps);
    in_time(move || {
        let len = model.input_len();
        let start = images(1, &config, &normal(7, len));
        let [h, w] = config.sample_size;
        for mut runner in runners(&graph) {
            let mut images = |noise: f32| {
                let noise =
                    Tensor::f32([2, 1, config.in_channels, h, w], vec![noise; 2 * len]).expect("images");
                run(runner.as_mut(), &[("x_T", &start), ("noise", &noise)]).1
            };
            assert_eq!(images(0.0), images(f32::NAN));
        }
    });
}

/// An index that the schedule does not have.
#[test]
fn a_timestep_out_of_range_is_an_error() {
    let (_, config) = kinds().remove(0);
    let model = randomised(&config, 5);
    let graph = exported(&model, &GraphSpec::Denoiser);
    in_time(move || {
        let x = images(1, &config, &normal(8, model.input_len()));
        for mut runner in runners(&graph) {
            let t = Tensor::i64([1], [1000]).expect("a vector");
            assert!(runner.run(&[("x", &x), ("t", &t)]).is_err(), "{}", runner.describe());
        }
    });
}
