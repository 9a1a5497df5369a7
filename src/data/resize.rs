//! Cutting and resizing images to one size.

use image::{DynamicImage, GrayImage, RgbImage, imageops::FilterType};

/// Cuts the image to the aspect of `size` (height, width) around its centre and resizes it (Catmull-Rom,
/// widened when shrinking so that nothing aliases). An image of that size already is left as it is.
pub(super) fn fit(image: DynamicImage, (height, width): (usize, usize)) -> DynamicImage {
    let (h, w) = (u64::from(image.height()), u64::from(image.width()));
    let (to_h, to_w) = (height as u64, width as u64);
    if (h, w) == (to_h, to_w) {
        return image;
    }
    let round = |a: u64, b: u64| (a + b / 2) / b;
    let cut_h = round(w * to_h, to_w).clamp(1, h);
    let cut_w = round(h * to_w, to_h).clamp(1, w);
    let cut = image.crop_imm(((w - cut_w) / 2) as u32, ((h - cut_h) / 2) as u32, cut_w as u32, cut_h as u32);
    cut.resize_exact(width as u32, height as u32, FilterType::CatmullRom)
}

/// [`fit`] for the bytes of one image of `shape` [H, W, C], C 1 or 3.
pub(super) fn fit_bytes(bytes: &[u8], shape: [usize; 3], size: (usize, usize)) -> Vec<u8> {
    let [height, width, channels] = shape;
    let (h, w) = (height as u32, width as u32);
    let image = if channels == 1 {
        GrayImage::from_raw(w, h, bytes.to_vec()).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(w, h, bytes.to_vec()).map(DynamicImage::from)
    };
    fit(image.expect("the bytes of one image fill its shape"), size).into_bytes()
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
}
