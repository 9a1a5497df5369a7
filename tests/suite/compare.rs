//! Comparisons of a very small network: resuming gives the same findings, divergence is reported, and the
//! report is complete.

use crate::support::runtimes::at_hand;
use performer_ddpm::compare::report::{report, write_report};
use performer_ddpm::compare::{Budget, Comparison, Event, FeatureSource, Features, Findings, Part, Plan};
use performer_ddpm::config::{AttentionKind, Config, FeatureMap, Prediction, Preset};
use performer_ddpm::data::{Dataset, Datasets, Labels};
use performer_ddpm::evaluate::features::{FeatureOptions, PixelRange};
use performer_ddpm::kernels::Isa;
use performer_ddpm::sample::onnx::Runtime;
use performer_ddpm_onnx::builder::{GraphBuilder, ModelInfo, Reduction};
use performer_ddpm_onnx::{Dim, ElementType};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

/// Images of 8x8 with increasing bytes.
fn images(count: usize) -> Dataset {
    let pixels = (0..count * 64).map(|i| (i * 37 % 256) as u8).collect();
    Dataset::new("counting", [8, 8, 1], pixels, None, false).expect("images")
}

fn data() -> Datasets {
    Datasets::new(images(24), Some(images(8))).expect("images of one shape")
}

fn config() -> Config {
    let mut config = Preset::Tiny.config();
    config.unet.sample_size = [8, 8];
    config.diffusion.timesteps = 10;
    config.train.batch = 2;
    config.train.checkpoint_every = 2;
    config
}

fn plan(config: &Config, variants: &[AttentionKind], steps: u64) -> Plan {
    plan_for(config, variants, Budget::Steps(steps))
}

/// A plan of seconds: full resolution is 16x16, and every study has two sizes.
fn plan_for(config: &Config, variants: &[AttentionKind], budget: Budget) -> Plan {
    let mut plan = Plan::new("small", config, variants, budget, 1, Isa::detect().into()).expect("a plan");
    plan.measuring.images = 4;
    plan.measuring.timesteps = 3;
    plan.measuring.steps = 2;
    plan.measuring.samples = 20;
    plan.measuring.grid = 4;
    plan.full_resolution.size = [16, 16];
    plan.full_resolution.budget = Budget::Steps(2);
    plan.full_resolution.grid = 2;
    plan.cost.tokens = vec![16, 64];
    plan.cost.features = vec![4, 16];
    plan.cost.seconds = 1e-4;
    plan.approximation.features = vec![4, 16];
    plan.approximation.draws = 4;
    plan.approximation.tokens = 8;
    plan.conversion.features = vec![4, 16];
    plan.conversion.images = 4;
    plan.conversion.timesteps = 2;
    plan.conversion.samples = 2;
    plan.conversion.tuned = vec![8];
    plan
}

/// Does the parts until `stages` stages have begun, then asks to stop.
fn run(folder: &Path, plan: &Plan, parts: &[Part], stages: usize) -> (bool, Comparison, Vec<String>) {
    run_on(&data(), folder, plan, parts, stages)
}

fn run_on(
    data: &Datasets,
    folder: &Path,
    plan: &Plan,
    parts: &[Part],
    stages: usize,
) -> (bool, Comparison, Vec<String>) {
    let mut comparison = Comparison::open(folder, plan.clone(), data).expect("a comparison");
    let begun = Cell::new(0);
    let mut notes = Vec::new();
    let finished = comparison.run(
        parts,
        data,
        None,
        &|_, _| None,
        || begun.get() >= stages,
        |event| match event {
            Event::Stage(_) => begun.set(begun.get() + 1),
            Event::Note(note) => notes.push(note.to_owned()),
            Event::Progress { .. } => {}
        },
    );
    (finished.expect("the parts are done"), comparison, notes)
}

/// A features network: the means of the eight columns.
fn features(folder: &Path, runtime: &Runtime) -> Features {
    let mut g = GraphBuilder::new("features");
    let image = [Dim::from("N"), 1.into(), 8.into(), 8.into()];
    let x = g.input("images", ElementType::F32, image).expect("an input");
    let means = g.reduce(Reduction::Mean, x, &[1, 2], false).expect("means");
    g.output("features", means).expect("an output");
    let file = folder.join("features.onnx");
    g.into_model(ModelInfo::default()).expect("a model").write(&file).expect("a file");
    Features::open(&file, &FeatureOptions::new(runtime.clone()), None).expect("a features network")
}

