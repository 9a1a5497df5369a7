//! The choice of images from a dataset.

use crate::data::Dataset;
use crate::error::Result;
use crate::machine;
use crate::real::Real;
use crate::rng::{Stream, rng};
use ndarray::{Array2, Array4};
use rand::RngExt;

/// `count` of `total` indices, ascending: all where `count` is not smaller, otherwise drawn without
/// replacement, since a dataset may be ordered by class.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) for a total that this machine's memory does not hold.
pub fn choose(total: usize, count: usize, seed: u64) -> Result<Vec<usize>> {
    let mut indices = shuffled(total, seed)?;
    indices.truncate(count);
    indices.sort_unstable();
    Ok(indices)
}

/// 0..total in an order drawn from the seed.
pub(super) fn shuffled(total: usize, seed: u64) -> Result<Vec<usize>> {
    let mut indices = machine::filled("the images to choose from", &[total], 0)?;
    indices.iter_mut().enumerate().for_each(|(i, index)| *index = i);
    let mut rng = rng(seed, Stream::Choice, 0, 0);
    for i in (1..total).rev() {
        indices.swap(i, rng.random_range(0..=i));
    }
    Ok(indices)
}

/// Images of a dataset, \[n, h w c\] in [-1, 1].
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) for an index that is not below the dataset's length.
pub fn images<T: Real>(dataset: &Dataset, indices: &[usize]) -> Result<Array2<T>> {
    dataset.check_indices(indices)?;
    let shape = (indices.len(), dataset.image_len());
    let zeros = machine::filled("the chosen images", &[shape.0, shape.1], T::zero())?;
    let mut images = Array2::from_shape_vec(shape, zeros).expect("as many numbers as the images have");
    for (mut row, &index) in images.outer_iter_mut().zip(indices) {
        dataset.image_into(index, false, row.as_slice_mut().expect("rows of a new array are whole"))?;
    }
    Ok(images)
}

/// The same, \[n, c, h, w\].
///
/// # Errors
/// As [`images`].
pub fn images_nchw<T: Real>(dataset: &Dataset, indices: &[usize]) -> Result<Array4<T>> {
    let shape = (indices.len(), dataset.height(), dataset.width(), dataset.channels());
    let images = images(dataset, indices)?.into_shape_with_order(shape).expect("whole images");
    Ok(images.permuted_axes([0, 3, 1, 2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_has_no_image_twice_and_depends_on_the_seed() {
        let chosen = choose(100, 30, 7).unwrap();
        assert_eq!(chosen.len(), 30);
        assert!(chosen.is_sorted_by(|a, b| a < b) && chosen[29] < 100);
        assert_ne!(chosen, choose(100, 30, 8).unwrap());
        assert_eq!(choose(5, 9, 1).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(choose(0, 3, 1).unwrap(), [0; 0]);
        assert!(choose(usize::MAX, 3, 1).is_err());
    }

    /// 2000 choices of 2 of 5: each index 800 times, within five standard deviations of a binomial count.
    #[test]
    fn every_index_is_as_likely() {
        let mut counts = [0f64; 5];
        (0..2000).for_each(|seed| choose(5, 2, seed).unwrap().iter().for_each(|&i| counts[i] += 1.0));
        let deviation = (2000.0f64 * 0.4 * 0.6).sqrt();
        assert!(counts.iter().all(|count| (count - 800.0).abs() < 5.0 * deviation), "{counts:?}");
    }

    #[test]
    fn images_are_the_datasets_rows() {
        let pixels = vec![0, 255, 255, 0, 0, 0];
        let dataset = Dataset::new("pairs", [1, 2, 1], pixels, None, false).unwrap();
        assert_eq!(images::<f32>(&dataset, &[0, 2]).unwrap(), ndarray::arr2(&[[-1.0, 1.0], [-1.0, -1.0]]));
        assert!(images::<f32>(&dataset, &[3]).unwrap_err().to_string().contains("at most 2"));
        let colour = Dataset::new("colour", [1, 2, 3], vec![0, 255, 0, 255, 0, 0], None, false).unwrap();
        let planes = images_nchw::<f32>(&colour, &[0]).unwrap();
        assert_eq!(
            planes,
            ndarray::arr3(&[[[-1.0, 1.0]], [[1.0, -1.0]], [[-1.0, -1.0]]]).insert_axis(ndarray::Axis(0))
        );
    }
}
