//! `config.json` and `scheduler_config.json`: what is read, what is written, what is refused.

use crate::support::models::{bits, favor_in_the_middle, random, softmax};
use performer_ddpm::checkpoint::model_folder::{load, load_unet_config, save};
use performer_ddpm::config::{
    Activation, BetaSchedule, BlockAttention, Config, DiffusionConfig, FavorConfig, Prediction, Preset,
    Resampling, TimeScaleShift, UnetConfig, VarianceKind,
};
use performer_ddpm::equations::solver::{
    Bh, DdimChoice, DpmSolver, Limit, Method, Scheduler, SecondOrder, StepSet, UniPc, Variance,
};
use performer_ddpm::equations::{Schedule, Spacing};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// A change to a file's JSON.
type Change = fn(&mut Value);

fn read_json(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// A saved model's folder with one of its JSON files changed.
fn folder_with(config: &UnetConfig, file: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &random(config, 1), None, &DiffusionConfig::default()).unwrap();
    let path = folder.path().join(file);
    let mut value = read_json(&path);
    change(&mut value);
    fs::write(&path, value.to_string()).unwrap();
    folder
}

fn refusal(folder: &tempfile::TempDir) -> String {
    let error = load::<f32>(folder.path()).unwrap_err();
    assert_eq!(error.exit_status(), 2);
    error.to_string()
}

fn round_trip(config: &UnetConfig) -> (UnetConfig, Value) {
    let folder = folder_with(config, "model_index.json", |_| {});
    let file = folder.path().join("unet/config.json");
    (load_unet_config(folder.path()).unwrap(), read_json(&file))
}

#[test]
fn every_preset_survives_being_saved() {
    for preset in [Preset::Fashion, Preset::FashionSoftmax, Preset::Tiny] {
        let config = preset.config().unet;
        let (read, json) = round_trip(&config);
        let uses_favor = preset != Preset::FashionSoftmax;
        assert_eq!(json.get("favor").is_some(), uses_favor);
        let favor = if uses_favor { config.favor.clone() } else { FavorConfig::default() };
        assert_eq!(read, UnetConfig { favor, ..config });
    }
}

/// Ho et al.'s network, written without its weights, and a network in which no setting has its default.
#[test]
fn every_setting_survives_being_saved() {
    let mut unusual = softmax();
    unusual.sample_size = [6, 10];
    (unusual.in_channels, unusual.out_channels) = (2, 5);
    unusual.layers_per_block = 3;
    unusual.mid_attention = BlockAttention::None;
    unusual.attention_head_dim = None;
    unusual.attn_norm_num_groups = Some(4);
    unusual.norm_eps = 0.1 + 0.2;
    unusual.downsample_padding = 1;
    unusual.flip_sin_to_cos = true;
    unusual.freq_shift = 0.3;
    unusual.mid_block_scale_factor = std::f64::consts::SQRT_2;
    unusual.dropout = 0.1;
    assert_eq!(round_trip(&unusual).0, unusual);
    let cifar10 = Preset::Cifar10.config().unet;
    let mut small = UnetConfig { block_out_channels: vec![32, 32, 64, 64], ..cifar10 };
    small.favor = FavorConfig::default();
    assert_eq!(round_trip(&small).0, small);
}

/// diffusers ignores the type of the middle block, so a block that it does not ignore has to make it refuse.
#[test]
fn favor_in_the_middle_alone_shows_in_a_block_type() {
    let (read, json) = round_trip(&favor_in_the_middle());
    assert_eq!(read, favor_in_the_middle());
    assert_eq!(json["mid_block_type"], "UNetMidBlock2DFavor");
    assert_eq!(json["down_block_types"], json!(["DownBlock2D", "FavorMidAttnDownBlock2D"]));
    let (_, json) = round_trip(&Preset::Tiny.config().unet);
    assert_eq!(json["mid_block_type"], "UNetMidBlock2D");
    assert_eq!(json["down_block_types"], json!(["DownBlock2D", "FavorAttnDownBlock2D"]));
    assert_eq!(json["up_block_types"], json!(["FavorAttnUpBlock2D", "UpBlock2D"]));

    let everywhere = UnetConfig { mid_attention: BlockAttention::Favor, ..Preset::Tiny.config().unet };
    let (read, json) = round_trip(&everywhere);
    assert_eq!(read, everywhere);
    assert_eq!(json["down_block_types"], json!(["DownBlock2D", "FavorAttnDownBlock2D"]));

    let folder = folder_with(&softmax(), "unet/config.json", |json| {
        json["down_block_types"][1] = json!("FavorMidAttnDownBlock2D");
    });
    let message = refusal(&folder);
    assert!(message.contains("down_block_types") && message.contains("FavorMidAttn"), "{message}");
}

