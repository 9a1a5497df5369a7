//! `evaluate` through the binary: the figures, the files, and one clear message for what cannot be evaluated.

use crate::support::binary::{run, succeed};
use crate::support::feature_nets::FeatureNet;
use crate::support::pictures::decoded;
use crate::support::runtimes::{at_hand, name};
use ndarray::Array4;
use performer_ddpm::evaluate::frechet::frechet_distance;
use performer_ddpm::output::{read_npy, write_npy};
use performer_ddpm_onnx::Dim;
use serde_json::Value;
use std::path::Path;
use std::sync::OnceLock;

fn json(folder: &Path, arguments: &[&str]) -> Value {
    let text = succeed(folder, &[&["evaluate"], arguments, &["--json", "--quiet"]].concat());
    assert_eq!(text.lines().count(), 1, "one object and nothing else: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// The single message of a command that must end with status 2, which holds `words`.
fn refused(folder: &Path, arguments: &[&str], words: &[&str]) {
    let output = run(folder, &[&["evaluate"], arguments].concat());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert_eq!(message.matches("error:").count(), 1, "{message}");
    assert!(!message.contains("panicked"), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

/// A folder with a trained run, a features network of one feature, one of two outputs, and one of 784
/// features.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let made = tempfile::tempdir().expect("a folder");
        let path = made.path();
        let train = ["train", "--preset", "tiny", "--steps", "3", "--batch", "4", "--out", "run", "--quiet"];
        succeed(path, &train);
        let net = FeatureNet::new(Dim::from("N"), [1, 28, 28]);
        let nets = [
            ("mean.onnx", net.clone()),
            ("two.onnx", FeatureNet { logits: true, ..net.clone() }),
            ("pixels.onnx", FeatureNet { pixels: true, ..net.clone() }),
            ("maps.onnx", FeatureNet { maps: true, ..net }),
        ];
        for (name, net) in nets {
            net.model().write(path.join(name)).expect("a file");
        }
        made
    });
    made.path()
}

/// The option for a runtime that is at hand.
fn backend() -> Option<[&'static str; 2]> {
    at_hand().first().map(|runtime| ["--features-backend", name(runtime)])
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number {path} in {value}"))
}

#[test]
fn the_bound_is_reported_whole_and_in_parts() {
    let small = ["run", "--nll", "-n", "5", "--strata", "6", "--draws", "2"];
    let found = json(folder(), &small);
    assert_eq!(found["data"], "Fashion-MNIST");
    let nll = &found["nll"];
    assert_eq!((&nll["split"], &nll["images"], &nll["evaluated"]), (&"test".into(), &5.into(), &7.into()));
    for bound in nll["bounds"].as_array().expect("two bounds") {
        let parts = ["/l_t/mean", "/middle/mean", "/l_0/mean"].map(|part| number(bound, part));
        let whole = number(bound, "/bits_per_dim/mean");
        assert!((parts.iter().sum::<f64>() - whole).abs() < 1e-9 * whole, "{parts:?} {whole}");
        assert!(number(bound, "/bits_per_dim/standard_error") > number(bound, "/draws_error"));
        assert_eq!(bound["terms"].as_array().map(Vec::len), Some(7));
        assert_eq!(bound["rate_distortion"].as_array().map(Vec::len), Some(7));
    }
    // The result is the same for any number of threads and any batch; --nll is the default.
    for more in [&["--threads", "3", "--batch", "1"][..], &["--threads", "1", "--batch", "100"]] {
        assert_eq!(json(folder(), &[&small[..], more].concat())["nll"], *nll);
    }
    let plain = ["run", "-n", "5", "--strata", "6", "--draws", "2"];
    assert_eq!(json(folder(), &plain)["nll"], *nll);
    let full = json(folder(), &["run", "-n", "2", "--full", "--against", "train", "--clip", "off"]);
    let nll = &full["nll"];
    assert_eq!(
        (&nll["split"], &nll["evaluated"], &nll["clip_x0"]),
        (&"train".into(), &100.into(), &false.into())
    );
    assert!(number(nll, "/bounds/0/bits_per_dim/mean") > 0.0);
}

/// Fresh samples are those of `sample` with the same seed, and their distance is that of their features (the
/// pixels' mean) to those of the images. 1e-6: the mean is an `f32`.
#[test]
fn samples_are_compared_by_their_features() {
    let Some(backend) = backend() else { return };
    let network = ["--features", "mean.onnx", "--images", "200", "--seed", "4"];
    let steps = ["--steps", "2", "--sampler", "ddim"];
    let fresh = [&["run", "-n", "30"], &network[..], &backend, &steps].concat();
    let found = json(folder(), &[&fresh[..], &["--out", "a/b"]].concat());
    let sample = ["sample", "run", "-n", "30", "--seed", "4", "--npy", "s.npy", "--quiet"];
    succeed(folder(), &[&sample[..], &steps].concat());
    let given = json(folder(), &[&["--samples", "s.npy"], &network[..], &backend].concat());
    let features = &given["features"];
    for name in ["frechet_distance", "kernel_distance", "precision", "recall", "nearest", "held_out"] {
        assert_eq!(found["features"][name], features[name], "{name}");
    }
    assert_eq!(
        (&features["samples"], &features["images"], &features["features"]),
        (&30.into(), &200.into(), &1.into())
    );

    let samples: Array4<f32> = read_npy(&folder().join("s.npy")).expect("samples");
    let mean = |x: Vec<f32>| x.iter().map(|x| f64::from(x.clamp(-1.0, 1.0))).sum::<f64>() / x.len() as f64;
    let of_samples = samples.outer_iter().map(|image| mean(image.iter().copied().collect())).collect();
    let train = performer_ddpm::data::load(None, None).expect("images").train;
    let chosen = performer_ddpm::evaluate::choose(train.len(), 200, 4).expect("a choice");
    let images = performer_ddpm::evaluate::images::<f32>(&train, &chosen).expect("images");
    let of_images = images.outer_iter().map(|image| mean(image.to_vec())).collect();
    let column = |x: Vec<f64>| ndarray::Array2::from_shape_vec((x.len(), 1), x).expect("a column");
    let want = frechet_distance(column(of_images).view(), column(of_samples).view()).expect("a distance");
    let got = number(features, "/frechet_distance");
    assert!((got / want - 1.0).abs() < 1e-5, "{got} {want}");
    assert!(number(features, "/nearest/median") > 0.0 && number(features, "/nearest/held_out_median") > 0.0);

    let sheet = decoded(&folder().join("a/b/nearest.png"));
    assert_eq!((sheet.width(), sheet.height()), (16 * 86 + 2, 4 * 86 + 2));
    let written = std::fs::read_to_string(folder().join("a/b/evaluation.json")).expect("a file");
    let written: Value = serde_json::from_str(&written).expect("JSON");
    assert_eq!(written["features"], found["features"]);
    // The result is the same for another number of threads.
    let again = json(folder(), &[&fresh[..], &["--threads", "1", "--batch", "7"]].concat());
    assert_eq!(again["features"]["kernel_distance"], features["kernel_distance"]);
}

#[test]
fn tables_and_plots_are_written_for_people() {
    let Some(backend) = backend() else { return };
    let both = ["evaluate", "run", "--nll", "-n", "25", "--strata", "3", "--steps", "1", "--out", "plots"];
    let network = ["--features", "two.onnx", "--features-output", "logits", "--images", "60"];
    let text = succeed(folder(), &[&both[..], &network, &backend, &["--quiet"]].concat());
    for part in [
        "bound in bits/dim on 25 test images",
        "+-",
        "Frechet distance",
        "precision",
        "nearest training image",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    for plot in ["bits_per_timestep", "rate_distortion"] {
        let [svg, png] = ["svg", "png"].map(|ending| format!("{plot}.{ending}"));
        assert!(text.contains(&svg) && text.contains(&png));
        let svg = std::fs::read_to_string(folder().join("plots").join(svg)).expect("a plot");
        assert!(svg.contains("bits/dim") && svg.contains("sigma^2 = beta~") && svg.contains("<polyline"));
        let png = decoded(&folder().join("plots").join(png));
        assert_eq!((png.width(), png.height()), (1280, 840));
    }
}

/// On the same images, timesteps and noise; measured: 0.6 bits of 7.9.
#[test]
fn bits_fall_with_training() {
    let train = ["train", "--preset", "tiny", "--steps", "60", "--batch", "4", "--out", "longer", "--quiet"];
    succeed(folder(), &train);
    let bits = |run: &str| {
        let found = json(folder(), &[run, "--nll", "-n", "20", "--strata", "6"]);
        [0, 1].map(|bound| number(&found, &format!("/nll/bounds/{bound}/bits_per_dim/mean")))
    };
    let (before, after) = (bits("run"), bits("longer"));
    assert!(before.iter().zip(after).all(|(before, after)| after < before - 0.3), "{before:?} {after:?}");
}

/// Pictures in a folder are samples too.
#[test]
fn a_folder_of_pictures_is_compared() {
    let Some(backend) = backend() else { return };
    let pictures = folder().join("pictures");
    std::fs::create_dir(&pictures).expect("a folder");
    let train = performer_ddpm::data::load(None, None).expect("images").train;
    for i in 0..22 {
        let picture =
            image::GrayImage::from_raw(28, 28, train.bytes(i).unwrap().to_vec()).expect("a picture");
        picture.save(pictures.join(format!("{i:02}.png"))).expect("a file");
    }
    let arguments = ["--features", "mean.onnx", "--samples", "pictures", "--images", "50"];
    let found = json(folder(), &[&arguments[..], &backend].concat());
    assert_eq!(found["features"]["samples"], 22);
    assert_eq!(number(&found, "/features/nearest/smallest"), 0.0);
    refused(folder(), &[&arguments[..], &["-n", "23"], &backend].concat(), &["pictures", "23", "22"]);
}

/// Refused before a runtime is needed.
#[test]
fn what_cannot_be_evaluated_is_refused_in_one_message() {
    let at = folder();
    let net = |file: &'static str| ["run", "-n", "30", "--steps", "1", "--images", "50", "--features", file];
    // No features network, or one that is not fully named.
    std::fs::write(at.join("notes.onnx"), "no network").expect("a file");
    refused(at, &net("notes.onnx"), &["notes.onnx", "an ONNX model"]);
    refused(at, &net("absent.onnx"), &["absent.onnx"]);
    refused(at, &net("maps.onnx"), &["maps.onnx", "features f32 [N, D]"]);
    refused(at, &net("two.onnx"), &["--features-output", "features f32", "logits f32"]);
    succeed(at, &["export", "denoiser.onnx", "--model", "run", "--check", "none", "--quiet"]);
    refused(at, &net("denoiser.onnx"), &["denoiser.onnx", "inputs", "--features-input"]);
    // Too few images, images of another shape, none that are held out.
    refused(at, &["run", "-n", "1"], &["at least 2", "got 1"]);
    let colours = at.join("colours");
    std::fs::create_dir(&colours).expect("a folder");
    image::RgbImage::new(28, 28).save(colours.join("a.png")).expect("a picture");
    refused(at, &["run", "--data", "colours"], &["colours", "28x28x1", "28x28x3"]);
    let grey = at.join("grey");
    std::fs::create_dir(&grey).expect("a folder");
    (0..3)
        .for_each(|i| image::GrayImage::new(28, 28).save(grey.join(format!("{i}.png"))).expect("a picture"));
    refused(at, &["run", "--data", "grey"], &["grey", "held-out", "--against train"]);
}

/// Refused once the network is loaded: too few samples or images for its features, and samples that are not
/// finite, not in the range, or of another shape.
#[test]
fn what_a_features_network_cannot_compare_is_refused() {
    let Some(backend) = backend() else { return };
    let at = folder();
    let with = |arguments: &[&'static str]| [arguments, &backend].concat();
    let few = ["run", "-n", "30", "--steps", "1", "--images", "15", "--features", "pixels.onnx"];
    refused(at, &with(&few), &["--images", "at least 20", "got 15", "subsets"]);
    let few = ["run", "-n", "19", "--images", "800", "--features", "pixels.onnx"];
    refused(at, &with(&few), &["-n", "at least 20", "got 19"]);
    let mut samples = Array4::<f32>::zeros((30, 1, 28, 28));
    let samples_of = |name: &'static str| ["--samples", name, "--features", "mean.onnx", "--images", "50"];
    samples[[3, 0, 2, 1]] = f32::NAN;
    write_npy(&at.join("nan.npy"), samples.view()).expect("a file");
    refused(at, &with(&samples_of("nan.npy")), &["nan.npy", "[3, 0, 2, 1]", "NaN"]);
    write_npy(&at.join("bytes.npy"), samples.mapv(|_| 200.0).view()).expect("a file");
    refused(at, &with(&samples_of("bytes.npy")), &["bytes.npy", "[-1, 1]", "200.0"]);
    write_npy(&at.join("small.npy"), Array4::<f32>::zeros((30, 1, 8, 8)).view()).expect("a file");
    refused(at, &with(&samples_of("small.npy")), &["small.npy", "[1, 28, 28]", "[1, 8, 8]"]);
}

/// Fewer than features have no Frechet distance, and every other measure.
#[test]
fn fewer_samples_than_features_are_compared_but_for_one_measure() {
    let Some(backend) = backend() else { return };
    let few = ["run", "-n", "30", "--steps", "1", "--images", "50", "--features", "pixels.onnx"];
    let found = &json(folder(), &[&few[..], &backend].concat())["features"];
    assert!(found["frechet_distance"].is_null(), "{found}");
    assert!(found["kernel_distance"]["standard_error"].as_f64().is_some(), "{found}");
    let notes = found["notes"].to_string();
    assert!(notes.contains("784 features need 785") && notes.contains("rank"), "{notes}");
    let samples = Array4::<f32>::from_shape_fn((30, 1, 28, 28), |(n, _, h, w)| (n * h + w) as f32 / 900.0);
    write_npy(&folder().join("unit.npy"), samples.view()).expect("a file");
    let given = ["--samples", "unit.npy", "--features", "mean.onnx", "--images", "50"];
    let notes = json(folder(), &[&given[..], &backend].concat())["features"]["notes"].to_string();
    assert!(notes.contains("2x - 1"), "{notes}");
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let at = folder();
    refused(at, &["run", "--steps", "3"], &["--steps", "--features"]);
    refused(at, &["run", "--samples", "s.npy"], &["--samples", "--features"]);
    refused(at, &["run", "--features", "mean.onnx", "--full"], &["--full", "--nll"]);
    refused(at, &["--features", "mean.onnx", "--samples", "s.npy", "--eta", "1"], &["--eta", "--samples"]);
    refused(at, &["run", "--features", "mean.onnx", "--samples", "s.npy"], &["MODEL", "run"]);
    refused(at, &["mean.onnx"], &["mean.onnx", "--samples"]);
    refused(at, &["nowhere", "--nll"], &["nowhere", "nothing there"]);
    let output = run(at, &["evaluate", "run", "--full", "--strata", "3"]);
    assert_eq!(output.status.code(), Some(2));
}
