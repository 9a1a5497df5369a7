//! The IDX format of MNIST and Fashion-MNIST: arrays of unsigned bytes, plain or in gzip.
//!
//! A file is two zero bytes, the type (8 for unsigned bytes), the number of dimensions, each dimension as a
//! big-endian 32-bit number, and the bytes, the last dimension running fastest.

use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::machine;
use flate2::{Compression, GzBuilder, bufread::MultiGzDecoder};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

/// More bytes than any data set that fits into memory; a header that declares more is taken to be damaged.
const MAX_BYTES: u64 = 1 << 36;

/// Bytes that one byte of a gzip file can become at most: deflate's shortest code for its longest match.
const DEFLATED: u64 = 1032;
/// Files up to this size are read to see how many bytes are missing.
const SMALLEST: u64 = 1 << 26;

/// Reads an array of `D` dimensions from `reader`, to its end. `what` names it in messages.
///
/// Memory grows with the bytes that are really there, whatever the header declares.
///
/// # Errors
/// [`Error::Invalid`] for another magic number, a dimension of 0, too few or too many bytes, or a damaged
/// gzip stream under `reader`, and for more bytes than are free; [`Error::Read`] where reading fails
/// otherwise.
pub fn read<const D: usize>(what: &str, mut reader: impl Read) -> Result<([usize; D], Vec<u8>)> {
    read_within(what, &mut reader, u64::MAX)
}

/// The same where there can be no more than `most` bytes after the header.
fn read_within<const D: usize>(
    what: &str,
    reader: &mut dyn Read,
    most: u64,
) -> Result<([usize; D], Vec<u8>)> {
    let header_len = 4 + 4 * D as u64;
    let header = read_up_to(what, reader, header_len)?;
    if header.len() >= 4 && header[..4] != magic(D) {
        return Err(Error::invalid(
            what,
            format!("an IDX file of unsigned bytes in {D} dimension(s), magic number 0x{}", hex(&magic(D))),
            format!("magic number 0x{}", hex(&header[..4])),
            "images are in ...-images-idx3-ubyte and labels in ...-labels-idx1-ubyte; check that they are \
             not swapped",
        ));
    }
    if (header.len() as u64) < header_len {
        return Err(Error::invalid(
            what,
            format!("an IDX header of {header_len} bytes"),
            format!("a file of {}", header.len()),
            "the file is cut short; get it again",
        ));
    }
    let sizes: [u64; D] =
        std::array::from_fn(|i| header[4 + 4 * i..8 + 4 * i].iter().fold(0, |n, &b| (n << 8) | u64::from(b)));
    let total = sizes.iter().try_fold(1, |n: u64, &d| n.checked_mul(d)).filter(|&n| n <= MAX_BYTES);
    let (Some(total), false) = (total, sizes.contains(&0)) else {
        return Err(Error::invalid(
            format!("{what}: the dimensions in the header"),
            format!("at least 1 each and at most {MAX_BYTES} bytes together"),
            sizes.map(|d| d.to_string()).join(" x "),
            "the file is damaged or empty; get it again",
        ));
    };
    if total > most {
        return Err(Error::invalid(
            format!("{what}: the dimensions in the header"),
            format!("at most the {most} bytes that a file of this size can hold"),
            sizes.map(|d| d.to_string()).join(" x "),
            "the file is cut short or not what its header says; get it again",
        ));
    }
    if let Some(free) = machine::shortage(total) {
        let expected = format!("what fits into the {} of memory that are free", machine::in_words(free));
        return Err(Error::invalid(what, expected, machine::in_words(total), "give fewer images"));
    }
    let data = read_up_to(what, reader, total)?;
    let got = data.len() as u64;
    let rest = read_up_to(what, reader, 1)?;
    if got < total || !rest.is_empty() {
        return Err(Error::invalid(
            what,
            format!("{total} bytes after the header ({})", sizes.map(|d| d.to_string()).join(" x ")),
            if got < total { got.to_string() } else { "more".to_owned() },
            "the file is cut short or not what its header says; get it again",
        ));
    }
    Ok((sizes.map(|d| d as usize), data))
}

/// Reads the file at `path`, plain or gzip (recognised by its first bytes, not by its name), as [`read`]
/// does.
///
/// # Errors
/// Those of [`read`], naming the file.
pub fn read_file<const D: usize>(path: &Path) -> Result<([usize; D], Vec<u8>)> {
    let error = |e| Error::read(path, e);
    let mut file = BufReader::new(DiskFile::open(path).map_err(error)?);
    let what = path.display().to_string();
    // A pipe has no length.
    let there = file.get_ref().file().metadata().map_err(error)?;
    let len = if there.is_file() { there.len() } else { u64::MAX };
    if file.fill_buf().map_err(error)?.starts_with(&[0x1f, 0x8b]) {
        read_within(&what, &mut MultiGzDecoder::new(file), len.saturating_mul(DEFLATED))
    } else {
        // A header that promises more is told of with the bytes that there are.
        read_within(&what, &mut file, len.max(SMALLEST))
    }
}

/// Writes an array, uncompressed.
///
/// # Errors
/// `InvalidInput` where a dimension does not fit the format, there are more than 255 of them, or `data` is
/// not their product long; else the writer's own.
pub fn write(mut writer: impl Write, dims: &[usize], data: &[u8]) -> io::Result<()> {
    let invalid = |e: String| io::Error::new(io::ErrorKind::InvalidInput, e);
    let rank = u8::try_from(dims.len()).map_err(|e| invalid(e.to_string()))?;
    let total = dims.iter().try_fold(1, |n: usize, &d| n.checked_mul(d));
    if total != Some(data.len()) {
        return Err(invalid(format!("{} bytes do not fill {dims:?}", data.len())));
    }
    writer.write_all(&magic(usize::from(rank)))?;
    for &dim in dims {
        writer.write_all(&u32::try_from(dim).map_err(|e| invalid(e.to_string()))?.to_be_bytes())?;
    }
    writer.write_all(data)
}

/// An array as a gzip file in memory, without time or name in it: the same input gives the same bytes
/// everywhere.
///
/// # Errors
/// Those of [`write()`].
pub fn pack(dims: &[usize], data: &[u8]) -> io::Result<Vec<u8>> {
    const UNKNOWN_SYSTEM: u8 = 255;
    let mut encoder =
        GzBuilder::new().mtime(0).operating_system(UNKNOWN_SYSTEM).write(Vec::new(), Compression::best());
    write(&mut encoder, dims, data)?;
    encoder.finish()
}

fn magic(rank: usize) -> [u8; 4] {
    [0, 0, 8, rank as u8]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// At most `limit` bytes; fewer only at the end of the stream.
fn read_up_to(what: &str, reader: &mut dyn Read, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match reader.take(limit).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(e) => match e.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                Err(Error::invalid(what, "a whole gzip file", format!("a damaged one ({e})"), "get it again"))
            }
            _ => Err(Error::read(what, e)),
        },
    }
}
