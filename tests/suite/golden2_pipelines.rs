//! Whole pipelines against diffusers: every folder of `tests/golden2/pipelines`, or of `pipelines` in the
//! folder that `PERFORMER_DDPM_GOLDEN2` names, sampled from its own noise as its scheduler's file says.

use crate::support::golden::{channels_last, tensors};
use crate::support::parity::largest;
use ndarray::{Array4, Array5, ArrayD, IxDyn};
use performer_ddpm::checkpoint::model_folder::{LoadedModel, load};
use performer_ddpm::equations::Schedule;
use performer_ddpm::equations::solver::Method;
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::Engine;
use performer_ddpm::output::{read_npy, write_npy};
use performer_ddpm::sample::{ClipX0, SampleOptions, Sampler, Spacing, sample};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) fn folders() -> Vec<PathBuf> {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden2");
    let root = std::env::var_os("PERFORMER_DDPM_GOLDEN2").map_or_else(own, PathBuf::from).join("pipelines");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("chain.json").is_file())
        .collect();
    folders.sort();
    folders
}

/// What diffusers was told beside the scheduler's file.
pub(crate) fn apply_step_arguments<T>(loaded: &mut LoadedModel<T>, arguments: &Value) {
    for (name, value) in arguments.as_object().into_iter().flatten() {
        match (name.as_str(), &mut loaded.scheduler.method) {
            ("eta", Method::Ddim(choice)) => choice.eta = value.as_f64().expect("a number"),
            ("use_clipped_model_output", Method::Ddim(choice)) => {
                choice.rederive_eps = value.as_bool().expect("true or false");
            }
            (other, method) => panic!("step argument {other} of {method:?}"),
        }
    }
}

/// x_T and the noises as one array \[K + 1, n, c, h, w\].
pub(crate) fn noise_of(chain: &std::collections::BTreeMap<String, (Vec<usize>, Vec<f64>)>) -> Array5<f32> {
    let ((start_shape, start), (shape, noises)) = (&chain["x_T"], &chain["noise"]);
    assert_eq!(start_shape[..], shape[1..]);
    let mut all = vec![shape[0] + 1];
    all.extend(start_shape);
    let numbers = start.iter().chain(noises).map(|z| *z as f32).collect();
    ArrayD::from_shape_vec(IxDyn(&all), numbers).unwrap().into_dimensionality().unwrap()
}

/// The images in the same noise, how far they are off relative to the largest value, and the timesteps.
fn run(folder: &Path) -> Result<(f64, bool), String> {
    let mut loaded = load::<f64>(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let text = std::fs::read_to_string(folder.join("chain.json")).unwrap();
    let chain: Value = serde_json::from_str(&text).unwrap();
    apply_step_arguments(&mut loaded, &chain["step_arguments"]);
    let golden = tensors(&folder.join("chain.safetensors"));
    let steps = chain["steps"].as_u64().expect("a whole number") as usize;
    let noise = noise_of(&golden);
    let schedule = Schedule::from_config(&loaded.diffusion).unwrap();
    let options = SampleOptions {
        count: noise.shape()[1],
        batch: noise.shape()[1],
        seed: 0,
        sampler: Sampler::Scheduler(loaded.scheduler),
        steps: Some(steps),
        spacing: Spacing::Leading,
        clip_x0: ClipX0::Off,
        ..SampleOptions::default()
    };
    let visited: Vec<f64> = {
        let plan = loaded.scheduler.plan(&schedule, steps).map_err(|e| e.to_string())?;
        plan.steps().iter().map(|step| step.t.index() as f64).collect()
    };
    let mut engine = Engine::new(&loaded.model, 1, Isa::Reference).unwrap();
    let images = sample(&loaded.model, &schedule, &mut engine, &options, Some(noise.view()), |_| {})
        .map_err(|e| format!("{}: {e}", folder.display()))?;
    let (shape, want) = &golden["images"];
    let want = channels_last(want, shape[..].try_into().unwrap());
    let error = images.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
    Ok((error / largest(&want), visited == golden["timesteps"].1))
}

/// 1e-4 of the largest value: diffusers keeps its tables in f32, which moves these images by up to 7e-6.
#[test]
fn golden2_pipelines() {
    let folders = folders();
    assert!(!folders.is_empty());
    let mut failures = Vec::new();
    for folder in &folders {
        let name = folder.file_name().unwrap().to_string_lossy();
        match run(folder) {
            Ok((error, same_timesteps)) if error <= 1e-4 && same_timesteps => {
                println!("{name}: {error:.1e} of the largest value");
            }
            Ok((error, same)) => {
                failures.push(format!("{name}: off by {error:.1e}, timesteps as there: {same}"));
            }
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The same by the program in f32, with nothing but the number of steps, the noise and what is an argument of
/// a pipeline's call; the file holds images clipped to [-1, 1].
#[test]
fn golden2_pipelines_from_the_command_line() {
    let mut failures = Vec::new();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let golden = tensors(&folder.join("chain.safetensors"));
        let text = std::fs::read_to_string(folder.join("chain.json")).unwrap();
        let chain: Value = serde_json::from_str(&text).unwrap();
        let at = tempfile::tempdir().unwrap();
        write_npy(&at.path().join("noise.npy"), noise_of(&golden).view()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_performer-ddpm"));
        command.current_dir(at.path()).args([
            "sample",
            "--quiet",
            "--noise",
            "noise.npy",
            "--npy",
            "out.npy",
        ]);
        command.arg(folder.canonicalize().unwrap()).args(["--steps", &chain["steps"].to_string()]);
        for (argument, value) in chain["step_arguments"].as_object().into_iter().flatten() {
            match argument.as_str() {
                "eta" => command.args(["--eta", &value.to_string()]),
                "use_clipped_model_output" => command.args(["--clip", "rederive"]),
                other => panic!("step argument {other}"),
            };
        }
        let output = command.output().unwrap();
        if !output.status.success() {
            failures.push(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)));
            continue;
        }
        let images: Array4<f32> = read_npy(&at.path().join("out.npy")).unwrap();
        let want = &golden["images"].1;
        let errors =
            images.iter().zip(want).map(|(got, want)| (f64::from(*got) - want.clamp(-1.0, 1.0)).abs());
        let error = errors.fold(0.0, f64::max);
        println!("{name}: {error:.1e}");
        if images.len() != want.len() || error.is_nan() || error > 1e-4 {
            failures.push(format!("{name}: off by {error:.1e}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
