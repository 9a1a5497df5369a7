//! The contents of an exported file: weights, names, shapes, documentation; and what remains of a file that
//! fails its check.

use crate::support::networks::{difference, kinds, randomised};
use crate::support::peers::{in_time, python};
use crate::support::runtimes::{at_hand, run, runners};
use crate::support::{binary, golden};
use performer_ddpm::Error;
use performer_ddpm::checkpoint::model_folder::load_unet;
use performer_ddpm::config::{DiffusionConfig, Preset};
use performer_ddpm::equations::ddim::{ClipX0, Ddim};
use performer_ddpm::equations::solver::Scheduler;
use performer_ddpm::equations::update::ReverseProcess;
use performer_ddpm::equations::{Schedule, Spacing};
use performer_ddpm::export::{
    GraphKind, GraphSpec, Metadata, Source, States, TrainStep, build, write_checked,
};
use performer_ddpm::model::Model;
use performer_ddpm::sample::onnx::Runtime;
use performer_ddpm_onnx::proto::{DimensionValue, GraphProto};
use performer_ddpm_onnx::runner::TRACT_BUILT_IN;
use performer_ddpm_onnx::{Model as OnnxModel, Tensor};
use std::process::Command;

fn specs() -> [GraphSpec; 4] {
    let process = ReverseProcess::Ddim(Ddim { eta: 0.5, clip_x0: ClipX0::RederiveEps });
    let scheduler = Scheduler::of_text(process, Spacing::Leading);
    [
        GraphSpec::Denoiser,
        GraphSpec::Step,
        GraphSpec::Sampler { scheduler, steps: Some(7), per_run: None },
        GraphSpec::Sampler { scheduler, steps: Some(7), per_run: Some(3) },
    ]
}

fn exported(model: &Model<f32>, spec: &GraphSpec) -> OnnxModel {
    let diffusion = DiffusionConfig::default();
    build(Source { step: Some(12), ..Source::new(model, &diffusion) }, spec).expect("a graph")
}

/// The graph and the bodies in it.
fn graphs(graph: &GraphProto) -> Vec<&GraphProto> {
    let inner =
        graph.node.iter().flat_map(|node| &node.attribute).filter_map(|attribute| attribute.g.as_ref());
    std::iter::once(graph).chain(inner.flat_map(graphs)).collect()
}

#[test]
fn every_parameter_is_there_under_its_name_in_the_files_layout() {
    for (name, config) in kinds() {
        let model = randomised(&config, 1);
        for spec in specs() {
            let file = exported(&model, &spec);
            let summary = file.summary().expect("a summary");
            let wanted = model.graph.params.iter().len() + model.graph.projections.len();
            assert_eq!(summary.weights.len(), wanted, "{name}: nothing else, and nothing twice");
            for param in model.graph.params.iter() {
                let weight = file.initializer(&param.name).expect("an initialiser");
                assert_eq!(weight.shape(), param.kind.file_shape(), "{}", param.name);
                let want = param.kind.to_file_layout(&model.weights[param.range()]);
                assert_eq!(weight.as_f32(), Some(want.as_slice()), "{}", param.name);
            }
            for (spec, w) in model.graph.projections.iter().zip(&model.projections) {
                let weight = file.initializer(&spec.name).expect("an initialiser");
                assert_eq!(
                    (weight.shape(), weight.as_f32()),
                    (&[spec.features, spec.dim][..], Some(w.as_slice()))
                );
            }
        }
    }
}

#[test]
fn ports_and_versions_are_as_documented() {
    let (_, config) = kinds().remove(0);
    let model = randomised(&config, 1);
    let image = "f32 [N, 2, 12, 16]";
    let wanted = [
        (vec![format!("x {image}"), "t i64 [N]".into()], format!("eps {image}")),
        (
            vec![
                format!("x {image}"),
                "t i64 [N]".into(),
                "coefficients f32 [8]".into(),
                format!("z {image}"),
            ],
            format!("x_next {image}"),
        ),
        (vec![format!("x_T {image}"), "noise f32 [7, N, 2, 12, 16]".into()], format!("images {image}")),
        (
            vec![format!("x_T {image}"), "noise f32 [3, N, 2, 12, 16]".into(), "first i64 [1]".into()],
            format!("images {image}"),
        ),
    ];
    for (spec, (inputs, output)) in specs().into_iter().zip(wanted) {
        let file = exported(&model, &spec);
        let summary = file.summary().expect("a summary");
        let shown: Vec<String> = summary.inputs.iter().map(ToString::to_string).collect();
        assert_eq!(shown, inputs);
        assert_eq!(summary.outputs.iter().map(ToString::to_string).collect::<Vec<_>>(), [output]);
        assert_eq!((summary.ir_version, summary.opsets), (8, vec![(String::new(), 17)]));
        let metadata = Metadata::read(&file).expect("metadata").expect("metadata");
        assert_eq!((metadata.graph, metadata.step), (spec.kind(), Some(12)));
        assert_eq!(
            metadata.schedule,
            Schedule::from_config(&DiffusionConfig::default()).expect("a schedule")
        );
        assert_eq!(metadata.sampler.is_some(), spec.kind() == GraphKind::Sampler);
    }
}

