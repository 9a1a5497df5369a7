//! Images to look at: grids as PNG, and animated grids as GIF.

use super::write_atomically;
use crate::error::{Error, Result};
use image::codecs::{gif, png::PngEncoder};
use image::{Delay, Frame, Rgb, RgbImage};
use ndarray::{Array4, ArrayView3, ArrayView4, Axis};
use std::io;
use std::path::Path;
use std::time::Duration;

/// Images smaller than this are enlarged by whole factors, so that 28x28 can be seen on a screen.
const SMALLEST_TILE: usize = 64;
/// Images are not enlarged where the longer side of the grid would exceed this.
const LARGEST_ENLARGED: usize = 4096;
/// No grid is larger than this on a side.
const LARGEST_SIDE: usize = 16_384;
/// Pixels between and around the images, in a grey that differs from black and from white backgrounds.
const GUTTER: usize = 2;
const GUTTER_COLOUR: Rgb<u8> = Rgb([96, 96, 96]);

/// The byte of a number in [-1, 1]: -1 is 0 and 1 is 255, rounded to the nearest; numbers outside are
/// clamped, and NaN is 0.
pub fn byte_from_unit(value: f32) -> u8 {
    ((f64::from(value) + 1.0) * 127.5).round() as u8
}

/// A grid of `images`, `[N, H, W, C]` in [-1, 1] with C 1 or 3, row by row, in `columns` columns (`None`:
/// about as many as rows), small images enlarged by a whole factor.
///
/// # Errors
/// [`Error::Invalid`] for no images, another number of channels, 0 columns, or a grid above 16384 pixels a
/// side.
pub fn grid(images: ArrayView4<'_, f32>, columns: Option<usize>) -> Result<RgbImage> {
    let (n, h, w, c) = images.dim();
    let columns = columns.unwrap_or_else(|| grid_columns(n, 0));
    if n == 0 || h == 0 || w == 0 || (c != 1 && c != 3) || columns == 0 {
        return Err(Error::invalid(
            "the images of a grid",
            "at least one image of 1 or 3 channels, at least one column",
            format!("{n} of {h}x{w} with {c} channel(s) in {columns} columns"),
            "",
        ));
    }
    let rows = n.div_ceil(columns);
    let sides = |scale: usize| {
        let side = |count: usize, size: usize| {
            size.saturating_mul(scale).saturating_add(GUTTER).saturating_mul(count).saturating_add(GUTTER)
        };
        (side(rows, h), side(columns, w))
    };
    let longest = |scale| sides(scale).0.max(sides(scale).1);
    let wanted = SMALLEST_TILE.div_ceil(h.max(w));
    let scale = (2..=wanted).rev().find(|&s| longest(s) <= LARGEST_ENLARGED).unwrap_or(1);
    let (height, width) = sides(scale);
    if height.max(width) > LARGEST_SIDE {
        return Err(Error::invalid(
            "a grid of images",
            format!("at most {LARGEST_SIDE} pixels a side"),
            format!("{height}x{width} for {n} images of {h}x{w} in {columns} columns"),
            "show fewer images",
        ));
    }
    let mut canvas = RgbImage::from_pixel(width as u32, height as u32, GUTTER_COLOUR);
    for (i, image) in images.outer_iter().enumerate() {
        let top = GUTTER + i / columns * (h * scale + GUTTER);
        let left = GUTTER + i % columns * (w * scale + GUTTER);
        draw(&mut canvas, image, (top, left), scale);
    }
    Ok(canvas)
}

/// The columns of a grid of so many images: as many as [`a_row_for_each`] gives images of `kinds` kinds, or
/// about as many as rows.
pub(crate) fn grid_columns(images: usize, kinds: usize) -> usize {
    if kinds > 1 && images > kinds { images.div_ceil(kinds) } else { (images as f64).sqrt().ceil() as usize }
}

/// One image of a [`grid`] of images of so many pixels (height, width) in `columns` columns, at its row and
/// column, without the enlargement. `None` where the picture is no such grid or ends before it.
pub(crate) fn tile(
    canvas: &RgbImage,
    (height, width): (u32, u32),
    columns: u32,
    (row, column): (u32, u32),
) -> Option<RgbImage> {
    let gutter = GUTTER as u32;
    let across = canvas.width().checked_sub(gutter)?.checked_div(columns)?.checked_sub(gutter)?;
    let scale = across.checked_div(width)?;
    let is_grid =
        scale > 0 && (across + gutter) * columns + gutter == canvas.width() && scale * width == across;
    let (top, left) = (gutter + row * (height * scale + gutter), gutter + column * (across + gutter));
    if !is_grid || column >= columns || top + height * scale > canvas.height() {
        return None;
    }
    Some(RgbImage::from_fn(width, height, |x, y| *canvas.get_pixel(left + x * scale, top + y * scale)))
}

