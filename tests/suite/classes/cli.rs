use super::NAMES;
use crate::support::binary::{run, succeed};
use crate::support::feature_nets::FeatureNet;
use crate::support::pictures::decoded;
use crate::support::runtimes::{at_hand, name};
use ndarray::{Array4, Axis};
use performer_ddpm::config::Preset;
use performer_ddpm::output::read_npy;
use performer_ddpm_onnx::builder::{Binary, GraphBuilder, ModelInfo, Reduction, SliceRange};
use performer_ddpm_onnx::{Dim, ElementType, Model};
use serde_json::Value;
use std::path::Path;
use std::sync::OnceLock;

const TRAIN: [&str; 9] =
    ["train", "--config", "short.toml", "--data", "pictures", "--classes", "--drop-label", "0.3", "--quiet"];

/// Pictures of 8x8: 20 of each class to train on, and 8 that are held out. They differ from each other, so
/// that their features do.
fn write_pictures(folder: &Path) {
    for (part, count) in [("train", 20u8), ("test", 8)] {
        for (class, name) in (0u8..).zip(NAMES) {
            let folder = folder.join(part).join(name);
            std::fs::create_dir_all(&folder).expect("a folder");
            for i in 0..count {
                let picture = image::GrayImage::from_fn(8, 8, |_, y| {
                    image::Luma([if y % 2 == 0 { 3 * i } else { 3 * i + 90 * class }])
                });
                picture.save(folder.join(format!("{i}.png"))).expect("a picture");
            }
        }
    }
}

/// A folder with a run on labelled pictures, and one without dropped labels; the chain is short, since a run
/// ends with a grid of samples.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let made = tempfile::tempdir().expect("a folder");
        let mut config = Preset::Tiny.config().for_images([8, 8, 1]);
        (config.diffusion.timesteps, config.train.batch) = (10, 4);
        std::fs::write(made.path().join("short.toml"), config.to_toml()).expect("a file");
        write_pictures(&made.path().join("pictures"));
        succeed(made.path(), &[&TRAIN[..], &["--steps", "6", "--out", "run"]].concat());
        let mut unguided = TRAIN;
        unguided[7] = "0";
        succeed(made.path(), &[&unguided[..], &["--steps", "2", "--out", "unguided"]].concat());
        made
    });
    made.path()
}

