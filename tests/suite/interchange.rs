//! Models as other programs leave them: names with a variant, damaged or mistaken files, files with more
//! keys, ONNX graphs of other types.

use crate::support::binary::{run, succeed};
use crate::support::foreign::Foreign;
use crate::support::models::{bits, random, softmax};
use crate::support::runtimes::at_hand;
use performer_ddpm::checkpoint::model_folder::{load, save};
use performer_ddpm::config::{DiffusionConfig, Preset};
use performer_ddpm::model::Model;
use performer_ddpm::{Pipeline, SampleOptions};
use performer_ddpm_onnx::proto::{DataLocation, StringStringEntryProto};
use performer_ddpm_onnx::{Dim, ElementType, Model as OnnxModel};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

fn model() -> Model<f32> {
    random(&softmax(), 3)
}

fn saved() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    save(folder.path(), &model(), None, &DiffusionConfig::default()).expect("a folder");
    folder
}

/// Changes a JSON file.
fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&fs::read_to_string(file).expect("a file")).expect("JSON");
    change(&mut value);
    fs::write(file, value.to_string()).expect("a file");
}

fn refusal(folder: &Path) -> String {
    let error = load::<f32>(folder).expect_err("no model");
    assert_eq!(error.exit_status(), 2);
    error.to_string()
}

#[test]
fn weights_under_a_variants_name_are_found_and_told() {
    let folder = saved();
    let unet = folder.path().join("unet");
    let variant = |name: &str| unet.join(format!("diffusion_pytorch_model.{name}.safetensors"));
    fs::rename(folder.path().join(WEIGHTS), variant("fp16")).expect("a file");
    fs::write(variant("non_ema"), b"not looked at").expect("a file");
    fs::write(unet.join("diffusion_pytorch_model-00001-of-00002.safetensors"), b"a part").expect("a file");
    let loaded = load::<f32>(folder.path()).expect("a model");
    assert_eq!(bits(&loaded.model.weights), bits(&model().weights));
    assert_eq!(loaded.file, variant("fp16"));
    assert!(loaded.note.is_some_and(|note| note.contains("fp16.safetensors")));
}

#[test]
fn files_that_are_no_safetensors_are_told_for_what_they_are() {
    let folder = saved();
    let file = folder.path().join(WEIGHTS);
    let whole = fs::read(&file).expect("a file");
    let told = |bytes: &[u8], words: &[&str]| {
        fs::write(&file, bytes).expect("a file");
        let message = refusal(folder.path());
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} are not in: {message}");
    };
    let of = format!("{} of the {} bytes", whole.len() - 7, whole.len());
    told(&whole[..whole.len() - 7], &[&of, "cut short"]);
    told(&[&whole[..], b"\n"].concat(), &["1 more byte(s)", &format!("after {} bytes", whole.len())]);
    told(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", &["Git LFS pointer", "git lfs pull"]);
    told(b"PK\x03\x04....", &["pickle", "torch.load", "save_file"]);
    told(b"\x80\x02}q\x00.", &["a Python pickle", "torch.load"]);
    told(b"<!DOCTYPE html>\n<html>", &["a web page"]);
    told(b"\x10\0\0\0\0\0\0\0no json at all..", &["unusable header", "of another kind"]);
}

#[test]
fn the_average_that_diffusers_training_leaves_is_read_and_preferred() {
    let folder = saved();
    let unet = folder.path().join("unet");
    fs::remove_file(folder.path().join("model_index.json")).expect("a file");
    let ema = folder.path().join("unet_ema");
    fs::create_dir(&ema).expect("a folder");
    let average = random(&softmax(), 4);
    let other = tempfile::tempdir().expect("a folder");
    save(other.path(), &average, None, &DiffusionConfig::default()).expect("a folder");
    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
        fs::copy(other.path().join("unet").join(name), ema.join(name)).expect("a file");
    }
    edit(&ema.join("config.json"), |config| {
        for (key, value) in [
            ("decay", json!(0.9999)),
            ("inv_gamma", json!(1.0)),
            ("min_decay", json!(0.0)),
            ("optimization_step", json!(5000)),
            ("power", json!(0.75)),
            ("update_after_step", json!(0)),
            ("use_ema_warmup", json!(true)),
        ] {
            config[key] = value;
        }
    });
    let loaded = load::<f32>(folder.path()).expect("a model");
    assert_eq!(bits(&loaded.model.weights), bits(&average.weights));
    assert!(loaded.note.is_some_and(|note| note.contains("unet_ema")));
    assert_eq!(bits(&load::<f32>(&ema).expect("a model").model.weights), bits(&average.weights));
    assert_eq!(bits(&load::<f32>(&unet).expect("a model").model.weights), bits(&model().weights));
}

#[test]
fn schedulers_of_every_spacing_and_of_the_first_versions_are_followed() {
    let folder = saved();
    let file = folder.path().join("scheduler/scheduler_config.json");
    for (spacing, offset) in [("trailing", 0), ("linspace", 0), ("leading", 1)] {
        edit(&file, |config| {
            config["timestep_spacing"] = json!(spacing);
            config["steps_offset"] = json!(offset);
        });
        let scheduler = load::<f32>(folder.path()).expect("a model").scheduler;
        assert_eq!(format!("{:?}", scheduler.spacing).to_lowercase(), spacing);
        assert_eq!(scheduler.steps_offset, offset);
    }
    edit(&file, |config| {
        config["timestep_values"] = Value::Null;
        config["tensor_format"] = json!("pt");
    });
    load::<f32>(folder.path()).expect("a model");
    // What Python's json writes for a float that JSON has not.
    let solver = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity}"#;
    fs::write(&file, solver).expect("a file");
    edit(&folder.path().join("model_index.json"), |index| {
        index["scheduler"] = json!(["diffusers", "DPMSolverMultistepScheduler"]);
    });
    load::<f32>(folder.path()).expect("a model");
}