#[test]
fn samples_are_compared_under_a_features_network_even_after_the_runs() {
    let Some(runtime) = at_hand().first() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut features = features(folder.path(), runtime);
    let plan = plan(&config(), &[AttentionKind::FAVOR], 2);
    let (finished, mut comparison, _) = run(&folder.path().join("a"), &plan, &[Part::Runs], usize::MAX);
    assert!(finished);
    let blocks = comparison.findings().samples.clone().expect("compared without a network too");
    // 24 images and 20 samples are enough for 4x4 blocks, whose kernel distance needs 20.
    assert_eq!(blocks.source, FeatureSource::Blocks(4));
    assert!(blocks.rows[1].comparison.is_some_and(|comparison| comparison.features == 16));
    let data = data();
    let mut go = |comparison: &mut Comparison| {
        comparison.run(&[Part::Runs], &data, Some(&mut features), &|_, _| None, || false, |_| {})
    };
    assert!(go(&mut comparison).expect("samples are compared"));
    let study = comparison.findings().samples.clone().expect("a study");
    let variants: Vec<_> = study.rows.iter().map(|row| row.variant).collect();
    assert_eq!((variants, study.reference), (vec![None, Some(AttentionKind::FAVOR)], 24));
    // Eight test images are too few, and told; twenty samples are enough.
    assert!(study.rows[0].comparison.is_none() && study.rows[0].notes[0].contains("too few"));
    assert!(study.rows[1].comparison.is_some_and(|comparison| comparison.frechet_distance > Some(0.0)));
    let html = report(folder.path(), comparison.findings(), &BTreeMap::new()).expect("a report").html;
    assert!(html.contains("features.onnx") && html.contains("too few for 8 features"), "{html}");
    // With another range of pixels it is another study.
    let options = FeatureOptions { range: PixelRange::Unit, ..FeatureOptions::new(runtime.clone()) };
    let file = folder.path().join("features.onnx");
    let mut brighter = Features::open(&file, &options, None).expect("a features network");
    let mut other = comparison.clone();
    let outcome = other.run(&[Part::Runs], &data, Some(&mut brighter), &|_, _| None, || false, |_| {});
    assert!(outcome.expect("samples are compared"));
    let fed = match &other.findings().samples.as_ref().expect("a study").source {
        FeatureSource::Network { feeding, .. } => feeding.clone(),
        FeatureSource::Blocks(_) => Vec::new(),
    };
    assert_eq!(fed, ["--features-range 0..1"]);
    assert!(go(&mut comparison).expect("and back"));
    // Without the network, its results are kept.
    let (_, kept, _) = run(&folder.path().join("a"), &plan, &[Part::Runs], usize::MAX);
    assert_eq!(kept.findings().samples.as_ref(), Some(&study));

    let mut few = plan.clone();
    few.measuring.samples = 8;
    let mut comparison = Comparison::open(&folder.path().join("b"), few, &data).expect("a comparison");
    let message = go(&mut comparison).expect_err("too few samples").to_string();
    assert!(
        message.contains("at least 20 for the 8 features of features.onnx, got 8; take more"),
        "{message}"
    );
    assert!(!folder.path().join("b").exists(), "nothing was begun first");
}

/// The findings without everything that depends on the clock.
pub fn timeless(findings: &Findings) -> Findings {
    let mut findings = findings.clone();
    let trainings = findings
        .runs
        .iter_mut()
        .map(|run| &mut run.training)
        .chain(findings.full_resolution.iter_mut().map(|run| &mut run.training))
        .chain(
            findings.conversion.iter_mut().flat_map(|c| &mut c.fine_tuned).map(|tuned| &mut tuned.training),
        );
    for training in trainings {
        training.seconds = 0.0;
        training.step_seconds = None;
        training.curve.iter_mut().for_each(|point| point.seconds = 0.0);
    }
    findings.runs.iter_mut().filter_map(|run| run.quality.as_mut()).for_each(|q| q.sample_seconds = None);
    findings.cost = None;
    findings
}

