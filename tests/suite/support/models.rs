//! Networks to store: configurations of every kind, and weights that are random everywhere.

use performer_ddpm::config::{BlockAttention, Preset, UnetConfig};
use performer_ddpm::model::{Model, unet};
use performer_ddpm::rng::{Stream, fill_normal, rng};

/// The `tiny` preset with softmax attention throughout: what diffusers can build.
pub fn softmax() -> UnetConfig {
    let mut config = Preset::Tiny.config().unet;
    for attention in config.down_attention.iter_mut().chain(&mut config.up_attention) {
        if *attention == BlockAttention::Favor {
            *attention = BlockAttention::Softmax;
        }
    }
    config.favor = Default::default();
    config
}

/// The `tiny` preset with FAVOR+ in the middle block alone.
pub fn favor_in_the_middle() -> UnetConfig {
    UnetConfig { mid_attention: BlockAttention::Favor, ..softmax() }
}

/// A network whose weights and projections are independent draws from N(0, 1).
pub fn random(config: &UnetConfig, seed: u64) -> Model<f32> {
    let graph = unet::build(config).unwrap();
    let mut numbers = rng(seed, Stream::Check, 0, 0);
    let mut normal = |n: usize| {
        let mut values = vec![0.0; n];
        fill_normal(&mut numbers, &mut values);
        values
    };
    let weights = normal(graph.params.total());
    let projections = graph.projections.iter().map(|p| normal(p.features * p.dim)).collect();
    Model { config: config.clone(), graph: graph.into(), weights, projections }
}

/// The bits of numbers, for comparisons that tell -0 from 0.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}