/// The defaults of diffusers' constructor (0.42), by hand.
#[test]
fn missing_keys_have_diffusers_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    fs::write(&file, r#"{"_class_name": "UNet2DModel", "sample_size": [32, 64]}"#).unwrap();
    let (none, softmax) = (BlockAttention::None, BlockAttention::Softmax);
    let expected = UnetConfig {
        sample_size: [32, 64],
        in_channels: 3,
        out_channels: 3,
        block_out_channels: vec![224, 448, 672, 896],
        layers_per_block: 2,
        down_attention: vec![none, softmax, softmax, softmax],
        mid_attention: softmax,
        up_attention: vec![softmax, softmax, softmax, none],
        attention_head_dim: Some(8),
        favor: FavorConfig::default(),
        norm_num_groups: 32,
        attn_norm_num_groups: None,
        norm_eps: 1e-5,
        downsample_padding: 1,
        flip_sin_to_cos: true,
        freq_shift: 0.0,
        mid_block_scale_factor: 1.0,
        dropout: 0.0,
        act_fn: Activation::Silu,
        resnet_time_scale_shift: TimeScaleShift::Default,
        downsampling: vec![],
        upsampling: vec![],
        center_input_sample: false,
        num_class_embeds: None,
        class_names: vec![],
    };
    assert_eq!(load_unet_config(&file).unwrap(), expected);
    assert_eq!(load_unet_config(folder.path()).unwrap(), expected);

    fs::write(&file, r#"{"_class_name": "UNet2DModel"}"#).unwrap();
    let message = load_unet_config(&file).unwrap_err().to_string();
    assert!(message.contains("sample_size") && message.contains("no such key"), "{message}");
}

#[test]
fn what_changes_nothing_is_accepted() {
    let accepted = [
        ("_diffusers_version", json!("0.0.4")),
        ("_name_or_path", json!("somewhere")),
        ("act_fn", json!("swish")),
        ("act_fn", json!("SiLU")),
        ("downsample_type", json!(null)),
        ("time_embedding_dim", json!(32)),
        ("sample_size", json!([28, 28])),
        ("down_block_types", json!(["UNetResDownBlock2D", "UNetResAttnDownBlock2D"])),
    ];
    for (key, value) in accepted {
        let folder = folder_with(&softmax(), "unet/config.json", |json| json[key] = value);
        assert_eq!(load_unet_config(folder.path()).unwrap(), softmax(), "{key}");
    }
}

/// diffusers has one `downsample_type` for the levels that attend and block types of their own for the
/// others.
#[test]
fn every_mixture_of_settings_survives_the_file() {
    let (plain, softmax_block, favor) =
        (BlockAttention::None, BlockAttention::Softmax, BlockAttention::Favor);
    let (conv, resnet) = (Resampling::Conv, Resampling::Resnet);
    let base = UnetConfig {
        block_out_channels: vec![8, 8, 16],
        up_attention: vec![favor, plain, plain],
        ..Preset::Tiny.config().unet
    };
    for (down_attention, downsampling, upsampling, function) in [
        (vec![plain, softmax_block, favor], vec![conv, resnet, resnet], vec![], Activation::Mish),
        (vec![favor, plain, plain], vec![conv, resnet, conv], vec![resnet, conv, conv], Activation::Gelu),
        (vec![plain; 3], vec![resnet, conv, resnet], vec![conv, resnet, resnet], Activation::Relu),
    ] {
        let config = UnetConfig {
            down_attention,
            downsampling,
            upsampling,
            act_fn: function,
            resnet_time_scale_shift: TimeScaleShift::ScaleShift,
            center_input_sample: true,
            num_class_embeds: Some(7),
            out_channels: 2,
            ..base.clone()
        };
        let folder = folder_with(&config, "unet/config.json", |_| ());
        assert_eq!(load_unet_config(folder.path()).unwrap(), config);
        // Two channels out of one: with a variance.
        let mut whole = Config { unet: config, ..Preset::Tiny.config() };
        whole.diffusion.learned_range = true;
        assert_eq!(Config::from_toml(&whole.to_toml(), "here").unwrap().unet, whole.unet);
    }
    let disagree = UnetConfig {
        down_attention: vec![favor, softmax_block, plain],
        downsampling: vec![conv, resnet, conv],
        ..base
    };
    let message = disagree.validate().unwrap_err().to_string();
    assert!(message.contains("unet.downsampling") && message.contains("that attend"), "{message}");
}

#[test]
fn network_settings_that_are_not_supported_are_refused_by_name() {
    let refused = [
        ("_class_name", json!("UNet2DConditionModel")),
        ("a_new_key", json!(null)),
        ("act_fn", json!("elu")),
        ("add_attention", json!("yes")),
        ("attention_head_dim", json!(7)),
        ("attn_norm_num_groups", json!(3)),
        ("block_out_channels", json!([8, 15])),
        ("center_input_sample", json!("yes")),
        ("class_embed_type", json!("timestep")),
        ("down_block_types", json!(["DownBlock2D", "SkipDownBlock2D"])),
        ("down_block_types", json!(["DownBlock2D", "AttnUpBlock2D"])),
        ("down_block_types", json!(["DownBlock2D"])),
        ("downsample_padding", json!(2)),
        ("downsample_type", json!("fir")),
        ("dropout", json!(1.0)),
        ("favor", json!({})),
        ("flip_sin_to_cos", json!(1)),
        ("freq_shift", json!(4)),
        ("in_channels", json!(-1)),
        ("layers_per_block", json!(0)),
        ("mid_block_scale_factor", json!(0)),
        ("mid_block_type", json!(null)),
        ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
        ("norm_eps", json!(0)),
        ("norm_num_groups", json!(null)),
        ("num_class_embeds", json!(0)),
        ("num_train_timesteps", json!(1000)),
        ("out_channels", json!(1.5)),
        ("resnet_time_scale_shift", json!("ada_group")),
        ("sample_size", json!(null)),
        ("sample_size", json!(27)),
        ("time_embedding_dim", json!(64)),
        ("time_embedding_type", json!("fourier")),
        ("up_block_types", json!(["AttnUpBlock2D", "DownBlock2D"])),
        ("upsample_type", json!("fir")),
    ];
    for (key, value) in refused {
        let folder = folder_with(&softmax(), "unet/config.json", |json| json[key] = value.clone());
        let message = refusal(&folder);
        // Our configuration has the attention of each level where diffusers has block types.
        let name = if value == json!(["DownBlock2D"]) { "down_attention" } else { key };
        assert!(message.contains(name) && message.contains("config.json"), "{key} = {value}: {message}");
    }
}

#[test]
fn favor_settings_are_complete_and_known() {
    let tiny = Preset::Tiny.config().unet;
    let refused: [(&str, Change); 5] = [
        ("favor", |json| drop(json.as_object_mut().unwrap().remove("favor"))),
        ("features", |json| drop(json["favor"].as_object_mut().unwrap().remove("features"))),
        ("gaussian", |json| json["favor"]["map"] = json!("gaussian")),
        ("stabiliser", |json| json["favor"]["stabiliser"] = json!(1e-6)),
        ("favor.features", |json| json["favor"]["features"] = json!(0)),
    ];
    for (name, change) in refused {
        let message = refusal(&folder_with(&tiny, "unet/config.json", change));
        assert!(message.contains(name) && message.contains("config.json"), "{name}: {message}");
    }
    let contradiction = folder_with(&favor_in_the_middle(), "unet/config.json", |json| {
        json["add_attention"] = json!(false);
    });
    assert!(refusal(&contradiction).contains("add_attention"));
}

#[test]
fn every_diffusion_process_survives_being_saved() {
    let linear = BetaSchedule::Linear { start: 0.1 + 0.2 - 0.3 + 1e-3, end: 0.7 };
    let scaled = BetaSchedule::ScaledLinear { start: 1e-3, end: 0.2 };
    let betas = || BetaSchedule::Trained { betas: (1..=77).map(|i| f64::from(i) / 777.0).collect() };
    let epsilon = Prediction::Epsilon;
    for (schedule, variance, clip_x0, zero_terminal_snr, prediction, learned_range) in [
        (linear, VarianceKind::FixedLarge, true, false, epsilon, false),
        (scaled, VarianceKind::FixedSmall, false, true, Prediction::VPrediction, false),
        (BetaSchedule::Cosine, VarianceKind::FixedLarge, false, false, Prediction::Sample, false),
        (betas(), VarianceKind::FixedSmall, true, false, epsilon, false),
        (BetaSchedule::Cosine, VarianceKind::FixedSmall, true, false, epsilon, true),
        (betas(), VarianceKind::FixedSmall, false, true, Prediction::VPrediction, true),
    ] {
        let diffusion = DiffusionConfig {
            timesteps: 77,
            schedule,
            variance,
            clip_x0,
            zero_terminal_snr,
            prediction,
            learned_range,
        };
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &random(&softmax(), 2), None, &diffusion).unwrap();
        let loaded = load::<f32>(folder.path()).unwrap();
        assert_eq!(loaded.scheduler, Scheduler::of(&diffusion));
        assert_eq!(loaded.diffusion, diffusion);
    }
    // diffusers' DDIM does not know this schedule by name: its betas are written.
    let sigmoid = DiffusionConfig {
        timesteps: 20,
        schedule: BetaSchedule::Sigmoid { start: 1e-3, end: 0.3 },
        ..DiffusionConfig::default()
    };
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &random(&softmax(), 2), None, &sigmoid).unwrap();
    let loaded = load::<f32>(folder.path()).unwrap().diffusion;
    let betas = |config| Schedule::from_config(config).unwrap().betas();
    assert_eq!(betas(&loaded), betas(&sigmoid));
}

