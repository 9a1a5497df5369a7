//! One image as a PNG file, pixel for pixel.

use super::{byte_from_unit, write_atomically};
use crate::error::{Error, Result};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use ndarray::ArrayView3;
use std::io;
use std::path::Path;

/// Writes an image \[h, w, c\] in [-1, 1] as a PNG file of its own size, grey for c = 1 and colour for c = 3.
/// A pixel that came from a byte becomes that byte again.
///
/// # Errors
/// [`Error::Invalid`] for other channels or no pixels, and [`Error::Write`].
pub fn write_picture(path: &Path, image: ArrayView3<'_, f32>) -> Result<()> {
    let (h, w, c) = image.dim();
    let colour = match c {
        1 => ExtendedColorType::L8,
        3 => ExtendedColorType::Rgb8,
        _ => {
            let got = format!("{h}x{w} with {c} channels");
            return Err(Error::invalid("a picture", "1 or 3 channels", got, "write it as an array"));
        }
    };
    let (Ok(height), Ok(width)) = (u32::try_from(h), u32::try_from(w)) else {
        return Err(Error::invalid("a picture", "sides below 2^32", format!("{h}x{w}"), ""));
    };
    let bytes: Vec<u8> = image.iter().map(|x| byte_from_unit(*x)).collect();
    if bytes.is_empty() {
        return Err(Error::invalid("a picture", "at least one pixel", format!("{h}x{w}"), ""));
    }
    write_atomically(path, |file| {
        PngEncoder::new(file).write_image(&bytes, width, height, colour).map_err(io::Error::other)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Picture, unit_from_byte};
    use ndarray::Array3;

    #[test]
    fn a_picture_comes_back_as_it_went() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for channels in [1, 3] {
            let image = Array3::from_shape_fn((16, 6, channels), |(y, x, c)| {
                unit_from_byte((y * 16 + x * 2 + c) as u8) as f32
            });
            write_picture(&path, image.view()).unwrap();
            let picture = Picture::open(&path).unwrap();
            assert_eq!(picture.pixels((16, 6), channels).unwrap(), image);
        }
        for dim in [(2, 2, 2), (0, 2, 1)] {
            assert!(write_picture(&path, Array3::zeros(dim).view()).is_err());
        }
    }
}
