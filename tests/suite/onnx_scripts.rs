//! The scripts and examples for ONNX users: the Python sampler, the GPU measurement as far as it runs on a
//! CPU, and the example.

use crate::support::peers::{self, python};
use crate::support::pictures::decoded;
use ndarray::{Array4, Array5};
use performer_ddpm::checkpoint::model_folder;
use performer_ddpm::config::{DiffusionConfig, Prediction, Preset};
use performer_ddpm::equations::Schedule;
use performer_ddpm::equations::solver::{
    Bh, DdimChoice, DpmSolver, Limit, Method, Scheduler, SecondOrder, StepSet, UniPc,
};
use performer_ddpm::export::{GraphKind, GraphSpec, Source, build};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::output::{read_npy, write_npy};
use performer_ddpm::rng::{Stream, fill_normal, rng};
use performer_ddpm::sample::{SampleOptions, Spacing, sample};
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

/// Steps and images of the tests of the Python sampler.
const STEPS: usize = 5;
const IMAGES: usize = 3;

/// A model, how it is sampled, and the noise of it.
struct Subject {
    model: Model<f32>,
    diffusion: DiffusionConfig,
    noise: Array5<f32>,
    folder: tempfile::TempDir,
    python: String,
}

impl Subject {
    fn new(python: &str, diffusion: &DiffusionConfig) -> Subject {
        let mut numbers = vec![0.0; (STEPS + 1) * IMAGES * 784];
        fill_normal(&mut rng(1, Stream::Check, 0, 0), &mut numbers);
        let noise =
            Array5::from_shape_vec((STEPS + 1, IMAGES, 1, 28, 28), numbers).expect("[K + 1, N, C, H, W]");
        let folder = tempfile::tempdir().expect("a folder");
        write_npy(&folder.path().join("noise.npy"), noise.view()).expect("a file");
        let (python, diffusion) = (python.to_owned(), diffusion.clone());
        Subject { model: network(), diffusion, noise, folder, python }
    }

    fn engine(&self, scheduler: &Scheduler) -> Array4<f32> {
        let schedule = Schedule::from_config(&self.diffusion).expect("a schedule");
        let options = SampleOptions { count: IMAGES, batch: IMAGES, ..SampleOptions::default() };
        let options = options.with_scheduler(scheduler, &schedule, Some(STEPS));
        let mut engine = Engine::new(&self.model, 1, Isa::detect()).expect("an engine");
        sample(&self.model, &schedule, &mut engine, &options, Some(self.noise.view()), |_| {})
            .expect("images")
    }

    /// What the script says of the graph of this kind that the file has for `of_file`.
    fn script(&self, spec: &GraphSpec, of_file: Scheduler, more: &[&str]) -> Output {
        let at = |name: &str| self.folder.path().join(name);
        let source = Source { scheduler: of_file, ..Source::new(&self.model, &self.diffusion) };
        build(source, spec).and_then(|graph| Ok(graph.write(at("graph.onnx"))?)).expect("a file");
        let mut command = Command::new(&self.python);
        // NumPy's threads, which have nothing to do, would wait for work on the cores that other tests use.
        command.env("OPENBLAS_NUM_THREADS", "1");
        command.arg(script("sample.py")).arg(at("graph.onnx")).arg("--noise").arg(at("noise.npy"));
        command.arg("--npy").arg(at("images.npy")).arg("--out").arg(at("grid.png")).args(more);
        if spec.kind() != GraphKind::Sampler {
            command.args(["--steps", &STEPS.to_string()]);
        }
        command.output().expect("python runs")
    }

    /// The script's images are the engine's by `scheduler`, to 1e-3 of the largest value, the contract of
    /// every backend: without clipping the images leave [-1, 1], and rounding errors grow with them.
    fn check(&self, spec: &GraphSpec, of_file: Scheduler, scheduler: &Scheduler, more: &[&str]) {
        let what = format!("{:?} {scheduler:?} {more:?}", spec.kind());
        let want = self.engine(scheduler);
        let largest = want.iter().fold(1f32, |most, x| most.max(x.abs()));
        let output = self.script(spec, of_file, more);
        assert!(output.status.success(), "{what}: {}", text(&output));
        let got: Array4<f32> = read_npy(&self.folder.path().join("images.npy")).expect("images");
        let got = got.permuted_axes([0, 2, 3, 1]);
        let errors = got.iter().zip(&want).map(|(a, b)| (a - b).abs());
        let error = errors.fold(0f32, |most, e| if e.is_nan() || e > most { e } else { most });
        assert!(error <= 1e-3 * largest, "{what}: {error} of {largest}");
    }
}