/// The scheduler that a file's object describes.
fn scheduler_of(json: Value) -> (DiffusionConfig, Scheduler) {
    let folder = folder_with(&softmax(), "scheduler/scheduler_config.json", |value| *value = json);
    let loaded = load::<f32>(folder.path()).unwrap();
    (loaded.diffusion, loaded.scheduler)
}

#[test]
fn schedulers_have_diffusers_defaults_and_ddim_is_read_too() {
    let cases = [
        (json!({"_class_name": "DDPMScheduler"}), DiffusionConfig::default()),
        (json!({"_class_name": "DDIMScheduler", "set_alpha_to_one": true}), DiffusionConfig::default()),
        (
            json!({"_class_name": "DDPMScheduler", "variance_type": "fixed_small_log", "sample_max_value": 3.0}),
            DiffusionConfig::default(),
        ),
        (
            json!({"_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2", "clip_sample": false,
                   "clip_sample_range": 2.0, "num_train_timesteps": 50}),
            DiffusionConfig {
                timesteps: 50,
                schedule: BetaSchedule::Cosine,
                clip_x0: false,
                ..DiffusionConfig::default()
            },
        ),
        (
            json!({"_class_name": "DDIMScheduler", "variance_type": "fixed_large"}),
            DiffusionConfig { variance: VarianceKind::FixedLarge, ..DiffusionConfig::default() },
        ),
    ];
    for (json, expected) in cases {
        assert_eq!(scheduler_of(json).0, expected);
    }
    let usual = [
        ("DDPM", Spacing::Leading, Method::Ddpm { variance: Variance::FixedSmall, noise_at_last: true }),
        ("DDIM", Spacing::Leading, Method::Ddim(DdimChoice::default())),
        ("DPMSolverMultistep", Spacing::Linspace, Method::DpmSolver(DpmSolver::default())),
        ("UniPCMultistep", Spacing::Linspace, Method::UniPc(UniPc::default())),
    ];
    for (name, spacing, method) in usual {
        let (_, scheduler) = scheduler_of(json!({"_class_name": format!("{name}Scheduler")}));
        assert_eq!((scheduler.spacing, scheduler.steps_offset), (spacing, 0));
        assert_eq!(scheduler.method, method);
        let clips = matches!(method, Method::Ddpm { .. } | Method::Ddim(_));
        let limit = if clips { Limit::Clip { range: 1.0 } } else { Limit::Off };
        assert_eq!((scheduler.limit, scheduler.prediction), (limit, Prediction::Epsilon));
    }
}

