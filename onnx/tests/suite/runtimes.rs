//! The runners' own behaviour: checks of inputs, loops, devices, missing libraries.

use crate::common::{self, f32s, floats, i64s, load_all, model, random};
use crate::peers::{self, in_time};
use performer_ddpm_onnx::builder::{GraphBuilder, ModelInfo, ReshapeDim};
use performer_ddpm_onnx::runner::{Carried, Device, LoopSpec, TRACT_BUILT_IN, load_tract};
use performer_ddpm_onnx::{Dim, ElementType, Error, Model, Result, Tensor};

/// x_next = a x + z: one step of a recurrence.
fn step() -> Result<Model> {
    let mut g = GraphBuilder::new("step");
    let x = g.input("x", ElementType::F32, [Dim::from("N"), Dim::from(3)])?;
    let a = g.input("a", ElementType::F32, [1])?;
    let z = g.input("z", ElementType::F32, [Dim::from("N"), Dim::from(3)])?;
    let t = g.input("t", ElementType::I64, [Dim::from("N")])?;
    let time = g.cast(t, ElementType::F32)?;
    let time = g.unsqueeze(time, &[1])?;
    let scaled = g.mul(a, x)?;
    let moved = g.add(scaled, z)?;
    let next = g.add(moved, time)?;
    g.output("x_next", next)?;
    g.into_model(ModelInfo::default())
}

