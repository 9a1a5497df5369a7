//! A picture by itself, to be edited.

use super::decode::{self, Bad, Found, Recipe};
use super::{dataset::check_size, unit_from_byte};
use crate::config::Background;
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use image::ImageFormat;
use ndarray::{Array2, Array3};
use std::path::{Path, PathBuf};

/// A picture's file, in a format that training images may have, turned as the camera noted, transparent parts
/// made opaque as those of training images are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    path: PathBuf,
    format: ImageFormat,
    size: (usize, usize),
}

impl Picture {
    /// Reads what the file says of the picture.
    ///
    /// # Errors
    /// [`Error::Read`], and [`Error::Invalid`] for a file that is no picture.
    pub fn open(path: &Path) -> Result<Picture> {
        if path.is_dir() {
            return Err(Error::invalid(path.display().to_string(), "a picture's file", "a folder", ""));
        }
        DiskFile::open(path).map_err(|e| Error::read(path, e))?;
        match decode::inspect(path).map_err(Bad::error)? {
            Found::Picture(decode::Picture { path, format, height, width, .. }) => {
                Ok(Picture { path, format, size: (height as usize, width as usize) })
            }
            Found::Other(_) => {
                Err(Error::invalid(path.display().to_string(), decode::expected(), "no picture", ""))
            }
        }
    }

    /// Height and width.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// The pixels \[h, w, channels\], 1 (grey) or 3 (red, green, blue), in [-1, 1]: cut around the centre to
    /// the aspect of `size`, (height, width), and resized to it, as training images are. A picture of that
    /// size stays as it is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a file that is no whole picture, for other channels, and for a size that images
    /// cannot have; [`Error::Read`].
    pub fn pixels(&self, size: (usize, usize), channels: usize) -> Result<Array3<f32>> {
        let bytes = self.bytes(size, channels)?;
        let pixels = bytes.into_iter().map(|byte| unit_from_byte(byte) as f32).collect();
        Ok(Array3::from_shape_vec((size.0, size.1, channels), pixels).expect("as many bytes as pixels"))
    }

    /// Which pixels \[h, w\] of a mask, cut and resized likewise, are white: nearer to white than to black.
    ///
    /// # Errors
    /// As [`Picture::pixels`].
    pub fn white(&self, size: (usize, usize)) -> Result<Array2<bool>> {
        let white = self.bytes(size, 1)?.into_iter().map(|byte| byte >= 128).collect();
        Ok(Array2::from_shape_vec(size, white).expect("as many bytes as pixels"))
    }

    fn bytes(&self, size: (usize, usize), channels: usize) -> Result<Vec<u8>> {
        let what = self.path.display().to_string();
        check_size(&what, size)?;
        if channels != 1 && channels != 3 {
            let help = "the model's images are no pictures: give them as arrays";
            return Err(Error::invalid(what, format!("{channels} channels"), "a picture of 1 or 3", help));
        }
        let recipe = Recipe { size, channels, background: Background::default() };
        Ok(decode::decode(&self.path, self.format, &recipe).map_err(Bad::error)?.into_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma, Rgba, RgbaImage};

    #[test]
    fn pixels_are_what_the_file_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ramp.png");
        GrayImage::from_fn(3, 2, |x, y| Luma([(x * 100 + y) as u8])).save(&path).unwrap();
        let picture = Picture::open(&path).unwrap();
        assert_eq!(picture.size(), (2, 3));
        let pixels = picture.pixels((2, 3), 1).unwrap();
        assert_eq!(pixels[[1, 2, 0]], unit_from_byte(201) as f32);
        assert_eq!(picture.pixels((2, 3), 3).unwrap()[[1, 2, 2]], pixels[[1, 2, 0]]);
        let white = picture.white((2, 3)).unwrap();
        assert_eq!(white, ndarray::array![[false, false, true], [false, false, true]]);
        // The columns at the sides are cut off.
        assert_eq!(picture.pixels((2, 1), 1).unwrap()[[1, 0, 0]], unit_from_byte(101) as f32);
    }

    #[test]
    fn what_is_transparent_is_white() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mask.png");
        let colour = |x: u32| if x < 2 { Rgba([0, 0, 0, 0]) } else { Rgba([9, 9, 9, 255]) };
        RgbaImage::from_fn(4, 4, |x, _| colour(x)).save(&path).unwrap();
        let picture = Picture::open(&path).unwrap();
        assert_eq!(picture.white((4, 4)).unwrap().row(0).to_vec(), [true, true, false, false]);
        assert_eq!(picture.white((2, 2)).unwrap().row(1).to_vec(), [true, false]);
    }

    #[test]
    fn what_is_no_picture_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        std::fs::write(&path, "no picture").unwrap();
        for path in [path.as_path(), folder.path(), &folder.path().join("missing.png")] {
            let message = Picture::open(path).unwrap_err().to_string();
            assert!(message.contains(&path.display().to_string()), "{message}");
        }
        GrayImage::new(2, 2).save(&path).unwrap();
        let picture = Picture::open(&path).unwrap();
        assert!(picture.pixels((2, 2), 4).is_err() && picture.pixels((0, 2), 1).is_err());
    }
}
