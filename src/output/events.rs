//! TensorBoard's event files: records of TFRecord's form around protocol buffers, of which a run needs few
//! fields (`tensorflow/core/util/event.proto`, `tensorflow/core/framework/summary.proto`).

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file that is being written.
#[derive(Debug)]
pub(crate) struct Events {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Events {
    /// Begins a new file in a folder, for steps from `first` on. Where the folder has files with later steps,
    /// from a call that was stopped, TensorBoard forgets them.
    ///
    /// # Errors
    /// [`Error::Write`] if the system refuses.
    pub fn create(folder: &Path, first: u64) -> Result<Events> {
        fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // TensorBoard reads the files in the order of their names.
        let name = format!("events.out.tfevents.{:010}.{:09}", now.as_secs(), now.subsec_nanos());
        let path = folder.join(name);
        let file = OpenOptions::new().create_new(true).write(true).open(&path);
        let file = BufWriter::new(file.map_err(|e| Error::write(&path, e))?);
        let mut events = Events { path, file };
        events.record(0, &text(3, b"brain.Event:2"))?;
        if first > 1 {
            // A session that starts: `session_log { status: START }`.
            events.record(first, &message(7, &integer(1, 1)))?;
        }
        events.flush()?;
        Ok(events)
    }

    /// Numbers of one step.
    ///
    /// # Errors
    /// [`Error::Write`] if the system refuses.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let summary: Vec<u8> = values
            .iter()
            .flat_map(|(tag, value)| {
                let mut number = vec![2 << 3 | 5];
                number.extend((*value as f32).to_le_bytes());
                message(1, &[text(1, tag.as_bytes()), number].concat())
            })
            .collect();
        self.record(step, &message(5, &summary))
    }

    /// A picture of one step: a PNG file of so many pixels.
    ///
    /// # Errors
    /// [`Error::Write`] if the system refuses.
    pub fn picture(&mut self, step: u64, tag: &str, png: &[u8], (height, width): (u32, u32)) -> Result<()> {
        // Three channels.
        let fields = [integer(1, height.into()), integer(2, width.into()), integer(3, 3), text(4, png)];
        let value = [text(1, tag.as_bytes()), message(4, &fields.concat())].concat();
        self.record(step, &message(5, &message(1, &value)))?;
        self.flush()
    }

    /// Hands everything to the system, for whoever reads along.
    ///
    /// # Errors
    /// [`Error::Write`] if the system refuses.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::write(&self.path, e))
    }

    /// An event of this time with further fields.
    fn record(&mut self, step: u64, fields: &[u8]) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut event = vec![1 << 3 | 1];
        event.extend(now.to_le_bytes());
        event.extend(integer(2, step));
        event.extend(fields);
        self.file.write_all(&framed(&event)).map_err(|e| Error::write(&self.path, e))
    }
}

/// A record: its length, the length's checksum, itself, its checksum.
fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length, &masked(&length)[..], data, &masked(data)].concat()
}

/// The checksum of a record's part, turned and shifted, since checksums of data that hold checksums are weak.
fn masked(data: &[u8]) -> [u8; 4] {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Castagnoli's checksum. The records are few and short: bit by bit is fast enough.
fn crc32c(data: &[u8]) -> u32 {
    let bit = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !data.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Field `field` as an integer.
fn integer(field: u8, number: u64) -> Vec<u8> {
    [&[field << 3][..], &varint(number)].concat()
}

/// Field `field` as bytes.
fn text(field: u8, bytes: &[u8]) -> Vec<u8> {
    [&[field << 3 | 2][..], &varint(bytes.len() as u64), bytes].concat()
}

/// Field `field` as a message of its own.
fn message(field: u8, fields: &[u8]) -> Vec<u8> {
    text(field, fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4.
    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let up: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&up), 0x46dd_794e);
    }

    #[test]
    fn numbers_and_fields_are_those_of_protocol_buffers() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(300), [0xac, 0x02]);
        assert_eq!(integer(2, 150), [0x10, 0x96, 0x01]);
        assert_eq!(text(2, b"testing"), b"\x12\x07testing");
    }

    /// The records of a file, with their checksums checked.
    fn records(path: &Path) -> Vec<Vec<u8>> {
        let file = std::fs::read(path).unwrap();
        let mut rest = &file[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_at(8);
            assert_eq!(after[..4], masked(length));
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let data = &after[4..4 + length];
            assert_eq!(after[4 + length..8 + length], masked(data));
            found.push(data.to_vec());
            rest = &after[8 + length..];
        }
        found
    }

    #[test]
    fn a_file_begins_with_its_version_and_withdraws_what_is_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::create(folder.path(), 1).unwrap();
        events.scalars(1, &[("loss", 0.5), ("lr", 1e-3)]).unwrap();
        events.picture(1, "samples", &[1, 2, 3], (4, 5)).unwrap();
        let found = records(&events.path);
        assert_eq!(found.len(), 3);
        assert!(found[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        let loss = [b"\x0a\x0b\x0a\x04loss\x15".as_slice(), &0.5f32.to_le_bytes()].concat();
        assert!(found[1].windows(loss.len()).any(|part| part == loss));
        assert!(found[2].ends_with(b"\x22\x0b\x08\x04\x10\x05\x18\x03\x22\x03\x01\x02\x03"));
        let mut again = Events::create(folder.path(), 7).unwrap();
        again.flush().unwrap();
        assert!(records(&again.path)[1].ends_with(b"\x10\x07\x3a\x02\x08\x01"));
        assert!(again.path > events.path, "files are read in the order of their names");
        assert!(Events::create(&events.path, 1).is_err());
    }
}
