//! `import`: what was read is written as ours, with another attention where that is wanted, and trained on.

use crate::support::binary::{run, succeed};
use crate::support::models::{bits, random, softmax};
use performer_ddpm::checkpoint::model_folder::{load, save};
use performer_ddpm::config::{BlockAttention, DiffusionConfig, Resampling, TimeScaleShift, UnetConfig};
use performer_ddpm::equations::solver::{Method, Variance};
use performer_ddpm::model::Model;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A softmax model in the folder `model`, for 28x28 grey images.
fn saved(model: &Model<f32>) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    save(&folder.path().join("model"), model, None, &DiffusionConfig::default()).expect("a folder");
    folder
}

fn images(folder: &Path, model: &str) -> Vec<u8> {
    let file = format!("{model}.npy");
    succeed(folder, &["sample", model, "-n", "2", "--steps", "3", "-q", "--npy", &file]);
    fs::read(folder.join(file)).expect("images")
}

fn refused(folder: &Path, arguments: &[&str], words: &[&str]) {
    let output = run(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(words.iter().all(|word| told.contains(word)), "{words:?} are not in: {told}");
}

#[test]
fn a_folder_keeps_its_weights_and_its_scheduler() {
    let model = random(&softmax(), 3);
    let folder = saved(&model);
    let at = folder.path();
    let solver = json!({"_class_name": "UniPCMultistepScheduler", "solver_order": 2, "beta_schedule": "scaled_linear"});
    fs::write(at.join("model/scheduler/scheduler_config.json"), solver.to_string()).expect("a file");
    let index = json!({
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    });
    fs::write(at.join("model/model_index.json"), index.to_string()).expect("a file");
    let told = succeed(at, &["import", "model", "--out", "ours"]);
    assert!(told.ends_with("ours\n"), "{told}");
    let (theirs, ours) =
        (load::<f32>(&at.join("model")).expect("one"), load::<f32>(&at.join("ours")).expect("one"));
    assert_eq!(bits(&ours.model.weights), bits(&theirs.model.weights));
    assert_eq!((ours.scheduler, ours.diffusion), (theirs.scheduler, theirs.diffusion));
    assert_eq!(images(at, "ours"), images(at, "model"));
    refused(at, &["import", "model", "--out", "ours"], &["a folder without a model", "--out"]);
    refused(at, &["import", "model", "--out", "b", "--schedule", "cosine"], &["which has one"]);

    // The file of the weights alone, under any name, with its config.json beside it.
    fs::create_dir(at.join("bare")).expect("a folder");
    fs::copy(at.join("model/unet/config.json"), at.join("bare/config.json")).expect("a file");
    let weights = "model/unet/diffusion_pytorch_model.safetensors";
    fs::copy(at.join(weights), at.join("bare/weights.safetensors")).expect("a file");
    succeed(at, &["import", "bare/weights.safetensors", "--out", "single", "--schedule", "linear", "-q"]);
    assert_eq!(bits(&load::<f32>(&at.join("single")).expect("one").model.weights), bits(&model.weights));
    fs::remove_file(at.join("bare/config.json")).expect("a file");
    refused(at, &["import", "bare/weights.safetensors", "--out", "c"], &["config.json"]);
}

/// A new softmax network for 8x8 images with a chain of ten steps, and six pictures of another size.
fn small(channels: usize) -> TempDir {
    let mut config = softmax();
    (config.sample_size, config.in_channels, config.out_channels) = ([8, 8], channels, channels);
    let folder = tempfile::tempdir().expect("a folder");
    let model = Model::new(&config, 5).expect("a network");
    let diffusion = DiffusionConfig { timesteps: 10, ..DiffusionConfig::default() };
    save(&folder.path().join("model"), &model, None, &diffusion).expect("a folder");
    fs::create_dir(folder.path().join("pictures")).expect("a folder");
    for i in 0..6u8 {
        let picture =
            image::GrayImage::from_fn(20 + u32::from(i), 17, |x, y| image::Luma([(x * y) as u8 ^ i]));
        picture.save(folder.path().join(format!("pictures/{i}.png"))).expect("a picture");
    }
    folder
}

#[test]
fn softmax_becomes_favor_and_is_trained_on() {
    let folder = small(1);
    let at = folder.path();
    let unipc = json!({"_class_name": "UniPCMultistepScheduler", "num_train_timesteps": 10});
    fs::write(at.join("model/scheduler/scheduler_config.json"), unipc.to_string()).expect("a file");
    let index = fs::read_to_string(at.join("model/model_index.json")).expect("a file");
    let index = index.replace("DPMSolverMultistepScheduler", "UniPCMultistepScheduler");
    fs::write(at.join("model/model_index.json"), index).expect("a file");
    let told = succeed(at, &["import", "model", "--out", "favor", "--attention", "favor", "--features", "8"]);
    assert!(told.contains("attention: favor") && told.contains("--finetune"), "{told}");
    let [source, favor] = ["model", "favor"].map(|name| load::<f32>(&at.join(name)).expect("a model"));
    assert_eq!(bits(&favor.model.weights), bits(&source.model.weights));
    assert!(favor.model.config.attention_blocks().all(|block| block != BlockAttention::Softmax));
    assert_eq!(favor.model.config.favor.features, 8);

    let train =
        ["import", "model", "--out", "tuned", "--attention", "favor", "--finetune", "3", "--batch", "4"];
    let train = [&train[..], &["--data", "pictures"]].concat();
    let figures = succeed(at, &[&train[..], &["--json", "-q"]].concat());
    let figures: Value = serde_json::from_str(&figures).expect("JSON");
    let losses = figures["losses"].as_array().expect("a list");
    let of: Vec<&str> = losses.iter().filter_map(|loss| loss["of"].as_str()).collect();
    assert_eq!(of, ["the source", "with the other attention", "trained on"]);
    assert_eq!(figures["training"]["steps"], 3);
    // A new network predicts zero whatever its attention: both losses are the noise's mean square.
    let means: Vec<f64> = losses.iter().filter_map(|loss| loss["mean"].as_f64()).collect();
    assert!(means[0] == means[1] && means[2] != means[1], "{means:?}");
    let scheduler = load::<f32>(&at.join("model")).expect("a model").scheduler;
    assert!(matches!(scheduler.method, Method::UniPc(_)), "another than a run's own");
    let kept = |run: &str| load::<f32>(&at.join(run)).expect("a run").scheduler == scheduler;
    assert!(kept("tuned"), "the run is sampled as its source");
    succeed(at, &["train", "--resume", "tuned", "--steps", "4", "-q"]);
    fs::rename(at.join("tuned/checkpoints"), at.join("checkpoints")).expect("they move");
    assert!(kept("tuned"), "and so is the model in its folder");
    refused(at, &train, &["go on with it", "--out"]);
    // What is left when the checkpoints are lost before the first weights were written.
    fs::rename(at.join("tuned/unet"), at.join("unet")).expect("they move");
    fs::remove_file(at.join("tuned/model_index.json")).expect("an index");
    fs::remove_file(at.join("tuned/metrics.jsonl")).expect("metrics");
    refused(at, &["train", "--resume", "tuned", "--steps", "5"], &["checkpoint", "scheduler", "go on from"]);
}

#[test]
fn training_on_needs_images_and_makes_them_fit_the_network() {
    let folder = small(3);
    let at = folder.path();
    refused(at, &["import", "model", "--out", "a", "--finetune", "2"], &["--data", "8x8"]);
    let train = ["import", "model", "--out", "b", "--finetune", "2", "--batch", "2", "--data", "pictures"];
    let told = succeed(at, &[&train[..], &["--held-out", "0.34"]].concat());
    assert!(told.contains("2 steps in") && told.contains("the source"), "{told}");
}

/// The names of a state dict of OpenAI's for a network of two levels with one residual block each.
fn openai_name(ours: &str) -> String {
    const BLOCKS: [(&str, &str); 18] = [
        ("conv_in", "input_blocks.0.0"),
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("class_embedding", "label_emb"),
        ("down_blocks.0.resnets.0", "input_blocks.1.0"),
        ("down_blocks.0.downsamplers.0.conv.", "input_blocks.2.0.op."),
        ("down_blocks.0.downsamplers.0", "input_blocks.2.0"),
        ("down_blocks.1.resnets.0", "input_blocks.3.0"),
        ("down_blocks.1.attentions.0", "input_blocks.3.1"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
        ("up_blocks.0.resnets", "output_blocks"),
        ("up_blocks.0.attentions", "output_blocks"),
        ("up_blocks.0.upsamplers.0", "output_blocks.1.2"),
        ("up_blocks.1.resnets", "output_blocks"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
    ];
    let (block, theirs) = BLOCKS.iter().find(|(block, _)| ours.starts_with(block)).expect("a block");
    let mut rest = ours[block.len()..].to_owned();
    if *theirs == "output_blocks" {
        let (place, inner) =
            if block.ends_with("attentions") { ("1", &rest[2..]) } else { ("0", &rest[2..]) };
        let number = rest[1..2].parse::<usize>().expect("a digit") + if block.contains("1.") { 2 } else { 0 };
        rest = format!(".{number}.{place}{inner}");
    }
    let inner = [
        (".norm1.", ".in_layers.0."),
        (".conv1.", ".in_layers.2."),
        (".time_emb_proj.", ".emb_layers.1."),
        (".norm2.", ".out_layers.0."),
        (".conv2.", ".out_layers.3."),
        (".conv_shortcut.", ".skip_connection."),
        (".group_norm.", ".norm."),
        (".to_out.0.", ".proj_out."),
        (".to_q.", ".qkv."),
    ];
    let inner = inner.iter().fold(rest, |rest, (ours, theirs)| rest.replace(ours, theirs));
    format!("{theirs}{inner}")
}

/// A state dict as OpenAI's code writes it: queries, keys and values of each head in one tensor.
fn openai_file(model: &Model<f32>, head: usize) -> Vec<u8> {
    let find = |name: &str| {
        let param = model.graph.params.iter().find(|param| param.name == name).expect("a parameter");
        param.kind.to_file_layout(&model.weights[param.range()])
    };
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for param in model.graph.params.iter() {
        let (name, mut shape) = (param.name.as_str(), param.kind.file_shape());
        if name.contains(".to_k.") || name.contains(".to_v.") {
            continue;
        }
        let mut values = find(name);
        if name.contains(".to_q.") {
            let row = shape.get(1).copied().unwrap_or(1) * head;
            let parts = [".to_q.", ".to_k.", ".to_v."].map(|part| find(&name.replace(".to_q.", part)));
            values = (0..values.len() / row)
                .flat_map(|h| parts.iter().flat_map(move |part| part[h * row..(h + 1) * row].to_vec()))
                .collect();
            shape[0] *= 3;
        }
        if shape.len() == 2 && (name.contains(".to_q.") || name.contains(".to_out.")) {
            shape.push(1);
        }
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push((openai_name(name), shape, bytes));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor"))
    });
    safetensors::serialize(views, None).expect("a file")
}

#[test]
fn openais_state_dicts_become_the_same_network() {
    let mut config = UnetConfig {
        sample_size: [8, 8],
        in_channels: 3,
        out_channels: 6,
        block_out_channels: vec![32, 64],
        layers_per_block: 1,
        down_attention: vec![BlockAttention::None, BlockAttention::Softmax],
        up_attention: vec![BlockAttention::Softmax, BlockAttention::None],
        attention_head_dim: Some(32),
        norm_num_groups: 32,
        attn_norm_num_groups: Some(32),
        norm_eps: 1e-5,
        downsample_padding: 1,
        flip_sin_to_cos: true,
        freq_shift: 0.0,
        dropout: 0.0,
        resnet_time_scale_shift: TimeScaleShift::ScaleShift,
        downsampling: vec![Resampling::Resnet; 2],
        upsampling: vec![Resampling::Resnet; 2],
        num_class_embeds: Some(5),
        ..softmax()
    };
    let guided = config.clone();
    (config.downsampling, config.upsampling) = (Vec::new(), Vec::new());
    (config.resnet_time_scale_shift, config.out_channels, config.num_class_embeds) =
        (TimeScaleShift::Default, 3, None);
    for (config, learned) in [(guided, true), (config, false)] {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        let model = random(&config, 3);
        fs::write(at.join("theirs.safetensors"), openai_file(&model, 32)).expect("a file");
        let import = ["import", "theirs.safetensors", "--out", "ours", "--size", "8"];
        refused(at, &import, &["--head", "64 in the published"]);
        succeed(at, &[&import[..], &["--head", "32", "-q"]].concat());
        let ours = load::<f32>(&at.join("ours")).expect("a model");
        assert_eq!(bits(&ours.model.weights), bits(&model.weights));
        assert_eq!(ours.model.config, UnetConfig { favor: Default::default(), ..config });
        let wanted = if learned { Variance::LearnedRange } else { Variance::FixedLarge };
        assert!(matches!(ours.scheduler.method, Method::Ddpm { variance, .. } if variance == wanted));
    }
}

#[test]
fn networks_that_none_of_ours_can_be_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let file = |names: &[&str]| {
        let views =
            names.iter().map(|name| (*name, TensorView::new(Dtype::F32, vec![1], &[0; 4]).expect("one")));
        fs::write(at.join("a.safetensors"), safetensors::serialize(views, None).expect("bytes"))
            .expect("a file");
    };
    let import = ["import", "a.safetensors", "--out", "b", "--size", "8", "--head", "32"];
    file(&["model.init_conv.weight", "model.downs.0.0.block1.proj.weight"]);
    refused(at, &import, &["lucidrains", "standardise", "no such network"]);
    file(&[
        "input_blocks.0.0.weight",
        "input_blocks.1.0.in_layers.0.weight",
        "output_blocks.0.0.in_layers.0.weight",
    ]);
    refused(at, &import, &["as many residual blocks at every level", "2 input and 1 output blocks"]);
    file(&["encoder.weight"]);
    refused(at, &import, &["encoder.weight", "config.json"]);
    fs::write(at.join("a.safetensors"), b"PK\x03\x04").expect("a file");
    refused(at, &import, &["pickle", "torch.load"]);
}
