//! The scripts and examples for ONNX users: the Python sampler, the GPU measurement as far as it runs on a
//! CPU, and the example.

use crate::support::peers::{self, python};
use ndarray::{Array4, Array5};
use performer_ddpm::checkpoint::model_folder;
use performer_ddpm::config::{DiffusionConfig, Prediction, Preset};
use performer_ddpm::equations::Schedule;
use performer_ddpm::equations::solver::{Method, Scheduler, UniPc};
use performer_ddpm::export::{GraphSpec, Source, build};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::output::{read_npy, write_npy};
use performer_ddpm::rng::{Stream, fill_normal, rng};
use performer_ddpm::sample::{ClipX0, SampleOptions, Sampler, Spacing, sample};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx").join(name)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The tiny preset's network with no parameter at its zero initialisation.
fn network() -> Model<f32> {
    let mut model: Model<f32> = Model::new(&Preset::Tiny.config().unet, 3).expect("a network");
    let mut noise = vec![0.0; model.weights.len()];
    fill_normal(&mut rng(3, Stream::Check, 0, 0), &mut noise);
    model.weights.iter_mut().zip(&noise).for_each(|(w, z)| *w += 0.1 * z);
    model
}

/// From the same noise to 1e-3, the contract of every backend.
#[test]
fn the_python_sampler_gives_the_engine_s_images() {
    let Some(python) = python("numpy, onnxruntime") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let model = network();
    let file = |name: &str| folder.path().join(name);
    let (steps, n) = (4, 3);
    let mut numbers = vec![0.0; (steps + 1) * n * 784];
    fill_normal(&mut rng(1, Stream::Check, 0, 0), &mut numbers);
    let noise = Array5::from_shape_vec((steps + 1, n, 1, 28, 28), numbers).expect("[K + 1, N, C, H, W]");
    write_npy(&file("noise.npy"), noise.view()).expect("a file");
    for (clip_x0, sampler) in [(true, "ddim"), (false, "ddim"), (true, "ddpm"), (false, "ddpm")] {
        let diffusion = DiffusionConfig { clip_x0, ..DiffusionConfig::default() };
        let options = SampleOptions {
            count: n,
            batch: n,
            seed: 0,
            sampler: match sampler {
                "ddim" => Sampler::Ddim { eta: 0.5 },
                _ => Sampler::Ddpm { variance: diffusion.variance },
            },
            steps: Some(steps),
            spacing: Spacing::Trailing,
            clip_x0: if clip_x0 { ClipX0::KeepEps } else { ClipX0::Off },
            ..SampleOptions::default()
        };
        let schedule = Schedule::from_config(&diffusion).expect("a schedule");
        let mut engine = Engine::new(&model, 1, Isa::detect()).expect("an engine");
        let want =
            sample(&model, &schedule, &mut engine, &options, Some(noise.view()), |_| {}).expect("images");
        let largest = want.iter().fold(1f32, |most, x| most.max(x.abs()));
        let scheduler = options.scheduler();
        let chain = |per_run| GraphSpec::Sampler { scheduler, steps: options.steps, per_run };
        for spec in [GraphSpec::Denoiser, GraphSpec::Step, chain(None), chain(Some(3))] {
            let source = Source::new(&model, &diffusion);
            build(source, &spec).and_then(|graph| Ok(graph.write(file("graph.onnx"))?)).expect("a file");
            let mut command = Command::new(&python);
            command.arg(script("sample.py")).arg(file("graph.onnx")).arg("--noise").arg(file("noise.npy"));
            command.arg("--npy").arg(file("images.npy")).arg("--out").arg(file("grid.png"));
            if spec.kind() != performer_ddpm::export::GraphKind::Sampler {
                command.args(["--sampler", sampler, "--steps", "4", "--eta", "0.5"]);
            }
            let output = command.output().expect("python runs");
            assert!(output.status.success(), "{}", text(&output));
            let got: Array4<f32> = read_npy(&file("images.npy")).expect("images");
            let got = got.permuted_axes([0, 2, 3, 1]);
            let errors = got.iter().zip(&want).map(|(a, b)| (a - b).abs());
            let error = errors.fold(0f32, |most, e| if e.is_nan() || e > most { e } else { most });
            // Without clipping the images leave [-1, 1], and rounding errors grow with them.
            assert!(error <= 1e-3 * largest, "{:?} {sampler} {clip_x0}: {error} of {largest}", spec.kind());
        }
    }
    let grid = image::open(file("grid.png")).expect("a picture");
    assert_eq!((grid.width(), grid.height()), (56, 56));
}

