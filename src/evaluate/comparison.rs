//! Samples against images, in every measure that is computed from their features.

use super::frechet::frechet_distance;
use super::kernel_distance::{kernel_distance, usual_subsets};
use super::precision_recall::{NEIGHBOUR, precision_recall};
use super::{Estimate, check_pair, choose};
use crate::error::{Error, Result};
use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// How samples compare with images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Samples.
    pub samples: usize,
    /// Images.
    pub images: usize,
    /// Features of each.
    pub features: usize,
    /// The Frechet distance. It falls with the number of samples, so only equal numbers can be compared. `None`
    /// where there are fewer of either than [`fewest_for_frechet`].
    pub frechet_distance: Option<f64>,
    /// The kernel distance, whose expectation does not depend on the number of samples or images.
    pub kernel_distance: Estimate,
    /// The independent subsets that its error comes from.
    pub kernel_subsets: usize,
    /// The share of samples within the images' manifold.
    pub precision: f64,
    /// The share of images within the samples' manifold.
    pub recall: f64,
    /// The number of samples, and of images, for precision and recall.
    pub manifold: usize,
}

/// The fewest images, and the fewest samples, that can be compared: two for each of the subsets that the
/// error of the kernel distance is computed from.
pub fn fewest() -> usize {
    2 * usual_subsets(0)
}

/// The fewest of either for the Frechet distance too: one more than features, for covariances of full rank.
pub fn fewest_for_frechet(features: usize) -> usize {
    features.saturating_add(1).max(fewest())
}

impl Comparison {
    /// Compares the features \[n, d\] of samples and of images by one network. Precision and recall compare
    /// equal numbers: of the larger set, as many as the smaller one has are drawn by the seed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for fewer than [`fewest`] of either, for features that are not finite or differ in
    /// number, and for such as are the same for all images.
    pub fn of(images: ArrayView2<f64>, samples: ArrayView2<f64>, seed: u64) -> Result<Comparison> {
        let features = images.ncols();
        check_pair(images, samples, fewest(), "for the kernel distance's subsets")?;
        if constant(images) == features {
            return Err(Error::invalid(
                "the features of the images",
                "features that differ from image to image",
                format!("{features} that are the same for all of them"),
                "does the network get pixels in the range that it takes (`FeatureOptions::range`)?",
            ));
        }
        let kernel_subsets = usual_subsets(images.nrows().min(samples.nrows()));
        let manifold = images.nrows().min(samples.nrows());
        let equal = |set: ArrayView2<f64>| -> Result<Array2<f64>> {
            Ok(set.select(Axis(0), &choose(set.nrows(), manifold, seed)?))
        };
        let shares = precision_recall(equal(images)?.view(), equal(samples)?.view(), NEIGHBOUR)?;
        Ok(Comparison {
            samples: samples.nrows(),
            images: images.nrows(),
            features,
            frechet_distance: match images.nrows().min(samples.nrows()) >= fewest_for_frechet(features) {
                true => Some(frechet_distance(images, samples)?),
                false => None,
            },
            kernel_distance: kernel_distance(images, samples, kernel_subsets, seed)?,
            kernel_subsets,
            precision: shares.precision,
            recall: shares.recall,
            manifold,
        })
    }
}

/// The number of features that are the same for all images.
fn constant(features: ArrayView2<f64>) -> usize {
    features.columns().into_iter().filter(|column| column.iter().all(|x| *x == column[0])).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, fill_normal, rng};

    fn normal(n: usize, id: u64) -> Array2<f64> {
        let mut features = Array2::zeros((n, 8));
        fill_normal(&mut rng(14, Stream::Check, 0, id), features.as_slice_mut().unwrap());
        features
    }

    #[test]
    fn the_numbers_are_those_of_the_measures_and_order_the_sets() {
        let images = normal(500, 1);
        let good = Comparison::of(images.view(), normal(300, 2).view(), 0).unwrap();
        let bad = Comparison::of(images.view(), (normal(300, 2) * 0.5 + 1.0).view(), 0).unwrap();
        assert_eq!((good.samples, good.images, good.features, good.manifold), (300, 500, 8, 300));
        let frechet = |found: &Comparison| found.frechet_distance.unwrap();
        assert_eq!(frechet(&good), frechet_distance(images.view(), normal(300, 2).view()).unwrap());
        assert!(frechet(&good) < 0.1 * frechet(&bad), "{good:?} {bad:?}");
        let (a, b) = (good.kernel_distance, bad.kernel_distance);
        assert!(a.mean.abs() < 4.0 * a.standard_error && b.mean > 10.0 * b.standard_error, "{a:?} {b:?}");
        assert!(good.recall > 0.7 && bad.recall < 0.3, "{good:?} {bad:?}");
    }

    #[test]
    fn a_comparison_has_the_same_bits_on_any_number_of_threads() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Comparison::of(normal(150, 1).view(), normal(90, 2).view(), 3).unwrap())
        };
        let one = run(1);
        assert!([2, 5].into_iter().all(|threads| run(threads) == one));
    }

    #[test]
    fn too_few_are_refused_with_the_reason() {
        assert_eq!((fewest(), fewest_for_frechet(8), fewest_for_frechet(64)), (20, 20, 65));
        let message = Comparison::of(normal(30, 1).view(), normal(19, 2).view(), 0).unwrap_err().to_string();
        assert!(message.contains("at least 20") && message.contains("subsets"), "{message}");
    }

    #[test]
    fn fewer_than_features_have_every_measure_but_one() {
        let [few, more] = [1, 2].map(|id| normal(240, id).into_shape_with_order((30, 64)).unwrap());
        let found = Comparison::of(few.view(), more.view(), 0).unwrap();
        assert_eq!(found.frechet_distance, None);
        assert_eq!(found.kernel_distance, kernel_distance(few.view(), more.view(), 10, 0).unwrap());
    }

    #[test]
    fn features_that_say_nothing_are_refused() {
        let (mut images, samples) = (Array2::from_elem((40, 8), 0.25), normal(40, 2));
        let message = Comparison::of(images.view(), samples.view(), 0).unwrap_err().to_string();
        assert!(message.contains("8 that are the same") && message.contains("range"), "{message}");
        images[[3, 2]] = 0.5;
        assert_eq!(constant(images.view()), 7);
        Comparison::of(images.view(), samples.view(), 0).unwrap();
    }
}
