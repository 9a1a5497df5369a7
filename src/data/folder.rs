//! Folders of images: PNG, JPEG, GIF, BMP.

use super::{Dataset, Datasets, Labels, dataset::check_size, entries, file_name, jpeg, resize};
use crate::error::{Error, Result};
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, metadata::Orientation};
use rayon::prelude::*;
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// The largest side of an image file. Decoded pixels take at most [`MAX_DECODED`] bytes.
const MAX_FILE_SIDE: u32 = 16_384;
const MAX_DECODED: u64 = 1 << 30;

/// Images directly in `folder` or in class sub-folders, or in its sub-folders `train` and `test`.
pub(super) fn load(folder: &Path, size: Option<(usize, usize)>) -> Result<Datasets> {
    let name = file_name(folder);
    let (train, test) = (folder.join("train"), folder.join("test"));
    if train.is_dir() {
        let test = if test.is_dir() { Some(dataset(&test, &name, size)?) } else { None };
        return Datasets::new(dataset(&train, &name, size)?, test);
    }
    Datasets::new(dataset(folder, &name, size)?, None)
}

fn dataset(folder: &Path, name: &str, size: Option<(usize, usize)>) -> Result<Dataset> {
    let (files, labels) = list(folder)?;
    let headers: Vec<Result<Header>> = files.par_iter().map(|file| header(file)).collect();
    let headers: Vec<Header> = headers.into_iter().collect::<Result<_>>()?;
    let first = &headers[0];
    let (height, width) = size.unwrap_or((first.height as usize, first.width as usize));
    check_size(&folder.display().to_string(), (height, width))?;
    if size.is_none() {
        for (file, header) in files.iter().zip(&headers) {
            if (header.height, header.width) != (first.height, first.width) {
                return Err(Error::invalid(
                    file.display().to_string(),
                    format!("{height}x{width} like {} (height x width)", file_name(&files[0])),
                    format!("{}x{}", header.height, header.width),
                    "images of several sizes need one to be resized and cut to: give a `size`",
                ));
            }
        }
    }
    let channels = if headers.iter().all(|h| h.grey) { 1 } else { 3 };
    let each = height * width * channels;
    let mut pixels = Vec::new();
    let total = each.saturating_mul(files.len());
    if pixels.try_reserve_exact(total).is_err() {
        return Err(Error::invalid(
            format!("{}: {} images of {height}x{width}", folder.display(), files.len()),
            "images that fit into memory",
            format!("{total} bytes"),
            "give a smaller `size`",
        ));
    }
    pixels.resize(total, 0);
    let failed = pixels
        .par_chunks_exact_mut(each)
        .zip(&files)
        .find_map_first(|(out, file)| decode(file, channels, (height, width), out).err());
    match failed {
        Some(error) => Err(error),
        None => Dataset::new(name, [height, width, channels], pixels, labels, true),
    }
}

/// The images in order, with labels where they are in sub-folders: these are the classes.
fn list(folder: &Path) -> Result<(Vec<PathBuf>, Option<Labels>)> {
    let (files, folders) = entries(folder)?;
    let direct = images(files)?;
    let mut classes = Vec::new();
    for sub in &folders {
        let inside = images(entries(sub)?.0)?;
        if !inside.is_empty() {
            classes.push((file_name(sub), inside));
        }
    }
    match (direct.is_empty(), classes.is_empty()) {
        (false, true) => Ok((direct, None)),
        (true, false) => {
            let labels = Labels::sorted(classes.iter().map(|(name, files)| (name.clone(), files.len())));
            Ok((classes.into_iter().flat_map(|(_, files)| files).collect(), Some(labels)))
        }
        (true, true) => Err(Error::invalid(
            folder.display().to_string(),
            "IDX files (train-images-idx3-ubyte, plain or .gz), CIFAR-10's binary batches (data_batch_1.bin, \
             ...) or images (PNG, JPEG, GIF, BMP) in it or in one sub-folder per class",
            "none of them",
            "give the folder that holds the files themselves",
        )),
        (false, false) => Err(Error::invalid(
            folder.display().to_string(),
            "images either in it or in one sub-folder per class",
            "both",
            "give one of the sub-folders, or move the images that lie beside them",
        )),
    }
}

