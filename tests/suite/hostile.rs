//! Every public entry above the layers is given sizes, indices and numbers that nobody means: it returns, and
//! what cannot be is an error. A panic, an abort or a call that does not end fails the test.

use crate::support::feature_nets::FeatureNet;
use crate::support::models;
use ndarray::{Array2, Array4, Array5};
use performer_ddpm::checkpoint::{model_folder, state};
use performer_ddpm::compare::{Budget, Plan};
use performer_ddpm::config::{AttentionKind, Config, DiffusionConfig, Preset, VarianceKind};
use performer_ddpm::data::{self, Dataset, Datasets, Labels, idx};
use performer_ddpm::evaluate::features::{Extractor, FeatureOptions};
use performer_ddpm::evaluate::nearest::{Nearest, nearest, write_sheet};
use performer_ddpm::evaluate::nll::{NllConfig, Timesteps, likelihood};
use performer_ddpm::evaluate::{
    Comparison, Estimate, block_means, choose, fewest, fewest_for_frechet, frechet, images_nchw,
    kernel_distance, precision_recall,
};
use performer_ddpm::export::{self, Check, ExportOptions, GraphSpec};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::Model;
use performer_ddpm::output::{self, Chart, ChartAxis, Corner, Look, Scale, Series};
use performer_ddpm::sample::{ClipX0, Compute, Sampler, Spacing, onnx};
use performer_ddpm::train::{Trainer, check_fit};
use performer_ddpm::{Pipeline, Result, SampleOptions};
use proptest::prelude::*;
use std::time::Duration;

/// Nothing, a few, and more than any machine has; in between lie only sizes that cost time.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..4usize,
        3 => prop::sample::select(vec![1 << 44, 1 << 60, (1 << 60) + 1, usize::MAX / 2 + 2, usize::MAX]),
    ]
}

fn small() -> impl Strategy<Value = usize> {
    0..4usize
}

fn number() -> impl Strategy<Value = f64> {
    let odd = vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, 1e300, -1e300, f64::MIN_POSITIVE];
    prop_oneof![prop::sample::select(odd), -2.0..2.0]
}

fn network() -> Config {
    let mut config = Preset::Tiny.config().for_images([4, 4, 1]);
    config.diffusion.timesteps = 5;
    config
}

fn pipeline() -> Pipeline {
    let config = network();
    let model = Model::new(&config.unet, 0).expect("a network");
    let compute = Compute::Engine { threads: Some(1), kernels: Isa::detect().into() };
    Pipeline::new(model, config.diffusion, &compute).expect("a pipeline")
}

fn pictures(count: usize, [h, w, c]: [usize; 3]) -> Result<Dataset> {
    Dataset::new("pictures", [h, w, c], vec![7; count * h * w * c], None, false)
}

/// An array filled with a number.
fn filled(n: usize, d: usize, x: f64) -> Array2<f64> {
    let mut array = Array2::from_shape_fn((n, d), |(i, j)| ((i * 7 + j * 3) % 11) as f64);
    array.iter_mut().take(1).for_each(|first| *first = x);
    array
}

fn images(n: usize, [h, w, c]: [usize; 3], x: f64) -> Array4<f32> {
    Array4::from_elem((n, h, w, c), x as f32)
}