/// A network that predicts v, from zero terminal SNR: by DDIM in the denoiser and in a step graph that
/// carries what UniPC needs, and by UniPC itself in runs of 3 of its 4 steps.
#[test]
fn the_python_sampler_takes_graphs_that_carry_more() {
    let Some(python) = python("numpy, onnxruntime") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let (model, steps, n) = (network(), 4, 3);
    let mut numbers = vec![0.0; (steps + 1) * n * 784];
    fill_normal(&mut rng(1, Stream::Check, 0, 0), &mut numbers);
    let noise = Array5::from_shape_vec((steps + 1, n, 1, 28, 28), numbers).expect("[K + 1, N, C, H, W]");
    write_npy(&file("noise.npy"), noise.view()).expect("a file");
    let prediction = Prediction::VPrediction;
    let diffusion = DiffusionConfig { prediction, zero_terminal_snr: true, ..DiffusionConfig::default() };
    let schedule = Schedule::from_config(&diffusion).expect("a schedule");
    let ddim = Scheduler::of(&diffusion);
    let unipc = ddim.with_method(Method::UniPc(UniPc::default()));
    let chain = GraphSpec::Sampler { scheduler: unipc, steps: Some(steps), per_run: Some(3) };
    for (spec, scheduler) in [(GraphSpec::Denoiser, ddim), (GraphSpec::Step, ddim), (chain, unipc)] {
        let options = SampleOptions { count: n, batch: n, ..SampleOptions::default() };
        let options = options.with_scheduler(&scheduler, &schedule, Some(steps));
        let mut engine = Engine::new(&model, 1, Isa::detect()).expect("an engine");
        let want =
            sample(&model, &schedule, &mut engine, &options, Some(noise.view()), |_| {}).expect("images");
        let largest = want.iter().fold(1f32, |most, x| most.max(x.abs()));
        let source = Source { scheduler: unipc, ..Source::new(&model, &diffusion) };
        build(source, &spec).and_then(|graph| Ok(graph.write(file("graph.onnx"))?)).expect("a file");
        let mut command = Command::new(&python);
        command.arg(script("sample.py")).arg(file("graph.onnx")).arg("--noise").arg(file("noise.npy"));
        command.arg("--npy").arg(file("images.npy"));
        if scheduler == ddim {
            command.args(["--sampler", "ddim", "--steps", "4"]);
        }
        let output = command.output().expect("python runs");
        assert!(output.status.success(), "{}", text(&output));
        let got: Array4<f32> = read_npy(&file("images.npy")).expect("images");
        let got = got.permuted_axes([0, 2, 3, 1]);
        let errors = got.iter().zip(&want).map(|(a, b)| (a - b).abs());
        let error = errors.fold(0f32, |most, e| if e.is_nan() || e > most { e } else { most });
        assert!(error <= 1e-3 * largest, "{:?}: {error} of {largest}", spec.kind());
    }
}

#[test]
fn the_gpu_measurement_runs_on_a_processor() {
    let Some(python) = python("numpy, onnxruntime, torch") else { return };
    let output = Command::new(&python)
        .arg(script("gpu/measure.py"))
        .args(["--device", "cpu", "--quick", "--binary", env!("CARGO_BIN_EXE_performer-ddpm")])
        .output()
        .expect("python runs");
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    for row in ["host", "device", "sampler"] {
        let row = told.lines().find(|line| line.starts_with(&format!("| ONNX Runtime, {row} |")));
        let cells: Vec<&str> = row.unwrap_or_else(|| panic!("{told}")).split('|').map(str::trim).collect();
        assert!(
            cells[2..4].iter().all(|cell| cell.parse::<f64>().is_ok_and(|speed| speed > 0.0)),
            "{cells:?}"
        );
    }
    assert!(told.contains("| PyTorch, eager |"), "{told}");
}

#[test]
fn the_example_samples_or_says_what_is_missing() {
    let binary = Path::new(env!("CARGO_BIN_EXE_performer-ddpm"));
    let example =
        binary.with_file_name("examples").join(format!("sample_on_gpu{}", std::env::consts::EXE_SUFFIX));
    if !example.exists() {
        println!("skipped: the examples are not built (cargo test builds them)");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    model_folder::save(&folder.path().join("model"), &network(), None, &DiffusionConfig::default())
        .expect("a model");
    let run = |device: &str| {
        let mut command = Command::new(&example);
        command.current_dir(&folder).args(["model", device]).output().expect("the example starts")
    };
    let output = run("cpu");
    if output.status.success() {
        assert!(folder.path().join("sample_on_gpu.png").exists());
        assert!(text(&output).contains("step 20 of 20"), "{}", text(&output));
        let output = run("cuda:97");
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("cuda:97 cannot be used"), "{}", text(&output));
    } else {
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("no usable ONNX Runtime"), "{}", text(&output));
        peers::skipped(text(&output));
    }
}
