//! How good a model is: bits per dimension of held-out images, and its samples beside images by their
//! features.
//!
//! `cargo run --example evaluate -- [MODEL]`; MODEL is a run or model folder for images of 28x28 pixels,
//! `runs/latest` where it is left out.

use performer_ddpm::data::{self, Dataset};
use performer_ddpm::evaluate::{Comparison, NllConfig, block_means, choose, images_nchw, likelihood};
use performer_ddpm::{Pipeline, Result, SampleOptions};

/// The bound on a few held-out images, in bits per dimension, and its standard error.
pub fn bits_per_dim(pipeline: &mut Pipeline, held_out: &Dataset, count: usize) -> Result<(f64, f64)> {
    let few = held_out.select(&choose(held_out.len(), count, 0)?)?;
    let found = likelihood(pipeline, &few, &NllConfig { seed: 1, ..NllConfig::default() }, &mut |_| {})?;
    let bits = found.of(pipeline.diffusion().variance).bits_per_dim;
    Ok((bits.mean, bits.standard_error))
}

/// Samples beside as many images. The means of 3 x 3 blocks stand for features; those of a network say more,
/// and come from `evaluate::features::Extractor` in their place.
pub fn compare(pipeline: &mut Pipeline, images: &Dataset, count: usize) -> Result<Comparison> {
    let samples = pipeline.sample(&SampleOptions { count, ..pipeline.options() })?;
    let samples = block_means(samples.view().permuted_axes([0, 3, 1, 2]), 3)?;
    let images = images_nchw(images, &choose(images.len(), count, 0)?)?;
    Comparison::of(block_means(images.view(), 3)?.view(), samples.view(), 0)
}

fn main() -> Result<()> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "runs/latest".to_owned());
    let mut pipeline = Pipeline::load(model)?;
    let garments = data::load(None, None)?;
    let held_out = garments.test.as_ref().unwrap_or(&garments.train);
    let (bits, error) = bits_per_dim(&mut pipeline, held_out, 64)?;
    println!("{bits:.3} +- {error:.3} bits per dimension");
    let found = compare(&mut pipeline, &garments.train, 256)?;
    if let Some(distance) = found.frechet_distance {
        println!("Frechet distance {distance:.4}");
    }
    println!("precision {:.2}", found.precision);
    Ok(())
}