/// The images among `files`. Other files (texts, tables) are skipped, but an image format that cannot be read
/// is an error: otherwise the user would train on a part of the images without knowing.
fn images(files: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for file in files {
        match file.extension().and_then(ImageFormat::from_extension) {
            Some(format) if format.reading_enabled() => images.push(file),
            Some(_) => {
                return Err(Error::invalid(
                    file.display().to_string(),
                    "PNG, JPEG, GIF or BMP images",
                    "an image in a format that is not read here",
                    "convert it to PNG or take it out of the folder",
                ));
            }
            None => {}
        }
    }
    Ok(images)
}

/// The header of a file, with its orientation (as noted by the camera) taken into account.
pub(super) struct Header {
    pub(super) height: u32,
    pub(super) width: u32,
    grey: bool,
}

pub(super) fn header(path: &Path) -> Result<Header> {
    let bad = |e: image::ImageError| unreadable(path, &e.to_string());
    let mut decoder = open(path)?.into_decoder().map_err(bad)?;
    let (w, h) = decoder.dimensions();
    let (width, height) = if turned(decoder.orientation().map_err(bad)?) { (h, w) } else { (w, h) };
    if height == 0 || width == 0 {
        return Err(unreadable(path, &format!("{height}x{width} pixels")));
    }
    let grey =
        matches!(decoder.color_type(), ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16);
    Ok(Header { height, width, grey })
}

fn turned(orientation: Orientation) -> bool {
    use Orientation::*;
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Decodes into `out`, `[H, W, C]`.
pub(super) fn decode(
    path: &Path,
    channels: usize,
    (height, width): (usize, usize),
    out: &mut [u8],
) -> Result<()> {
    let bad = |e: image::ImageError| unreadable(path, &e.to_string());
    let reader = open(path)?;
    let format = reader.format();
    let mut decoder = reader.into_decoder().map_err(bad)?;
    let orientation = decoder.orientation().map_err(bad)?;
    if decoder.total_bytes() > MAX_DECODED {
        return Err(unreadable(path, &format!("{} bytes of pixels", decoder.total_bytes())));
    }
    let mut image = DynamicImage::from_decoder(decoder).map_err(bad)?;
    if format == Some(ImageFormat::Jpeg)
        && !jpeg::is_whole(&std::fs::read(path).map_err(|e| Error::read(path, e))?)
    {
        return Err(unreadable(path, "a JPEG file that is cut short"));
    }
    image.apply_orientation(orientation);
    let image = resize::fit(flat(image, channels), (height, width));
    if image.as_bytes().len() != out.len() {
        return Err(unreadable(path, "a file that changed while it was read"));
    }
    out.copy_from_slice(image.as_bytes());
    Ok(())
}

/// Eight bits a channel, `channels` of them; transparent parts become white.
fn flat(mut image: DynamicImage, channels: usize) -> DynamicImage {
    if image.color().has_alpha() {
        let mut rgba = image.into_rgba8();
        for pixel in rgba.pixels_mut() {
            let [r, g, b, alpha] = pixel.0;
            let over_white = |c: u8| {
                let alpha = u32::from(alpha);
                ((u32::from(c) * alpha + 255 * (255 - alpha) + 127) / 255) as u8
            };
            pixel.0 = [over_white(r), over_white(g), over_white(b), 255];
        }
        image = rgba.into();
    }
    if channels == 1 { image.into_luma8().into() } else { image.into_rgb8().into() }
}

/// A reader, limited in size, that recognises the format by the file's first bytes, or else by its name.
fn open(path: &Path) -> Result<ImageReader<impl BufRead + std::io::Seek>> {
    let mut reader = ImageReader::open(path)
        .and_then(ImageReader::with_guessed_format)
        .map_err(|e| Error::read(path, e))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_FILE_SIDE);
    limits.max_image_height = Some(MAX_FILE_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    reader.limits(limits);
    Ok(reader)
}

fn unreadable(path: &Path, got: &str) -> Error {
    Error::invalid(
        path.display().to_string(),
        format!("a whole image of at most {MAX_FILE_SIDE} pixels a side"),
        got,
        "repair the file or take it out of the folder",
    )
}
