//! Where the bytes of images are: all in memory, or in files that are decoded when they are needed, with as
//! many kept as a bound on memory allows.

use super::contents::Entry;
use super::decode::{Picture, Recipe, decode};
use crate::error::Result;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The bytes of images.
#[derive(Clone)]
pub(super) enum Pixels {
    /// `[N, H, W, C]`.
    Memory(Vec<u8>),
    /// Some of the pictures of a folder, in this order.
    Files(Arc<Pictures>, Vec<u32>),
}

/// The pictures of a folder. What is kept in memory changes nothing but the speed: a file always decodes to
/// the same bytes.
pub(super) struct Pictures {
    /// The folder that they are named from.
    root: PathBuf,
    files: Vec<Picture>,
    recipe: Recipe,
    kept: Vec<OnceLock<Box<[u8]>>>,
    /// Bytes that more pictures may take.
    room: AtomicU64,
}

/// What a kept picture takes beside its bytes: the pointer to them, and the allocator's notes.
const OVERHEAD: u64 = 48;

impl Pictures {
    /// Pictures of which as many are kept in memory as `room` bytes hold.
    pub(super) fn new(root: &Path, files: Vec<Picture>, recipe: Recipe, room: u64) -> Pictures {
        let kept = files.iter().map(|_| OnceLock::new()).collect();
        Pictures { root: root.to_path_buf(), files, recipe, kept, room: AtomicU64::new(room) }
    }

    fn each(&self) -> u64 {
        self.recipe.len() as u64 + OVERHEAD
    }

    /// Bytes that are left for others.
    pub(super) fn room(&self) -> u64 {
        self.room.load(Ordering::Relaxed)
    }

    /// How many of the pictures the memory holds.
    pub(super) fn fitting(&self) -> usize {
        let room = self.room() / self.each();
        self.files.len().min(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// The bytes `[H, W, C]` of a picture.
    pub(super) fn image(&self, index: usize) -> Result<Cow<'_, [u8]>, super::decode::Bad> {
        let place = &self.kept[index];
        if let Some(bytes) = place.get() {
            return Ok(Cow::Borrowed(bytes));
        }
        let picture = &self.files[index];
        let bytes = decode(&picture.path, picture.format, &self.recipe)?;
        let each = self.each();
        let take = |room: u64| room.checked_sub(each);
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Ok(Cow::Owned(bytes.into_vec()));
        }
        // Where another thread was faster, its bytes are kept and are the same.
        if place.set(bytes).is_err() {
            self.room.fetch_add(each, Ordering::Relaxed);
        }
        Ok(Cow::Borrowed(place.get().expect("it was just filled")))
    }
}

impl Pixels {
    /// The number of images, `each` bytes long.
    pub(super) fn len(&self, each: usize) -> usize {
        match self {
            Pixels::Memory(bytes) => bytes.len() / each,
            Pixels::Files(_, indices) => indices.len(),
        }
    }

    /// The bytes of one image, which must be there.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a picture's file that cannot be decoded.
    pub(super) fn image(&self, index: usize, each: usize) -> Result<Cow<'_, [u8]>> {
        match self {
            Pixels::Memory(bytes) => Ok(Cow::Borrowed(&bytes[index * each..(index + 1) * each])),
            Pixels::Files(pictures, indices) => {
                pictures.image(indices[index] as usize).map_err(|bad| bad.error())
            }
        }
    }

    /// The images of these indices, which must be there.
    pub(super) fn select(&self, chosen: &[usize], each: usize) -> Pixels {
        match self {
            Pixels::Memory(bytes) => {
                Pixels::Memory(chosen.iter().flat_map(|i| &bytes[i * each..][..each]).copied().collect())
            }
            Pixels::Files(pictures, indices) => {
                Pixels::Files(pictures.clone(), chosen.iter().map(|&i| indices[i]).collect())
            }
        }
    }

    /// What a change is noticed by: an entry for each picture's file, or one for all images in memory, with
    /// their labels.
    pub(super) fn contents(&self, each: usize, labels: &[u32]) -> Vec<Entry> {
        match self {
            Pixels::Memory(bytes) => {
                let mut crc = crc32fast::Hasher::new();
                crc.update(bytes);
                labels.iter().for_each(|label| crc.update(&label.to_le_bytes()));
                let count = (bytes.len() / each) as u64;
                vec![Entry { name: "all images".to_owned(), length: count, crc: crc.finalize() }]
            }
            Pixels::Files(pictures, indices) => {
                let entry = |&index: &u32| {
                    let Picture { path, length, crc, .. } = &pictures.files[index as usize];
                    let name = path.strip_prefix(&pictures.root).unwrap_or(path);
                    Entry { name: name.to_string_lossy().into_owned(), length: *length, crc: *crc }
                };
                indices.iter().map(entry).collect()
            }
        }
    }
}

impl PartialEq for Pixels {
    /// Whether the images are the same, as far as that can be told without decoding files.
    fn eq(&self, other: &Pixels) -> bool {
        match (self, other) {
            (Pixels::Memory(a), Pixels::Memory(b)) => a == b,
            (Pixels::Files(a, chosen), Pixels::Files(b, others)) => {
                let files = |pictures: &Pictures, chosen: &[u32]| {
                    chosen.iter().map(|&i| pictures.files[i as usize].clone()).collect::<Vec<_>>()
                };
                a.recipe == b.recipe && files(a, chosen) == files(b, others)
            }
            _ => false,
        }
    }
}
