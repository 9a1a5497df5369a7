//! Small networks to export: every kind of attention, weights that are random everywhere, and the engine's
//! `f64` reference.

use performer_ddpm::config::{BlockAttention, FavorConfig, FeatureMap, Preset, UnetConfig};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::graph::Shape;
use performer_ddpm::model::params::ParamKind;
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::rng::{Stream, fill_normal, rng};

/// Softmax attention, and FAVOR+ with each of its feature maps.
pub fn kinds() -> Vec<(String, UnetConfig)> {
    let favor = FeatureMap::ALL.map(|map| (format!("{map:?}"), config(BlockAttention::Favor, map)));
    let softmax = ("Softmax".to_owned(), config(BlockAttention::Softmax, FeatureMap::Positive));
    std::iter::once(softmax).chain(favor).collect()
}

/// The `tiny` preset for images of 12 x 16 pixels and two channels, whose middle block and last down and
/// first up block attend in two heads.
pub fn config(attention: BlockAttention, map: FeatureMap) -> UnetConfig {
    let plain = BlockAttention::None;
    UnetConfig {
        sample_size: [12, 16],
        in_channels: 2,
        out_channels: 2,
        down_attention: vec![plain, attention],
        mid_attention: attention,
        up_attention: vec![attention, plain],
        attention_head_dim: Some(8),
        favor: FavorConfig { map, features: 12, ..FavorConfig::default() },
        mid_block_scale_factor: 1.25,
        dropout: 0.1,
        ..Preset::Tiny.config().unet
    }
}

/// A network whose parameters are all random, of about the size of trained ones: weights of variance 1 /
/// fan-in, biases near 0 and scales near 1. For `trigonometric` features, which need small queries and keys,
/// the norms of those stay below one.
pub fn randomised(config: &UnetConfig, seed: u64) -> Model<f32> {
    let mut model = Model::<f32>::new(config, seed).unwrap();
    let mut numbers = rng(seed, Stream::Check, 1, 0);
    let trigonometric = config.favor.map == FeatureMap::Trigonometric;
    for param in model.graph.params.iter() {
        let values = &mut model.weights[param.range()];
        fill_normal(&mut numbers, values);
        let is_query_or_key = param.name.contains("to_q") || param.name.contains("to_k");
        let (centre, spread) = match param.kind {
            ParamKind::Conv { kernel, c_in, .. } => (0.0, ((kernel * kernel * c_in) as f32).powf(-0.5)),
            ParamKind::Linear { c_in, .. } if is_query_or_key && trigonometric => {
                (0.0, 0.1 / (c_in as f32).sqrt())
            }
            ParamKind::Linear { c_in, .. } => (0.0, (c_in as f32).powf(-0.5)),
            ParamKind::Bias { .. } if is_query_or_key && trigonometric => (0.0, 0.01),
            ParamKind::Embedding { .. } => (0.0, 1.0),
            ParamKind::Bias { .. } => (0.0, 0.1),
            ParamKind::Scale { .. } => (1.0, 0.1),
        };
        values.iter_mut().for_each(|x| *x = centre + spread * *x);
    }
    model
}

/// Numbers from N(0, 1).
pub fn normal(seed: u64, len: usize) -> Vec<f32> {
    let mut x = vec![0.0; len];
    fill_normal(&mut rng(seed, Stream::Check, 2, 0), &mut x);
    x
}

/// The engine's eps in `f64` with the reference kernels; images are \[n, c, h, w\].
pub fn reference(model: &Model<f32>, x: &[f32], indices: &[usize]) -> Vec<f64> {
    let model: Model<f64> = model.cast();
    let mut engine = Engine::new(&model, 2, Isa::Reference).unwrap();
    let mut out = vec![0.0; indices.len() * model.output_len()];
    let (before, after) = (model.graph.shape(model.graph.input), model.graph.shape(model.graph.output));
    engine.forward(&model, &channels_last(x, before), indices, &mut out).expect("lengths that fit");
    channels_first(&out, after)
}

/// Images \[n, h, w, c\] from \[n, c, h, w\].
pub fn channels_last(x: &[f32], shape: Shape) -> Vec<f64> {
    let pixels = shape.pixels();
    let index = |i: usize| {
        let (image, pixel, channel) = (i / shape.len(), i % shape.len() / shape.c, i % shape.c);
        image * shape.len() + channel * pixels + pixel
    };
    (0..x.len()).map(|i| f64::from(x[index(i)])).collect()
}

/// Images \[n, c, h, w\] from \[n, h, w, c\].
pub fn channels_first(x: &[f64], shape: Shape) -> Vec<f64> {
    let pixels = shape.pixels();
    let index = |i: usize| {
        let (image, channel, pixel) = (i / shape.len(), i % shape.len() / pixels, i % pixels);
        image * shape.len() + pixel * shape.c + channel
    };
    (0..x.len()).map(|i| x[index(i)]).collect()
}

/// The largest difference as a share of the largest value; NaN if there is one.
pub fn difference(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
    let errors = got.iter().zip(want).map(|(got, want)| (f64::from(*got) - want).abs());
    errors.fold(0.0, |m: f64, e| if m.is_nan() || e <= m { m } else { e }) / largest
}
