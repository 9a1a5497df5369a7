//! Sampling from .onnx files and in other runtimes through the binary: the same images, and one clear message
//! for what is missing.

use crate::support::binary::command;
use crate::support::foreign::Foreign;
use crate::support::runtimes::{at_hand, name};
use ndarray::Array4;
use performer_ddpm::output::read_npy;
use performer_ddpm_onnx::runner::TRACT_BUILT_IN;
use performer_ddpm_onnx::{Dim, ElementType, Shape};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The commands here take seconds; a runtime that hangs must fail the test, not stall it.
const LIMIT: Duration = Duration::from_secs(120);

/// What the command does within the limit.
fn finish(mut command: Command) -> Output {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let start = Instant::now();
    // The outputs are short, so the child never waits for a full pipe.
    while child.try_wait().expect("a child to wait for").is_none() {
        if start.elapsed() > LIMIT {
            child.kill().expect("the child ends");
            panic!("not done within {LIMIT:?}: {command:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    finish(command(folder, arguments))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The single message of a command that must end with status 2, which holds `words`.
fn refused(output: &Output, words: &[&str]) -> String {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert_eq!(message.matches("error:").count(), 1, "{message}");
    assert!(!message.contains("panicked"), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    message
}

fn refusal(folder: &Path, arguments: &[&str], words: &[&str]) {
    refused(&run(folder, arguments), words);
}

/// A folder with a trained run, `run`, and its three graphs; the sampler is DDIM in 6 steps with noise.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let made = tempfile::tempdir().expect("a folder");
        let path = made.path();
        succeed(
            path,
            &["train", "--preset", "tiny", "--steps", "3", "--batch", "4", "--out", "run", "--quiet"],
        );
        for graph in ["denoiser", "step"] {
            let file = format!("{graph}.onnx");
            succeed(
                path,
                &["export", &file, "--model", "run", "--graph", graph, "--check", "none", "--quiet"],
            );
        }
        let sampler = ["--graph", "sampler", "--steps", "6", "--eta", "0.5", "--check", "none", "--quiet"];
        succeed(path, &[&["export", "sampler.onnx", "--model", "run"][..], &sampler[..]].concat());
        made
    });
    made.path()
}

/// The runtimes at hand as `--backend` has them.
fn backends() -> Vec<&'static str> {
    at_hand().iter().map(name).collect()
}

/// The images of a model with these options.
fn images(model: &str, options: &[&str]) -> Array4<f32> {
    let files = tempfile::tempdir().expect("a folder");
    let npy = files.path().join("images.npy");
    let png = files.path().join("images.png");
    let [npy, png] = [&npy, &png].map(|path: &PathBuf| path.to_str().expect("a path in UTF-8"));
    let fixed = ["sample", model, "--quiet", "--out", png, "--npy", npy];
    succeed(folder(), &[&fixed[..], options].concat());
    read_npy(Path::new(npy)).expect("images")
}

/// To 1e-3 in [-1, 1], the contract of every backend.
fn close(what: &str, a: &Array4<f32>, b: &Array4<f32>) {
    assert_eq!(a.dim(), b.dim(), "{what}");
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= 1e-3, "{what}: {a} for {b}");
    }
}

#[test]
fn every_file_and_every_backend_gives_the_same_images() {
    let options = ["-n", "5", "--batch", "3", "--seed", "4"];
    let sampler = ["--steps", "6", "--eta", "0.5"];
    let want = images("run", &[&options[..], &sampler].concat());
    for backend in backends() {
        let with = |model: &str, more: &[&str]| {
            let options = [&options[..], &["--backend", backend], more].concat();
            close(&format!("{model} in {backend} {more:?}"), &images(model, &options), &want);
        };
        with("denoiser.onnx", &sampler);
        with("step.onnx", &sampler);
        with("sampler.onnx", &[]);
        with("sampler.onnx", &[&sampler[..], &["--sampler", "ddim"]].concat());
        with("run", &sampler);
        with("run", &[&sampler[..], &["--loop", "host"]].concat());
        with("run", &[&sampler[..], &["--loop", "sampler"]].concat());
    }
}

