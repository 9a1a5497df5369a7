//! A picture by itself, to be edited.

use super::{folder, resize, unit_from_byte};
use crate::error::{Error, Result};
use image::DynamicImage;
use ndarray::{Array2, Array3};
use std::path::Path;

/// A picture from a file: PNG, JPEG, GIF or BMP, turned as the camera noted, transparent parts on white.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture(DynamicImage);

impl Picture {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Read`], and [`Error::Invalid`] for a file that is no whole picture.
    pub fn read(path: &Path) -> Result<Picture> {
        if path.is_dir() {
            return Err(Error::invalid(path.display().to_string(), "a picture's file", "a folder", ""));
        }
        Ok(Picture(folder::read(path)?))
    }

    /// Height and width.
    pub fn size(&self) -> (usize, usize) {
        (self.0.height() as usize, self.0.width() as usize)
    }

    /// The picture cut around its centre to the aspect of `size`, (height, width), and resized to it, as
    /// training images are. One of that size stays as it is.
    #[must_use]
    pub fn fit(self, size: (usize, usize)) -> Picture {
        if self.size() == size {
            return self;
        }
        // The channels that are resized must be those that are seen: what is transparent has a colour too.
        let channels = if self.0.color().has_color() { 3 } else { 1 };
        Picture(resize::fit(folder::flat(self.0, channels), size))
    }

    /// The pixels \[h, w, channels\], 1 (grey) or 3 (red, green, blue), in [-1, 1].
    ///
    /// # Errors
    /// [`Error::Invalid`] for other channels.
    pub fn pixels(&self, channels: usize) -> Result<Array3<f32>> {
        if channels != 1 && channels != 3 {
            let help = "give images as arrays";
            return Err(Error::invalid("a picture", "1 or 3 channels", channels.to_string(), help));
        }
        let (h, w) = self.size();
        let bytes = folder::flat(self.0.clone(), channels).into_bytes();
        let pixels = bytes.into_iter().map(|byte| unit_from_byte(byte) as f32).collect();
        Ok(Array3::from_shape_vec((h, w, channels), pixels).expect("as many bytes as pixels"))
    }

    /// Which pixels \[h, w\] of a mask are white: nearer to white than to black. Transparent ones are.
    pub fn white(&self) -> Array2<bool> {
        let bytes = folder::flat(self.0.clone(), 1).into_bytes();
        let white = bytes.into_iter().map(|byte| byte >= 128).collect();
        Array2::from_shape_vec(self.size(), white).expect("as many bytes as pixels")
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
        let picture = Picture::read(&path).unwrap();
        assert_eq!(picture.size(), (2, 3));
        let pixels = picture.pixels(1).unwrap();
        assert_eq!(pixels[[1, 2, 0]], unit_from_byte(201) as f32);
        assert_eq!(picture.pixels(3).unwrap()[[1, 2, 2]], pixels[[1, 2, 0]]);
        assert_eq!(picture.white(), ndarray::array![[false, false, true], [false, false, true]]);
        assert_eq!(picture.clone().fit((2, 3)), picture);
        assert_eq!(picture.fit((2, 2)).size(), (2, 2));
    }

    #[test]
    fn what_is_transparent_is_white() {
        let clear = Rgba([0, 0, 0, 0]);
        let image = RgbaImage::from_fn(4, 4, |x, _| if x < 2 { clear } else { Rgba([9, 9, 9, 255]) });
        let picture = Picture(image.into());
        assert_eq!(picture.white().row(0).to_vec(), [true, true, false, false]);
        assert_eq!(picture.fit((2, 2)).white().row(1).to_vec(), [true, false]);
    }

    #[test]
    fn what_is_no_picture_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        std::fs::write(&path, "no picture").unwrap();
        for path in [path.as_path(), folder.path(), &folder.path().join("missing.png")] {
            let message = Picture::read(path).unwrap_err().to_string();
            assert!(message.contains(&path.display().to_string()), "{message}");
        }
        let picture = Picture(GrayImage::new(2, 2).into());
        assert!(picture.pixels(4).is_err());
    }
}
