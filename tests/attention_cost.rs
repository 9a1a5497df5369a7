//! What `info` says of FAVOR+: from which L it takes fewer operations than softmax, and how noisy its kernel estimate is.

use performer_ddpm::config::{BlockAttention, FeatureMap, Preset, UnetConfig};
use performer_ddpm::model::report::{GraphReport, report};
use performer_ddpm::model::unet;

/// 12 x 20 pixels and 6 x 10: L = 240 and 60.
fn describe(kind: BlockAttention, map: FeatureMap, features: usize, channels: usize) -> GraphReport {
    let mut config: UnetConfig = Preset::Tiny.config().unet;
    config.sample_size = [12, 20];
    config.block_out_channels = vec![channels; 2];
    config.down_attention = vec![kind; 2];
    config.up_attention = vec![kind; 2];
    config.mid_attention = kind;
    config.attention_head_dim = Some(channels);
    config.favor.map = map;
    config.favor.features = features;
    report(&unet::build(&config).expect("a network"), 1, 1)
}

/// The multiply-adds of the attention layer `name`.
fn cost(report: &GraphReport, name: &str) -> usize {
    let mut layers =
        report.layers.iter().filter(|layer| layer.name == name && layer.kind.contains("attention"));
    layers.next().unwrap_or_else(|| panic!("no attention layer {name}")).multiply_adds
}

/// Softmax takes 2 L^2 d multiply-adds a head, FAVOR+ 4 L m d with one function and 6 L m d with two: the cost is linear in L, and the two
/// are equal at L = 2 m and at L = 3 m.
#[test]
fn favor_is_cheaper_than_softmax_from_the_break_even_on() {
    for map in FeatureMap::ALL {
        for m in [16, 40, 80, 120, 200] {
            let favor = describe(BlockAttention::Favor, map, m, 32);
            let softmax = describe(BlockAttention::Softmax, map, m, 32);
            assert!(favor.attention.iter().any(|layer| layer.tokens == 240));
            for layer in &favor.attention {
                let even = if map.functions() == 1 { 2 * m } else { 3 * m };
                assert_eq!(layer.break_even, Some(even), "{map:?}");
                let (linear, exact) = (cost(&favor, &layer.name), cost(&softmax, &layer.name));
                assert_eq!(exact, 2 * layer.tokens * layer.tokens * 32, "{}", layer.name);
                assert_eq!(linear * layer.tokens, exact * even, "{map:?}, m = {m}, {}", layer.name);
                assert_eq!(layer.favor_is_cheaper, Some(linear < exact), "{map:?}, m = {m}, {}", layer.name);
            }
        }
    }
}

/// Lemma 2 of Choromanski et al. (2021) for q and k of unit variance, |x + y|^2 = 2 sqrt(d): 8e4/m at d = 32, 8e13/m at d = 256, to the digit
/// that is given. The lemma is that of the positive maps.
#[test]
fn the_relative_variance_is_that_of_unit_variance_queries_and_keys() {
    for (d, want) in [(32, 8e4), (256, 8e13)] {
        for map in FeatureMap::ALL {
            for layer in &describe(BlockAttention::Favor, map, 64, d).attention {
                let stated = matches!(map, FeatureMap::Positive | FeatureMap::Hyperbolic);
                assert_eq!(layer.relative_variance.is_some(), stated, "{map:?}");
                if let Some(variance) = layer.relative_variance {
                    assert!((variance * 64.0 / want - 1.0).abs() < 0.05, "d = {d}: {variance:e}");
                }
            }
        }
    }
}
