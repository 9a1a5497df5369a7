//! Training on images of one's own: an array of pixels, or a folder of pictures.
//!
//! `cargo run --example train_on_my_images -- [FOLDER]`; drawn rings where FOLDER is left out.

use ndarray::Array4;
use performer_ddpm::config::Preset;
use performer_ddpm::data::{self, Dataset};
use performer_ddpm::train::{Event, Limit, Run, RunOptions};
use performer_ddpm::{Pipeline, Result};
use std::path::Path;

/// Rings of several sizes and shades, 16x16 pixels, grey.
pub fn rings(count: usize) -> Result<Dataset> {
    let pixels = Array4::from_shape_fn((count, 16, 16, 1), |(n, y, x, _)| {
        let radius = (y as f64 - 7.5).hypot(x as f64 - 7.5);
        if (radius - 3.0 - (n % 4) as f64).abs() < 1.0 { 155 + (n % 100) as u8 } else { 0 }
    });
    Dataset::from_array("rings", pixels.view())
}

/// Trains a small network and leaves the run in a folder; `said` is told the loss of every tenth step.
pub fn train(images: &Dataset, folder: &Path, steps: u64, mut said: impl FnMut(String)) -> Result<Pipeline> {
    let config = Preset::Tiny.config().for_images(images.shape());
    let run = Run::create_new(folder, &config)?;
    let never = || false;
    run.train(&config, images, RunOptions::from(Limit::Steps(steps)), never, |event| match event {
        Event::Step { step, .. } if step.step % 10 == 0 => {
            said(format!("{}: loss {:.4}", step.step, step.loss))
        }
        Event::Samples(grid) => said(format!("samples: {}", grid.display())),
        _ => {}
    })?;
    Pipeline::load(folder)
}

fn main() -> Result<()> {
    let images = match std::env::args().nth(1) {
        Some(folder) => data::load(Some(folder.as_ref()), Some((32, 32)))?.train,
        None => rings(500)?,
    };
    train(&images, "runs/mine".as_ref(), 200, |line| println!("{line}"))?;
    Ok(())
}
