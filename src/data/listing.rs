//! The files of a folder and of the folders in it.

use super::decode::{Bad, Found, Picture, inspect};
use super::reading::a_piece;
use super::{entries, file_name};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The pictures of a folder, in the order of their paths, and what else is in it.
pub(super) struct Listing {
    pub(super) pictures: Vec<Picture>,
    pub(super) bad: Vec<Bad>,
    /// Files that are no pictures.
    pub(super) others: Vec<PathBuf>,
    /// How many there are of each kind, by its ending.
    pub(super) kinds: BTreeMap<String, usize>,
}

/// Every file in `folder` and below it, in the order of the paths. Hidden files and folders are left out, and
/// links that lead to a folder around themselves are not followed.
pub(super) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(folder, &mut Vec::new(), &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(folder: &Path, around: &mut Vec<PathBuf>, found: &mut Vec<PathBuf>) -> Result<()> {
    let real = folder.canonicalize().map_err(|e| Error::read(folder, e))?;
    if around.contains(&real) {
        return Ok(());
    }
    let (files, folders) = entries(folder)?;
    found.extend(files);
    around.push(real);
    for inside in &folders {
        collect(inside, around, found)?;
    }
    around.pop();
    Ok(())
}

/// Looks at every file, on all threads; `watch` is told how many are done, of how many.
pub(super) fn list(folder: &Path, watch: &mut dyn FnMut(usize, usize)) -> Result<Listing> {
    let files = files_below(folder)?;
    let mut listing =
        Listing { pictures: Vec::new(), bad: Vec::new(), others: Vec::new(), kinds: BTreeMap::new() };
    let each = a_piece();
    for (i, piece) in files.chunks(each).enumerate() {
        let found: Vec<Result<Found, Bad>> = piece.par_iter().map(|file| inspect(file)).collect();
        for (file, found) in piece.iter().zip(found) {
            match found {
                Ok(Found::Picture(picture)) => listing.pictures.push(picture),
                Ok(Found::Other(ending)) => {
                    *listing.kinds.entry(ending).or_default() += 1;
                    listing.others.push(file.clone());
                }
                Err(bad) => listing.bad.push(bad),
            }
        }
        watch((i * each + piece.len()).min(files.len()), files.len());
    }
    Ok(listing)
}

/// The error about all bad pictures of a folder.
pub(super) fn refuse(folder: &Path, bad: Vec<Bad>) -> Error {
    if bad.len() == 1 {
        return bad.into_iter().next().map(Bad::error).expect("there is one");
    }
    let lines: String = bad.iter().map(|bad| format!("\n  {}: {}", bad.path.display(), bad.why)).collect();
    Error::invalid(
        folder.display().to_string(),
        format!("every picture to be {}", super::decode::expected()),
        format!("{} that are not:{lines}\n", bad.len()),
        "repair these files or take them out of the folder",
    )
}

/// What is passed over, each kind with its count; `None` where it is nothing.
pub(super) fn passed_over(kinds: &BTreeMap<String, usize>) -> Option<String> {
    let total: usize = kinds.values().sum();
    let each: Vec<String> = kinds.iter().map(|(ending, count)| format!("{count} {ending}")).collect();
    (total > 0).then(|| format!("files that are no pictures, passed over: {}", each.join(", ")))
}

/// The error where nothing but pictures is accepted.
pub(super) fn refuse_others(folder: &Path, others: &[PathBuf]) -> Error {
    let names: String = others.iter().map(|file| format!("\n  {}", file.display())).collect();
    Error::invalid(
        folder.display().to_string(),
        "pictures and nothing else (`strict`)",
        format!("{} other files:{names}\n", others.len()),
        "take them out, or allow them by leaving out `strict`",
    )
}

/// The classes of the pictures: the sub-folders of `folder` that they are in, by name, each with its number
/// of pictures; `None` where pictures lie beside the sub-folders.
pub(super) fn classes(folder: &Path, pictures: &[Picture]) -> Option<Vec<(String, usize)>> {
    let mut classes: Vec<(String, usize)> = Vec::new();
    for picture in pictures {
        let mut parts = picture.path.strip_prefix(folder).ok()?.components();
        let class = file_name(parts.next()?.as_ref());
        parts.next()?;
        match classes.last_mut() {
            Some((name, count)) if *name == class => *count += 1,
            _ => classes.push((class, 1)),
        }
    }
    Some(classes)
}
