//! Cutting and resizing images to one size.

use image::imageops::{self, FilterType};
use image::{DynamicImage, GrayImage, ImageBuffer, Pixel, RgbImage};

/// Cuts the image of eight bits, grey or red, green and blue, to the aspect of `size` (height, width) around
/// its centre and resizes it (Catmull-Rom, widened when shrinking so that nothing aliases): the short side is
/// resized to its length, and of the long side both ends are cut off. An image of that size already is left
/// as it is.
pub(super) fn fit(image: DynamicImage, size: (usize, usize)) -> DynamicImage {
    match image {
        DynamicImage::ImageLuma8(image) => fit_pixels(image, size).into(),
        image => fit_pixels(image.into_rgb8(), size).into(),
    }
}

/// The same of one kind of pixels, so that the loops are compiled with this crate, for speed.
fn fit_pixels<P: Pixel<Subpixel = u8> + 'static>(
    image: ImageBuffer<P, Vec<u8>>,
    (height, width): (usize, usize),
) -> ImageBuffer<P, Vec<u8>> {
    let (h, w) = (u64::from(image.height()), u64::from(image.width()));
    let (to_h, to_w) = (height as u64, width as u64);
    if (h, w) == (to_h, to_w) {
        return image;
    }
    let round = |a: u64, b: u64| (a + b / 2) / b;
    let cut_h = round(w * to_h, to_w).clamp(1, h);
    let cut_w = round(h * to_w, to_h).clamp(1, w);
    let cut = if (cut_h, cut_w) == (h, w) {
        image
    } else {
        let (x, y) = ((w - cut_w) / 2, (h - cut_h) / 2);
        imageops::crop_imm(&image, x as u32, y as u32, cut_w as u32, cut_h as u32).to_image()
    };
    imageops::resize(&cut, width as u32, height as u32, FilterType::CatmullRom)
}

/// [`fit`] for the bytes of one image of `shape` [H, W, C].
pub(super) fn fit_bytes(bytes: &[u8], shape: [usize; 3], size: (usize, usize)) -> Vec<u8> {
    let [height, width, channels] = shape;
    let (h, w) = (height as u32, width as u32);
    const FILLS: &str = "the bytes of one image fill its shape";
    match channels {
        1 => fit_pixels(GrayImage::from_raw(w, h, bytes.to_vec()).expect(FILLS), size).into_raw(),
        3 => fit_pixels(RgbImage::from_raw(w, h, bytes.to_vec()).expect(FILLS), size).into_raw(),
        _ => {
            let mut out = vec![0; size.0 * size.1 * channels];
            for channel in 0..channels {
                let plane: Vec<u8> = bytes.iter().skip(channel).step_by(channels).copied().collect();
                let plane = fit_bytes(&plane, [height, width, 1], size);
                out.iter_mut().skip(channel).step_by(channels).zip(plane).for_each(|(to, from)| *to = from);
            }
            out
        }
    }
}

/// Grey images as colour (each value three times), and colour ones as grey: Rec. 709's luma. The bytes of any
/// number of images with `from` channels, 1 or 3.
pub(super) fn with_channels(bytes: &[u8], from: usize, to: usize) -> Vec<u8> {
    match (from, to) {
        (1, 3) => bytes.iter().flat_map(|&grey| [grey; 3]).collect(),
        (3, 1) => {
            let pixels = bytes.as_chunks::<3>().0;
            pixels.iter().map(|&[r, g, b]| image::Rgb([r, g, b]).to_luma().0[0]).collect()
        }
        _ => bytes.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns 0, 10, 20, ... of a grey image.
    fn ramp(height: usize, width: usize) -> Vec<u8> {
        (0..height * width).map(|i| (i % width * 10) as u8).collect()
    }

    #[test]
    fn a_wide_image_loses_its_sides_equally_and_a_tall_one_top_and_bottom() {
        assert_eq!(fit_bytes(&ramp(2, 6), [2, 6, 1], (2, 2)), [20, 30, 20, 30]);
        let tall: Vec<u8> = (0..10).collect();
        assert_eq!(fit_bytes(&tall, [5, 2, 1], (1, 2)), [4, 5]);
    }

    #[test]
    fn halving_averages_and_keeps_channels_apart() {
        let flat: Vec<u8> = [9, 100, 200].repeat(16 * 16);
        assert_eq!(fit_bytes(&flat, [16, 16, 3], (8, 8)), [9, 100, 200].repeat(64));
        let stripes: Vec<u8> = [0, 200].repeat(16 * 8);
        let halved = fit_bytes(&stripes, [16, 16, 1], (8, 8));
        let middle = halved[8 * 4 + 4];
        assert!((90..=110).contains(&middle), "aliased to {middle}");
    }

    #[test]
    fn one_pixel_and_extreme_aspects_are_resized_too() {
        assert_eq!(fit_bytes(&[7], [1, 1, 1], (3, 5)), [7; 15]);
        assert_eq!(fit_bytes(&[7; 4000], [1, 4000, 1], (4000, 1)), [7; 4000]);
    }
    #[test]
    fn other_numbers_of_channels_are_resized_channel_by_channel() {
        let four: Vec<u8> = [1, 50, 100, 200].repeat(16);
        assert_eq!(fit_bytes(&four, [4, 4, 4], (2, 2)), [1, 50, 100, 200].repeat(4));
    }

    /// Rec. 709: 0.2126 R + 0.7152 G + 0.0722 B, cut to a whole number.
    #[test]
    fn channels_are_added_and_taken_away() {
        assert_eq!(with_channels(&[7, 9], 1, 3), [7, 7, 7, 9, 9, 9]);
        assert_eq!(with_channels(&[255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9], 3, 1), [54, 182, 18, 9]);
        assert_eq!(with_channels(&[1, 2, 3], 3, 3), [1, 2, 3]);
    }
}
