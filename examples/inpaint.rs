//! Uses of a model on a picture: its lower half painted anew, and variations of it.
//!
//! `cargo run --example inpaint -- IN.png [MODEL [OUT.png]]`; MODEL is `runs/latest` where it is left out.

use ndarray::{Array2, Axis, concatenate};
use performer_ddpm::data::Picture;
use performer_ddpm::output::write_png;
use performer_ddpm::sample::edit::Resampling;
use performer_ddpm::{Error, Pipeline, Result, SampleOptions};
use std::path::Path;

/// Writes two rows: the picture with seven paintings of its lower half, and with seven variations of itself.
pub fn inpaint_and_vary(picture: &Path, model: &Path, out: &Path) -> Result<()> {
    let mut pipeline = Pipeline::load(model)?;
    let [h, w, c] = pipeline.image();
    let image = Picture::open(picture)?.pixels((h, w), c)?;
    let options = SampleOptions { count: 7, seed: 1, ..pipeline.options() };
    let half = pipeline.diffusion().schedule.steps() / 2;

    let mut editor = pipeline.edit(&options)?;
    let lower = Array2::from_shape_fn((h, w), |(y, _)| y >= h / 2);
    let painted = editor.inpaint(image.view(), lower.view(), Resampling::default())?;
    let varied = editor.vary(image.view(), half)?;

    let first = image.view().insert_axis(Axis(0));
    let rows = concatenate![Axis(0), first, painted, first, varied];
    write_png(out, rows.view(), Some(8))
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(picture) = arguments.first() else {
        let help = "cargo run --example inpaint -- IN.png [MODEL [OUT.png]]";
        return Err(Error::invalid("the arguments", "a picture", "none", help));
    };
    let model = arguments.get(1).map_or("runs/latest", String::as_str);
    let out = arguments.get(2).map_or("painted.png", String::as_str);
    inpaint_and_vary(picture.as_ref(), model.as_ref(), out.as_ref())?;
    println!("{out}");
    Ok(())
}