/// Images of `kinds` kinds in turn, i of kind i mod kinds, in the order of a grid with a row for each kind,
/// and the grid's columns. The places that a shorter row leaves are black.
///
/// Where no kind has a second image, or there is but one kind, the images are left in their order.
pub fn a_row_for_each(images: ArrayView4<'_, f32>, kinds: usize) -> (Array4<f32>, Option<usize>) {
    let (n, h, w, c) = images.dim();
    if kinds < 2 || n <= kinds {
        return (images.to_owned(), None);
    }
    let columns = grid_columns(n, kinds);
    let mut rows = Array4::from_elem((kinds * columns, h, w, c), -1.0);
    for (i, image) in images.outer_iter().enumerate() {
        rows.index_axis_mut(Axis(0), i % kinds * columns + i / kinds).assign(&image);
    }
    (rows, Some(columns))
}

/// Draws one image, `[H, W, C]`, each pixel as a square of side `scale`.
fn draw(canvas: &mut RgbImage, image: ArrayView3<'_, f32>, (top, left): (usize, usize), scale: usize) {
    let (h, w, c) = image.dim();
    for y in 0..h * scale {
        for x in 0..w * scale {
            let channel = |k: usize| byte_from_unit(image[[y / scale, x / scale, k.min(c - 1)]]);
            let colour = Rgb([channel(0), channel(1), channel(2)]);
            canvas.put_pixel((left + x) as u32, (top + y) as u32, colour);
        }
    }
}

/// Writes the [`grid`] of `images` as a PNG file.
///
/// # Errors
/// Those of [`grid`], and [`Error::Write`].
pub fn write_png(path: &Path, images: ArrayView4<'_, f32>, columns: Option<usize>) -> Result<()> {
    let canvas = grid(images, columns)?;
    write_atomically(path, |file| canvas.write_with_encoder(PngEncoder::new(file)).map_err(io::Error::other))
}

