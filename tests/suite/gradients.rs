//! Directional derivatives through the whole U-Net, for every attention and every kind of residual block,
//! with every parameter random.

use performer_ddpm::config::{
    Activation, BlockAttention, FeatureMap, Preset, Resampling, TimeScaleShift, UnetConfig,
};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::{Condition, Engine, Gradient, Model};
use performer_ddpm::rng::{Stream, fill_normal, rng};

const N: usize = 2;

fn normal(n: usize, id: u64) -> Vec<f64> {
    let mut x = vec![0.0; n];
    fill_normal(&mut rng(9, Stream::Check, id, 0), &mut x);
    x
}

/// 10 x 14 pixels: L = 140 and 35, which no tile of 64 tokens divides; two heads; dropout on.
fn config(kind: BlockAttention, map: FeatureMap) -> UnetConfig {
    let mut config = Preset::Tiny.config().unet;
    config.sample_size = [10, 14];
    config.in_channels = 3;
    config.out_channels = 3;
    config.down_attention = vec![kind; 2];
    config.up_attention = vec![kind; 2];
    config.mid_attention = kind;
    config.attention_head_dim = Some(4);
    config.favor.map = map;
    config.favor.features = 6;
    config.mid_block_scale_factor = 1.5;
    config.dropout = 0.2;
    config
}

/// 4 x 12 pixels, for what does not depend on the number of tokens.
fn small(kind: BlockAttention) -> UnetConfig {
    UnetConfig { sample_size: [4, 12], ..config(kind, FeatureMap::Positive) }
}

/// The samples' timesteps, and their classes where the network takes some.
fn conditions(model: &Model<f64>) -> [Condition; N] {
    let of = |index, class| Condition { index, class: model.config.num_class_embeds.map(|_| class) };
    [of(3, 2), of(71, 0)]
}

/// The loss and its gradients, with masks of dropout from that seed and step.
fn gradient(
    engine: &mut Engine<f64>,
    model: &Model<f64>,
    (x, eps): (&[f64], &[f64]),
    dropout: Option<(u64, u64)>,
) -> Gradient<f64> {
    let conditions = conditions(model);
    let example = |i: usize, x_t: &mut [f64], e: &mut [f64]| {
        let (len_in, len_out) = (x_t.len(), e.len());
        x_t.copy_from_slice(&x[i * len_in..][..len_in]);
        e.copy_from_slice(&eps[i * len_out..][..len_out]);
        conditions[i]
    };
    let mut gradient = Gradient::default();
    engine.gradient(model, N, &example, dropout, &mut gradient).expect("lengths that fit");
    gradient
}

/// The loss without dropout, from the forward pass alone.
fn loss(engine: &mut Engine<f64>, model: &Model<f64>, x: &[f64], eps: &[f64]) -> f64 {
    let mut predicted = vec![0.0; eps.len()];
    engine.forward(model, x, &conditions(model), &mut predicted).expect("lengths that fit");
    let squares = predicted.iter().zip(eps).map(|(p, e)| (p - e) * (p - e));
    squares.sum::<f64>() / eps.len() as f64
}

/// With step h = 3e-6 a central difference of a loss near 1 is rounded by 1e-15 / h = 3e-10 and truncated by
/// h^2 times a third derivative; weights are scaled so that those stay of order one. Bound: 1e-6 of the
/// derivative, plus 1e-8. ReLU features have kinks: the share of them that a step crosses, and so the error,
/// is of order h; with h = 1e-7 the bound is 1e-4, plus 1e-7.
fn check(kind: BlockAttention, map: FeatureMap) {
    check_network(&format!("{kind:?} {map:?}"), &config(kind, map));
}

