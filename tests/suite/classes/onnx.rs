//! Classes and guidance in ONNX graphs, in every runtime at hand, against the engine's.

use super::{NAMES, network};
use crate::support::peers::{in_time, python};
use crate::support::runtimes::{at_hand, name};
use ndarray::{Array4, Array5};
use performer_ddpm::Pipeline;
use performer_ddpm::config::DiffusionConfig;
use performer_ddpm::equations::Schedule;
use performer_ddpm::equations::solver::{Method, Scheduler, UniPc, Variance};
use performer_ddpm::export::{GraphSpec, Source, build};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::output::{read_npy, write_npy};
use performer_ddpm::rng::{Stream, fill_normal, rng};
use performer_ddpm::sample::{Guidance, SampleOptions, sample};
use performer_ddpm_onnx::Model as OnnxModel;
use std::path::Path;
use std::process::Command;

const STEPS: usize = 4;

/// x_T and the noises of so many images.
fn noise(count: usize) -> Array5<f32> {
    let mut numbers = vec![0.0; (STEPS + 1) * count * 64];
    fill_normal(&mut rng(5, Stream::Check, 0, 0), &mut numbers);
    Array5::from_shape_vec((STEPS + 1, count, 1, 8, 8), numbers).expect("as many numbers")
}

/// A network with a small output, which keeps the chain well conditioned.
fn calm(channels: usize) -> Model<f32> {
    let mut model = network(channels);
    let last = model.graph.params.iter().find(|param| param.name == "conv_out.weight").expect("it has one");
    model.weights[last.range()].iter_mut().for_each(|w| *w *= 0.1);
    model
}

fn engine(model: &Model<f32>, options: &SampleOptions, noise: &Array5<f32>) -> Array4<f64> {
    let model = model.cast::<f64>();
    let schedule = Schedule::from_config(&DiffusionConfig::default()).expect("a schedule");
    let mut engine = Engine::new(&model, 2, Isa::Reference).expect("an engine");
    sample(&model, &schedule, &mut engine, options, Some(noise.view()), |_| {}).expect("images")
}

/// The graph's file as a model in a runtime.
fn pipeline(source: Source, spec: &GraphSpec, runtime: &performer_ddpm::sample::onnx::Runtime) -> Pipeline {
    let bytes = build(source, spec).expect("a graph").to_bytes().expect("bytes");
    let graph = OnnxModel::from_bytes("exported.onnx", &bytes).expect("a model");
    Pipeline::from_onnx(&graph, runtime, 1, None).unwrap_or_else(|error| panic!("{}: {error}", name(runtime)))
}

/// Five images in batches of three: guided everywhere, in an interval and rescaled, by nothing, by the null
/// class alone, and by it in an interval. Rounding as in the graphs without classes: 1e-4 of the largest
/// value.
#[test]
fn guided_images_are_the_engine_s() {
    let diffusion = DiffusionConfig::default();
    let schedule = Schedule::from_config(&diffusion).expect("a schedule");
    let usual = Scheduler::of(&diffusion);
    let learned = Method::Ddpm { variance: Variance::LearnedRange, noise_at_last: true };
    let interval = Guidance { interval: [0.5, 20.0], rescale: 0.7, ..Guidance::weight(3.0) };
    for (model, method) in [(calm(1), Method::UniPc(UniPc::default())), (calm(2), learned)] {
        let scheduler = usual.with_method(method, true);
        let none = Guidance { interval: [0.5, 20.0], ..Guidance::weight(0.0) };
        for guidance in [Guidance::weight(2.5), interval, Guidance::default(), Guidance::weight(0.0), none] {
            let options = SampleOptions {
                count: 5,
                batch: 3,
                classes: vec![2, 0],
                guidance,
                ..SampleOptions::default().with_scheduler(&scheduler, &schedule, Some(STEPS))
            };
            let noise = noise(5);
            let want = engine(&model, &options, &noise);
            let largest = want.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            let chain = |per_run| GraphSpec::Sampler { scheduler, steps: Some(STEPS), per_run };
            // Without guidance the graphs need it not, and for the null class alone neither.
            let is_plain = guidance.weight < 1.5 && guidance.interval == Guidance::default().interval;
            let kinds = [(GraphSpec::Denoiser, false), (GraphSpec::Step, true), (chain(None), true)];
            let plain = [(GraphSpec::Step, false), (chain(Some(3)), false)];
            let of_runs = [(chain(Some(3)), true)];
            for (spec, guided) in
                kinds.into_iter().chain(of_runs).chain(plain.into_iter().filter(|_| is_plain))
            {
                let (model, diffusion, options) = (model.clone(), diffusion.clone(), options.clone());
                let (noise, want) = (noise.clone(), want.clone());
                in_time(move || {
                    for runtime in at_hand() {
                        let who = format!("{:?} {guided} in {}, {guidance:?}", spec.kind(), name(runtime));
                        let source = Source { scheduler, guided, ..Source::new(&model, &diffusion) };
                        let mut pipeline = pipeline(source, &spec, runtime);
                        assert_eq!(pipeline.class_embedding().names, NAMES, "{who}");
                        let images = pipeline.sample_watched(&options, Some(noise.view()), |_| {});
                        let images = images.unwrap_or_else(|error| panic!("{who}: {error}"));
                        let errors = images.iter().zip(&want).map(|(x, want)| (f64::from(*x) - want).abs());
                        let error =
                            errors.fold(0.0, |most: f64, e| if e.is_nan() || e > most { e } else { most });
                        assert!(error <= 1e-4 * largest, "{who}: {error:e} of {largest}");
                    }
                });
            }
        }
    }
}

