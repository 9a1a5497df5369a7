//! The nearest training image of each sample, to detect copying.

use super::distance::squared_distance;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::output::write_png;
use ndarray::{Array4, ArrayView4};
use rayon::prelude::*;
use serde::Serialize;
use std::path::Path;

/// Training images that are compared in one task.
const CHUNK: usize = 256;

/// A training image and its distance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Nearest {
    /// Its index in the dataset.
    pub index: usize,
    /// The root mean squared difference of the pixels, in [0, 255].
    pub rmse: f64,
}

/// The nearest of `training` to each of `images` \[n, h, w, c\] in [-1, 1], by Euclidean distance of the
/// pixels; the first of equally near ones.
///
/// # Errors
/// [`Error::Invalid`] for images of another shape or with numbers that are not finite.
pub fn nearest(images: ArrayView4<f32>, training: &Dataset) -> Result<Vec<Nearest>> {
    let (n, h, w, c) = images.dim();
    let shape = training.shape();
    if [h, w, c] != shape {
        return Err(Error::invalid(
            "the images",
            format!("{shape:?} (height, width, channels) as {}", training.name()),
            format!("{:?}", [h, w, c]),
            "",
        ));
    }
    finite(images)?;
    let len = training.image_len();
    let images: Vec<f32> = images.iter().copied().collect();
    let starts: Vec<usize> = (0..training.len()).step_by(CHUNK).collect();
    let by_chunk: Result<Vec<Vec<(f64, usize)>>> = starts
        .into_par_iter()
        .map(|start| {
            let mut best = vec![(f64::INFINITY, 0); n];
            let mut candidate = vec![0.0; len];
            for index in start..training.len().min(start + CHUNK) {
                training.image_into(index, false, &mut candidate)?;
                for (image, best) in images.chunks_exact(len).zip(&mut best) {
                    let distance = squared_distance(image, &candidate);
                    if distance < best.0 {
                        *best = (distance, index);
                    }
                }
            }
            Ok(best)
        })
        .collect();
    let by_chunk = by_chunk?;
    let best = |i: usize| {
        by_chunk.iter().map(|best| best[i]).fold((f64::INFINITY, 0), |a, b| if b.0 < a.0 { b } else { a })
    };
    Ok((0..n)
        .map(|i| {
            let (distance, index) = best(i);
            Nearest { index, rmse: 127.5 * (distance / len as f64).sqrt() }
        })
        .collect())
}

/// Writes a sheet: rows of at most `columns` images, each row followed by one of their nearest training
/// images.
///
/// # Errors
/// [`Error::Invalid`] where `found` is not what [`nearest`] gives for these images and this dataset;
/// [`Error::Write`], and those of a grid that is too large.
pub fn write_sheet(
    path: &Path,
    images: ArrayView4<f32>,
    training: &Dataset,
    found: &[Nearest],
    columns: usize,
) -> Result<()> {
    let (n, h, w, c) = images.dim();
    let whole = [h, w, c] == training.shape() && n == found.len();
    if !whole || found.iter().any(|nearest| nearest.index >= training.len()) {
        return Err(Error::invalid(
            "the nearest images of a sheet",
            format!("one of the {} of {} for each of {n} images", training.len(), training.name()),
            format!("{} for images of {h}x{w}x{c}", found.len()),
            "",
        ));
    }
    let columns = columns.clamp(1, n.max(1));
    let rows = n.div_ceil(columns);
    // Black fills a last row that is not full.
    let mut sheet = Array4::from_elem((2 * rows * columns, h, w, c), -1.0);
    for (i, (image, nearest)) in images.outer_iter().zip(found).enumerate() {
        let place = i / columns * 2 * columns + i % columns;
        sheet.index_axis_mut(ndarray::Axis(0), place).assign(&image);
        let mut below = sheet.index_axis_mut(ndarray::Axis(0), place + columns);
        let below = below.as_slice_mut().expect("a whole image of a new array");
        training.image_into(nearest.index, false, below)?;
    }
    write_png(path, sheet.view(), Some(columns))
}

/// Refuses images with numbers that are not finite.
pub(super) fn finite(images: ArrayView4<f32>) -> Result<()> {
    match images.indexed_iter().find(|(_, pixel)| !pixel.is_finite()) {
        None => Ok(()),
        Some(((image, ..), pixel)) => {
            Err(Error::invalid(format!("image {image}"), "finite numbers", pixel.to_string(), ""))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset() -> Dataset {
        let pixels = (0..600usize).flat_map(|i| [(i % 256) as u8, (i / 256) as u8]).collect();
        Dataset::new("ramps", [1, 2, 1], pixels, None, false).unwrap()
    }

    fn image_of(dataset: &Dataset, index: usize) -> Array4<f32> {
        let mut pixels = vec![0.0; 2];
        dataset.image_into(index, false, &mut pixels).unwrap();
        Array4::from_shape_vec((1, 1, 2, 1), pixels).unwrap()
    }

    /// The nearest image is found in every chunk, and is the first of equal ones; a difference of 3 in one of
    /// two pixels is an error of 3/sqrt(2), to `f32` precision.
    #[test]
    fn an_image_of_the_set_is_its_own_nearest_and_a_changed_one_is_near_it() {
        let dataset = dataset();
        for index in [0, 255, 256, 300, 599] {
            let found = nearest(image_of(&dataset, index).view(), &dataset).unwrap();
            assert_eq!(found, [Nearest { index, rmse: 0.0 }]);
        }
        let mut between = image_of(&dataset, 511);
        between[[0, 0, 0, 0]] += 3.0 / 127.5;
        let found = nearest(between.view(), &dataset).unwrap()[0];
        assert_eq!(found.index, 511);
        assert!((found.rmse - 3.0 / 2f64.sqrt()).abs() < 1e-4, "{found:?}");
        let twins = Dataset::new("twins", [1, 2, 1], [[7, 9]; 600].concat(), None, false).unwrap();
        assert_eq!(nearest(image_of(&twins, 400).view(), &twins).unwrap()[0].index, 0);
    }

    #[test]
    fn another_shape_is_refused() {
        let error = nearest(Array4::zeros((1, 2, 1, 1)).view(), &dataset()).unwrap_err().to_string();
        assert!(error.contains("[1, 2, 1]") && error.contains("[2, 1, 1]"), "{error}");
    }

    /// Five images in rows of three: 3 samples, 3 neighbours, 2 samples and 2 neighbours with black beside
    /// them.
    #[test]
    fn a_sheet_has_each_nearest_image_below_its_sample() {
        let dataset = dataset();
        let indices = [5, 90, 180, 400, 599];
        let views: Vec<Array4<f32>> = indices.iter().map(|&i| image_of(&dataset, i)).collect();
        let views: Vec<_> = views.iter().map(|image| image.view()).collect();
        let images = ndarray::concatenate(ndarray::Axis(0), &views).unwrap();
        let found = nearest(images.view(), &dataset).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sheet.png");
        write_sheet(&path, images.view(), &dataset, &found, 3).unwrap();
        let sheet = image::load_from_memory(&std::fs::read(&path).unwrap()).unwrap().into_rgb8();
        // Pixels are enlarged to 32, gutters are 2 wide.
        let pixel = |row: u32, column: u32| sheet.get_pixel(2 + column * 66 + 5, 2 + row * 34 + 5).0[0];
        let want = [[5, 90, 180], [5, 90, 180], [144, 87, 0], [144, 87, 0]];
        for row in 0..4 {
            assert_eq!([0, 1, 2].map(|column| pixel(row, column)), want[row as usize], "row {row}");
        }
    }
}