#[test]
fn a_folder_without_a_scheduler_takes_a_schedule() {
    let folder = saved();
    fs::remove_dir_all(folder.path().join("scheduler")).expect("a folder");
    let at = folder.path();
    // By DDIM, which clips: what a solver makes of an untrained network is far out of range.
    let sample = ["sample", ".", "-n", "2", "--sampler", "ddim", "--steps", "2", "--threads", "1"];
    let images = |name: &str, more: &[&str]| {
        succeed(at, &[&sample[..], &["--npy", name, "-q"], more].concat());
        fs::read(at.join(name)).expect("images")
    };
    let linear = images("a.npy", &[]);
    assert_eq!(images("b.npy", &["--schedule", "linear"]), linear);
    assert_ne!(images("c.npy", &["--schedule", "cosine"]), linear);
    let told = run(at, &sample);
    assert!(String::from_utf8_lossy(&told.stderr).contains("no scheduler found"));

    let whole = saved();
    let refused = run(whole.path(), &[&sample[..], &["--schedule", "cosine"]].concat());
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("which has one"));
}

/// The network's prediction x0.9 + t / 1000 in the types that other exporters choose. Tolerance: half
/// precision keeps eleven bits, and the values are below 4.
#[test]
fn graphs_in_half_precision_and_with_short_timesteps_are_sampled() {
    for (image, time) in [
        (ElementType::F32, ElementType::I32),
        (ElementType::F16, ElementType::I64),
        (ElementType::F16, ElementType::F16),
    ] {
        let model = retyped(image, time);
        for runtime in at_hand() {
            let what = format!("{image}, {time} in {runtime:?}");
            let mut pipeline = Pipeline::from_onnx(&model, runtime, 2, Some(&DiffusionConfig::default()))
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let plain = Foreign::default().model();
            let mut reference = Pipeline::from_onnx(&plain, runtime, 2, Some(&DiffusionConfig::default()))
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let options = SampleOptions { count: 2, steps: Some(3), ..pipeline.options() };
            let got = pipeline.sample(&options).unwrap_or_else(|error| panic!("{what}: {error}"));
            let wanted = reference.sample(&options).unwrap_or_else(|error| panic!("{what}: {error}"));
            let far = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < if image == ElementType::F32 { 1e-6 } else { 0.05 }, "{what}: {far}");
        }
    }
}

/// The foreign denoiser with a cast behind each input and before the output.
fn retyped(image: ElementType, time: ElementType) -> OnnxModel {
    use performer_ddpm_onnx::builder::{Binary, GraphBuilder, ModelInfo};
    let mut g = GraphBuilder::new("foreign");
    let batch = Dim::from("batch");
    let t = g.input("timestep", time, [batch.clone()]).expect("an input");
    let x = g.input("sample", image, [batch, 3.into(), 4.into(), 4.into()]).expect("an input");
    let (t, x) = (g.cast(t, ElementType::F32).expect("a cast"), g.cast(x, ElementType::F32).expect("a cast"));
    let column = g.unsqueeze(t, &[1, 2, 3]).expect("a column");
    let thousandth = g.scalar(1e-3).expect("a constant");
    let shift = g.binary(Binary::Mul, column, thousandth).expect("a product");
    let factor = g.scalar(0.9).expect("a constant");
    let scaled = g.binary(Binary::Mul, x, factor).expect("a product");
    let eps = g.binary(Binary::Add, scaled, shift).expect("a sum");
    let eps = g.cast(eps, image).expect("a cast");
    g.output("noise_pred", eps).expect("an output");
    g.into_model(ModelInfo::default()).expect("a model")
}

/// PyTorch writes `model.onnx.data` beside larger models.
#[test]
fn weights_beside_an_onnx_file_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.onnx");
    let mut pipeline = Pipeline::new(
        Model::new(&Preset::Tiny.config().unet, 1).expect("a network"),
        DiffusionConfig::default(),
        &Default::default(),
    )
    .expect("a pipeline");
    pipeline.export(&file, &Default::default()).expect("a file");
    let mut proto = OnnxModel::read(&file).expect("a model").proto().clone();
    let mut data = Vec::new();
    for weight in &mut proto.graph.as_mut().expect("a graph").initializer {
        let Some(bytes) = weight.raw_data.take() else { continue };
        let entries = [
            ("location", "model.onnx.data".to_owned()),
            ("offset", data.len().to_string()),
            ("length", bytes.len().to_string()),
        ];
        weight.external_data =
            entries.map(|(key, value)| StringStringEntryProto { key: key.to_owned(), value }).into();
        weight.data_location = DataLocation::External as i32;
        data.extend(bytes);
    }
    let split = OnnxModel::from_proto("split", proto).expect("a model");
    split.write(&file).expect("a file");
    fs::write(folder.path().join("model.onnx.data"), data).expect("a file");
    for runtime in at_hand() {
        let compute = performer_ddpm::sample::Compute::runtime(runtime.clone());
        let mut from_file = Pipeline::load_with(&file, &compute).expect("a pipeline");
        let options = SampleOptions { count: 2, steps: Some(2), ..pipeline.options() };
        let got = from_file.sample(&options).expect("images");
        let wanted = pipeline.sample(&options).expect("images");
        let far = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // The bound of `export`'s own check.
        assert!(far < 1e-4, "{far} in {runtime:?}");
    }
}