/// Every key that changes anything, away from its default.
#[test]
fn every_choice_of_a_scheduler_is_read() {
    let (diffusion, scheduler) = scheduler_of(json!({
        "_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 40, "beta_schedule": "scaled_linear",
        "beta_start": 0.001, "beta_end": 0.3, "solver_order": 3, "prediction_type": "v_prediction",
        "thresholding": true, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.0,
        "algorithm_type": "sde-dpmsolver++", "solver_type": "heun", "lower_order_final": false,
        "euler_at_final": true, "use_karras_sigmas": true, "final_sigmas_type": "sigma_min",
        "lambda_min_clipped": -5.1, "timestep_spacing": "leading", "steps_offset": 1,
        "rescale_betas_zero_snr": true, "clip_sample": false, "variance_type": "learned_range",
    }));
    assert_eq!(diffusion.schedule, BetaSchedule::ScaledLinear { start: 0.001, end: 0.3 });
    assert_eq!((diffusion.timesteps, diffusion.zero_terminal_snr), (40, true));
    assert_eq!(diffusion.prediction, Prediction::VPrediction);
    let solver = DpmSolver {
        order: 3,
        second_order: SecondOrder::Heun,
        sde: true,
        karras: true,
        final_sigma_zero: false,
        euler_at_final: true,
        lower_order_final: false,
        lambda_min: -5.1,
    };
    let want = Scheduler {
        prediction: Prediction::VPrediction,
        spacing: Spacing::Leading,
        steps_offset: 1,
        limit: Limit::Threshold { ratio: 0.9, max: 2.0 },
        method: Method::DpmSolver(solver),
    };
    assert_eq!(scheduler, want);

    let (_, scheduler) = scheduler_of(json!({
        "_class_name": "UniPCMultistepScheduler", "solver_order": 3, "solver_type": "bh1",
        "disable_corrector": [0, 2], "lower_order_final": false, "final_sigmas_type": "sigma_min",
        "use_karras_sigmas": true, "sigma_min": 0.1, "sigma_max": 50.0, "prediction_type": "sample",
    }));
    let solver = UniPc {
        order: 3,
        b: Bh::Bh1,
        karras: true,
        sigma_min: Some(0.1),
        sigma_max: Some(50.0),
        final_sigma_zero: false,
        lower_order_final: false,
        corrector_off: StepSet::new(&[0, 2]).unwrap(),
    };
    assert_eq!((scheduler.method, scheduler.prediction), (Method::UniPc(solver), Prediction::Sample));

    let (diffusion, scheduler) = scheduler_of(json!({
        "_class_name": "DDPMScheduler", "trained_betas": [0.1, 0.2, 0.3], "variance_type": "fixed_large_log",
        "clip_sample_range": 2.5, "timestep_spacing": "trailing", "prediction_type": "sample",
    }));
    assert_eq!(diffusion.schedule, BetaSchedule::Trained { betas: vec![0.1, 0.2, 0.3] });
    assert_eq!((diffusion.timesteps, scheduler.limit), (3, Limit::Clip { range: 2.5 }));
    assert_eq!(scheduler.method, Method::Ddpm { variance: Variance::FixedLarge, noise_at_last: true });

    let (_, scheduler) = scheduler_of(json!({"_class_name": "DDIMScheduler", "set_alpha_to_one": false}));
    let choice = DdimChoice { set_alpha_to_one: false, ..DdimChoice::default() };
    assert_eq!(scheduler.method, Method::Ddim(choice));
}

