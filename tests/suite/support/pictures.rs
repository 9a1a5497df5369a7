//! Files of pictures, those among them that the image library cannot write.

use flate2::{Compression, write::ZlibEncoder};
use image::{DynamicImage, ImageFormat};
use std::io::Write;
use std::path::Path;

/// What a picture's file holds. The image library reads from memory in code of its own, and from a file in
/// code that every crate compiles again.
pub fn decoded(path: &Path) -> DynamicImage {
    let file = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    image::load_from_memory(&file).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A picture's file. GIF and WebP are written with alpha, which GIF has to have.
pub fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image: DynamicImage = image.into();
    let image = if format == ImageFormat::Gif { image.to_rgba8().into() } else { image };
    image.write_to(&mut bytes, format).expect("a picture");
    bytes.into_inner()
}

/// A PNG of `depth` bits a pixel, each the number of a colour; `rows` are the packed pixels of all rows, and
/// `alpha` that of the first colours.
pub fn palette_png(
    (width, height): (u32, u32),
    depth: u8,
    rows: &[u8],
    colours: &[[u8; 3]],
    alpha: &[u8],
) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        file.extend((data.len() as u32).to_be_bytes());
        let body = [kind, data].concat();
        file.extend(&body);
        file.extend(crc32fast::hash(&body).to_be_bytes());
    };
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    chunk(b"IHDR", &[&size[..], &[depth, 3, 0, 0, 0]].concat());
    chunk(b"PLTE", &colours.concat());
    if !alpha.is_empty() {
        chunk(b"tRNS", alpha);
    }
    let mut pixels = ZlibEncoder::new(Vec::new(), Compression::default());
    for row in rows.chunks(rows.len() / height as usize) {
        pixels.write_all(&[0]).and_then(|()| pixels.write_all(row)).expect("memory");
    }
    chunk(b"IDAT", &pixels.finish().expect("memory"));
    chunk(b"IEND", &[]);
    file
}

/// A JPEG with a note of how the camera was held, 1 to 8.
pub fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0".to_vec();
    exif[25] = orientation;
    let mut turned = jpeg[..2].to_vec();
    turned.extend([0xff, 0xe1]);
    turned.extend((exif.len() as u16 + 2).to_be_bytes());
    turned.extend(exif);
    turned.extend(&jpeg[2..]);
    turned
}

/// A JPEG of 8x8 pixels in one colour of four components, as Adobe's programs store them (255 less the ink):
/// one block for each component, whose mean is its only coefficient.
pub fn cmyk_jpeg(stored: [u8; 4]) -> Vec<u8> {
    let mut file = vec![0xff, 0xd8];
    let mut segment = |marker: u8, data: &[u8]| {
        file.extend([0xff, marker]);
        file.extend((data.len() as u16 + 2).to_be_bytes());
        file.extend(data);
    };
    segment(0xee, b"Adobe\0\x64\0\0\0\0\0");
    segment(0xdb, &[&[0][..], &[1; 64]].concat());
    let components = |per: fn(u8) -> Vec<u8>| (1..=4).flat_map(per).collect::<Vec<u8>>();
    segment(0xc0, &[&[8, 0, 8, 0, 8, 4][..], &components(|id| vec![id, 0x11, 0])].concat());
    // Twelve codes of four bits for the lengths 0 to 11 of a mean; the code 0 for the end of a block.
    let mut lengths = [0; 16];
    lengths[3] = 12;
    segment(0xc4, &[&[0x00][..], &lengths, &(0..12).collect::<Vec<u8>>()].concat());
    let mut lengths = [0; 16];
    lengths[0] = 1;
    segment(0xc4, &[&[0x10][..], &lengths, &[0]].concat());
    segment(0xda, &[&[4][..], &components(|id| vec![id, 0]), &[0, 63, 0]].concat());
    let mut bits = Vec::new();
    let mut push = |value: u32, count: u32| bits.extend((0..count).rev().map(|i| value >> i & 1 == 1));
    for value in stored {
        let mean = 8 * (i32::from(value) - 128);
        let length = 32 - mean.unsigned_abs().leading_zeros();
        push(length, 4);
        push((if mean < 0 { mean - 1 } else { mean }) as u32, length);
        push(0, 1);
    }
    bits.resize(bits.len().next_multiple_of(8), true);
    for byte in bits.chunks(8) {
        let byte = byte.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        file.push(byte);
        if byte == 0xff {
            file.push(0);
        }
    }
    file.extend([0xff, 0xd9]);
    file
}