#[test]
fn a_graph_without_guidance_says_so() {
    let diffusion = DiffusionConfig::default();
    let scheduler = Scheduler::of(&diffusion);
    let interval = Guidance { interval: [0.5, 20.0], ..Guidance::weight(0.0) };
    in_time(move || {
        let (model, diffusion) = (calm(1), DiffusionConfig::default());
        let chain = GraphSpec::Sampler { scheduler, steps: Some(STEPS), per_run: None };
        for runtime in at_hand() {
            for (spec, guidance) in [
                (GraphSpec::Step, Guidance::weight(2.0)),
                (chain, Guidance::weight(2.0)),
                // The class at some steps, none at others, of which one run has one.
                (chain, interval),
            ] {
                let mut pipeline = pipeline(Source::new(&model, &diffusion), &spec, runtime);
                let options = SampleOptions { count: 2, batch: 2, guidance, ..pipeline.options() };
                let error = pipeline.sample(&options).expect_err("no guidance").to_string();
                assert!(
                    error.contains("`Guidance::weight`") && error.contains("`Source::guided`"),
                    "{error}"
                );
            }
        }
    });
    let mut model = calm(1);
    model.config.class_names.clear();
    let error = build(Source { guided: true, ..Source::new(&model, &diffusion) }, &GraphSpec::Step);
    assert!(error.expect_err("no null class").to_string().contains("a network with a null class"));
}

/// The script for users of Python, to the contract of every backend: 1e-3 of the largest value.
#[test]
fn the_python_sampler_guides() {
    let Some(python) = python("numpy, onnxruntime") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/sample.py");
    let (model, diffusion) = (calm(1), DiffusionConfig::default());
    let source = Source { guided: true, ..Source::new(&model, &diffusion) };
    let guidance = Guidance { rescale: 0.5, ..Guidance::weight(2.5) };
    let steps = Some(STEPS);
    let schedule = Schedule::from_config(&diffusion).expect("a schedule");
    let options = SampleOptions { count: 5, batch: 5, classes: vec![2, 0], guidance, ..Default::default() };
    let options = options.with_scheduler(&source.scheduler, &schedule, steps);
    let want = engine(&model, &options, &noise(5));
    write_npy(&file("noise.npy"), noise(5).view()).expect("a file");
    for spec in [GraphSpec::Step, GraphSpec::Sampler { scheduler: source.scheduler, steps, per_run: Some(3) }]
    {
        build(source, &spec).and_then(|graph| Ok(graph.write(file("graph.onnx"))?)).expect("a file");
        let mut command = Command::new(&python);
        command.arg(&script).arg(file("graph.onnx")).arg("--noise").arg(file("noise.npy"));
        command.arg("--npy").arg(file("images.npy")).args(["--steps", "4", "--classes", "2", "0"]);
        let output = command.args(["--guidance", "2.5", "--rescale", "0.5"]).output().expect("python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let images: Array4<f32> = read_npy(&file("images.npy")).expect("images");
        let largest = want.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        for (x, want) in images.permuted_axes([0, 2, 3, 1]).iter().zip(&want) {
            let error = (f64::from(*x) - want).abs();
            assert!(error <= 1e-3 * largest, "{:?}: {x} for {want}", spec.kind());
        }
    }
}
