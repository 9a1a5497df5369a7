//! What a file is, by its first bytes; its ending only tells what it claims to be.

use image::ImageFormat;
use std::path::Path;

/// The most bytes that [`Kind::of`] looks at.
pub(super) const HEAD: usize = 64;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A picture in a format that is read here.
    Picture(ImageFormat),
    /// A picture in a format that is not read here.
    Foreign(&'static str),
    /// Something that the ending calls a picture: what it is instead.
    Impostor(&'static str),
    /// Anything else.
    Other,
}

/// First bytes of pictures that no reader here knows, from their offsets.
const FOREIGN: [(usize, &[u8], &str); 15] = [
    (4, b"ftypavif", "an AVIF picture"),
    (4, b"ftypavis", "an AVIF picture"),
    (4, b"ftypheic", "a HEIC picture"),
    (4, b"ftypheix", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIC picture"),
    (4, b"ftypmsf1", "a HEIC picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (0, b"8BPS\0\x01", "a Photoshop document"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (0, b"qoif", "a QOI picture"),
    (0, b"II+\0", "a BigTIFF picture"),
];

/// First bytes of what is found under the names of pictures.
const IMPOSTORS: [(&[u8], &str); 6] = [
    (b"version https://git-lfs", "a Git LFS pointer, in whose place `git lfs pull` puts the picture"),
    (b"<!DOCTYPE", "a web page"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an XML text"),
    (b"<svg", "an SVG drawing"),
];

/// Endings of pictures that the image library has no format for.
const ENDINGS: [&str; 5] = ["heic", "heif", "jxl", "jp2", "jfif"];

impl Kind {
    /// What a file is, from at least its first [`HEAD`] bytes, or all if it has fewer.
    pub(super) fn of(path: &Path, head: &[u8]) -> Kind {
        if let Some(format) = format(head) {
            return Kind::Picture(format);
        }
        let starts = |at: usize, bytes: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(bytes));
        if let Some((_, _, name)) = FOREIGN.into_iter().find(|(at, bytes, _)| starts(*at, bytes)) {
            return Kind::Foreign(name);
        }
        if !claims_to_be_a_picture(path) {
            return Kind::Other;
        }
        let known = IMPOSTORS.into_iter().find(|(bytes, _)| starts(0, bytes));
        match known {
            Some((_, what)) => Kind::Impostor(what),
            None if head.is_empty() => Kind::Impostor("an empty file"),
            None if is_text(head) => Kind::Impostor("a text"),
            None if names_a_foreign_format(path) => Kind::Foreign("a picture by its ending"),
            None => Kind::Impostor("bytes of no known kind of picture"),
        }
    }
}

/// The format of a picture that is read here. Where two bytes are all that begins a format, more is asked
/// for: texts begin with "BM" and "P1" too.
fn format(head: &[u8]) -> Option<ImageFormat> {
    let format = image::guess_format(head).ok().filter(ImageFormat::reading_enabled)?;
    let fits = match format {
        // The header's own length, by the format's versions.
        ImageFormat::Bmp => {
            head.len() < 18 || matches!(head[14..18], [12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0])
        }
        ImageFormat::Pnm => head.get(2).is_some_and(u8::is_ascii_whitespace),
        _ => true,
    };
    fits.then_some(format)
}

fn claims_to_be_a_picture(path: &Path) -> bool {
    let Some(ending) = path.extension() else { return false };
    let by_name = ImageFormat::from_extension(ending).is_some();
    by_name || ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

fn names_a_foreign_format(path: &Path) -> bool {
    let format = path.extension().and_then(ImageFormat::from_extension);
    format.is_some_and(|format| !format.reading_enabled())
}

fn is_text(head: &[u8]) -> bool {
    head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
}

/// The ending of a file that is passed over, as it is counted: ".txt".
pub(super) fn ending(path: &Path) -> String {
    match path.extension() {
        Some(ending) => format!(".{}", ending.to_string_lossy().to_lowercase()),
        None => "without an ending".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_says_what_a_file_is_and_the_ending_what_it_claims_to_be() {
        let bmp = [&b"BM"[..], &[0; 12], &[40, 0, 0, 0], &[0; 40]].concat();
        for (name, head, kind) in [
            ("a.jpg", &b"\x89PNG\r\n\x1a\n...."[..], Kind::Picture(ImageFormat::Png)),
            ("noending", b"GIF89a", Kind::Picture(ImageFormat::Gif)),
            ("a.bmp", &bmp, Kind::Picture(ImageFormat::Bmp)),
            ("a.PPM", b"P6\n2 2 255\n", Kind::Picture(ImageFormat::Pnm)),
            ("a.txt", b"BMW and other makers of motor cars", Kind::Other),
            ("a.txt", b"P1A", Kind::Other),
            ("a.jpg", b"\0\0\0\x18ftypheic\0\0\0\0", Kind::Foreign("a HEIC picture")),
            ("a", b"\xff\x0a...", Kind::Foreign("a JPEG XL picture")),
            ("a.JPG", b"", Kind::Impostor("an empty file")),
            ("a.tif", b"hello there", Kind::Impostor("a text")),
            ("a.webp", b"<!DOCTYPE html>", Kind::Impostor("a web page")),
            ("a.heic", b"\0\0\0\0", Kind::Impostor("bytes of no known kind of picture")),
            ("a.tga", b"\0\0\x02\0", Kind::Foreign("a picture by its ending")),
            ("a.csv", b"1,2,3", Kind::Other),
            ("", b"", Kind::Other),
        ] {
            assert_eq!(Kind::of(Path::new(name), head), kind, "{name}");
        }
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:...";
        assert!(
            matches!(Kind::of(Path::new("a.png"), pointer), Kind::Impostor(what) if what.contains("LFS"))
        );
        assert_eq!(
            (ending(Path::new("a.TXT")), ending(Path::new("b"))),
            (".txt".into(), "without an ending".into())
        );
    }
}
