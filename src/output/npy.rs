//! NumPy's `.npy` files of 32-bit floats in C order: format 1.0 written; 1.0, 2.0 and 3.0 read.
//!
//! Written here rather than taken from a crate: the crates for it bring a parser generator for the one line
//! of the header (a third of this project's own build time), and allocate what a damaged header asks for.

use super::write_atomically;
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use ndarray::{Array, ArrayView, Dimension, IxDyn};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The longest header read; NumPy itself refuses longer ones.
const MAX_HEADER: u32 = 10_000;
/// The data begins at a multiple of this.
const ALIGNMENT: usize = 64;

/// Writes `array` as f32 in its logical order, whatever its layout in memory; images go out as
/// `[N, C, H, W]`.
///
/// # Errors
/// [`Error::Write`] where the file cannot be written; what was there before is then unchanged.
pub fn write_npy<D: Dimension>(path: &Path, array: ArrayView<'_, f32, D>) -> Result<()> {
    write_atomically(path, |file| {
        file.write_all(&header(array.shape()))?;
        array.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))
    })
}

/// Reads an f32 array with as many dimensions as `D` has.
///
/// # Errors
/// [`Error::Read`] where the file cannot be read; [`Error::Invalid`] where it is no `.npy` file of
/// little-endian f32 in C order, has another number of dimensions, is cut short or too long, or holds a NaN
/// or an infinity.
pub fn read_npy<D: Dimension>(path: &Path) -> Result<Array<f32, D>> {
    let what = path.display().to_string();
    let read = |e| Error::read(path, e);
    let mut file = BufReader::new(DiskFile::open(path).map_err(read)?);
    let text = read_header(&mut file).map_err(read)?.ok_or_else(|| {
        Error::invalid(
            &what,
            "a NumPy array file (.npy)",
            "something else, or a file cut short in its header",
            "numpy.save writes one",
        )
    })?;
    let shape = parse_header(&what, &text)?;
    let total = shape.iter().try_fold(4, |n: u64, &d| n.checked_mul(d as u64));
    let mut bytes = Vec::new();
    file.by_ref().take(total.unwrap_or(u64::MAX)).read_to_end(&mut bytes).map_err(read)?;
    let rest = file.read(&mut [0]).map_err(read)?;
    if Some(bytes.len() as u64) != total || rest > 0 {
        return Err(Error::invalid(
            &what,
            format!("4 bytes for each of the {shape:?} numbers in its header"),
            format!("{}{} bytes", if rest > 0 { "more than " } else { "" }, bytes.len()),
            "the file is cut short or damaged; write it again",
        ));
    }
    let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let wrong_rank = || {
        Error::invalid(
            &what,
            format!("an array of {} dimensions", D::NDIM.unwrap_or_default()),
            format!("shape {shape:?}"),
            "images are [N, C, H, W]",
        )
    };
    let array = Array::from_shape_vec(IxDyn(&shape), values).map_err(|_| wrong_rank())?;
    if let Some((at, value)) = array.indexed_iter().find(|(_, value)| !value.is_finite()) {
        return Err(Error::invalid(
            format!("{what}: element {:?}", at.slice()),
            "a finite number",
            value.to_string(),
            "numpy.isfinite shows which are not",
        ));
    }
    array.into_dimensionality().map_err(|_| wrong_rank())
}

