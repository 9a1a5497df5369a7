//! Precision and recall of samples (Kynkaanniemi et al. 2019): the share of samples near images, and the
//! share of images near samples.

use super::check_pair;
use super::distance::by_tiles;
use crate::error::{Error, Result};
use ndarray::ArrayView2;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shares of images, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PrecisionRecall {
    /// The share of samples within the images' manifold: fidelity.
    pub precision: f64,
    /// The share of images within the samples' manifold: variety.
    pub recall: f64,
}

/// The paper's k: the distance to the k-th nearest neighbour is the radius of a ball.
pub const NEIGHBOUR: usize = 3;

/// Precision and recall of `samples` against `images`, both features \[n, d\] of one network. A set's
/// manifold is the union of balls around its points, each as large as the distance to its `k`-th nearest
/// neighbour in the set.
///
/// The paper compares sets of equal size; a larger set has smaller balls.
///
/// Source: Kynkaanniemi et al. (2019), section 2, equations 1 and 2; k = 3 is [`NEIGHBOUR`].
///
/// # Errors
/// [`Error::Invalid`] for k = 0, features that are not finite or differ in number, or sets of
/// k or fewer.
pub fn precision_recall(
    images: ArrayView2<f64>,
    samples: ArrayView2<f64>,
    k: usize,
) -> Result<PrecisionRecall> {
    if k == 0 {
        return Err(Error::invalid("`k`, the neighbour's order", "at least 1", "0", "the paper takes 3"));
    }
    check_pair(images, samples, k.saturating_add(1), &format!("to have a neighbour of order {k}"))?;
    let (image_radii, sample_radii) = (radii(images, k), radii(samples, k));
    let reached: Vec<AtomicBool> = (0..images.nrows()).map(|_| AtomicBool::new(false)).collect();
    let precise = by_tiles(samples, images, |first, distances| {
        let radii = &sample_radii[first..first + distances.len()];
        for (row, radius) in distances.iter().zip(radii) {
            let near = row.iter().zip(&reached).filter(|(distance, _)| *distance <= radius);
            near.for_each(|(_, reached)| reached.store(true, Ordering::Relaxed));
        }
        let covered = |row: &&Vec<f64>| row.iter().zip(&image_radii).any(|(d, radius)| d <= radius);
        distances.iter().filter(covered).count()
    });
    let recalled = reached.iter().filter(|reached| reached.load(Ordering::Relaxed)).count();
    Ok(PrecisionRecall {
        precision: precise.iter().sum::<usize>() as f64 / samples.nrows() as f64,
        recall: recalled as f64 / images.nrows() as f64,
    })
}

/// The squared distance of each row to its k-th nearest other row.
fn radii(features: ArrayView2<f64>, k: usize) -> Vec<f64> {
    let tiles = by_tiles(features, features, |first, distances| {
        let radius = |(row, mut distances): (usize, Vec<f64>)| {
            distances.swap_remove(first + row);
            *distances.select_nth_unstable_by(k - 1, f64::total_cmp).1
        };
        distances.into_iter().enumerate().map(radius).collect::<Vec<f64>>()
    });
    tiles.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, fill_normal, rng};
    use ndarray::{Array2, arr2};

    fn line(points: &[f64]) -> Array2<f64> {
        Array2::from_shape_vec((points.len(), 1), points.to_vec()).unwrap()
    }

    /// By hand, k = 1. Images 0, 1, 10 have radii 1, 1, 9; samples -1, 1.5, 20, 30 have 2.5, 2.5, 10, 10. Of
    /// the samples -1 lies within 0's ball and 1.5 within 1's, and 20, which is 10 from 10, within none. Of
    /// the images 0 and 1 lie within those of -1 and 1.5, and 10 just within that of 20.
    #[test]
    fn balls_on_a_line() {
        let (images, samples) = (line(&[0.0, 1.0, 10.0]), line(&[-1.0, 1.5, 20.0, 30.0]));
        let found = precision_recall(images.view(), samples.view(), 1).unwrap();
        assert_eq!(found, PrecisionRecall { precision: 2.0 / 4.0, recall: 3.0 / 3.0 });
        // The other way round the two change places.
        let found = precision_recall(samples.view(), images.view(), 1).unwrap();
        assert_eq!(found, PrecisionRecall { precision: 1.0, recall: 0.5 });
        // k = 2: image 10's ball reaches 10 far, that of 0 and of 1 too.
        let found = precision_recall(images.view(), samples.view(), 2).unwrap();
        assert_eq!(found.precision, 0.75);
    }

    /// A point's own distance of 0 is no neighbour's, but an equal point's is.
    #[test]
    fn equal_points_are_neighbours() {
        let images = arr2(&[[0.0, 0.0], [0.0, 0.0], [5.0, 0.0], [5.0, 0.0]]);
        let near = arr2(&[[0.0, 0.0], [1e-9, 0.0], [5.0, 0.0], [9.0, 9.0]]);
        let found = precision_recall(images.view(), near.view(), 1).unwrap();
        assert_eq!(found.precision, 0.5);
    }

    /// Samples of one of two clusters are precise and recall half; samples of both and of noise recall all.
    /// The clusters are 100 apart, so that only chance within a cluster is left: of 200 points in a cluster,
    /// a ball of three neighbours misses few.
    #[test]
    fn a_lost_mode_costs_recall_and_noise_costs_precision() {
        let cloud = |n: usize, centre: f64, id: u64| {
            let mut points = Array2::zeros((n, 2));
            fill_normal(&mut rng(13, Stream::Check, 0, id), points.as_slice_mut().unwrap());
            points + centre
        };
        let both = |n: usize, other: f64, id: u64| {
            ndarray::concatenate![ndarray::Axis(0), cloud(n, 0.0, id), cloud(n, other, id + 1)]
        };
        let images = both(200, 100.0, 1);
        let lost = precision_recall(images.view(), cloud(400, 0.0, 3).view(), NEIGHBOUR).unwrap();
        assert!(lost.precision > 0.9 && (0.4..=0.5).contains(&lost.recall), "{lost:?}");
        let noise = precision_recall(images.view(), both(200, 1000.0, 5).view(), NEIGHBOUR).unwrap();
        assert!((0.4..=0.5).contains(&noise.precision) && noise.recall <= 0.5, "{noise:?}");
        let good = precision_recall(images.view(), both(200, 100.0, 7).view(), NEIGHBOUR).unwrap();
        assert!(good.precision > 0.9 && good.recall > 0.9, "{good:?}");
    }

    #[test]
    fn a_set_without_neighbours_is_refused() {
        let (few, many) = (line(&[0.0, 1.0, 2.0]), line(&[0.0, 1.0, 2.0, 3.0]));
        let error = precision_recall(many.view(), few.view(), NEIGHBOUR).unwrap_err().to_string();
        assert!(error.contains("at least 4"), "{error}");
    }
}