#[test]
fn nodes_name_the_equation_that_they_belong_to() {
    let equations = [
        ("Softmax", vec!["(22)"]),
        ("Positive", vec!["(25)", "(26)"]),
        ("Hyperbolic", vec!["(24)", "(26)"]),
        ("Trigonometric", vec!["(24)", "(26)"]),
        ("Relu", vec!["(24)", "(26)"]),
    ];
    for ((name, config), (kind, wanted)) in kinds().into_iter().zip(equations) {
        assert_eq!(name, kind);
        let file = exported(&randomised(&config, 1), &GraphSpec::Step);
        let graph = file.proto().graph.as_ref().expect("a graph");
        for equation in wanted.iter().chain(&["(3)", "(15)"]) {
            assert!(graph.node.iter().any(|node| node.doc_string.contains(equation)), "{name} {equation}");
        }
        assert!(graph.node.iter().all(|node| !node.doc_string.is_empty() || node.op_type == "Constant"));
        let conv = graph.node.iter().find(|node| node.name.starts_with("mid_block.resnets.1.conv2/"));
        assert!(conv.is_some_and(|node| node.doc_string.contains("3x3 convolution")), "{name}");
    }
}

/// Attention sees 6 x 8 pixels.
#[test]
fn eq26_no_value_of_a_favor_graph_is_l_by_l() {
    const L: i64 = 48;
    for (name, config) in kinds() {
        let file = exported(&randomised(&config, 1), &specs()[2]);
        let mut square = 0;
        let mut values = 0;
        for graph in graphs(file.proto().graph.as_ref().expect("a graph")) {
            for value in &graph.value_info {
                let tensor = value.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
                let dims = &tensor.and_then(|tensor| tensor.shape.as_ref()).expect("a shape").dim;
                let lengths: Vec<_> = dims.iter().map(|dim| dim.value.clone()).collect();
                values += 1;
                let both = [Some(DimensionValue::DimValue(L)), Some(DimensionValue::DimValue(L))];
                square += usize::from(lengths.ends_with(&both));
            }
        }
        assert!(values > 100, "{name}: {values} values have a shape");
        assert_eq!(square > 0, name == "Softmax", "{name}: {square} matrices of L x L");
    }
}

/// Tolerance: 1e-5 of the largest value; the golden output is PyTorch's in f64.
#[test]
fn golden_networks_agree_with_pytorch() {
    let folders = std::fs::read_dir(golden::folder()).expect("the golden folder");
    let folders = folders.map(|entry| entry.expect("an entry").path());
    let mut compared = 0;
    for path in
        folders.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("unet_")))
    {
        let model: Model<f32> = load_unet(&path).expect("the golden model loads");
        let graph = exported(&model, &GraphSpec::Denoiser);
        let golden = golden::tensors(&path.join("golden.safetensors"));
        compared += 1;
        in_time(move || {
            let (shape, x) = &golden["x"];
            let x: Vec<f32> = x.iter().map(|x| *x as f32).collect();
            let t: Vec<i64> = golden["t"].1.iter().map(|t| *t as i64).collect();
            let (x, t) = (Tensor::f32(shape.clone(), x).expect("x"), Tensor::i64([t.len()], t).expect("t"));
            for mut runner in runners(&graph) {
                let (runtime, got) = run(runner.as_mut(), &[("x", &x), ("t", &t)]);
                let off = difference(&got, &golden["y"].1);
                assert!(off < 1e-5, "{} in {runtime}: {off:e}", path.display());
            }
        });
    }
    assert!(compared > 0);
}

