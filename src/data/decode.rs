//! One picture: what its header says, and its pixels as they are trained on.

use super::kind::{HEAD, Kind, ending};
use super::{frames, jpeg, resize};
use crate::config::Background;
use crate::disk::{self, DiskFile};
use crate::error::{Error, Result};
use crate::machine;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use image::{Rgb, metadata::Orientation};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The largest side of a picture's file. Decoded pixels take at most [`MAX_DECODED`] bytes, and less where
/// there is less memory.
const MAX_FILE_SIDE: u32 = 16_384;
const MAX_DECODED: u64 = 1 << 30;

/// Copies of a picture's pixels that are there at a time: as decoded, turned, and without transparency.
const COPIES: u64 = 3;

/// Bytes of pixels from which on a picture counts as large: of these one at a time is decoded, so that a
/// folder of them takes no more memory on many threads than on one.
const LARGE: u64 = 1 << 26;
static ONE_LARGE_PICTURE: Mutex<()> = Mutex::new(());

/// How much of a file's beginning and of its end a change is noticed in.
const ENDS: u64 = 1 << 16;

/// What is known of a picture before it is decoded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Picture {
    pub(super) path: PathBuf,
    pub(super) format: ImageFormat,
    /// After turning it as the camera noted.
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) is_grey: bool,
    pub(super) has_alpha: bool,
    /// Whether the camera noted that it is to be turned or mirrored.
    pub(super) is_turned: bool,
    /// Whether a sample has more than eight bits.
    pub(super) is_deep: bool,
    /// Whether the file holds more pages or frames, of which this is the first.
    pub(super) has_more: bool,
    /// The file's length in bytes.
    pub(super) length: u64,
    /// CRC-32 of its first and its last [`ENDS`] bytes.
    pub(super) crc: u32,
}

/// A file of a folder.
pub(super) enum Found {
    Picture(Picture),
    /// Something else, by its ending.
    Other(String),
}

/// Why a file that is a picture, or has a picture's ending, cannot be used.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) path: PathBuf,
    pub(super) why: String,
}

impl Bad {
    fn new(path: &Path, why: impl ToString) -> Bad {
        Bad { path: path.to_path_buf(), why: why.to_string() }
    }

    /// The error about this file alone.
    pub(super) fn error(self) -> Error {
        Error::invalid(self.path.display().to_string(), expected(), self.why, HELP)
    }
}

/// What a file has to be.
pub(super) fn expected() -> String {
    format!("a whole picture of at most {MAX_FILE_SIDE} pixels a side")
}

/// What to do about one that is not.
pub(super) const HELP: &str = "repair the file or take it out of the folder";

/// Looks at a file's content: at a picture's header, not at its pixels.
pub(super) fn inspect(path: &Path) -> Result<Found, Bad> {
    let bad = |why: &dyn std::fmt::Display| Bad::new(path, why);
    let mut file = DiskFile::open(path).map_err(|e| bad(&e))?;
    let (length, crc, head) = ends(&mut file).map_err(|e| bad(&e))?;
    let format = match Kind::of(path, &head[..head.len().min(HEAD)]) {
        Kind::Picture(format) => format,
        Kind::Other => return Ok(Found::Other(ending(path))),
        Kind::Impostor(what) => return Err(bad(&what)),
        Kind::Foreign(what) => {
            return Err(bad(&format!("{what}, a format that is not read here: convert it to PNG")));
        }
    };
    let mut decoder = open(path, format).map_err(|e| bad(&e))?.into_decoder().map_err(|e| bad(&why(e)))?;
    let (w, h) = decoder.dimensions();
    let orientation = decoder.orientation().map_err(|e| bad(&why(e)))?;
    let (width, height) = if swaps_sides(orientation) { (h, w) } else { (w, h) };
    if height == 0 || width == 0 {
        return Err(bad(&format!("{height}x{width} pixels")));
    }
    check_bytes(&decoder).map_err(|why| bad(&why))?;
    let colour = decoder.color_type();
    drop(decoder);
    let has_more = frames::has_more(format, BufReader::new(DiskFile::open(path).map_err(|e| bad(&e))?));
    Ok(Found::Picture(Picture {
        path: path.to_path_buf(),
        format,
        height,
        width,
        is_grey: matches!(colour, ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16),
        has_alpha: colour.has_alpha(),
        is_turned: orientation != Orientation::NoTransforms,
        is_deep: colour.bytes_per_pixel() > colour.channel_count(),
        has_more,
        length,
        crc,
    }))
}