#[test]
fn inputs_are_checked_before_the_runtime_sees_them() {
    let model = step().expect("a model");
    in_time(move || {
        for mut runner in load_all(&model) {
            let (x, a, t) = (random(1, &[2, 3]), f32s(&[1], vec![0.5]), i64s(&[2], vec![1, 2]));
            let flat = random(2, &[6]);
            let three = random(3, &[3, 3]);
            type Case<'a> = (Vec<(&'a str, &'a Tensor)>, &'a [&'a str]);
            let cases: [Case<'_>; 6] = [
                (vec![("x", &x), ("a", &a), ("t", &t)], &["a tensor for z f32 [N, 3]"]),
                (vec![("x", &x), ("a", &a), ("z", &x), ("t", &t), ("u", &x)], &["got u", "t i64 [N]"]),
                (vec![("x", &x), ("a", &a), ("z", &x), ("t", &t), ("x", &x)], &["x twice"]),
                (vec![("x", &x), ("a", &a), ("z", &x), ("t", &a)], &["input t", "expected i64, got f32"]),
                (vec![("x", &flat), ("a", &a), ("z", &x), ("t", &t)], &["input x", "[N, 3]", "[6]"]),
                (vec![("x", &x), ("a", &a), ("z", &three), ("t", &t)], &["input z", "[N, 3]", "[3, 3]"]),
            ];
            for (inputs, words) in cases {
                let error = runner.run(&inputs).expect_err("inputs that do not fit");
                assert!(error.is_bad_input());
                let text = error.to_string();
                assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
            }
        }
    });
}

#[test]
fn a_loop_feeds_its_output_back() {
    let model = step().expect("a model");
    in_time(move || {
        for mut runner in load_all(&model) {
            let who = runner.describe().to_string();
            let (x, z) = (random(4, &[2, 3]), random(5, &[2, 3]));
            let (first, second) = (f32s(&[1], vec![0.5]), f32s(&[1], vec![-0.25]));
            let (t, later) = (i64s(&[2], vec![0, 1]), i64s(&[2], vec![2, -3]));
            let states = vec![Carried { input: "x", output: "x_next", first: &x }];
            let spec = LoopSpec { states, others: vec![("a", &first), ("z", &z), ("t", &t)], wanted: vec![] };
            let mut steps = runner.step_loop(&spec).unwrap_or_else(|error| panic!("{who}: {error}"));
            assert_eq!(steps.state("x").expect("the first state"), x, "{who}");
            let mut want: Vec<f64> = floats(&x).iter().map(|&x| f64::from(x)).collect();
            for k in 0..5 {
                // Values change between steps, at an even and at an odd one: both buffers of a bound loop
                // must get them.
                if k == 2 {
                    steps.set("a", &second).expect("a has its shape");
                }
                if k == 3 {
                    steps.set("t", &later).expect("t has its shape");
                }
                steps.step().unwrap_or_else(|error| panic!("{who}: {error}"));
                let a = if k < 2 { 0.5 } else { -0.25 };
                let t = if k < 3 { [0.0, 1.0] } else { [2.0, -3.0] };
                for (i, x) in want.iter_mut().enumerate() {
                    *x = a * *x + f64::from(floats(&z)[i]) + t[i / 3];
                }
                let got = steps.state("x").expect("a state");
                let want = f32s(&[2, 3], want.iter().map(|&x| x as f32).collect());
                // Five steps of two roundings each.
                common::close(&format!("{who}, step {k}"), &got, &want, 1e-6);
            }
            let text = steps.set("a", &z).expect_err("another shape").to_string();
            assert!(text.contains("[1]") && text.contains("[2, 3]"), "{text}");
            for name in ["x", "absent"] {
                let text = steps.set(name, &x).expect_err("not an input to set").to_string();
                assert!(text.contains(name), "{text}");
            }
        }
    });
}

/// x_next = x + y, y_next = x: Fibonacci's numbers, each state from both.
#[test]
fn a_loop_carries_any_number_of_states() {
    let model = model("fibonacci", |g| {
        let (x, y) = (g.input("x", ElementType::F32, [1])?, g.input("y", ElementType::F32, [1])?);
        Ok(vec![g.add(x, y)?, x])
    });
    in_time(move || {
        for mut runner in load_all(&model) {
            let (x, y) = (f32s(&[1], vec![1.0]), f32s(&[1], vec![0.0]));
            let carried = |input, output, first| Carried { input, output, first };
            let states = vec![carried("x", "y0", &x), carried("y", "y1", &y)];
            for _ in 0..2 {
                let spec = LoopSpec { states: states.clone(), others: vec![], wanted: vec![] };
                let mut turns = runner.step_loop(&spec).expect("a loop");
                for (now, before) in [(1.0, 1.0), (2.0, 1.0), (3.0, 2.0), (5.0, 3.0), (8.0, 5.0)] {
                    turns.step().expect("a step");
                    let [x, y] = ["x", "y"].map(|input| turns.state(input).expect("a state"));
                    assert_eq!((floats(&x), floats(&y)), (&[now][..], &[before][..]));
                }
                let text = turns.state("y0").expect_err("an output's name").to_string();
                assert!(text.contains("loop state") && text.contains("y0"), "{text}");
            }
            let spec = LoopSpec { states: vec![], others: vec![("x", &x), ("y", &y)], wanted: vec![] };
            assert!(runner.step_loop(&spec).err().expect("no state").to_string().contains("at least one"));
        }
    });
}

/// A runner keeps a loop's buffers for the next one; the second and third loops must start from their own
/// values, and one of other shapes must not be given them.
#[test]
fn later_loops_start_afresh() {
    let model = step().expect("a model");
    in_time(move || {
        for mut runner in load_all(&model) {
            let (a, t) = (f32s(&[1], vec![2.0]), |n: usize| i64s(&[n], vec![0; n]));
            for (seed, n, steps) in [(1, 2, 1), (2, 2, 2), (3, 3, 1), (4, 2, 3)] {
                let (x, z, t) = (random(seed, &[n, 3]), random(seed + 10, &[n, 3]), t(n));
                let others = vec![("a", &a), ("z", &z), ("t", &t)];
                let spec = LoopSpec {
                    states: vec![Carried { input: "x", output: "x_next", first: &x }],
                    others,
                    wanted: vec![],
                };
                let mut turns = runner.step_loop(&spec).expect("a loop");
                let mut want: Vec<f32> = floats(&x).to_vec();
                for _ in 0..steps {
                    turns.step().expect("a step");
                    want.iter_mut().zip(floats(&z)).for_each(|(x, z)| *x = 2.0 * *x + z);
                }
                // The product by 2 is exact; the sum rounds once, as in the loop.
                common::close(
                    "a later loop",
                    &turns.state("x").expect("a state"),
                    &f32s(&[n, 3], want),
                    1e-6,
                );
            }
        }
    });
}

#[test]
fn a_loop_needs_ports_that_match() {
    let model = step().expect("a model");
    in_time(move || {
        for mut runner in load_all(&model) {
            let (x, a, t) = (random(6, &[1, 3]), f32s(&[1], vec![1.0]), i64s(&[1], vec![1]));
            for (input, output, words) in
                [("y", "x_next", "got y"), ("x", "y", "got y"), ("a", "x_next", "an output like a f32 [1]")]
            {
                let others = vec![("a", &a), ("z", &x), ("t", &t)];
                let spec =
                    LoopSpec { states: vec![Carried { input, output, first: &x }], others, wanted: vec![] };
                let text = runner.step_loop(&spec).err().expect("ports differ").to_string();
                assert!(text.contains(words), "{text}");
            }
        }
    });
}

#[test]
fn a_runtime_refuses_in_one_error() {
    // The operator does not exist.
    let mut proto = step().expect("a model").proto().clone();
    proto.graph.as_mut().expect("a graph").node[0].op_type = "NoSuchOperator".to_owned();
    let model = Model::from_proto("broken", proto).expect("a readable file");
    in_time(move || {
        if TRACT_BUILT_IN {
            let error = load_tract(&model).err().expect("no such operator").to_string();
            assert!(error.contains("tract could not load") && error.contains("NoSuchOperator"), "{error}");
        }
        #[cfg(feature = "ort")]
        {
            use performer_ddpm_onnx::runner::ort::{OrtOptions, OrtRunner};
            let error = OrtRunner::load(&model, &OrtOptions::default()).err().expect("no such operator");
            if !matches!(error, Error::RuntimeMissing { .. }) {
                let text = error.to_string();
                assert!(text.contains("ONNX Runtime could not load"), "{text}");
                assert!(text.contains("NoSuchOperator"), "{text}");
            }
        }
    });
}

#[test]
fn devices_are_read_from_text() {
    for (text, device) in [("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))] {
        assert_eq!(text.parse::<Device>().expect("a device"), device);
    }
    assert_eq!(Device::Cuda(3).to_string(), "cuda:3");
    for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1"] {
        let error = text.parse::<Device>().expect_err("not a device");
        assert!(error.to_string().contains("cpu, cuda or cuda:INDEX"), "{error}");
    }
}

#[cfg(feature = "ort")]
mod onnx_runtime {
    use super::*;
    use performer_ddpm_onnx::runner::ort::{OrtOptions, OrtRunner};
    use performer_ddpm_onnx::runner::{HostLoop, Runner, StepLoop};
    use std::process::Command;

    /// Set for the child process of a test, which does the work that its parent checks.
    const CHILD: &str = "PERFORMER_DDPM_ONNX_TEST_CHILD";

    /// Runs this test again in a process of its own, where no runtime has been loaded yet; returns what it
    /// printed.
    fn alone(test: &str, change: impl FnOnce(&mut Command)) -> String {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", test, "--nocapture"]).env(CHILD, "1");
        for name in ["ORT_DYLIB_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"] {
            command.env_remove(name);
        }
        change(&mut command);
        let output = command.output().expect("the program runs");
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}");
        text
    }

    #[test]
    fn a_missing_runtime_is_told_with_every_place() {
        if std::env::var_os(CHILD).is_some() {
            let error = OrtRunner::load(&step().expect("a model"), &OrtOptions::default());
            eprintln!(
                "outcome: {}",
                error.err().map_or_else(|| "loaded".to_owned(), |error| error.to_string())
            );
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text_file = folder.path().join("libonnxruntime.so");
        std::fs::write(&text_file, "not a library").expect("a file");
        let text = alone("runtimes::onnx_runtime::a_missing_runtime_is_told_with_every_place", |command| {
            // No Python on the path; the system's loader finds nothing unless one is installed.
            command
                .env("ORT_DYLIB_PATH", &text_file)
                .env("CONDA_PREFIX", folder.path())
                .env("PATH", folder.path());
        });
        if text.contains("outcome: loaded") {
            eprintln!("skipped: the system's loader knows an ONNX Runtime");
            return;
        }
        for words in [
            "no usable ONNX Runtime (1.17 or newer)",
            &format!("{}: ", text_file.display()),
            "lib: no such folder",
            "VIRTUAL_ENV: not set",
            &format!("{}: no onnxruntime package", folder.path().display()),
            "python3: cannot be run",
            "pip install onnxruntime (CPU)",
        ] {
            assert!(text.contains(words), "{words} is not in:\n{text}");
        }
    }

    #[test]
    fn a_library_that_is_not_there_is_the_only_one_told() {
        if std::env::var_os(CHILD).is_none() {
            alone("runtimes::onnx_runtime::a_library_that_is_not_there_is_the_only_one_told", |_| {});
            return;
        }
        let options =
            OrtOptions { library: Some("no/such/libonnxruntime.so".into()), ..OrtOptions::default() };
        let error = OrtRunner::load(&step().expect("a model"), &options).err().expect("no such file");
        let Error::RuntimeMissing { tried } = error else { panic!("{error}") };
        assert_eq!(tried.len(), 1);
        assert_eq!(tried[0].to_string(), "no/such/libonnxruntime.so: no such file");
    }

    #[test]
    fn cuda_is_never_replaced_by_the_processor() {
        let model = step().expect("a model");
        if common::ort(&model).is_none() {
            return;
        }
        let options = OrtOptions { device: Device::Cuda(99), ..OrtOptions::default() };
        let error = OrtRunner::load(&model, &options).err().expect("no machine has a hundred GPUs");
        assert!(matches!(&error, Error::Device { .. }), "{error}");
        assert!(error.to_string().contains("cuda:99 cannot be used"), "{error}");
    }

    #[test]
    fn cuda_graphs_are_refused_on_the_processor() {
        let options = OrtOptions { cuda_graph: true, ..OrtOptions::default() };
        let error = OrtRunner::load(&step().expect("a model"), &options).err().expect("contradiction");
        assert!(error.to_string().contains("cuda_graph"), "{error}");
    }

    /// y = 2 x is read after every step; x_next = x + y, from the loop that keeps its runner too.
    #[test]
    fn wanted_outputs_are_read_after_every_step() {
        let model = model("tripled", |g| {
            let x = g.input("x", ElementType::F32, [2])?;
            let y = g.add(x, x)?;
            Ok(vec![g.add(x, y)?, y])
        });
        let x = f32s(&[2], vec![1.0, -2.0]);
        let states = vec![Carried { input: "x", output: "y0", first: &x }];
        let spec = LoopSpec { states, others: vec![], wanted: vec!["y1"] };
        let check = |who: &str, turns: &mut dyn StepLoop| {
            for k in 0..4 {
                turns.step().unwrap_or_else(|error| panic!("{who}: {error}"));
                let power = 3f32.powi(k);
                let y = turns.output("y1").expect("a wanted output");
                assert_eq!(floats(&y), [2.0 * power, -4.0 * power], "{who}");
                let x = turns.state("x").expect("a state");
                assert_eq!(floats(&x), [3.0 * power, -6.0 * power], "{who}");
            }
            let text = turns.output("y0").expect_err("a state's output").to_string();
            assert!(text.contains("y0"), "{text}");
        };
        let Some(mut runner) = common::ort(&model) else { return };
        check("a host's loop", &mut HostLoop::new(&mut runner, &spec).expect("a loop"));
        for _ in 0..2 {
            check("a runner's loop", &mut *runner.step_loop(&spec).expect("a loop"));
        }
        let mut own = runner.into_step_loop(&spec).expect("a loop");
        check("a loop of its own", &mut own);
        own.step().expect("an odd number of steps");
        own.restart(&spec).expect("the same ports");
        check("the loop again", &mut own);
        let other = f32s(&[1], vec![1.0]);
        let states = vec![Carried { input: "x", output: "y0", first: &other }];
        assert!(own.restart(&LoopSpec { states, ..spec.clone() }).is_err());
        let absent = LoopSpec { wanted: vec!["y2"], ..spec.clone() };
        let error = common::ort(&model).expect("as before").into_step_loop(&absent).err();
        assert!(error.expect("no such output").to_string().contains("y2"));
    }

    #[test]
    fn a_second_library_is_refused() {
        let model = step().expect("a model");
        let Some(first) = common::ort(&model) else { return };
        let named = |path: &str| OrtOptions { library: Some(path.into()), ..OrtOptions::default() };
        assert!(OrtRunner::load(&model, &named(&first.describe().library)).is_ok());
        let error = OrtRunner::load(&model, &named("/another/libonnxruntime.so")).err();
        let error = error.expect("one library per process").to_string();
        assert!(error.contains("/another/libonnxruntime.so"), "{error}");
        assert!(error.contains(&first.describe().library), "{error}");
    }

    #[test]
    fn the_description_says_who_and_where() {
        let model = model("placed", |g| {
            let x = g.input("x", ElementType::F32, [Dim::from("N"), Dim::from(6)])?;
            let y = g.reshape(x, &[ReshapeDim::Copy, ReshapeDim::To(2), ReshapeDim::To(3)])?;
            Ok(vec![g.softmax(y, 2)?])
        });
        let options = OrtOptions { placement: true, ..OrtOptions::default() };
        let runner = match OrtRunner::load(&model, &options) {
            Ok(runner) => runner,
            Err(error @ Error::RuntimeMissing { .. }) => return peers::skipped(error),
            Err(error) => panic!("{error}"),
        };
        let about = runner.describe();
        assert!(about.version.starts_with("1."), "{}", about.version);
        assert!(about.library.contains("onnxruntime"), "{}", about.library);
        assert!(about.to_string().starts_with(&format!("ONNX Runtime {} on cpu", about.version)), "{about}");
        assert!(about.placement.iter().any(|line| line.contains("CPUExecutionProvider")), "{about:?}");
        assert!(runner.capabilities().device_state);
        let quiet = OrtRunner::load(&model, &OrtOptions::default()).expect("loaded before");
        assert!(quiet.describe().placement.is_empty());
    }
}