#[test]
fn an_interrupted_comparison_ends_with_the_findings_of_a_straight_one_and_its_report_has_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = plan(
        &config(),
        &[AttentionKind::Softmax, AttentionKind::FAVOR, AttentionKind::Favor(FeatureMap::Relu)],
        5,
    );
    let straight = folder.path().join("straight");
    let (finished, whole, notes) = run(&straight, &plan, &Part::ALL, usize::MAX);
    assert!(finished && notes.is_empty(), "{notes:?}");

    let stepwise = folder.path().join("stepwise");
    let mut calls = 0;
    let stopped = loop {
        // Each call is stopped in the middle of its second stage, and ends before a third one.
        let (finished, comparison, _) = run(&stepwise, &plan, &Part::ALL, 2);
        calls += 1;
        if finished {
            break comparison;
        }
        assert!(calls < 30, "it never ends");
    };
    assert!(calls > 3, "only {calls} calls: nothing was interrupted");
    assert_eq!(timeless(stopped.findings()), timeless(whole.findings()));

    let page = write_report(&straight, whole.findings()).expect("a report");
    let html = std::fs::read_to_string(page).expect("the page");
    let page = roxmltree::Document::parse_with_options(
        &html,
        roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() },
    );
    let page = page.expect("well-formed");
    let count = |tag: &str| page.descendants().filter(|node| node.tag_name().name() == tag).count();
    let titles: Vec<&str> = page
        .descendants()
        .filter(|node| node.tag_name().name() == "h2")
        .filter_map(|node| node.text())
        .collect();
    assert_eq!(
        titles,
        [
            "Under one budget",
            "Attention at full resolution",
            "The attention layer alone",
            "The random features' error",
            "Softmax weights run with FAVOR+",
            "How it was measured",
        ]
    );
    // Three variants, two at full resolution, the conversion's grid.
    assert_eq!(count("img"), 6);
    assert_eq!((count("svg"), count("table"), count("script")), (4 + 2 + 4 + 4 + 2, 8, 0));
    assert!(count("math") >= 6);
    // XML namespaces are no addresses to fetch; the page must name no other address.
    let named: Vec<&str> = page
        .descendants()
        .flat_map(|node| node.attributes().filter(|a| ["src", "href"].contains(&a.name())).map(|a| a.value()))
        .collect();
    assert!(
        named.len() >= 6 && named.iter().all(|name| name.starts_with("data:") || *name == "#main"),
        "{named:?}"
    );
    assert!(!html.contains("url(") && !html.contains("@import"));
    for part in ["Left out of this comparison", "not drawn", "Not run yet"] {
        assert!(!html.contains(part), "{part}");
    }
    let plots = std::fs::read_dir(straight.join("plots")).expect("a folder");
    let endings = plots.map(|plot| plot.expect("a plot").path().extension().map(|ending| ending.to_owned()));
    let (png, svg): (Vec<_>, Vec<_>) = endings.partition(|ending| ending.as_deref() == Some("png".as_ref()));
    assert_eq!((png.len(), svg.len()), (count("svg"), count("svg")));
    for (table, lines) in [
        ("runs", 4),
        ("quality", 4),
        ("loss", 16),
        ("full-resolution", 3),
        ("break-even", 5),
        ("conversion", 5),
    ] {
        let csv = std::fs::read_to_string(straight.join(format!("tables/{table}.csv"))).expect("a table");
        let columns: Vec<usize> = csv.lines().map(|line| line.matches(',').count()).collect();
        assert_eq!(columns.len(), lines, "{table}: {csv}");
    }

    // The report is a function of what is kept.
    let kept = Findings::load(&straight).expect("readable").expect("findings");
    assert_eq!(&kept, whole.findings());
    std::fs::remove_file(straight.join("report.html")).expect("it goes");
    let (finished, again, _) = run(&straight, &plan, &Part::ALL, 0);
    assert!(finished, "nothing is left to do");
    write_report(&straight, again.findings()).expect("a report");
    assert_eq!(std::fs::read_to_string(straight.join("report.html")).expect("the page"), html);
}

/// A network that predicts v, with a variance that it learns and classes, with and without a null class.
#[test]
fn other_objectives_and_classes_are_compared_too() {
    let names = ["even", "odd"].map(str::to_owned);
    let labelled = |count: usize| {
        let labels = Labels::new((0..count as u32).map(|i| i % 2).collect(), names.to_vec()).expect("labels");
        images(count).with_labels(labels).expect("images with labels")
    };
    let data = Datasets::new(labelled(24), Some(labelled(8))).expect("images of one shape");
    for drop_label in [0.3, 0.0] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = config().for_classes(&names, drop_label);
        config.diffusion.prediction = Prediction::VPrediction;
        config.diffusion.learned_range = true;
        config.unet.out_channels = 2;
        let plan = plan(&config, &[AttentionKind::Softmax, AttentionKind::FAVOR], 3);
        let (finished, comparison, notes) = run_on(&data, folder.path(), &plan, &Part::ALL, usize::MAX);
        assert!(finished && notes.is_empty(), "{notes:?}");
        let findings = comparison.findings();
        for run in &findings.runs {
            let quality = run.quality.as_ref().expect("a model");
            let loss = quality.held_out_loss();
            assert!(loss.mean > 0.0 && quality.likelihood.is_some() && quality.grid, "{:?}", run.notes);
        }
        let conversion = findings.conversion.as_ref().expect("the softmax run left a model");
        assert!(conversion.fine_tuned.iter().all(|tuned| tuned.measured.held_out_loss.is_some()));
        let html = report(folder.path(), findings, &BTreeMap::new()).expect("a report").html;
        assert!(html.contains("the noise that follows from") && html.contains("told each image"), "{html}");
    }
}