fn header(shape: &[usize]) -> Vec<u8> {
    let tuple = match shape {
        // Python's tuple of one element.
        [only] => format!("{only},"),
        _ => shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    };
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", tuple);
    const BEFORE_TEXT: usize = 10;
    let total = (BEFORE_TEXT + text.len() + 1).next_multiple_of(ALIGNMENT);
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend(((total - BEFORE_TEXT) as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(total - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// The header's text, or `None` where the file is no `.npy` file.
fn read_header(file: &mut impl Read) -> io::Result<Option<String>> {
    let mut start = Vec::new();
    file.take(MAGIC.len() as u64 + 2).read_to_end(&mut start)?;
    let length_bytes = match start.strip_prefix(MAGIC) {
        Some([1, 0]) => 2,
        Some([2 | 3, 0]) => 4,
        _ => return Ok(None),
    };
    let mut length = Vec::new();
    file.take(length_bytes).read_to_end(&mut length)?;
    length.resize(4, 0);
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
    let mut text = Vec::new();
    file.take(u64::from(length.min(MAX_HEADER))).read_to_end(&mut text)?;
    Ok(String::from_utf8(text).ok().filter(|text| text.len() == length as usize))
}

/// The shape from a header such as `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
fn parse_header(what: &str, text: &str) -> Result<Vec<usize>> {
    let value = |key: &str| {
        let (_, after) = text.split_once(&format!("'{key}':"))?;
        Some(after.trim_start())
    };
    let refuse = |part: &str, expected: &str, got: &str, help: &str| {
        Err(Error::invalid(format!("{what}: {part}"), expected, got.trim_end_matches(['}', ' ', '\n']), help))
    };
    let descr = value("descr").unwrap_or_default();
    if !descr.starts_with("'<f4'") {
        let got = descr.split(',').next().unwrap_or_default();
        return refuse("the numbers' type", "'<f4' (32-bit floats)", got, "array.astype('<f4') converts");
    }
    let order = value("fortran_order").unwrap_or_default();
    if !order.starts_with("False") {
        return refuse("the order", "C order (rows)", "Fortran order", "numpy.ascontiguousarray converts");
    }
    let tuple = value("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')'));
    let numbers = tuple.and_then(|(inside, _)| {
        let inside = inside.trim().strip_suffix(',').unwrap_or(inside.trim());
        if inside.is_empty() {
            return Some(Vec::new());
        }
        inside.split(',').map(|d| d.trim().parse().ok()).collect()
    });
    match numbers {
        Some(shape) => Ok(shape),
        None => refuse("the shape", "a tuple of numbers", value("shape").unwrap_or_default(), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array4, Ix1, Ix4, Ix5, arr0, arr1};
    use proptest::prelude::*;

    fn path() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        (folder, path)
    }

    fn counting() -> Array4<f32> {
        Array4::from_shape_fn((2, 3, 4, 5), |(n, c, h, w)| (1000 * n + 100 * c + 10 * h + w) as f32 - 0.5)
    }

    /// Writes bytes and reads them as four dimensions.
    fn read(bytes: &[u8]) -> Result<Array4<f32>> {
        let (_folder, path) = path();
        std::fs::write(&path, bytes).unwrap();
        read_npy::<Ix4>(&path)
    }

    fn refused(bytes: &[u8], parts: &[&str]) {
        let message = read(bytes).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    }

    fn bytes_of(array: &Array4<f32>) -> Vec<u8> {
        let (_folder, path) = path();
        write_npy(&path, array.view()).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn arrays_come_back_and_a_transposed_view_is_written_in_its_own_order() {
        let (_folder, path) = path();
        write_npy(&path, counting().view()).unwrap();
        assert_eq!(read_npy::<Ix4>(&path).unwrap(), counting());
        let nchw = counting().permuted_axes([0, 3, 1, 2]);
        write_npy(&path, nchw.view()).unwrap();
        let back = read_npy::<Ix4>(&path).unwrap();
        assert_eq!((back.dim(), back[[1, 4, 2, 3]]), ((2, 5, 3, 4), counting()[[1, 2, 3, 4]]));
        assert_eq!(back, nchw);
        write_npy(&path, arr1(&[1.5, -2.0]).view()).unwrap();
        assert_eq!(read_npy::<Ix1>(&path).unwrap(), arr1(&[1.5, -2.0]));
        write_npy(&path, arr0(3.0).view()).unwrap();
        assert_eq!(read_npy::<ndarray::Ix0>(&path).unwrap(), arr0(3.0));
    }

    /// The bytes that NumPy 2 writes for `numpy.arange(3, dtype='<f4').reshape(3, 1, 1, 1)`.
    #[test]
    fn the_bytes_are_numpys_own() {
        let mut numpy =
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1, 1, 1), }"
                .to_vec();
        numpy.resize(127, b' ');
        numpy.push(b'\n');
        numpy.extend([0, 0, 0, 0, 0, 0, 128, 63, 0, 0, 0, 64]);
        let array = Array4::from_shape_fn((3, 1, 1, 1), |(n, ..)| n as f32);
        assert_eq!(read(&numpy).unwrap(), array);
        assert_eq!(bytes_of(&array), numpy);
        let long = [&b"\x93NUMPY\x02\x00v\x00\x00\x00"[..], &numpy[10..]].concat();
        assert_eq!(read(&long).unwrap(), array);
    }

    #[test]
    fn files_that_are_wrong_are_refused() {
        let good = bytes_of(&counting());
        let with = |from: &str, to: &str| {
            let mut bytes = good.clone();
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            bytes
        };
        assert_eq!(read(&good).unwrap(), counting());
        refused(b"PK\x03\x04 a zip file", &["a.npy", ".npy", "numpy.save"]);
        refused(&good[..5], &["cut short"]);
        refused(&good[..9], &["cut short in its header"]);
        refused(&good[..40], &["cut short in its header"]);
        refused(&good[..good.len() - 1], &["[2, 3, 4, 5]", "got 479 bytes"]);
        refused(&[&good[..], &[0]].concat(), &["more than 480 bytes"]);
        refused(&with("<f4", "<f8"), &["'<f4' (32-bit floats)", "got '<f8'", "astype"]);
        refused(&with("<f4", ">f4"), &["got '>f4'"]);
        refused(&with("False", "True "), &["Fortran order", "ascontiguousarray"]);
        refused(&with("(2, 3, 4", "(2, x, 4"), &["the shape", "(2, x, 4, 5)"]);
        refused(&with("'shape'", "'other'"), &["the shape"]);
        refused(&with("\u{1}\0", "\u{9}\0"), &["something else"]);
        refused(&with("(2, 3, 4, 5)", "(99999999, )"), &["got 480 bytes"]);
        let message = {
            let (_folder, path) = path();
            std::fs::write(&path, &good).unwrap();
            read_npy::<Ix5>(&path).unwrap_err().to_string()
        };
        assert!(message.contains("5 dimensions") && message.contains("[2, 3, 4, 5]"), "{message}");
        assert!(read_npy::<Ix4>(Path::new("missing.npy")).unwrap_err().to_string().contains("missing.npy"));
    }

    #[test]
    fn numbers_that_are_not_finite_are_named_by_index() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut array = counting();
            array[[1, 2, 0, 4]] = value;
            refused(&bytes_of(&array), &["element [1, 2, 0, 4]", "a finite number", &format!("got {value}")]);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_and_headers_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            text in "[ -~]{0,60}",
            shape in "[0-9, ()]{0,40}",
        ) {
            let _ = read(&bytes);
            for text in [text, format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}}}")] {
                let mut file = b"\x93NUMPY\x01\x00".to_vec();
                file.extend((text.len() as u16).to_le_bytes());
                file.extend(text.as_bytes());
                file.extend(&bytes);
                let _ = read(&file);
            }
        }
    }
}