/// Writes an animation that repeats for ever: the [`grid`] of each frame's images, `frame_time` long, the
/// last one held for `hold`. GIF times are in hundredths of a second.
///
/// # Errors
/// Those of [`grid`], [`Error::Invalid`] for no frames or frames of different shapes, and [`Error::Write`].
pub fn write_gif(
    path: &Path,
    frames: &[ArrayView4<'_, f32>],
    columns: Option<usize>,
    frame_time: Duration,
    hold: Duration,
) -> Result<()> {
    let Some(first) = frames.first() else {
        return Err(Error::invalid("an animation", "at least one frame", "none", ""));
    };
    if let Some(other) = frames.iter().find(|frame| frame.dim() != first.dim()) {
        return Err(Error::invalid(
            "the frames of an animation",
            format!("{:?} like the first", first.shape()),
            format!("{:?}", other.shape()),
            "",
        ));
    }
    let canvases = frames.iter().map(|&frame| grid(frame, columns)).collect::<Result<Vec<_>>>()?;
    let last = canvases.len() - 1;
    write_atomically(path, |file| {
        let mut encoder = gif::GifEncoder::new(file);
        encoder.set_repeat(gif::Repeat::Infinite).map_err(io::Error::other)?;
        let frames = canvases.into_iter().enumerate().map(|(i, canvas)| {
            let time = if i == last { hold } else { frame_time };
            let rgba = image::DynamicImage::from(canvas).into_rgba8();
            Frame::from_parts(rgba, 0, 0, Delay::from_saturating_duration(time))
        });
        encoder.encode_frames(frames).map_err(io::Error::other)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::AnimationDecoder;
    use ndarray::Array4;

    const PATH: &str = "picture";

    fn flat(n: usize, h: usize, w: usize, c: usize) -> Array4<f32> {
        Array4::from_shape_fn((n, h, w, c), |(n, _, _, c)| -1.0 + 0.1 * n as f32 + 0.3 * c as f32)
    }

    #[test]
    fn bytes_are_rounded_and_cut_off() {
        let cases = [(-1.0, 0), (1.0, 255), (0.0, 128), (-0.6, 51), (-7.0, 0), (7.0, 255), (f32::NAN, 0)];
        for (value, byte) in cases {
            assert_eq!(byte_from_unit(value), byte, "{value}");
        }
        for byte in 0..=255u8 {
            let unit = crate::data::unit_from_byte(byte) as f32;
            assert_eq!(byte_from_unit(unit), byte);
        }
    }

    /// Two 28x28 images side by side: gutter, 84 pixels of the first, gutter, the second, gutter.
    #[test]
    fn images_are_enlarged_and_stand_where_they_belong() {
        let mut images = flat(2, 28, 28, 1);
        images[[1, 27, 0, 0]] = 1.0;
        let canvas = grid(images.view(), None).unwrap();
        assert_eq!(canvas.dimensions(), (2 + 86 * 2, 2 + 86));
        let at = |x, y| canvas.get_pixel(x, y).0;
        assert_eq!([at(0, 0), at(1, 50), at(86, 50), at(87, 1), at(173, 87)], [GUTTER_COLOUR.0; 5]);
        assert_eq!([at(2, 2), at(85, 85)], [[0; 3]; 2]);
        assert_eq!([at(88, 2), at(171, 85)], [[13; 3]; 2]);
        assert_eq!([at(88, 83), at(90, 85)], [[255; 3]; 2]);
        assert_eq!([at(91, 85), at(88, 82)], [[13; 3]; 2]);
    }

    #[test]
    fn colours_rows_and_the_empty_last_place() {
        let images = flat(5, 40, 64, 3);
        let canvas = grid(images.view(), Some(2)).unwrap();
        assert_eq!(canvas.dimensions(), (2 + 66 * 2, 2 + 42 * 3));
        assert_eq!(canvas.get_pixel(2, 2).0, [0, 38, 77]);
        assert_eq!(canvas.get_pixel(68, 44).0, [0.3f32, 0.6, 0.9].map(|v| byte_from_unit(v - 1.0)));
        assert_eq!(canvas.get_pixel(2, 86).0, [0.4f32, 0.7, 1.0].map(|v| byte_from_unit(v - 1.0)));
        assert_eq!(*canvas.get_pixel(70, 90), GUTTER_COLOUR);
    }

    #[test]
    fn each_kind_has_a_row() {
        let images = Array4::from_shape_fn((7, 1, 1, 1), |(n, ..)| n as f32);
        let (rows, columns) = a_row_for_each(images.view(), 3);
        assert_eq!(columns, Some(3));
        assert_eq!(rows.iter().copied().collect::<Vec<_>>(), [0., 3., 6., 1., 4., -1., 2., 5., -1.]);
        for kinds in [0, 1, 7, 9] {
            assert_eq!(a_row_for_each(images.view(), kinds), (images.clone(), None));
        }
    }

    #[test]
    fn columns_and_scale_follow_the_number_and_size_of_images() {
        let size = |n, h, w, columns| grid(flat(n, h, w, 1).view(), columns).unwrap().dimensions();
        assert_eq!(size(16, 64, 64, None), (2 + 4 * 66, 2 + 4 * 66));
        assert_eq!(size(17, 64, 64, None), (2 + 5 * 66, 2 + 4 * 66));
        assert_eq!(size(1, 65, 3, None), (5 + 2, 65 + 4));
        assert_eq!(size(1, 1, 1, None), (64 + 4, 64 + 4));
        assert_eq!(size(2000, 28, 28, None).0, 2 + 45 * (3 * 28 + 2));
        assert_eq!(size(4000, 28, 28, None).0, 2 + 64 * (2 * 28 + 2), "enlarged less to stay within 4096");
        assert_eq!(size(20_000, 28, 28, None).0, 2 + 142 * 30);
    }

    #[test]
    fn what_cannot_be_shown_is_refused() {
        let refused = |images: Array4<f32>, columns, part: &str| {
            let message = grid(images.view(), columns).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(flat(0, 4, 4, 1), None, "0 of 4x4");
        refused(flat(1, 0, 4, 1), None, "1 of 0x4");
        refused(flat(1, 4, 0, 1), None, "1 of 4x0");
        refused(flat(1, 4, 4, 2), None, "2 channel(s)");
        refused(flat(1, 4, 4, 1), Some(0), "0 columns");
        refused(flat(600, 28, 28, 1), Some(600), "show fewer");
        refused(flat(600, 28, 28, 1), Some(1), "at most 16384");
        refused(flat(1, 4, 4, 1), Some(usize::MAX), "show fewer");
        let folder = tempfile::tempdir().unwrap();
        let gif = |frames: &[ArrayView4<f32>]| {
            let time = Duration::from_millis(40);
            write_gif(&folder.path().join(PATH), frames, None, time, time).unwrap_err().to_string()
        };
        assert!(gif(&[]).contains("at least one frame"));
        assert!(
            gif(&[flat(1, 4, 4, 1).view(), flat(2, 4, 4, 1).view()]).contains("[1, 4, 4, 1] like the first")
        );
    }

    #[test]
    fn a_png_file_holds_the_grid() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PATH);
        write_png(&path, flat(3, 8, 8, 3).view(), None).unwrap();
        let file = std::fs::read(&path).unwrap();
        let decoded = image::load_from_memory_with_format(&file, image::ImageFormat::Png).unwrap();
        assert_eq!(decoded.into_rgb8(), grid(flat(3, 8, 8, 3).view(), None).unwrap());
    }

    /// Grey frames have at most 256 colours, so the palette is exact.
    #[test]
    fn a_gif_file_holds_every_frame_and_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PATH);
        let (a, b) = (flat(2, 8, 8, 1), flat(2, 8, 8, 1) + 0.5);
        let (time, hold) = (Duration::from_millis(40), Duration::from_millis(1500));
        write_gif(&path, &[a.view(), b.view(), a.view()], Some(2), time, hold).unwrap();
        let file = io::BufReader::new(std::fs::File::open(&path).unwrap());
        let frames = gif::GifDecoder::new(file).unwrap().into_frames().collect_frames().unwrap();
        let times: Vec<Duration> = frames.iter().map(|f| Duration::from(f.delay())).collect();
        assert_eq!(times, [time, time, hold]);
        for (frame, images) in frames.iter().zip([&a, &b, &a]) {
            let canvas = image::DynamicImage::from(frame.buffer().clone()).into_rgb8();
            assert_eq!(canvas, grid(images.view(), Some(2)).unwrap());
        }
    }
}
