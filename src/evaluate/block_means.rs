//! Features that need no network: brightness and layout, without texture.

use crate::error::{Error, Result};
use crate::machine;
use ndarray::{Array2, ArrayView4, s};

/// The means of the blocks of images \[n, c, h, w\], \[n, c r s\]: r rows and s columns of blocks of nearly
/// equal size. Both are `side`, or the number of pixel rows or columns where that is smaller.
///
/// # Errors
/// [`Error::Invalid`] for a side of 0 and for images without pixels.
pub fn block_means(images: ArrayView4<f32>, side: usize) -> Result<Array2<f64>> {
    let (n, c, h, w) = images.dim();
    let (rows, columns) = (side.min(h), side.min(w));
    if c == 0 || rows == 0 || columns == 0 {
        let got = format!("{side} blocks of {h}x{w} pixels with {c} channel(s)");
        return Err(Error::invalid("the images' blocks", "at least one of at least one pixel", got, ""));
    }
    let zeros = machine::filled("the images' blocks", &[n, c, rows, columns], 0.0)?;
    let shape = (n, c * rows * columns);
    let mut means = Array2::from_shape_vec(shape, zeros).expect("as many numbers as there are blocks");
    for (image, mut means) in images.outer_iter().zip(means.outer_iter_mut()) {
        for (i, mean) in means.iter_mut().enumerate() {
            let (k, y, x) = (i / (rows * columns), i / columns % rows, i % columns);
            let (y, x) = (y * h / rows..(y + 1) * h / rows, x * w / columns..(x + 1) * w / columns);
            let block = image.slice(s![k, y, x]);
            *mean = block.iter().map(|&pixel| f64::from(pixel)).sum::<f64>() / block.len() as f64;
        }
    }
    Ok(means)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array4, arr2};

    /// Exact: sums of small whole numbers, divided by powers of two.
    #[test]
    fn every_pixel_is_in_one_block_of_its_channel() {
        let images =
            Array4::from_shape_fn((2, 2, 2, 4), |(n, c, y, x)| (100 * n + 16 * c + 4 * y + x) as f32);
        assert_eq!(block_means(images.view(), 1).unwrap(), arr2(&[[3.5, 19.5], [103.5, 119.5]]));
        assert_eq!(
            block_means(images.view(), 2).unwrap().row(0).to_vec(),
            [0.5, 2.5, 4.5, 6.5, 16.5, 18.5, 20.5, 22.5]
        );
        // Only two rows, and three columns of 1, 1 and 2 pixels.
        assert_eq!(
            block_means(images.view(), 3).unwrap().row(0).to_vec()[..6],
            [0.0, 1.0, 2.5, 4.0, 5.0, 6.5]
        );
        assert_eq!(block_means(images.view(), 9).unwrap().row(1)[15], 123.0);
        assert!(block_means(images.view(), 0).is_err());
    }
}