#[test]
fn a_variant_that_diverges_is_told_and_the_others_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config();
    config.train.lr = 1e30;
    config.train.clip_norm = 0.0;
    let plan = plan(&config, &[AttentionKind::FAVOR, AttentionKind::Softmax], 6);
    let parts = [Part::Runs, Part::Conversion];
    let (finished, comparison, notes) = run(folder.path(), &plan, &parts, usize::MAX);
    assert!(finished);
    let runs = &comparison.findings().runs;
    assert_eq!(runs.len(), 2);
    for run in runs {
        let what = run.training.diverged.as_ref().expect("a rate of 1e30 diverges");
        assert!(what.contains("not finite at step"), "{what}");
        assert!(run.quality.is_none() && run.training.steps > 0);
    }
    assert!(notes.iter().any(|note| note.contains("favor diverged")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("conversion is left out")), "{notes:?}");
    let html = report(folder.path(), comparison.findings(), &BTreeMap::new()).expect("a report").html;
    assert!(html.contains("favor diverged: "), "{html}");
    assert!(html.contains("Left out: the softmax run left no model"), "{html}");
    let more = format!("compare --out {} --only cost", folder.path().display());
    assert!(html.contains(&more) && !html.contains("processes"), "{html}");
    let mut shared = comparison.findings().clone();
    shared.runs[0].training.processes = vec![3, 2];
    let html = report(folder.path(), &shared, &BTreeMap::new()).expect("a report").html;
    assert!(html.contains("favor was trained in 3, then 2 processes"), "{html}");
}

/// The minutes count training in all calls, and nothing else. Of 1.2 seconds the clock's plan may miss 3 %,
/// and as many steps as a busy machine takes at once: a third is far from the half that a call without memory
/// would leave out.
#[test]
fn minutes_are_trained_in_full_however_often_it_is_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = plan_for(&config(), &[AttentionKind::Favor(FeatureMap::Relu)], Budget::Minutes(0.02));
    let (finished, ..) = run(folder.path(), &plan, &[Part::Runs], 1);
    assert!(!finished);
    let (finished, comparison, _) = run(folder.path(), &plan, &[Part::Runs], usize::MAX);
    let training = &comparison.findings().runs[0].training;
    assert!(finished && training.steps > 1, "{training:?}");
    assert!((training.seconds - 1.2).abs() < 0.4 && training.diverged.is_none(), "{training:?}");
}

#[test]
fn another_plan_other_images_and_foreign_runs_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = plan(&config(), &[AttentionKind::FAVOR], 1);
    run(folder.path(), &first, &[], usize::MAX);
    let open = |plan: &Plan, data: &Datasets| {
        Comparison::open(folder.path(), plan.clone(), data).expect_err("refused").to_string()
    };
    let message = open(&plan(&config(), &[AttentionKind::FAVOR], 2), &data());
    assert!(message.contains("comparison.json, the plan's budget.steps: expected 2"), "{message}");
    let more = Datasets::new(images(25), Some(images(8))).expect("images");
    assert!(open(&first, &more).contains("began with"));
    let large = Dataset::new("large", [16, 16, 1], vec![0; 256], None, false).expect("an image");
    let large = Datasets::new(large, None).expect("images");
    assert!(open(&first, &large).contains("16x16"));

    let run = folder.path().join("runs/favor");
    std::fs::create_dir_all(&run).expect("a folder");
    std::fs::write(run.join("config.toml"), config().to_toml()).expect("a file");
    let mut comparison = Comparison::open(folder.path(), first, &data()).expect("a comparison");
    let outcome = comparison.run(&[Part::Runs], &data(), None, &|_, _| None, || false, |_| {});
    let message = outcome.expect_err("a foreign run").to_string();
    assert!(message.contains("the comparison's own run"), "{message}");
}
