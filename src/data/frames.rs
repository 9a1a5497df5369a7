//! Whether a file holds more than one picture: pages of a TIFF file, frames of an animation. The first is
//! what is taken of it.

use image::ImageFormat;
use image::codecs::{png::PngDecoder, webp::WebPDecoder};
use std::io::{BufRead, Seek};

/// Whether the file holds more than one. A file that is damaged holds none that could be counted: decoding it
/// says what is wrong.
pub(super) fn has_more(format: ImageFormat, file: impl BufRead + Seek) -> bool {
    match format {
        ImageFormat::Tiff => tiff::decoder::Decoder::new(file).is_ok_and(|decoder| decoder.more_images()),
        ImageFormat::Gif => {
            let mut options = gif::DecodeOptions::new();
            options.skip_frame_decoding(true);
            let Ok(mut frames) = options.read_info(file) else { return false };
            let mut another = || matches!(frames.next_frame_info(), Ok(Some(_)));
            another() && another()
        }
        ImageFormat::Png => PngDecoder::new(file).is_ok_and(|decoder| decoder.is_apng().unwrap_or(false)),
        ImageFormat::WebP => WebPDecoder::new(file).is_ok_and(|decoder| decoder.has_animation()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Frame, RgbaImage, codecs::gif::GifEncoder};
    use std::io::Cursor;

    #[test]
    fn an_animation_has_more_than_its_first_frame() {
        let gif = |count: usize| {
            let mut bytes = Vec::new();
            let frames = (0..count).map(|_| Frame::new(RgbaImage::new(3, 2)));
            GifEncoder::new(&mut bytes).encode_frames(frames).unwrap();
            bytes
        };
        let says = |bytes: &[u8]| has_more(ImageFormat::Gif, Cursor::new(bytes));
        assert!(!says(&gif(1)) && says(&gif(2)));
        assert!(!says(&gif(2)[..20]), "a damaged one");
    }

    #[test]
    fn pages_are_counted() {
        let tiff = |pages: usize| {
            let mut bytes = Cursor::new(Vec::new());
            let mut encoder = tiff::encoder::TiffEncoder::new(&mut bytes).unwrap();
            for _ in 0..pages {
                encoder.write_image::<tiff::encoder::colortype::Gray8>(2, 2, &[0, 1, 2, 3]).unwrap();
            }
            bytes.into_inner()
        };
        let says = |pages| has_more(ImageFormat::Tiff, Cursor::new(tiff(pages)));
        assert!(!says(1) && says(2));
    }
}
