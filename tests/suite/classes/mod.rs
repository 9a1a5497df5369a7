//! Networks that know classes: trained on labels, guided, stored, sampled and evaluated class by class.

mod cli;
mod guidance;
mod onnx;
mod stored;
mod training;

use crate::support::models::random;
use performer_ddpm::config::{Config, Preset};
use performer_ddpm::data::{Dataset, Labels};
use performer_ddpm::model::Model;

const NAMES: [&str; 3] = ["dark", "light", "striped"];

fn names() -> Vec<String> {
    NAMES.map(str::to_owned).to_vec()
}

/// Twelve images of 8x8 in turn dark, light and striped.
fn images() -> Dataset {
    let pixels = ndarray::Array4::from_shape_fn((12, 8, 8, 1), |(n, y, ..)| match n % 3 {
        0 => 10 + n as u8,
        1 => 240 - n as u8,
        _ => 255 * (y % 2) as u8,
    });
    let labels = Labels::new((0..12).map(|i| i % 3).collect(), names()).expect("labels");
    Dataset::from_array("stripes", pixels.view()).and_then(|data| data.with_labels(labels)).expect("images")
}

fn config(drop_label: f64) -> Config {
    let mut config = Preset::Tiny.config().for_images([8, 8, 1]).for_classes(&names(), drop_label);
    config.diffusion.timesteps = 20;
    config
}

/// A network with a null class and random numbers everywhere.
fn network(output_channels: usize) -> Model<f32> {
    let mut unet = config(0.1).unet;
    unet.out_channels = output_channels;
    random(&unet, 7)
}
