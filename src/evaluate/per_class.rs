//! The Frechet distance within each class: whether the samples of a class are like its images.

use super::frechet::frechet_distance;
use crate::error::{Error, Result};
use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// How the samples of a class compare with its images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassDistance {
    /// The class's name.
    pub class: String,
    /// Samples of it.
    pub samples: usize,
    /// Images of it.
    pub images: usize,
    /// The Frechet distance; `None` where there are no more samples or images than features, whose covariance
    /// does not have full rank. It falls with the number of samples, so only equal numbers can be compared.
    pub frechet_distance: Option<f64>,
}

/// Features \[n, d\] of images with the class of each.
pub type Labelled<'a> = (ArrayView2<'a, f64>, &'a [usize]);

/// The distances by class, for the classes of these names in their order.
///
/// # Errors
/// [`Error::Invalid`] for another number of classes than of features, for different numbers of features, and
/// for features that are not finite.
pub fn class_distances(names: &[String], images: Labelled, samples: Labelled) -> Result<Vec<ClassDistance>> {
    for (features, classes) in [images, samples] {
        if features.nrows() != classes.len() {
            let expected = format!("{}, one for each image's features", features.nrows());
            return Err(Error::invalid("the classes", expected, classes.len().to_string(), ""));
        }
    }
    let of_class = |(features, classes): Labelled, class: usize| -> Array2<f64> {
        let rows: Vec<usize> = (0..classes.len()).filter(|i| classes[*i] == class).collect();
        features.select(Axis(0), &rows)
    };
    let distance = |(class, name): (usize, &String)| {
        let (images, samples) = (of_class(images, class), of_class(samples, class));
        let enough = images.nrows().min(samples.nrows()) > images.ncols();
        Ok(ClassDistance {
            class: name.clone(),
            samples: samples.nrows(),
            images: images.nrows(),
            frechet_distance: enough.then(|| frechet_distance(images.view(), samples.view())).transpose()?,
        })
    };
    names.iter().enumerate().map(distance).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, fill_normal, rng};

    fn normal(n: usize, id: u64) -> Array2<f64> {
        let mut features = Array2::zeros((n, 4));
        fill_normal(&mut rng(15, Stream::Check, 0, id), features.as_slice_mut().unwrap());
        features
    }

    /// Two classes that have changed places are as a whole what they were, and class by class far from it.
    #[test]
    fn classes_that_changed_places_are_seen() {
        let names = ["a", "b"].map(str::to_owned);
        let (a, b) = (normal(200, 1), normal(200, 2) + 5.0);
        let images = ndarray::concatenate(Axis(0), &[a.view(), b.view()]).unwrap();
        let classes: Vec<usize> = (0..400).map(|i| i / 200).collect();
        let swapped: Vec<usize> = classes.iter().map(|class| 1 - class).collect();
        let distances = |of_samples: &[usize]| -> Vec<f64> {
            let found =
                class_distances(&names, (images.view(), &classes), (images.view(), of_samples)).unwrap();
            assert!(found.iter().all(|class| (class.images, class.samples) == (200, 200)));
            assert_eq!(found[1].class, "b");
            found.iter().map(|class| class.frechet_distance.unwrap()).collect()
        };
        assert!(distances(&classes).into_iter().all(|distance| distance < 1e-9));
        assert_eq!(distances(&swapped)[0], frechet_distance(a.view(), b.view()).unwrap());
        assert!(distances(&swapped).into_iter().all(|distance| distance > 80.0));
    }

    #[test]
    fn a_class_of_few_has_no_distance() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let (images, samples) = (normal(20, 3), normal(12, 4));
        let of_images: Vec<usize> = (0..20).map(|i| i % 2).collect();
        let of_samples: Vec<usize> = (0..12).map(|i| usize::from(i >= 8)).collect();
        let found =
            class_distances(&names, (images.view(), &of_images), (samples.view(), &of_samples)).unwrap();
        assert_eq!(
            found.iter().map(|c| c.frechet_distance.is_some()).collect::<Vec<_>>(),
            [true, false, false]
        );
        assert_eq!((found[1].samples, found[2].images), (4, 0));
        let wrong = class_distances(&names, (images.view(), &of_images), (samples.view(), &of_images));
        assert!(wrong.unwrap_err().to_string().contains("12, one for each"));
    }
}