/// A refusal, not a result.
fn refused<T>(outcome: Result<T>) -> bool {
    outcome.is_err_and(|error| error.exit_status() == 2)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn sampling(
        count in size(), batch in size(), steps in prop::option::of(size()), eta in number(),
        variant in 0..12usize, shape in prop::array::uniform5(0..7usize),
    ) {
        let sampler = match variant % 3 {
            0 => Sampler::Ddpm { variance: VarianceKind::FixedLarge },
            _ => Sampler::Ddim { eta },
        };
        let options = SampleOptions {
            count, batch, seed: 3, sampler, steps,
            spacing: if variant % 2 == 0 { Spacing::Leading } else { Spacing::Trailing },
            clip_x0: [ClipX0::Off, ClipX0::KeepEps, ClipX0::RederiveEps][variant % 3],
            ..SampleOptions::default()
        };
        let mut pipeline = pipeline();
        let found = pipeline.sample(&options);
        let steps = steps.unwrap_or(5);
        let possible = (1..4).contains(&count)
            && batch > 0
            && (1..=5).contains(&steps)
            && (variant % 3 == 0 || (0.0..=1.0).contains(&eta));
        prop_assert_eq!(found.is_ok(), possible, "{:?}: {:?}", options, found.err().map(|e| e.to_string()));
        let noise = Array5::zeros(shape);
        let given = pipeline.sample_watched(&options, Some(noise.view()), |_| {});
        prop_assert!(given.is_err() || noise.dim() == (steps + 1, count, 1, 4, 4));
    }

    #[test]
    fn models_whose_numbers_are_missing(weights in size(), projections in 0..4usize, raw in 0..9usize) {
        let config = network();
        let mut model = models::random(&config.unet, 1);
        let (whole, all) = (model.weights.len(), model.projections.len());
        model.weights.truncate(weights);
        model.projections.truncate(projections);
        if let Some(first) = model.projections.first_mut().filter(|_| raw % 2 == 1) {
            first.pop();
        }
        let complete = model.weights.len() == whole && model.projections.len() == all && raw % 2 == 0;
        let folder = tempfile::tempdir().expect("a folder");
        let saved = model_folder::save(folder.path(), &model, None, &config.diffusion);
        prop_assert_eq!(saved.is_ok(), complete);
        let short = vec![0.0; raw];
        prop_assert!(refused(model_folder::save(folder.path(), &model, Some(&short), &config.diffusion)));
        let source = export::Source::new(&model, &config.diffusion);
        let spec = [GraphSpec::Denoiser, GraphSpec::Step][raw % 2];
        prop_assert_eq!(export::build(source, &spec).is_ok(), complete);
        let made = Pipeline::new(model, config.diffusion, &Compute::default());
        prop_assert_eq!(made.is_ok(), complete);
    }

    #[test]
    fn exports(
        steps in prop::option::of(size()), per_run in prop::option::of(size()),
        eta in number(), batch in size(),
    ) {
        let mut usual = SampleOptions { steps, ..SampleOptions::default() };
        usual.sampler = Sampler::Ddim { eta };
        let graph = GraphSpec::Sampler { scheduler: usual.scheduler(), steps, per_run };
        let pipeline = pipeline();
        let source = pipeline.source().expect("the engine's");
        let built = export::build(source, &graph);
        let all = steps.unwrap_or(5);
        let possible = (1..=5).contains(&all)
            && per_run.is_none_or(|n| (1..=all).contains(&n))
            && (0.0..=1.0).contains(&eta);
        prop_assert_eq!(built.is_ok(), possible);
        if let Ok(model) = built {
            // Batches other than 1 matter to a CUDA graph alone.
            let loaded = onnx::OnnxDenoiser::load(&model, &onnx::Runtime::default(), batch);
            prop_assert!(batch > 0 || refused(loaded));
        }
        let options = ExportOptions { graph, check: Check::Nowhere, threads: None };
        prop_assert!(possible || refused(pipeline.export("/nowhere/at/all.onnx", &options)));
    }

    #[test]
    fn datasets(
        shape in prop::array::uniform3(size()), len in 0..40usize, labels in prop::option::of(0..4usize),
        indices in prop::collection::vec(size(), 0..4), to in prop::array::uniform2(size()),
        dims in prop::collection::vec(size(), 0..4),
    ) {
        let made = Dataset::new("x", shape, vec![1; len], labels.map(|n| {
            Labels::new(vec![0; n], vec!["one".to_owned()]).expect("labels")
        }), true);
        prop_assert!(made.is_ok() || refused(made));
        let few = pictures(3, [2, 2, 3]).expect("pictures");
        let inside = indices.iter().all(|i| *i < 3);
        prop_assert_eq!(few.select(&indices).is_ok(), inside && !indices.is_empty());
        prop_assert_eq!(images_nchw::<f32>(&few, &indices).is_ok(), inside);
        for index in &indices {
            prop_assert_eq!(few.bytes(*index).is_ok(), *index < 3);
        }
        let resized = few.clone().resized((to[0], to[1]));
        prop_assert_eq!(resized.is_ok(), to.iter().all(|side| (1..4).contains(side)));
        prop_assert!(to == [2, 2] || resized.is_err() || Datasets::new(few, resized.ok()).is_err());
        let _ = idx::pack(&dims, &vec![0; len]);
        let zeros = Array4::<u8>::zeros((len % 3, len % 2, labels.unwrap_or(1), 1));
        prop_assert_eq!(Dataset::from_array("x", zeros.view()).is_ok(), !zeros.is_empty());
    }

    #[test]
    fn measures_of_features(
        n in small(), m in 0..30usize, d in small(), e in small(), k in size(), x in number(),
    ) {
        let (a, b) = (filled(n * 9, d, x), filled(m, e, 1.0));
        let empty = n == 0 || m == 0 || d != e || d == 0 || !x.is_finite();
        prop_assert!(!empty || refused(Comparison::of(a.view(), b.view(), 0)));
        prop_assert!(!empty || refused(frechet::frechet_distance(a.view(), b.view())));
        let distance = kernel_distance::kernel_distance(a.view(), b.view(), k, 0);
        if empty || !(2..=30).contains(&k) {
            prop_assert!(refused(distance));
        }
        let shares = precision_recall::precision_recall(a.view(), b.view(), k);
        if empty || !(1..=30).contains(&k) {
            prop_assert!(refused(shares));
        }
        let odd = frechet::Statistics { mean: vec![x; d].into(), covariance: filled(n, e, x) };
        let whole = d > 0 && n == d && e == d && x.is_finite();
        prop_assert!(odd.distance(&odd).is_ok() == whole || x.abs() > 1e100);
        prop_assert!(fewest_for_frechet(k) >= fewest());
        let _ = Estimate::of([x, x]).scaled(x).sqrt();
        prop_assert_eq!(choose(k, 2, 0).is_ok(), k < 1 << 40);
    }

    #[test]
    fn images_beside_images(
        n in small(), shape in prop::array::uniform3(small()), side in size(), x in number(), index in size(),
    ) {
        let pictures = pictures(3, [2, 2, 1]).expect("pictures");
        let images = images(n, shape, x);
        let found = nearest(images.view(), &pictures);
        prop_assert_eq!(found.is_ok(), shape == [2, 2, 1] && (n == 0 || (x as f32).is_finite()));
        let sheet = tempfile::tempdir().expect("a folder");
        let path = sheet.path().join("sheet.png");
        let claimed = vec![Nearest { index, rmse: x }; n];
        let written = write_sheet(&path, images.view(), &pictures, &claimed, side);
        prop_assert_eq!(written.is_ok(), n > 0 && shape == [2, 2, 1] && index < 3);
        let means = block_means(images.view(), side);
        prop_assert_eq!(means.is_ok(), side > 0 && shape[1] > 0 && shape[2] > 0 && shape[0] > 0);
        let columns = Some(side);
        let shown = output::grid(images.view(), columns);
        prop_assert!(shown.is_ok() || refused(shown));
        let time = Duration::from_secs(u64::MAX);
        let moving = output::write_gif(&sheet.path().join("a.gif"), &[images.view()], columns, time, time);
        prop_assert!(moving.is_ok() || refused(moving));
        prop_assert!(output::write_npy(&sheet.path().join("a.npy"), images.view()).is_ok());
    }

    #[test]
    fn likelihoods(
        draws in size(), strata in size(), batch in size(),
        shape in prop::array::uniform3(1..5usize), count in 1..4usize,
    ) {
        // Few and very many draws; those between are hours of work.
        let timesteps = Timesteps::Stratified(strata);
        let config = NllConfig { draws, timesteps, batch, ..NllConfig::default() };
        let mut pipeline = pipeline();
        if let Ok(images) = pictures(count, shape) {
            let found = likelihood(&mut pipeline, &images, &config, &mut |_| {});
            let fits = shape == [4, 4, 1] && count > 1;
            let possible = (1..4).contains(&draws) && strata > 0 && batch > 0 && fits;
            prop_assert_eq!(found.is_ok(), possible, "{:?}", found.err().map(|e| e.to_string()));
        }
    }

    #[test]
    fn training(
        shape in prop::array::uniform3(1..6usize), count in 1..4usize, lr in number(), batch in size(),
        step in prop::sample::select(vec![0, 1, u64::from(u32::MAX), 1 << 40, u64::MAX]), levels in small(),
    ) {
        let mut config = network();
        config.train.batch = 2;
        let mut trainer = Trainer::<f32>::new(&config, 1, Isa::detect()).expect("a trainer");
        if let Ok(images) = pictures(count, shape) {
            prop_assert_eq!(check_fit(&config, &images).is_ok(), shape == [4, 4, 1]);
            prop_assert_eq!(trainer.advance(&images).is_ok(), shape == [4, 4, 1]);
        }
        let mut progress = trainer.progress();
        progress.step = step;
        let restored = trainer.restore(progress);
        prop_assert_eq!(restored.is_ok(), step <= u64::from(u32::MAX));
        let images = pictures(3, [4, 4, 1]).expect("pictures");
        prop_assert!(trainer.advance(&images).is_ok());
        let mut short = trainer.progress();
        short.average.pop();
        prop_assert!(refused(trainer.restore(short)));
        config.train.batch = batch;
        config.train.lr = lr;
        config.unet.block_out_channels.truncate(levels);
        let possible = (1..=1 << 16).contains(&batch) && lr > 0.0 && lr.is_finite() && levels >= 2;
        prop_assert_eq!(Trainer::<f32>::new(&config, 1, Isa::detect()).is_ok(), possible);
    }

    #[test]
    fn states_plans_and_charts(
        weights in 0..5usize, steps in size(), minutes in number(),
        points in prop::collection::vec((number(), number()), 0..5),
    ) {
        let config = network();
        let short = state::TrainingState {
            config: config.clone(), step: 1, images_seen: 1, metrics_len: 0,
            weights: vec![0.0; weights], ema: vec![], first_moment: vec![], second_moment: vec![],
            projections: vec![],
        };
        let folder = tempfile::tempdir().expect("a folder");
        prop_assert!(refused(state::save(folder.path(), &short)));
        for budget in [Budget::Steps(steps as u64), Budget::Minutes(minutes)] {
            let possible = match budget {
                Budget::Steps(n) => n > 0,
                Budget::Minutes(m) => m > 0.0 && m.is_finite(),
            };
            let variants = &AttentionKind::ALL[..weights.min(2)];
            let plan = Plan::new("x", &config, variants, budget, 1, Isa::detect().into());
            prop_assert_eq!(plan.is_ok(), possible && weights > 0);
        }
        let losses: Vec<(u64, f64)> = points.iter().map(|(x, y)| (x.abs() as u64, *y)).collect();
        let _ = output::loss_curve(&losses);
        for scale in [Scale::Linear, Scale::Logarithmic, Scale::Doublings] {
            let series = Series { name: "s".into(), points: points.clone(), colour: steps, look: Look::Dots };
            let axis = ChartAxis { label: "x", scale };
            let chart = Chart { x: axis, y: axis, series: vec![series], legend: Corner::UpperRight };
            prop_assert!(chart.svg().is_ok());
        }
    }

    #[test]
    fn diffusion_processes(timesteps in size(), start in number(), end in number()) {
        let config = DiffusionConfig {
            timesteps,
            schedule: performer_ddpm::config::BetaSchedule::Linear { start, end },
            ..DiffusionConfig::default()
        };
        let compute = Compute::Engine { threads: Some(1), kernels: Isa::detect().into() };
        let made = Pipeline::new(models::random(&network().unet, 2), config, &compute);
        prop_assert!(made.is_ok() || refused(made));
    }
}

#[test]
fn the_garments_have_no_size_of_nothing() {
    for size in [(0, 28), (28, usize::MAX)] {
        assert!(refused(data::load(None, Some(size))));
    }
}

#[test]
fn a_features_network_has_a_batch() {
    let model = FeatureNet::new(1.into(), [1, 4, 4]).model();
    let options = FeatureOptions { batch: 0, ..FeatureOptions::default() };
    assert!(refused(Extractor::load(&model, &options)));
}
