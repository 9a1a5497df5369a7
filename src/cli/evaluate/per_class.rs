//! Samples of a model with classes: which classes they are of, and their distances class by class.

use super::subject::Subject;
use crate::Result;
use crate::data::Dataset;
use crate::evaluate::{ClassDistance, choose, class_distances, recognised};
use ndarray::{Array2, ArrayView2};
use serde::Serialize;

/// A class's distance, and beside it that of held-out images.
#[derive(Serialize)]
pub struct ClassFigures {
    #[serde(flatten)]
    distance: ClassDistance,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out: Option<f64>,
    /// The share of the class's samples, and of its held-out images, that a classifier takes for the class.
    #[serde(skip_serializing_if = "Option::is_none")]
    recognised: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out_recognised: Option<f64>,
}

/// The classes of samples and of the images that they are compared with.
pub struct Classes {
    names: Vec<String>,
    /// One for each image.
    images: Vec<usize>,
    /// One for each sample: those of as many images, so that each class has its share.
    pub samples: Vec<usize>,
}

impl Classes {
    /// The classes of `count` images and of `samples` samples, where the model knows the images' classes. A
    /// model with other classes gets a note.
    pub fn of(
        subject: &Subject,
        dataset: &Dataset,
        [count, samples]: [usize; 2],
        seed: u64,
        notes: &mut Vec<String>,
    ) -> Result<Option<Classes>> {
        let unet = subject.model.as_ref().and_then(|(_, pipeline)| pipeline.unet());
        let Some(unet) = unet.filter(|unet| unet.classes() > 0) else { return Ok(None) };
        let names = dataset.class_names();
        if names.is_empty() || !unet.class_embedding().are(names) {
            let whose =
                if names.is_empty() { "the images have no labels" } else { "the images have other classes" };
            notes.push(format!("{whose}: the samples are of the model's {} classes in turn", unet.classes()));
            return Ok(None);
        }
        let drawn = of_images(dataset, samples, seed)?;
        let samples = drawn.iter().copied().cycle().take(samples).collect();
        Ok(Some(Classes { names: names.to_vec(), images: of_images(dataset, count, seed)?, samples }))
    }

    /// The same for given samples, whose classes are found among the images' by their names. Where these are
    /// others, a note says so.
    pub fn of_given(
        (names, labels): (&[String], &[u32]),
        dataset: &Dataset,
        count: usize,
        seed: u64,
        notes: &mut Vec<String>,
    ) -> Result<Option<Classes>> {
        let known = dataset.class_names();
        let place = |name: &String| known.iter().position(|known| known.eq_ignore_ascii_case(name));
        let Some(places) = names.iter().map(place).collect::<Option<Vec<usize>>>() else {
            let strange: Vec<&str> =
                names.iter().filter(|name| place(name).is_none()).map(String::as_str).collect();
            notes.push(match known {
                [] => "the images have no labels: the samples are not compared class by class".to_owned(),
                _ => format!(
                    "the samples are not compared class by class: the images have no class called {}",
                    strange.join(", ")
                ),
            });
            return Ok(None);
        };
        let samples = labels.iter().map(|label| places[*label as usize]).collect();
        Ok(Some(Classes { names: known.to_vec(), images: of_images(dataset, count, seed)?, samples }))
    }

    /// The distances by class of samples, and of the `held_out` images where there are some.
    pub fn compare(
        &self,
        images: ArrayView2<f64>,
        samples: ArrayView2<f64>,
        held_out: Option<(&Dataset, &Array2<f64>)>,
        seed: u64,
    ) -> Result<Vec<ClassFigures>> {
        let images = (images, &self.images[..]);
        let distances = class_distances(&self.names, images, (samples, &self.samples))?;
        let others = match held_out.filter(|(dataset, _)| dataset.labels().is_some()) {
            Some((dataset, features)) => {
                let classes = of_images(dataset, features.nrows(), seed)?;
                class_distances(&self.names, images, (features.view(), &classes))?
            }
            None => Vec::new(),
        };
        let figures = distances.into_iter().enumerate().map(|(class, distance)| ClassFigures {
            distance,
            held_out: others.get(class).and_then(|other| other.frechet_distance),
            recognised: None,
            held_out_recognised: None,
        });
        Ok(figures.collect())
    }

    /// Adds the shares that a classifier recognises, by its numbers \[n, classes\] for the samples and for the
    /// held-out images.
    pub fn recognise(
        &self,
        figures: &mut [ClassFigures],
        samples: ArrayView2<f64>,
        held_out: Option<(&Dataset, &Array2<f64>)>,
        seed: u64,
    ) -> Result<()> {
        let of_samples = recognised(samples, &self.samples)?;
        let of_others = match held_out.filter(|(dataset, _)| dataset.labels().is_some()) {
            Some((dataset, logits)) => recognised(logits.view(), &of_images(dataset, logits.nrows(), seed)?)?,
            None => Vec::new(),
        };
        for (class, figures) in figures.iter_mut().enumerate() {
            figures.recognised = of_samples.get(class).copied().flatten();
            figures.held_out_recognised = of_others.get(class).copied().flatten();
        }
        Ok(())
    }
}

/// The classes of the images that are chosen by the seed.
fn of_images(dataset: &Dataset, count: usize, seed: u64) -> Result<Vec<usize>> {
    let labels = dataset.labels().unwrap_or_default();
    Ok(choose(labels.len(), count, seed)?.into_iter().map(|i| labels[i] as usize).collect())
}

/// The table.
pub fn print(classes: &[ClassFigures]) {
    if classes.is_empty() {
        return;
    }
    println!("  Frechet distance of each class to its images");
    let shown = |distance: Option<f64>| distance.map_or("-".to_owned(), |distance| format!("{distance:.3}"));
    for ClassFigures { distance, held_out, .. } in classes {
        let of_samples = format!("{} ({})", shown(distance.frechet_distance), distance.samples);
        let of_others = held_out.map_or(String::new(), |held_out| shown(Some(held_out)));
        println!("    {:<20}{of_samples:>22}{of_others:>24}", distance.class);
    }
    if classes.iter().any(|class| class.distance.frechet_distance.is_none()) {
        println!("    -: no more samples or images of the class than features; take more (-n, --images)");
    }
    if classes.iter().all(|class| class.recognised.is_none()) {
        return;
    }
    println!("  share of each class that the classifier recognises");
    let shown = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.1} %", 100.0 * share));
    for class in classes {
        let of_others = class.held_out_recognised.map_or(String::new(), |share| shown(Some(share)));
        println!("    {:<20}{:>22}{of_others:>24}", class.distance.class, shown(class.recognised));
    }
}