/// As Python writes it, which is no JSON.
#[test]
fn minus_infinity_is_read() {
    let folder = folder_with(&softmax(), "scheduler/scheduler_config.json", |_| {});
    let file = folder.path().join("scheduler/scheduler_config.json");
    let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity}"#;
    fs::write(&file, text).unwrap();
    let scheduler = load::<f32>(folder.path()).unwrap().scheduler;
    assert_eq!(scheduler.method, Method::DpmSolver(DpmSolver::default()));
}

#[test]
fn schedulers_that_are_not_supported_are_refused_by_name() {
    let any = ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"];
    let [ddpm, _, dpm, unipc] = any;
    let refused = [
        (&any[..], "_class_name", json!("PNDMScheduler")),
        (&any, "a_new_key", json!(0)),
        (&any, "beta_schedule", json!("laplace")),
        (&any, "beta_end", json!("0.02")),
        (&any, "dynamic_thresholding_ratio", json!(-0.1)),
        (&any[..2], "clip_sample_range", json!(0.0)),
        (&any, "num_train_timesteps", json!(1)),
        (&any, "prediction_type", json!("flow_prediction")),
        (&any[1..2], "set_alpha_to_one", json!(1)),
        (&any, "steps_offset", json!(-1)),
        (&any, "timestep_spacing", json!("log")),
        (&any, "trained_betas", json!([0.1])),
        (&[ddpm], "variance_type", json!("another")),
        (&[dpm], "algorithm_type", json!("dpmsolver")),
        (&[dpm], "lambda_min_clipped", json!("low")),
        (&[dpm], "use_lu_lambdas", json!(true)),
        (&[dpm, unipc], "solver_order", json!(4)),
        (&[dpm, unipc], "solver_type", json!("another")),
        (&[dpm, unipc], "final_sigmas_type", json!("another")),
        (&[dpm, unipc], "use_exponential_sigmas", json!(true)),
        (&[dpm, unipc], "use_beta_sigmas", json!(true)),
        (&[dpm, unipc], "use_flow_sigmas", json!(true)),
        (&[dpm, unipc], "use_dynamic_shifting", json!(true)),
        (&[unipc], "predict_x0", json!(false)),
        (&[unipc], "solver_p", json!({})),
        (&[unipc], "shift_terminal", json!(0.1)),
        (&[unipc], "disable_corrector", json!([200])),
        (&[unipc], "sigma_min", json!(-1.0)),
    ];
    for (classes, key, value) in refused {
        for class in classes {
            let folder = folder_with(&softmax(), "scheduler/scheduler_config.json", |json| {
                *json = json!({"_class_name": class, "thresholding": key.starts_with("dynamic")});
                json[key] = value.clone();
            });
            let message = refusal(&folder);
            let name = match key {
                "num_train_timesteps" | "trained_betas" => "timesteps",
                "dynamic_thresholding_ratio" => "dynamic thresholding",
                "clip_sample_range" => "range of clipping",
                "solver_order" => "order",
                "disable_corrector" => "steps",
                _ => key,
            };
            assert!(message.contains(name) && message.contains("scheduler_config.json"), "{key}: {message}");
        }
    }
}

