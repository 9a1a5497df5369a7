//! Exported graphs in 16 bits, in ONNX Runtime.

use crate::support::networks::{kinds, randomised};
use crate::support::peers::in_time;
use crate::support::runtimes::onnx_runtime;
use performer_ddpm::config::{Activation, DiffusionConfig, Preset, Resampling, TimeScaleShift, UnetConfig};
use performer_ddpm::export::check::BOUND;
use performer_ddpm::export::{Expectation, GraphSpec, Precision, Source, TrainStep, build};
use performer_ddpm::model::Model;
use performer_ddpm_onnx::ElementType;

const HALVES: [Precision; 2] = [Precision::F16, Precision::Bf16];

/// A network of channels that 8 divides inside, where f16 computes.
fn wide(config: UnetConfig) -> UnetConfig {
    UnetConfig { block_out_channels: vec![16; config.block_out_channels.len()], ..config }
}

/// Every kind of attention and, with it, of embedding, resampling and activation. The difference from the
/// engine's f64 reference stays within the bound that `export` has, and is more than rounding in 32 bits: the
/// numbers are those that the file's name says.
#[test]
fn graphs_in_16_bits_agree_with_the_engine_to_their_rounding() {
    let resnet = vec![Resampling::Resnet; 2];
    let variations: [&dyn Fn(UnetConfig) -> UnetConfig; 4] = [
        &|config| config,
        &|config| UnetConfig { act_fn: Activation::Mish, center_input_sample: true, ..config },
        &|config| UnetConfig { num_class_embeds: Some(3), act_fn: Activation::Gelu, ..config },
        &|config| UnetConfig {
            resnet_time_scale_shift: TimeScaleShift::ScaleShift,
            downsampling: resnet.clone(),
            upsampling: resnet.clone(),
            ..config
        },
    ];
    for (i, (name, config)) in kinds().into_iter().enumerate() {
        let model = randomised(&wide(variations[i % variations.len()](config)), 3);
        for precision in HALVES {
            let (name, model) = (name.clone(), model.clone());
            in_time(move || {
                let diffusion = DiffusionConfig::default();
                let source = Source { precision, ..Source::new(&model, &diffusion) };
                let graph = build(source, &GraphSpec::Denoiser).expect("a graph");
                let Some(mut runner) = onnx_runtime(&graph) else { return };
                let expectation = Expectation::new(source, &GraphSpec::Denoiser, 2, &mut |_| {});
                let outcome = expectation.expect("the engine's results").compare(runner.as_mut());
                let difference = outcome.unwrap_or_else(|error| panic!("{name} in {precision:?}: {error}"));
                println!("{name} in {precision:?}: {difference:?}");
                assert!(difference.relative() > BOUND, "{name} in {precision:?}: {difference:?}");
            });
        }
    }
}

/// What is stored in which type, and ports of 32 bits. The file is little more than half as long.
#[test]
fn weights_take_half_of_the_space_and_ports_stay_as_they_are() {
    let (diffusion, config) = (DiffusionConfig::default(), Preset::Fashion.config().unet);
    let model: Model<f32> = randomised(&config, 5);
    let source = Source::new(&model, &diffusion);
    let whole = build(source, &GraphSpec::Step).expect("a graph");
    for (precision, element) in HALVES.into_iter().zip([ElementType::F16, ElementType::Bf16]) {
        let half = build(Source { precision, ..source }, &GraphSpec::Step).expect("a graph");
        let [before, after] = [&whole, &half].map(|model| model.summary().expect("a summary"));
        assert_eq!(before.inputs, after.inputs);
        assert_eq!(before.outputs, after.outputs);
        for weight in &after.weights {
            // A vector with a normalisation's name is its scale or its shift.
            let is_norm = weight.name.contains("norm") || weight.name.ends_with("projection");
            let expected = if is_norm { ElementType::F32 } else { element };
            // Convolutions from or to one channel are in 32 bits where the others are in f16.
            let at_the_ends = precision == Precision::F16 && !is_norm && weight.name.starts_with("conv_");
            let expected = if at_the_ends { ElementType::F16 } else { expected };
            assert_eq!(weight.element, expected, "{} in {precision:?}", weight.name);
        }
        let [long, short] = [&whole, &half].map(|model| model.to_bytes().expect("bytes").len() as f64);
        let parameters = 4.0 * model.weights.len() as f64;
        assert!((long - short) / parameters > 0.49, "{precision:?}: {long} and {short} bytes");
    }
}

#[test]
fn weights_beyond_the_type_and_training_in_16_bits_are_refused() {
    let (_, config) = kinds().remove(0);
    let mut model = randomised(&config, 4);
    let diffusion = DiffusionConfig::default();
    let param = model.graph.params.iter().find(|param| param.name == "conv_in.weight").expect("it has one");
    model.weights[param.range().start] = 70_000.0;
    let source = Source { precision: Precision::F16, ..Source::new(&model, &diffusion) };
    let error = build(source, &GraphSpec::Denoiser).expect_err("a weight above 65504").to_string();
    assert!(error.contains("conv_in.weight") && error.contains("70000"), "{error}");
    let source = Source { precision: Precision::Bf16, ..source };
    build(source, &GraphSpec::Denoiser).expect("bf16 holds it");
    let error = build(source, &GraphSpec::TrainStep(TrainStep::default())).expect_err("f32 only").to_string();
    assert!(error.contains("bf16") && error.contains("training"), "{error}");
}