fn check_network(network: &str, config: &UnetConfig) {
    let map = config.favor.map;
    let mut model: Model<f64> = Model::new(config, 1).expect("a network");
    let noise = normal(model.weights.len(), 1);
    model.weights.iter_mut().zip(&noise).for_each(|(w, z)| *w = 0.7 * *w + 0.05 * z);
    let (x, eps) = (normal(N * model.input_len(), 2), normal(N * model.output_len(), 3));
    let mut engine = Engine::with_input_gradient(&model, 2, Isa::Reference, true).expect("an engine");
    let (h, relative, floor) = if map == FeatureMap::Relu { (1e-7, 1e-4, 1e-7) } else { (3e-6, 1e-6, 1e-8) };
    let compare = |what: &str, derivative: f64, above: f64, below: f64| {
        let difference = (above - below) / (2.0 * h);
        let error = (difference - derivative).abs();
        assert!(
            error <= relative * derivative.abs() + floor,
            "{network} {what}: {derivative} for {difference}"
        );
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();

    // Every tensor by itself, so that errors cannot be hidden by larger tensors. Without dropout, whose masks
    // the forward pass alone does not draw.
    let exact = gradient(&mut engine, &model, (&x, &eps), None);
    assert!((loss(&mut engine, &model, &x, &eps) - exact.loss).abs() < 1e-13 * exact.loss);
    let direction = normal(model.weights.len(), 4);
    let moved = |range: std::ops::Range<usize>, step: f64| {
        let mut moved = model.clone();
        let scale = 1.0 / (range.len() as f64).sqrt();
        let pairs = moved.weights[range.clone()].iter_mut().zip(&direction[range]);
        pairs.for_each(|(w, d)| *w += step * scale * d);
        moved
    };
    let derivative = |exact: &Gradient<f64>, range: std::ops::Range<usize>| {
        dot(&exact.weights[range.clone()], &direction[range.clone()]) / (range.len() as f64).sqrt()
    };
    for param in model.graph.params.iter() {
        let mut at = |step: f64| loss(&mut engine, &moved(param.range(), step), &x, &eps);
        let (above, below) = (at(h), at(-h));
        compare(&param.name, derivative(&exact, param.range()), above, below);
    }
    // All together, and x_t, with dropout.
    let dropout = Some((1, 2));
    let exact = gradient(&mut engine, &model, (&x, &eps), dropout);
    let all = 0..model.weights.len();
    let mut at = |step: f64| gradient(&mut engine, &moved(all.clone(), step), (&x, &eps), dropout).loss;
    let (above, below) = (at(h), at(-h));
    compare("all", derivative(&exact, all.clone()), above, below);
    let direction = normal(x.len(), 5);
    let mut at = |step: f64| {
        let moved: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x + step * d / 10.0).collect();
        gradient(&mut engine, &model, (&moved, &eps), dropout).loss
    };
    let (above, below) = (at(h), at(-h));
    compare("x_t", dot(&exact.input, &direction) / 10.0, above, below);
}

// A test for each kind, since each takes seconds.

#[test]
fn directional_derivatives_with_softmax() {
    check(BlockAttention::Softmax, FeatureMap::Positive);
}

#[test]
fn directional_derivatives_with_positive_features() {
    check(BlockAttention::Favor, FeatureMap::Positive);
}

#[test]
fn directional_derivatives_with_hyperbolic_features() {
    check(BlockAttention::Favor, FeatureMap::Hyperbolic);
}

#[test]
fn directional_derivatives_with_trigonometric_features() {
    check(BlockAttention::Favor, FeatureMap::Trigonometric);
}

#[test]
fn directional_derivatives_with_relu_features() {
    check(BlockAttention::Favor, FeatureMap::Relu);
}

#[test]
fn directional_derivatives_with_classes_scale_shift_and_residual_resampling() {
    let network = UnetConfig {
        resnet_time_scale_shift: TimeScaleShift::ScaleShift,
        downsampling: vec![Resampling::Resnet; 2],
        upsampling: vec![Resampling::Resnet; 2],
        num_class_embeds: Some(4),
        out_channels: 6,
        ..small(BlockAttention::Favor)
    };
    check_network("classes, scale_shift, resnet", &network);
}

#[test]
fn directional_derivatives_with_mish_and_a_centred_input() {
    let network = UnetConfig {
        act_fn: Activation::Mish,
        center_input_sample: true,
        upsampling: vec![Resampling::Resnet; 2],
        ..small(BlockAttention::Softmax)
    };
    check_network("mish, centred", &network);
}

#[test]
fn directional_derivatives_with_gelu() {
    let network = UnetConfig {
        act_fn: Activation::Gelu,
        resnet_time_scale_shift: TimeScaleShift::ScaleShift,
        attn_norm_num_groups: Some(4),
        num_class_embeds: Some(3),
        ..small(BlockAttention::Softmax)
    };
    check_network("gelu", &network);
}