fn refused(arguments: &[&str], words: &[&str]) {
    let output = run(folder(), arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

fn json(arguments: &[&str]) -> Value {
    let text = succeed(folder(), &[arguments, &["--json", "--quiet"]].concat());
    serde_json::from_str(&text).expect("JSON")
}

/// The rows and columns of a grid of images of 8x8.
fn grid(file: &str) -> [u32; 2] {
    let grid = decoded(&folder().join(file));
    [grid.height(), grid.width()].map(|side| (side - 2) / 66)
}

#[test]
fn a_run_that_is_resumed_has_the_bits_of_one_that_was_not() {
    let resumed = [&TRAIN[..], &["--steps", "3", "--out", "resumed", "--threads", "3"]].concat();
    succeed(folder(), &resumed);
    succeed(folder(), &["train", "--resume", "resumed", "--steps", "6", "--threads", "1", "--quiet"]);
    for file in
        ["unet/diffusion_pytorch_model.safetensors", "unet/raw_weights.safetensors", "unet/config.json"]
    {
        let bytes = |run: &str| std::fs::read(folder().join(run).join(file)).expect("a file");
        assert!(bytes("run") == bytes("resumed"), "{file}");
    }
    let config = std::fs::read_to_string(folder().join("run/config.toml")).expect("a file");
    assert!(config.contains("drop_label = 0.3") && config.contains("striped"), "{config}");
    assert_eq!(grid("run/samples/step-00000006.png"), [3, 22], "a row for each class");
}

#[test]
fn info_names_the_classes() {
    let text = succeed(folder(), &["info", "run", "--quiet"]);
    assert!(text.contains("3 classes and the null class 3, for guidance: dark, light, striped"), "{text}");
    assert!(succeed(folder(), &["info", "unguided", "--quiet"]).contains("3 classes: dark, light, striped"));
}

#[test]
fn samples_are_of_the_classes_that_are_asked_for() {
    // With DDIM's clipped steps the little that so short a training makes of the class shows in f32.
    let ddim = ["--sampler", "ddim"];
    let sample = ["sample", "run", "--steps", "2", "--npy", "all.npy", "--out", "all.png"];
    let found = json(&[&sample[..], &ddim].concat());
    assert_eq!((&found["images"], &found["classes"]), (&66.into(), &NAMES[..].into()));
    assert_eq!(grid("all.png"), [3, 22]);

    let named = ["sample", "run", "--steps", "2", "--class", "Striped,0", "-n", "10"];
    let found = json(&[&named[..], &ddim, &["--npy", "two.npy", "--out", "two.png"]].concat());
    assert_eq!(found["classes"], serde_json::json!(["striped", "dark"]));
    assert_eq!(grid("two.png"), [2, 5]);
    // The same noise and the same class: images 0 to 9 are dark, light, striped, .. and striped, dark, ..
    let [all, two] = ["all.npy", "two.npy"]
        .map(|file| -> Array4<f32> { read_npy(&folder().join(file)).expect("an array") });
    let same = (0..10).filter(|i| all.index_axis(Axis(0), *i) == two.index_axis(Axis(0), *i));
    assert_eq!(same.collect::<Vec<_>>(), [2, 3, 8, 9]);

    let guided =
        ["sample", "run", "--steps", "2", "-n", "10", "--npy", "led.npy", "--out", "led.png", "--quiet"];
    let options = ["--guidance", "2.5", "--guidance-interval", "0.01,inf", "--guidance-rescale", "0.7"];
    succeed(folder(), &[&guided[..], &ddim, &options].concat());
    let led: Array4<f32> = read_npy(&folder().join("led.npy")).expect("an array");
    assert_ne!(led, all.slice(ndarray::s![..10, .., .., ..]));
}

/// From the file alone, by the names that it holds, to the contract of every backend: 1e-3 in [-1, 1].
#[test]
fn a_file_has_images_of_its_classes() {
    let export = ["export", "step.onnx", "--model", "run", "--graph", "step", "--guided", "--check", "none"];
    succeed(folder(), &[&export[..], &["--sampler", "dpm++", "--quiet"]].concat());
    let image = |model: &str, file: &str, more: &[&str]| -> Array4<f32> {
        let sample =
            ["sample", model, "--steps", "2", "-n", "4", "--class", "Striped,0", "--guidance", "2.5"];
        succeed(folder(), &[&sample[..], &["--quiet", "--npy", file, "--out", "grid.png"], more].concat());
        read_npy(&folder().join(file)).expect("an array")
    };
    let want = image("run", "engine.npy", &[]);
    for runtime in at_hand() {
        let backend = ["--backend", name(runtime)];
        for (model, file) in [("step.onnx", "file.npy"), ("run", "folder.npy")] {
            let got = image(model, file, &backend);
            let far = got.iter().zip(&want).any(|(got, want)| (got - want).abs() > 1e-3);
            assert!(!far, "{model} in {}", name(runtime));
        }
        let refusal = ["sample", "step.onnx", "--class", "Hat", "--backend", name(runtime)];
        refused(&refusal, &["--class", "dark, light, striped", "got Hat"]);
    }
}

#[test]
fn what_cannot_be_is_refused_in_one_message() {
    refused(&["sample", "run", "--class", "Hat"], &["--class", "dark, light, striped", "got Hat"]);
    refused(&["sample", "fashion", "--class", "Bag"], &["--class", "knows no classes"]);
    refused(&["sample", "fashion", "--guidance", "2"], &["--guidance", "without classes", "train --classes"]);
    refused(&["sample", "unguided", "--guidance", "2"], &["--guidance", "null class"]);
    refused(&["sample", "run", "--guidance", "-1"], &["--guidance", "at least 0"]);
    refused(&["sample", "run", "--guidance-rescale", "0.5"], &["--guidance"]);
    let interval = ["sample", "run", "--guidance", "2", "--guidance-interval", "3,1"];
    refused(&interval, &["--guidance-interval", "the lower one first", "3, 1"]);
    refused(&["evaluate", "fashion", "--nll", "--given-class"], &["--given-class", "a network with classes"]);
    let others = ["evaluate", "run", "--nll", "--given-class", "--data", "strange", "--against", "train"];
    std::fs::create_dir_all(folder().join("strange/hat")).expect("a folder");
    std::fs::copy(folder().join("pictures/test/dark/0.png"), folder().join("strange/hat/0.png"))
        .expect("one");
    std::fs::copy(folder().join("pictures/test/dark/1.png"), folder().join("strange/hat/1.png"))
        .expect("one");
    refused(&others, &["strange", "dark, light, striped", "hat"]);
    refused(&["evaluate", "run", "--guidance", "2"], &["--guidance", "--features"]);
    let train =
        ["train", "--config", "short.toml", "--classes", "--data", "pictures/test/dark", "--out", "no"];
    refused(&train, &["--classes", "images with labels", "dark, which has none"]);
    refused(&["train", "--preset", "tiny", "--drop-label", "0.1"], &["--classes"]);
    let mut train = TRAIN;
    train[7] = "1";
    refused(&[&train[..], &["--out", "no"]].concat(), &["drop_label", "below 1"]);
    assert!(!folder().join("no").exists());
}

/// The bound is that of the network that is told no class.
#[test]
fn the_bound_of_a_model_with_classes_is_reported() {
    let found = json(&["evaluate", "run", "--nll", "-n", "3", "--strata", "2"]);
    let bits = |found: &Value| {
        found.pointer("/nll/bounds/0/bits_per_dim/mean").and_then(Value::as_f64).expect("bits")
    };
    assert!(bits(&found) > 0.0 && found["nll"]["given_class"] == false);
    let given = json(&["evaluate", "run", "--nll", "-n", "3", "--strata", "2", "--given-class"]);
    assert!(bits(&given) > 0.0 && bits(&given) != bits(&found) && given["nll"]["given_class"] == true);
    // One without a null class knows no other bound.
    let needed = json(&["evaluate", "unguided", "--nll", "-n", "3", "--strata", "2"]);
    assert!(bits(&needed) > 0.0 && needed["nll"]["given_class"] == true);
}

/// The mean of the pixels as the feature; and how near the difference d of odd and even rows is to each class's,
/// c = 0, 90 and 180 bytes, as 2 c d - c^2.
fn classifier() -> Model {
    let mut g = GraphBuilder::new("classifier");
    let x = g
        .input("images", ElementType::F32, [Dim::from("N"), 1.into(), 8.into(), 8.into()])
        .expect("an input");
    let mut mean_of_rows = |start: usize, step: usize| {
        let rows = g.slice(x, &[SliceRange { axis: 2, start, end: 8, step }]).expect("rows");
        g.reduce(Reduction::Mean, rows, &[2, 3], false).expect("means")
    };
    let (mean, even, odd) = (mean_of_rows(0, 1), mean_of_rows(0, 2), mean_of_rows(1, 2));
    let d = g.binary(Binary::Sub, odd, even).expect("a difference");
    let centres = [0.0, 90.0 / 127.5, 180.0 / 127.5f32];
    let twice = g.constant_f32(&[1, 3], &centres.map(|c| 2.0 * c)).expect("numbers");
    let squares = g.constant_f32(&[1, 3], &centres.map(|c| c * c)).expect("numbers");
    let logits = g.binary(Binary::Mul, d, twice).expect("a product");
    let logits = g.binary(Binary::Sub, logits, squares).expect("a difference");
    g.output("features", mean).expect("an output");
    g.output("logits", logits).expect("an output");
    g.into_model(ModelInfo::default()).expect("a model")
}

/// One feature, the mean of the pixels, so that two images of a class have a distance. The samples are of the
/// classes that as many training images have.
#[test]
fn distances_are_reported_class_by_class() {
    let Some(runtime) = at_hand().first() else { return };
    FeatureNet::new(Dim::from("N"), [1, 8, 8]).model().write(folder().join("mean.onnx")).expect("a file");
    let network = ["evaluate", "run", "--features", "mean.onnx", "--features-backend", name(runtime)];
    let arguments = [&network[..], &["-n", "30", "--steps", "1", "--guidance", "1.5"]].concat();
    let found = json(&arguments);
    let classes = found["features"]["classes"].as_array().expect("classes");
    assert_eq!((classes.len(), &classes[1]["class"]), (3, &"light".into()));
    let sum = |key: &str| classes.iter().map(|class| class[key].as_u64().expect("a count")).sum::<u64>();
    assert_eq!((sum("samples"), sum("images")), (30, 60));
    for class in classes {
        let number = |key: &str| class[key].as_f64().expect("a distance");
        assert!(number("frechet_distance") > 0.0 && number("held_out") > 0.0, "{class}");
    }
    let text = succeed(folder(), &[&arguments[..], &["--quiet"]].concat());
    assert!(text.contains("of each class") && text.contains("striped"), "{text}");
    // Images whose classes the model does not know.
    write_pictures(&folder().join("others"));
    std::fs::rename(folder().join("others/train/dark"), folder().join("others/train/black")).expect("a name");
    let found = json(&[&arguments[..], &["--data", "others"]].concat());
    assert!(found["features"].get("classes").is_none());
    assert!(found["features"]["notes"].to_string().contains("other classes"), "{found}");
    // Given samples whose folders are the classes: their own images have no distance.
    let given =
        ["evaluate", "--features", "mean.onnx", "--features-backend", name(runtime), "--data", "pictures"];
    let found = json(&[&given[..], &["--samples", "pictures/train"]].concat());
    let classes = found["features"]["classes"].as_array().expect("classes");
    assert_eq!(
        (classes.len(), &classes[2]["class"], &classes[2]["samples"]),
        (3, &"striped".into(), &20.into())
    );
    let distance = |class: &Value| class["frechet_distance"].as_f64().expect("a distance");
    assert!(classes.iter().all(|class| distance(class).abs() < 1e-9), "{found}");
    // A classifier in the same file knows them.
    classifier().write(folder().join("classifier.onnx")).expect("a file");
    let given = [&given[..2], &["classifier.onnx", "--features-output", "features"], &given[3..]].concat();
    let given = [&given[..], &["--classifier-output"]].concat();
    let found = json(&[&given[..], &["logits", "--samples", "pictures/train"]].concat());
    for class in found["features"]["classes"].as_array().expect("classes") {
        assert_eq!((&class["recognised"], &class["held_out_recognised"]), (&1.0.into(), &1.0.into()));
    }
    let text = succeed(folder(), &[&given[..], &["logits", "--samples", "pictures/train", "-q"]].concat());
    assert!(text.contains("recognises") && text.contains("100.0 %"), "{text}");
    let wrong = [&given[..], &["features", "--samples", "pictures/train"]].concat();
    refused(&wrong, &["--classifier-output features", "each of the 3 classes", "1 numbers"]);
    let given = &given[..given.len() - 1];
    let found = json(&[given, &["--samples", "others/train"]].concat());
    assert!(found["features"]["notes"].to_string().contains("no class called black"), "{found}");
}
