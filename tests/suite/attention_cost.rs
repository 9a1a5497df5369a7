//! What `info` reports about FAVOR+: the L from which it takes fewer operations than softmax, and the noise
//! of its kernel estimate.

use ndarray::{Array2, array};
use performer_ddpm::config::{BlockAttention, FeatureMap, Preset, UnetConfig};
use performer_ddpm::equations::features::eq24_features;
use performer_ddpm::equations::kernel::{eq23_estimate, eq23_kernel};
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
    report(&unet::build(&config).expect("a network"), 1, 1).expect("a network")
}

/// The multiply-adds of the attention layer `name`.
fn cost(report: &GraphReport, name: &str) -> usize {
    let mut layers =
        report.layers.iter().filter(|layer| layer.name == name && layer.kind.contains("attention"));
    layers.next().unwrap_or_else(|| panic!("no attention layer {name}")).multiply_adds
}

/// Softmax takes 2 L^2 d multiply-adds a head, FAVOR+ 4 L m d with one function and 6 L m d with two: the
/// cost is linear in L, and the two are equal at L = 2 m and at L = 3 m.
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

/// The relative variance of (23)'s estimate from one projection w ~ N(0, 1), integrated by the trapezoid
/// rule, which is exact to rounding; for x and y on a line with |x + y| (for trigonometric features |x - y|)
/// equal to `distance`.
fn integrated_variance(map: FeatureMap, distance: f64) -> f64 {
    let x = array![[distance / 2.0]];
    let y = if map == FeatureMap::Trigonometric { -&x } else { x.clone() };
    let kernel = eq23_kernel(map, x.row(0), y.row(0));
    let step = 0.01;
    let cell = |i: i32| {
        let w = step * f64::from(i);
        let phi =
            |x: &Array2<f64>| eq24_features(map, x.view(), array![[w]].view()).expect("features of one row");
        let error = eq23_estimate(phi(&x).row(0), phi(&y).row(0)) / kernel - 1.0;
        step * (-w * w / 2.0).exp() / std::f64::consts::TAU.sqrt() * error * error
    };
    (-3000..=3000).map(cell).sum()
}

/// For q and k of unit variance |x + y|^2 = |x - y|^2 = 2 sqrt(d): with positive features 8e4/m at d = 32 and
/// 8e13/m at d = 256, to the stated digit; and for every map of the softmax kernel the variance of (24)'s
/// features, to 1e-10.
#[test]
fn the_relative_variance_is_that_of_unit_variance_queries_and_keys() {
    for (d, positive) in [(32, 8e4), (256, 8e13)] {
        for map in FeatureMap::ALL {
            for layer in &describe(BlockAttention::Favor, map, 64, d).attention {
                assert_eq!(layer.map, Some(map));
                assert_eq!(layer.relative_variance.is_some(), map != FeatureMap::Relu, "{map:?}");
                let Some(variance) = layer.relative_variance else { continue };
                let want = integrated_variance(map, (2.0 * (d as f64).sqrt()).sqrt());
                assert!((variance * 64.0 / want - 1.0).abs() < 1e-10, "{map:?}, d = {d}: {variance:e}");
                if map == FeatureMap::Positive {
                    assert!((variance * 64.0 / positive - 1.0).abs() < 0.05, "d = {d}: {variance:e}");
                }
            }
        }
    }
}