#[test]
fn a_file_that_fails_its_check_is_not_left_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let names = || {
        let entries = std::fs::read_dir(folder.path()).expect("the folder");
        entries.map(|entry| entry.expect("an entry").file_name()).collect::<Vec<_>>()
    };
    let (_, config) = kinds().remove(0);
    let file = exported(&randomised(&config, 1), &GraphSpec::Denoiser);
    let path = folder.path().join("model.onnx");
    let fail = || Error::invalid("the check", "to pass", "a failure", "");
    let refused = write_checked(&path, &file, |_| Err(fail())).expect_err("the check failed").to_string();
    assert!(refused.contains("a failure"), "{refused}");
    assert!(names().is_empty(), "{:?}", names());

    std::fs::write(&path, "what was there").expect("written");
    write_checked(&path, &file, |_| Err(fail())).expect_err("the check failed");
    assert_eq!(std::fs::read_to_string(&path).expect("text"), "what was there");

    write_checked(&path, &file, |written| {
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "what was there", "not before the check");
        assert_eq!(written.proto(), file.proto());
        Ok(())
    })
    .expect("the check passed");
    assert_eq!(OnnxModel::read(&path).expect("a model").proto(), file.proto());
    assert_eq!(names(), ["model.onnx"]);

    assert!(
        write_checked(folder.path(), &file, |_| Ok(()))
            .expect_err("a folder")
            .to_string()
            .contains("a folder")
    );
    let missing = folder.path().join("missing").join("model.onnx");
    let error = write_checked(&missing, &file, |_| Ok(())).expect_err("no such folder");
    assert!(error.exit_status() == 1 && error.to_string().contains("missing"), "{error}");
}

#[test]
fn the_command_exports_the_newest_run_and_refuses_what_does_not_fit() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let run = |arguments: &[&str]| {
        let output = binary::run(folder, arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), message)
    };
    let (status, _, message) = run(&["export", "model.onnx", "--model", "runs/latest"]);
    assert_eq!(status, Some(2), "no model yet: {message}");
    assert!(message.contains("runs/latest"), "{message}");
    let (status, _, message) = run(&["train", "--preset", "tiny", "--steps", "1", "--quiet"]);
    assert_eq!(status, Some(0), "{message}");

    let (status, out, message) = run(&["export", "model.onnx", "--quiet"]);
    assert_eq!((status, out.as_str()), (Some(0), "model.onnx\n"), "{message}");
    let (status, out, message) = run(&["export", "model.onnx", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).expect("one JSON object");
    assert!(status == Some(0) && message.is_empty(), "{message}");
    let list = |name: &str| report[name].as_array().expect("a list").clone();
    let checked = list("checks").into_iter().map(|check| check["runtime"].as_str().unwrap().to_owned());
    let checked: Vec<String> = checked.collect();
    assert_eq!(checked.len(), at_hand().len(), "{out}");
    for (runtime, checked) in at_hand().iter().zip(&checked) {
        let starts = if *runtime == Runtime::Tract { "tract" } else { "ONNX Runtime" };
        assert!(checked.starts_with(starts), "{out}");
    }
    // A runtime that could be here is told where it is not.
    let tried = 1 + usize::from(TRACT_BUILT_IN);
    assert_eq!(checked.len() + list("not_checked").len(), tried, "{out}");
    let (status, out, _) = run(&[
        "export",
        "sampler.onnx",
        "--graph",
        "sampler",
        "--sampler",
        "ddpm",
        "--steps",
        "3",
        "--check",
        "none",
        "--json",
    ]);
    assert_eq!(status, Some(0));
    let report: serde_json::Value = serde_json::from_str(&out).expect("one JSON object");
    assert_eq!((&report["graph"], &report["checks"]), (&"sampler".into(), &serde_json::json!([])));
    let sampler = Metadata::read(&OnnxModel::read(folder.join("sampler.onnx")).expect("a model"));
    assert_eq!(sampler.expect("metadata").expect("ours").sampler.expect("a sampler").timesteps.len(), 3);

    let (status, out, message) = run(&["export", "train.onnx", "--graph", "train-step", "--rows", "--quiet"]);
    assert_eq!((status, out.as_str()), (Some(0), "train.onnx\n"), "{message}");
    let trained = Metadata::read(&OnnxModel::read(folder.join("train.onnx")).expect("a model"));
    let step = TrainStep { states: States::Rows, ..TrainStep::from(&Preset::Tiny.config().train) };
    assert_eq!(trained.expect("metadata").expect("ours").training, Some(step), "the run's own settings");
    let (status, out, _) = run(&["info", "train.onnx"]);
    assert!(
        status == Some(0) && out.contains("eps f32 [N, 1, 28, 28]") && out.contains("train-step"),
        "{out}"
    );
    let (status, _, message) = run(&["sample", "train.onnx"]);
    assert!(status == Some(2) && message.contains("a graph that samples"), "{message}");

    let (status, out, _) = run(&["info", "sampler.onnx", "--json"]);
    let info: serde_json::Value = serde_json::from_str(&out).expect("one JSON object");
    assert_eq!((status, &info["inputs"][1]), (Some(0), &"noise f32 [3, N, 1, 28, 28]".into()));
    assert_eq!(info["metadata"]["performer_ddpm.sampler"], "ddpm");
    let (status, out, _) = run(&["info", "model.onnx"]);
    assert!(status == Some(0) && out.contains("x f32 [N, 1, 28, 28]") && out.contains("denoiser"), "{out}");
    let whole = std::fs::read(folder.join("model.onnx")).expect("a file");
    std::fs::write(folder.join("half.onnx"), &whole[..whole.len() / 2]).expect("written");
    let (status, _, message) = run(&["info", "half.onnx"]);
    assert!(status == Some(2) && message.contains("half.onnx") && message.contains("too early"), "{message}");

    let refusals: [(&[&str], &str); 11] = [
        (&["--graph", "train-step", "--steps", "5"], "--graph sampler"),
        (&["--graph", "train-step", "--guided"], "--graph step or sampler"),
        (&["--rows"], "--graph train-step"),
        (&["--steps", "5"], "--graph sampler"),
        (&["--steps-per-run", "5"], "--graph sampler"),
        (&["--graph", "sampler", "--steps", "3", "--steps-per-run", "4"], "1 to the sampler's 3"),
        (&["--graph", "sampler", "--sampler", "ddpm", "--eta", "1"], "--eta"),
        (&["--graph", "sampler", "--eta", "1.5"], "0 to 1"),
        (&["--graph", "sampler", "--steps", "101"], "1 to 100"),
        (&["--check", "none,ort"], "--check"),
        (&["--model", "elsewhere"], "elsewhere"),
    ];
    for (arguments, word) in refusals {
        let (status, _, message) = run(&[&["export", "refused.onnx"], arguments].concat());
        assert!(status == Some(2) && message.contains(word), "{arguments:?}: {message}");
    }
    assert!(!folder.join("refused.onnx").exists());
    let (status, _, message) = run(&["export", "runs", "--check", "none"]);
    assert!(status == Some(2) && message.contains("a folder"), "{message}");
}