#[test]
fn the_python_sampler_gives_the_engine_s_images() {
    let Some(python) = python("numpy, onnxruntime") else { return };
    let mut grid = None;
    for clip_x0 in [true, false] {
        let diffusion = DiffusionConfig { clip_x0, ..DiffusionConfig::default() };
        let subject = Subject::new(&python, &diffusion);
        let usual = Scheduler::ddim_of(&diffusion);
        let ddim = Method::Ddim(DdimChoice { eta: 0.5, ..DdimChoice::default() });
        let ddpm = Method::Ddpm { variance: diffusion.variance.into(), noise_at_last: true };
        for (name, method) in [("ddim", ddim), ("ddpm", ddpm)] {
            let scheduler = Scheduler { method, ..usual };
            let chain = |per_run| GraphSpec::Sampler { scheduler, steps: Some(STEPS), per_run };
            let asked = if name == "ddim" {
                &["--sampler", "ddim", "--eta", "0.5"][..]
            } else {
                &["--sampler", "ddpm"]
            };
            for spec in [GraphSpec::Denoiser, GraphSpec::Step] {
                subject.check(&spec, Scheduler::of(&diffusion), &scheduler, asked);
            }
            for spec in [chain(None), chain(Some(3))] {
                subject.check(&spec, usual, &scheduler, &[]);
            }
        }
        grid = Some(decoded(&subject.folder.path().join("grid.png")));
    }
    let grid = grid.expect("a picture");
    assert_eq!((grid.width(), grid.height()), (56, 56));
}

/// Schedulers as files have them, of which nothing is asked; those that look back in denoisers and in step
/// graphs.
#[test]
fn the_python_sampler_follows_the_file_s_scheduler() {
    let Some(python) = python("numpy, onnxruntime") else { return };
    let diffusion = DiffusionConfig::default();
    let subject = Subject::new(&python, &diffusion);
    let usual = Scheduler::of(&diffusion);
    let dpm = |solver| Scheduler { method: Method::DpmSolver(solver), ..usual };
    let unipc = |unipc| Scheduler { method: Method::UniPc(unipc), ..usual };
    let plain = DpmSolver::default();
    let ends = DpmSolver { final_sigma_zero: false, lower_order_final: false, ..plain };
    let sde = DpmSolver { sde: true, ..plain };
    let leading = |scheduler| Scheduler { spacing: Spacing::Leading, steps_offset: 1, ..scheduler };
    let linspace = |scheduler| Scheduler { spacing: Spacing::Linspace, ..scheduler };
    let long = UniPc { order: 3, final_sigma_zero: false, lower_order_final: false, ..UniPc::default() };
    let uncorrected = StepSet::new(&[1, 2]).expect("two steps");
    let schedulers = [
        usual,
        leading(dpm(DpmSolver { order: 3, ..ends })),
        dpm(DpmSolver { second_order: SecondOrder::Heun, karras: true, ..plain }),
        linspace(dpm(sde)),
        dpm(DpmSolver { order: 3, karras: true, ..DpmSolver { sde: true, ..ends } }),
        dpm(DpmSolver { order: 1, euler_at_final: true, ..ends }),
        unipc(UniPc::default()),
        leading(unipc(long)),
        linspace(unipc(UniPc { b: Bh::Bh1, corrector_off: uncorrected, ..long })),
        unipc(UniPc { karras: true, sigma_max: Some(40.0), order: 1, ..UniPc::default() }),
        leading(Scheduler::ddim_of(&diffusion)),
        Scheduler { limit: Limit::Clip { range: 1.5 }, ..linspace(Scheduler::ddim_of(&diffusion)) },
    ];
    for scheduler in schedulers {
        for spec in [GraphSpec::Denoiser, GraphSpec::Step] {
            subject.check(&spec, scheduler, &scheduler, &[]);
        }
    }
    // By name, where the file has another sampler; and where its graph carries too little for it.
    let ddim = Scheduler::ddim_of(&diffusion);
    for (name, method) in [("dpm++", usual.method), ("unipc", Method::UniPc(UniPc::default()))] {
        let asked = ddim.with_method(method, true);
        subject.check(&GraphSpec::Denoiser, ddim, &asked, &["--sampler", name]);
    }
    let output = subject.script(&GraphSpec::Step, usual, &["--sampler", "unipc"]);
    assert!(
        !output.status.success() && text(&output).contains("export the graph with --sampler"),
        "{}",
        text(&output)
    );
}

/// A network that predicts v, from zero terminal SNR: by DDIM in the denoiser and in a step graph that
/// carries what UniPC needs, and by UniPC itself, in the step graph and in runs of 3 of its steps.
#[test]
fn the_python_sampler_takes_graphs_that_carry_more() {
    let Some(python) = python("numpy, onnxruntime") else { return };
    let prediction = Prediction::VPrediction;
    let diffusion = DiffusionConfig { prediction, zero_terminal_snr: true, ..DiffusionConfig::default() };
    let subject = Subject::new(&python, &diffusion);
    let ddim = Scheduler::ddim_of(&diffusion);
    let unipc = ddim.with_method(Method::UniPc(UniPc::default()), true);
    let chain = GraphSpec::Sampler { scheduler: unipc, steps: Some(STEPS), per_run: Some(3) };
    for spec in [GraphSpec::Denoiser, GraphSpec::Step] {
        subject.check(&spec, unipc, &ddim, &["--sampler", "ddim"]);
        subject.check(&spec, unipc, &unipc, &[]);
    }
    subject.check(&chain, unipc, &unipc, &[]);
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
