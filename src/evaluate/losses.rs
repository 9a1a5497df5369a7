//! The loss (21) of images that are not being trained on.

use super::choose;
use crate::data::Dataset;
use crate::equations::Schedule;
use crate::equations::algorithms::alg1_draw;
use crate::equations::loss::eq21_l_simple;
use crate::error::{Error, Result};
use crate::model::{Engine, Model};

/// Images that go through the network together.
const BATCH: usize = 32;

/// The loss (21) of each of `count` images; the choice of images, t and eps are functions of the seed and of the
/// image's index alone, so that models are compared on the same draws.
///
/// # Errors
/// [`Error::Invalid`] for images of another size than the network's or a network that does not predict eps alone;
/// those of a picture that cannot be decoded.
pub fn losses(
    model: &Model<f32>,
    schedule: &Schedule,
    engine: &mut Engine<f32>,
    images: &Dataset,
    count: usize,
    seed: u64,
) -> Result<Vec<f64>> {
    let len = images.image_len();
    if (model.input_len(), model.output_len()) != (len, len) {
        return Err(Error::invalid(
            format!("the images of {}", images.name()),
            format!("{} numbers each, of which the network predicts as many", model.input_len()),
            format!("{len}, where it predicts {}", model.output_len()),
            "",
        ));
    }
    let mut losses = Vec::new();
    for batch in choose(images.len(), count, seed)?.chunks(BATCH) {
        let n = batch.len();
        let (mut x_t, mut eps, mut out) = (vec![0f32; n * len], vec![0f32; n * len], vec![0f32; n * len]);
        let mut x0 = vec![0f32; len];
        let samples = x_t.chunks_exact_mut(len).zip(eps.chunks_exact_mut(len));
        let mut indices = Vec::new();
        for (&image, (x_t, eps)) in batch.iter().zip(samples) {
            images.image_into(image, false, &mut x0)?;
            // Step 0 is no training step, so these draws are no training draws.
            let t = alg1_draw(seed, 0, image as u64, schedule, &x0, eps, x_t);
            indices.push(t.index());
        }
        engine.forward(model, &x_t, &indices, &mut out)?;
        let pairs = eps.chunks_exact(len).zip(out.chunks_exact(len));
        losses.extend(pairs.map(|(eps, out)| eq21_l_simple(eps, out)));
    }
    Ok(losses)
}
