//! The same seed or noise gives the same images in the engine, in tract and in ONNX Runtime, with every kind
//! of graph.

use crate::support::peers::in_time;
use crate::support::runtimes::denoisers;
use ndarray::{Array4, Array5};
use performer_ddpm::config::{DiffusionConfig, Preset, VarianceKind};
use performer_ddpm::equations::Schedule;
use performer_ddpm::export::{GraphSpec, Source, build};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::rng::{Stream, fill_normal, rng};
use performer_ddpm::sample::{ClipX0, SampleOptions, Sampler, Spacing, sample, sample_with};

/// The tiny preset's network (FAVOR+ and softmax attention) with no parameter at its zero initialisation, and
/// Ho et al.'s process.
fn network(options: &SampleOptions) -> (Model<f32>, DiffusionConfig) {
    let mut model: Model<f32> = Model::new(&Preset::Tiny.config().unet, 3).expect("a network");
    let mut noise = vec![0.0; model.weights.len()];
    fill_normal(&mut rng(3, Stream::Check, 0, 0), &mut noise);
    model.weights.iter_mut().zip(&noise).for_each(|(w, z)| *w += 0.1 * z);
    let variance = match options.sampler {
        Sampler::Ddpm { variance } => variance,
        Sampler::Ddim { .. } | Sampler::Scheduler(_) => VarianceKind::FixedSmall,
    };
    (model, DiffusionConfig { variance, ..DiffusionConfig::default() })
}

fn options(sampler: Sampler, clip_x0: ClipX0) -> SampleOptions {
    SampleOptions {
        count: 5,
        batch: 3,
        seed: 11,
        sampler,
        steps: Some(5),
        spacing: Spacing::Trailing,
        clip_x0,
        ..SampleOptions::default()
    }
}

/// Samplers with and without noise, with every kind of clipping.
fn samplers() -> Vec<SampleOptions> {
    vec![
        options(Sampler::Ddim { eta: 0.0 }, ClipX0::KeepEps),
        options(Sampler::Ddim { eta: 0.7 }, ClipX0::RederiveEps),
        options(Sampler::Ddpm { variance: VarianceKind::FixedSmall }, ClipX0::KeepEps),
        SampleOptions {
            batch: 5,
            ..options(Sampler::Ddpm { variance: VarianceKind::FixedLarge }, ClipX0::KeepEps)
        },
    ]
}

fn native(options: &SampleOptions, noise: Option<&Array5<f32>>) -> Array4<f32> {
    let (model, diffusion) = network(options);
    let schedule = Schedule::from_config(&diffusion).expect("a schedule");
    let mut engine = Engine::new(&model, 2, Isa::detect()).expect("an engine");
    let noise = noise.map(|noise| noise.view());
    sample(&model, &schedule, &mut engine, options, noise, |_| {}).expect("images")
}

/// The sampler's five steps in one run, and in three runs, the last of which has one step too many.
fn graphs(options: &SampleOptions) -> [GraphSpec; 4] {
    let scheduler = options.scheduler();
    let sampler = |per_run| GraphSpec::Sampler { scheduler, steps: options.steps, per_run };
    [GraphSpec::Denoiser, GraphSpec::Step, sampler(None), sampler(Some(2))]
}

/// Images in [-1, 1] to 1e-3, the contract of every backend. Rounding differences in eps are about 1e-6, and
/// 1/sqrt(abar_T) = 157 times that in the first predicted x_0 where it is not clipped.
fn compare(options: SampleOptions, noise: Option<Array5<f32>>) {
    let want = native(&options, noise.as_ref());
    let (model, diffusion) = network(&options);
    let source = Source::new(&model, &diffusion);
    for spec in graphs(&options) {
        let graph = build(source, &spec).expect("a graph");
        let (want, noise, options, schedule) = (
            want.clone(),
            noise.clone(),
            options.clone(),
            Schedule::from_config(&diffusion).expect("a schedule"),
        );
        in_time(move || {
            for (name, mut denoiser) in denoisers(&graph) {
                let who = format!("{name}, {:?}, {options:?}", spec.kind());
                let mut steps = Vec::new();
                let noise = noise.as_ref().map(|noise| noise.view());
                let images = sample_with(&mut denoiser, &schedule, &options, noise, |mut now| {
                    steps.push((now.batch, now.step, now.x().expect("a state")));
                });
                let images = images.unwrap_or_else(|error| panic!("{who}: {error}"));
                for (got, want) in images.iter().zip(&want) {
                    assert!((got - want).abs() <= 1e-3, "{who}: {got} for {want}");
                }
                // Every step is seen, or every run; the last state is the batch's images.
                let batches = options.count.div_ceil(options.batch);
                let seen = match spec {
                    GraphSpec::Sampler { per_run, .. } => per_run.map_or(1, |steps| 5usize.div_ceil(steps)),
                    GraphSpec::Denoiser | GraphSpec::Step | GraphSpec::TrainStep(_) => 5,
                };
                assert_eq!(steps.len(), batches * seen, "{who}");
                let (_, step, last) = &steps[steps.len() - 1];
                let rest = (options.count - (batches - 1) * options.batch) * 784;
                assert!(*step == 5 && *last == images.as_slice().expect("whole")[5 * 784 - rest..], "{who}");
            }
        });
    }
}

#[test]
fn the_same_seed_gives_the_same_images_everywhere() {
    for options in samplers() {
        compare(options, None);
    }
}

#[test]
fn the_same_noise_gives_the_same_images_everywhere() {
    let mut numbers = vec![0.0; 6 * 5 * 784];
    fill_normal(&mut rng(1, Stream::Check, 0, 0), &mut numbers);
    let noise = Array5::from_shape_vec((6, 5, 1, 28, 28), numbers).expect("[K + 1, N, C, H, W]");
    let options = samplers().swap_remove(1);
    let seeded = native(&options, None);
    assert_ne!(seeded, native(&options, Some(&noise)), "the noise is used");
    compare(options, Some(noise));
}

/// The sampler graph has one fixed sampler, and the error says so when another one is requested.
#[test]
fn a_sampler_graph_refuses_another_sampler() {
    let options = samplers().swap_remove(0);
    let (model, diffusion) = network(&options);
    let schedule = Schedule::from_config(&diffusion).expect("a schedule");
    let source = Source::new(&model, &diffusion);
    let graph = build(source, &graphs(&options)[2]).expect("a graph");
    in_time(move || {
        for (name, mut denoiser) in denoisers(&graph) {
            for other in [SampleOptions { steps: Some(4), ..options.clone() }, samplers().swap_remove(1)] {
                let outcome = sample_with(&mut denoiser, &schedule, &other, None, |_| {});
                let error = outcome.expect_err("another sampler");
                assert_eq!(error.exit_status(), 2);
                assert!(error.to_string().contains("the file fixes them"), "{name}: {error}");
            }
        }
    });
}
