//! The loss (21) of images that are not being trained on.

use super::choose;
use crate::data::Dataset;
use crate::equations::algorithms::alg1_draw;
use crate::equations::loss::eq21_l_simple;
use crate::equations::objective::Parameterisation;
use crate::equations::{Schedule, Timestep};
use crate::error::{Error, Result};
use crate::model::{Condition, Engine, Model};

/// Images that go through the network together.
const BATCH: usize = 32;

/// The loss (21) of each of `count` images: of the eps that the network predicts, or that what it says of x_t
/// implies (S1). The choice of images, t and eps are functions of the seed and of the image's index alone, so
/// that models are compared on the same draws. A network with classes is told each image's.
///
/// # Errors
/// [`Error::Invalid`] for images of another size than the network's, and for images without classes where the
/// network needs them; those of a picture that cannot be decoded.
pub fn losses(
    model: &Model<f32>,
    (schedule, says): (&Schedule, Parameterisation),
    engine: &mut Engine<f32>,
    images: &Dataset,
    count: usize,
    seed: u64,
) -> Result<Vec<f64>> {
    let len = images.image_len();
    let outputs = model.output_len();
    if model.input_len() != len || (outputs != len && outputs != 2 * len) {
        return Err(Error::invalid(
            format!("the images of {}", images.name()),
            format!("{} numbers each, of which the network predicts as many", model.input_len()),
            format!("{len}, where it predicts {outputs}"),
            "",
        ));
    }
    let knows_classes = model.config.num_class_embeds.is_some();
    let (labels, null) = (images.labels().filter(|_| knows_classes), model.config.null_class());
    if knows_classes && labels.is_none() && null.is_none() {
        return Err(Error::invalid(
            format!("the images of {}", images.name()),
            "a class for each, which the network is told",
            "images without labels",
            "",
        ));
    }
    let known = model.config.classes();
    if let Some(class) = labels.and_then(|labels| labels.iter().find(|class| **class as usize >= known)) {
        let expected = format!("classes that the network knows, of which it has {known}");
        return Err(Error::invalid(
            format!("the images of {}", images.name()),
            expected,
            class.to_string(),
            "",
        ));
    }
    let class = |image: usize| labels.map_or(null, |labels| Some(labels[image] as usize));
    let (c, out_c) = (images.channels(), model.graph.shape(model.graph.output).c);
    let mut losses = Vec::new();
    for batch in choose(images.len(), count, seed)?.chunks(BATCH) {
        let n = batch.len();
        let (mut x_t, mut eps, mut out) = (vec![0f32; n * len], vec![0f32; n * len], vec![0f32; n * outputs]);
        let (mut x0, mut predicted, mut eps_hat) = (vec![0f32; len], vec![0f32; len], vec![0f32; len]);
        let samples = x_t.chunks_exact_mut(len).zip(eps.chunks_exact_mut(len));
        let (mut told, mut times) = (Vec::new(), Vec::<Timestep>::new());
        for (&image, (x_t, eps)) in batch.iter().zip(samples) {
            images.image_into(image, false, &mut x0)?;
            // Step 0 is no training step, so these draws are no training draws.
            let t = alg1_draw(seed, 0, image as u64, schedule, &x0, eps, x_t);
            told.push(Condition { index: t.index(), class: class(image) });
            times.push(t);
        }
        engine.forward(model, &x_t, &told, &mut out)?;
        let of_images = x_t.chunks_exact(len).zip(eps.chunks_exact(len)).zip(out.chunks_exact(outputs));
        for (((x_t, eps), out), t) in of_images.zip(times) {
            // The channels after an image's are what the network says of the variance.
            for (pixel, out) in predicted.chunks_exact_mut(c).zip(out.chunks_exact(out_c)) {
                pixel.copy_from_slice(&out[..c]);
            }
            says.eps(x_t, &predicted, schedule.at(t)?, &mut eps_hat);
            losses.push(eq21_l_simple(eps, &eps_hat));
        }
    }
    Ok(losses)
}