#[test]
fn pipelines_with_other_parts_are_refused() {
    for (key, value) in [
        ("_class_name", json!("LDMPipeline")),
        ("vqvae", json!(["diffusers", "VQModel"])),
        ("unet", json!(["diffusers", "UNet2DConditionModel"])),
        ("scheduler", json!(["diffusers", "PNDMScheduler"])),
    ] {
        let folder = folder_with(&softmax(), "model_index.json", |json| json[key] = value);
        let message = refusal(&folder);
        assert!(message.contains(key) && message.contains("model_index.json"), "{message}");
    }
}

/// The same model gives the same files.
#[test]
fn saving_is_reproducible() {
    let folders = [(); 2].map(|()| folder_with(&Preset::Tiny.config().unet, "model_index.json", |_| {}));
    for file in ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"] {
        let [a, b] = folders.each_ref().map(|folder| fs::read(folder.path().join(file)).unwrap());
        assert!(a == b, "{file}");
        let header = u64::from_le_bytes(a[..8].try_into().unwrap());
        assert!(file.ends_with("json") || header % 8 == 0, "the format asks for aligned tensors");
    }
    let model = load::<f32>(folders[0].path()).unwrap().model;
    assert_eq!(bits(&model.weights), bits(&random(&Preset::Tiny.config().unet, 1).weights));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*") {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        fs::write(&file, text).unwrap();
        prop_assert!(load_unet_config(&file).is_err());
    }

    #[test]
    fn no_value_of_a_key_makes_the_reader_panic(
        key in 0usize..30,
        value in prop_oneof![
            Just(json!(null)),
            any::<i64>().prop_map(|x| json!(x)),
            any::<f64>().prop_map(|x| json!(x)),
            "[a-zA-Z0-9]*".prop_map(|x| json!(x)),
            proptest::collection::vec(any::<u16>(), 0..6).prop_map(|x| json!(x)),
        ],
    ) {
        static SAVED: LazyLock<Value> = LazyLock::new(|| round_trip(&softmax()).1);
        let mut json = SAVED.clone();
        let map = json.as_object_mut().unwrap();
        let key = map.keys().nth(key % map.len()).unwrap().clone();
        map.insert(key, value);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        fs::write(&file, json.to_string()).unwrap();
        if let Ok(config) = load_unet_config(&file) {
            prop_assert!(config.validate().is_ok());
        }
    }
}
