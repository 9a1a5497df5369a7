//! Which images of a dataset are looked at.

use crate::data::Dataset;
use crate::real::Real;
use crate::rng::{Stream, rng};
use ndarray::{Array2, Array4};
use rand::RngExt;

/// `count` of `total` indices, ascending: all where `count` is not smaller, otherwise drawn without
/// replacement, since a dataset may be ordered by class.
pub fn choose(total: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut indices = shuffled(total, seed);
    indices.truncate(count);
    indices.sort_unstable();
    indices
}

/// 0..total in an order drawn from the seed.
pub(super) fn shuffled(total: usize, seed: u64) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..total).collect();
    let mut rng = rng(seed, Stream::Choice, 0, 0);
    for i in (1..total).rev() {
        indices.swap(i, rng.random_range(0..=i));
    }
    indices
}

/// Images of a dataset, \[n, h w c\] in [-1, 1].
///
/// # Panics
/// If an index is not below the dataset's length.
pub fn images<T: Real>(dataset: &Dataset, indices: &[usize]) -> Array2<T> {
    let mut images = Array2::zeros((indices.len(), dataset.image_len()));
    for (mut row, &index) in images.outer_iter_mut().zip(indices) {
        dataset.image_into(index, false, row.as_slice_mut().expect("rows of a new array are whole"));
    }
    images
}

/// The same, \[n, c, h, w\].
///
/// # Panics
/// If an index is not below the dataset's length.
pub fn images_nchw<T: Real>(dataset: &Dataset, indices: &[usize]) -> Array4<T> {
    let shape = (indices.len(), dataset.height(), dataset.width(), dataset.channels());
    let images = images(dataset, indices).into_shape_with_order(shape).expect("whole images");
    images.permuted_axes([0, 3, 1, 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_has_no_image_twice_and_depends_on_the_seed() {
        let chosen = choose(100, 30, 7);
        assert_eq!(chosen.len(), 30);
        assert!(chosen.is_sorted_by(|a, b| a < b) && chosen[29] < 100);
        assert_ne!(chosen, choose(100, 30, 8));
        assert_eq!(choose(5, 9, 1), [0, 1, 2, 3, 4]);
        assert_eq!(choose(0, 3, 1), [0; 0]);
    }

    /// 2000 choices of 2 of 5: each index 800 times, within five standard deviations of a binomial count.
    #[test]
    fn every_index_is_as_likely() {
        let mut counts = [0f64; 5];
        (0..2000).for_each(|seed| choose(5, 2, seed).iter().for_each(|&i| counts[i] += 1.0));
        let deviation = (2000.0f64 * 0.4 * 0.6).sqrt();
        assert!(counts.iter().all(|count| (count - 800.0).abs() < 5.0 * deviation), "{counts:?}");
    }

    #[test]
    fn images_are_the_datasets_rows() {
        let pixels = vec![0, 255, 255, 0, 0, 0];
        let dataset = Dataset::new("pairs", [1, 2, 1], pixels, None, false).unwrap();
        assert_eq!(images::<f32>(&dataset, &[0, 2]), ndarray::arr2(&[[-1.0, 1.0], [-1.0, -1.0]]));
        let colour = Dataset::new("colour", [1, 2, 3], vec![0, 255, 0, 255, 0, 0], None, false).unwrap();
        let planes = images_nchw::<f32>(&colour, &[0]);
        assert_eq!(
            planes,
            ndarray::arr3(&[[[-1.0, 1.0]], [[1.0, -1.0]], [[-1.0, -1.0]]]).insert_axis(ndarray::Axis(0))
        );
    }
}