#[test]
fn alg2_runs_from_the_file_s_schedule() {
    let want = images("run", &["-n", "2", "--sampler", "ddpm"]);
    for backend in backends() {
        let got = images("denoiser.onnx", &["-n", "2", "--sampler", "ddpm", "--backend", backend]);
        close(backend, &got, &want);
    }
}

#[test]
fn a_sampler_file_refuses_what_contradicts_it() {
    let Some(backend) = backends().first().copied() else { return };
    for (option, value) in [
        ("--sampler", "ddpm"),
        ("--steps", "7"),
        ("--eta", "0"),
        ("--spacing", "leading"),
        ("--clip", "off"),
        ("--loop", "host"),
    ] {
        let arguments = ["sample", "sampler.onnx", "--backend", backend, option, value];
        refusal(folder(), &arguments, &[option, value, "sampler graph"]);
    }
    let animated = ["sample", "sampler.onnx", "--backend", backend, "--gif", "a.gif"];
    refusal(folder(), &animated, &["--gif", "sampler graph"]);
}

#[test]
fn a_foreign_denoiser_needs_a_schedule_and_no_more() {
    let files = tempfile::tempdir().expect("a folder");
    let file = files.path().join("foreign.onnx");
    let path = file.to_str().expect("a path in UTF-8");
    Foreign::default().model().write(&file).expect("a file");
    refusal(folder(), &["sample", path], &[path, "--schedule linear", "--timesteps"]);
    for (batch, time) in [
        ("batch".into(), (ElementType::I64, [Dim::from("batch")].into())),
        ("batch".into(), (ElementType::I64, Shape::default())),
        ("batch".into(), (ElementType::F32, [Dim::from(1)].into())),
        (Dim::from(2), (ElementType::F32, [Dim::from(2)].into())),
    ] {
        Foreign { batch, time, ..Foreign::default() }.model().write(&file).expect("a file");
        for backend in backends() {
            let options =
                ["-n", "3", "--schedule", "linear", "--timesteps", "50", "--steps", "1", "--clip", "off"];
            let start = images(path, &[&options[..], &["--backend", backend, "--seed", "9"]].concat());
            assert_eq!(start.dim(), (3, 3, 4, 4), "{backend}");
            // One DDIM step from t = 50 to x_0 = (x - sqrt(1 - abar) eps) / sqrt(abar), with eps of
            // Foreign::eps.
            let alpha_bar =
                (0..50).fold(1.0, |bar, i| bar * (1.0 - (1e-4 + (0.02 - 1e-4) * i as f64 / 49.0)));
            let mut x = vec![0f32; 3 * 48];
            for (i, x) in x.chunks_exact_mut(48).enumerate() {
                use performer_ddpm::rng::{Stream, fill_normal, rng};
                fill_normal(&mut rng(9, Stream::SampleStart, 0, i as u64), x);
            }
            for (i, got) in start.permuted_axes([0, 2, 3, 1]).iter().enumerate() {
                let eps = f64::from(Foreign::eps(x[i], 49));
                let want = (f64::from(x[i]) - (1.0 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt();
                // The file's images are in [-1, 1]. A few roundings of numbers below 10.
                let want = want.clamp(-1.0, 1.0);
                assert!((f64::from(*got) - want).abs() < 1e-5, "{backend} {i}: {got} {want}");
            }
        }
    }
    // The last one takes two images at a time.
    for backend in backends() {
        let arguments = ["sample", path, "--schedule", "cosine", "--batch", "3", "--backend", backend];
        refusal(folder(), &arguments, &["--batch", "at most 2"]);
    }
}

/// The input of the classes is known by its name, and their number by the table that it chooses rows of.
#[test]
fn a_foreign_denoiser_may_take_classes() {
    let files = tempfile::tempdir().expect("a folder");
    let file = files.path().join("classes.onnx");
    let path = file.to_str().expect("a path in UTF-8");
    Foreign { takes_classes: true, ..Foreign::default() }.model().write(&file).expect("a file");
    let plain = files.path().join("plain.onnx");
    Foreign::default().model().write(&plain).expect("a file");
    let plain = plain.to_str().expect("a path in UTF-8");
    for backend in backends() {
        let options = ["--schedule", "linear", "--timesteps", "50", "--steps", "1", "--backend", backend];
        let of = |path: &str, more: &[&str]| images(path, &[&options[..], &["-n", "3"], more].concat());
        let (in_turn, of_none) = (of(path, &[]), of(plain, &[]));
        let first = |images: &Array4<f32>, i: usize| images.index_axis(ndarray::Axis(0), i).to_owned();
        assert_eq!(first(&in_turn, 0), first(&of_none, 0), "the table's first row is 0");
        assert_ne!(first(&in_turn, 1), first(&of_none, 1));
        let named = of(path, &["--class", "0,0,2"]);
        assert_eq!(first(&named, 1), first(&of_none, 1));
        assert_eq!(first(&named, 2), first(&in_turn, 2));
        refusal(
            folder(),
            &[&["sample", path][..], &options, &["--class", "3"]].concat(),
            &["--class", "from 0 to 2"],
        );
        refusal(folder(), &[&["sample", path][..], &options, &["--guidance", "2"]].concat(), &["--guidance"]);
    }
}

#[test]
fn a_file_with_a_schedule_takes_no_other() {
    let Some(backend) = backends().first().copied() else { return };
    for options in [["--schedule", "linear"], ["--timesteps", "10"]] {
        let arguments = [&["sample", "step.onnx", "--backend", backend][..], &options].concat();
        refusal(folder(), &arguments, &["--schedule and --timesteps", "step.onnx, which has one"]);
        refusal(folder(), &[&["sample", "run"][..], &options].concat(), &[options[0], "run, which has one"]);
    }
}

#[test]
fn files_that_are_no_models_are_told_for_what_they_are() {
    let files = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = files.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path.to_str().expect("a path in UTF-8").to_owned()
    };
    let whole = std::fs::read(folder().join("denoiser.onnx")).expect("the file");
    let cut = write("cut.onnx", &whole[..whole.len() / 2]);
    let empty = write("empty.onnx", b"");
    let zip = write("zip.onnx", b"PK\x03\x04 and so on");
    let words = write("words.onnx", b"these are words, not a model");
    for (path, word) in
        [(&cut, "ends too early"), (&empty, "an empty file"), (&zip, "zip"), (&words, "an ONNX model")]
    {
        refusal(folder(), &["sample", path], &[path, word]);
    }
    refusal(folder(), &["sample", "absent.onnx"], &["absent.onnx", "nothing there"]);

    let mut proto = Foreign::default().model().proto().clone();
    proto.graph.as_mut().expect("a graph").input[0].name = "picture".to_owned();
    proto.graph.as_mut().expect("a graph").input.truncate(1);
    let path = files.path().join("classifier.onnx");
    performer_ddpm_onnx::Model::from_proto("c", proto).expect("a model").write(&path).expect("a file");
    let path = path.to_str().expect("a path in UTF-8");
    let arguments = ["sample", path, "--schedule", "linear"];
    refusal(folder(), &arguments, &["classifier.onnx, inputs", "x_t f32 [N, C, H, W]", "picture i64"]);
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    for (options, words) in [
        (&["run", "--device", "cuda"][..], &["--device", "--backend ort", "native"][..]),
        (&["run", "--tf32"], &["--tf32", "native"]),
        (&["run", "--ort-lib", "x"], &["--ort-lib", "native"]),
        (&["run", "--loop", "host"], &["--loop", "native"]),
        (&["run", "--backend", "tract", "--device", "cuda:1"], &["--device", "--backend ort", "tract"]),
        (&["run", "--backend", "tract", "--loop", "device"], &["--loop", "host or sampler", "device"]),
        (&["run", "--backend", "ort", "--tf32"], &["--tf32", "--device cuda", "cpu"]),
        (&["run", "--backend", "ort", "--loop", "cuda-graph"], &["cuda-graph", "--device cuda"]),
        (&["run", "--backend", "ort", "--isa", "portable"], &["--isa", "native"]),
        (&["run", "--backend", "ort", "--device", "gpu"], &["cpu, cuda or cuda:INDEX", "gpu"]),
        (&["denoiser.onnx", "--backend", "native"], &["--backend", "ort or tract", "native"]),
        (&["denoiser.onnx", "--loop", "device"], &["--loop", "denoiser graph", "device"]),
        (&["step.onnx", "--loop", "sampler"], &["--loop", "step graph", "sampler"]),
    ] {
        refusal(folder(), &[&["sample"], options].concat(), words);
    }
}

#[test]
fn a_missing_runtime_is_told_with_every_place_and_the_way_to_get_it() {
    let empty = tempfile::tempdir().expect("a folder");
    let mut command = command(folder(), &["sample", "step.onnx", "-n", "1"]);
    for name in ["ORT_DYLIB_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH"] {
        command.env_remove(name);
    }
    command.env("PATH", empty.path());
    let output = finish(command);
    if output.status.success() {
        println!("skipped: the system's loader knows an ONNX Runtime");
        return;
    }
    let places =
        ["ORT_DYLIB_PATH: not set", "VIRTUAL_ENV: not set", "python3: cannot be run", "libonnxruntime.so"];
    refused(
        &output,
        &[&["no usable ONNX Runtime (1.17 or newer)", "pip install onnxruntime"][..], &places].concat(),
    );

    let named = ["sample", "step.onnx", "--ort-lib", "no/such/lib.so"];
    refusal(folder(), &named, &["no/such/lib.so: no such file", "pip install onnxruntime"]);
    let library = folder().join("step.onnx");
    let wrong = ["sample", "step.onnx", "--ort-lib", library.to_str().expect("a path in UTF-8")];
    refusal(folder(), &wrong, &["step.onnx: ", "no usable ONNX Runtime"]);
}

/// A CPU is never used instead of the requested GPU.
#[test]
fn a_gpu_that_cannot_be_used_is_an_error() {
    if !backends().contains(&"ort") {
        return;
    }
    let output = run(folder(), &["sample", "step.onnx", "-n", "1", "--device", "cuda:97"]);
    refused(&output, &["cuda:97 cannot be used through ONNX Runtime"]);
}

#[test]
fn tract_samples_or_says_that_it_is_not_built_in() {
    let arguments = ["sample", "run", "--backend", "tract", "-n", "1", "--steps", "2", "--json", "--quiet"];
    let arguments = [&arguments[..], &["--out", "tract.png"]].concat();
    if TRACT_BUILT_IN {
        let figures: serde_json::Value = serde_json::from_str(&succeed(folder(), &arguments)).expect("JSON");
        assert_eq!((&figures["backend"], &figures["device"]), (&"tract".into(), &"cpu".into()));
    } else {
        refusal(folder(), &arguments, &["tract is not built into this program", "--features tract"]);
    }
}

#[test]
fn verbose_and_json_say_who_computed() {
    if !backends().contains(&"ort") {
        return;
    }
    let arguments = ["sample", "step.onnx", "-n", "3", "--batch", "2", "--steps", "2", "--out", "who.png"];
    let output = run(folder(), &[&arguments[..], &["--verbose"]].concat());
    let told = text(&output.stderr);
    for words in ["ONNX Runtime 1.", " on cpu (", "x_t stays on the device", "CPUExecutionProvider"] {
        assert!(told.contains(words), "{words:?} is not in: {told}");
    }
    let figures = succeed(folder(), &[&arguments[..], &["--json", "--quiet"]].concat());
    let figures: serde_json::Value = serde_json::from_str(&figures).expect("one JSON object");
    assert_eq!(figures["images"], 3);
    assert_eq!(figures["backend"], "ONNX Runtime");
    assert_eq!(figures["batch_seconds"].as_array().map(Vec::len), Some(2));
    assert_eq!(figures["files"], serde_json::json!(["who.png"]));
}