/// Refuses a picture whose pixels the memory does not hold: a file of a few bytes may claim a huge canvas.
fn check_bytes(decoder: &impl ImageDecoder) -> Result<(), String> {
    let bytes = decoder.total_bytes();
    if bytes < LARGE {
        return Ok(());
    }
    let most = machine::available().map_or(MAX_DECODED, |free| MAX_DECODED.min(free / COPIES));
    if bytes <= most {
        return Ok(());
    }
    let (w, h) = decoder.dimensions();
    Err(format!("{h}x{w} pixels, {} MiB when decoded, of at most {} MiB", bytes >> 20, most >> 20))
}

/// Why a file cannot be decoded. What the image library does not know may be whole.
fn why(error: image::ImageError) -> String {
    match error {
        image::ImageError::Unsupported(error) => {
            format!("a kind of picture that is not read here: convert it to PNG ({error})")
        }
        other => other.to_string(),
    }
}

/// A file's length, the CRC-32 of its ends, and its first bytes.
fn ends(file: &mut DiskFile) -> std::io::Result<(u64, u32, Vec<u8>)> {
    let length = file.file().metadata()?.len();
    let mut head = Vec::new();
    file.by_ref().take(ENDS).read_to_end(&mut head)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    let after = length.saturating_sub(ENDS).max(head.len() as u64);
    if after < length {
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(after))?;
        file.take(ENDS).read_to_end(&mut tail)?;
        crc.update(&tail);
    }
    Ok((length, crc.finalize(), head))
}

fn swaps_sides(orientation: Orientation) -> bool {
    use Orientation::*;
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// What pixels are made of every picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    /// Height and width.
    pub(super) size: (usize, usize),
    /// 1 or 3.
    pub(super) channels: usize,
    pub(super) background: Background,
}

impl Recipe {
    /// Bytes of one image.
    pub(super) fn len(&self) -> usize {
        self.size.0 * self.size.1 * self.channels
    }
}

/// The pixels of a picture, \[H, W, C\].
pub(super) fn decode(path: &Path, format: ImageFormat, recipe: &Recipe) -> Result<Box<[u8]>, Bad> {
    let (image, _alone) = read_as(path, format)?;
    let image = flat(image, recipe.channels, recipe.background);
    Ok(resize::fit(image, recipe.size).into_bytes().into_boxed_slice())
}

/// Holds other large pictures back.
type Alone = Option<MutexGuard<'static, ()>>;

/// The picture in a file of a known format, turned as the camera noted; a large one keeps others waiting.
fn read_as(path: &Path, format: ImageFormat) -> Result<(DynamicImage, Alone), Bad> {
    let bad = |why: &dyn std::fmt::Display| Bad::new(path, why);
    let mut decoder = open(path, format).map_err(|e| bad(&e))?.into_decoder().map_err(|e| bad(&why(e)))?;
    let orientation = decoder.orientation().map_err(|e| bad(&why(e)))?;
    check_bytes(&decoder).map_err(|why| bad(&why))?;
    let is_large = decoder.total_bytes() >= LARGE;
    let alone = is_large.then(|| ONE_LARGE_PICTURE.lock().unwrap_or_else(PoisonError::into_inner));
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| bad(&why(e)))?;
    if format == ImageFormat::Jpeg && !jpeg::is_whole(&disk::read(path).map_err(|e| bad(&e))?) {
        return Err(bad(&"a JPEG file that is cut short"));
    }
    image.apply_orientation(orientation);
    Ok((image, alone))
}

/// Eight bits a channel, `channels` of them; transparent parts are put on the background.
pub(super) fn flat(image: DynamicImage, channels: usize, background: Background) -> DynamicImage {
    let opaque = opaque(image, background);
    if channels == 1 { opaque.into_luma8().into() } else { opaque.into_rgb8().into() }
}

/// The same without transparency.
fn opaque(image: DynamicImage, background: Background) -> DynamicImage {
    if !image.color().has_alpha() {
        return image;
    }
    let rgba = image.into_rgba8();
    let over = |colour: u8, below: u8, alpha: u8| {
        let (colour, below, alpha) = (u32::from(colour), u32::from(below), u32::from(alpha));
        ((colour * alpha + below * (255 - alpha) + 127) / 255) as u8
    };
    let [below_r, below_g, below_b] = background.0;
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, alpha] = rgba.get_pixel(x, y).0;
        Rgb([over(r, below_r, alpha), over(g, below_g, alpha), over(b, below_b, alpha)])
    })
    .into()
}

/// A reader, limited in size, of a known format.
fn open(path: &Path, format: ImageFormat) -> std::io::Result<ImageReader<impl BufRead + Seek>> {
    let mut reader = ImageReader::with_format(BufReader::new(DiskFile::open(path)?), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_FILE_SIDE);
    limits.max_image_height = Some(MAX_FILE_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    reader.limits(limits);
    Ok(reader)
}