/// `onnx.checker` with its full check, and the wheel of ONNX Runtime.
#[test]
fn python_s_checker_and_runtime_accept_every_graph() {
    const CHECK: &str =
        "import sys, onnx.checker\nfor path in sys.argv[1:]: onnx.checker.check_model(path, full_check=True)";
    const RUN: &str = "
import sys, numpy as np, onnxruntime
rng = np.random.default_rng(0)
for path in sys.argv[1:]:
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    feeds = {}
    for port in session.get_inputs():
        shape = [d if isinstance(d, int) else 3 for d in port.shape]
        if port.type == 'tensor(int64)': feeds[port.name] = np.full(shape, 999 if port.name == 't' else 6)
        else: feeds[port.name] = rng.standard_normal(shape, np.float32)
    y, = session.run(None, feeds)
    assert y.shape == (3, 2, 12, 16) and np.isfinite(y).all(), path
";
    let folder = tempfile::tempdir().expect("a folder");
    let mut files = Vec::new();
    for (name, config) in kinds() {
        let model = randomised(&config, 1);
        for (i, spec) in specs().iter().enumerate() {
            let path = folder.path().join(format!("{name}_{i}.onnx"));
            exported(&model, spec).write(&path).expect("written");
            files.push(path);
        }
    }
    let mut all = files.clone();
    for (name, config) in kinds() {
        let path = folder.path().join(format!("{name}_train.onnx"));
        let step = GraphSpec::TrainStep(TrainStep::default());
        exported(&randomised(&config, 1), &step).write(&path).expect("written");
        all.push(path);
    }
    for (packages, script) in [("onnx.checker", CHECK), ("numpy, onnxruntime", RUN)] {
        let Some(interpreter) = python(packages) else { continue };
        // The script that runs them knows the graphs that sample.
        let files = if script == CHECK { &all } else { &files };
        let output =
            Command::new(interpreter).args(["-c", script]).args(files).output().expect("python runs");
        assert!(output.status.success(), "{packages}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
