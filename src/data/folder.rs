//! Folders of pictures, nested as they may be.

use super::decode::{Bad, Picture, Recipe};
use super::listing::{Listing, classes, list, passed_over, refuse, refuse_others};
use super::pixels::{Pictures, Pixels};
use super::reading::{Reading, Watch, a_piece};
use super::{Dataset, Datasets, Labels, Phase, dataset::check_size, entries, file_name};
use crate::config::DataConfig;
use crate::error::{Error, Result};
use crate::machine;
use image::ImageFormat;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The pictures of `folder` and of the folders in it, or of its sub-folders `train` and `test`.
pub(super) fn load(
    folder: &Path,
    config: &DataConfig,
    reading: Reading,
    notes: &mut Vec<String>,
    watch: &mut Watch,
) -> Result<Datasets> {
    let parts = parts(folder, notes)?;
    let mut listings = Vec::new();
    for part in &parts {
        listings.push(list(part, &mut |done, of| watch(Phase::Listing, done, of))?);
    }
    let bad: Vec<Bad> = listings.iter_mut().flat_map(|listing| std::mem::take(&mut listing.bad)).collect();
    if !bad.is_empty() {
        return Err(refuse(folder, bad));
    }
    for listing in &listings {
        if reading.strict && !listing.others.is_empty() {
            return Err(refuse_others(folder, &listing.others));
        }
    }
    let pictures: Vec<&Picture> = listings.iter().flat_map(|listing| &listing.pictures).collect();
    if listings.iter().any(|listing| listing.pictures.is_empty()) {
        return Err(empty(folder, &parts, &listings));
    }
    let recipe = recipe(folder, &pictures, config)?;
    describe(&pictures, &listings, &recipe, config, notes);

    let bound = reading.cache.unwrap_or_else(|| machine::available().map_or(1 << 32, |bytes| bytes / 2));
    let name = file_name(folder);
    let mut room = bound;
    let mut sets = Vec::new();
    for (part, listing) in parts.iter().zip(listings) {
        let labels = classes(part, &listing.pictures).map(Labels::sorted);
        let count = listing.pictures.len();
        let pictures = Pictures::new(folder, listing.pictures, recipe, room);
        let kept = fill(folder, &pictures, watch)?;
        room = pictures.room();
        if kept < count {
            notes.push(format!(
                "{kept} of {count} decoded pictures are kept in {} MiB of memory (`cache`); the others are decoded \
                 whenever they are needed",
                bound >> 20
            ));
        }
        let (h, w) = recipe.size;
        let indices = (0..count as u32).collect();
        let pixels = Pixels::Files(pictures.into(), indices);
        sets.push(Dataset::of(&name, [h, w, recipe.channels], pixels, labels, true)?);
    }
    let mut sets = sets.into_iter();
    let train = sets.next().expect("there is one part at least");
    Datasets::new(train, sets.next())
}

/// The names that a folder of test pictures may have beside `train`.
const TEST: [&str; 4] = ["test", "val", "valid", "validation"];

/// The folders of training and of test pictures; the folder itself where it is not divided. Says what lies
/// beside the parts.
fn parts(folder: &Path, notes: &mut Vec<String>) -> Result<Vec<PathBuf>> {
    let there = |part: &&str| folder.join(part).is_dir();
    if !there(&"train") {
        return Ok(vec![folder.to_path_buf()]);
    }
    let parts: Vec<PathBuf> =
        ["train"].iter().chain(TEST.iter().find(|part| there(part))).map(|part| folder.join(part)).collect();
    let (files, folders) = entries(folder)?;
    let others: Vec<String> = folders
        .iter()
        .chain(&files)
        .filter(|path| !parts.contains(path))
        .map(|path| file_name(path))
        .collect();
    if !others.is_empty() {
        let names: Vec<String> = parts.iter().map(|part| file_name(part)).collect();
        let (names, others) = (names.join(" and "), others.join(", "));
        notes.push(format!("the pictures of {names} are read, not what lies beside them: {others}"));
    }
    Ok(parts)
}

/// Decodes as many pictures as the memory holds, on all threads, and says how many these are.
fn fill(folder: &Path, pictures: &Pictures, watch: &mut Watch) -> Result<usize> {
    let (fitting, each) = (pictures.fitting(), a_piece());
    let mut bad = Vec::new();
    // A large picture takes seconds before the first number changes.
    if fitting > 0 {
        watch(Phase::Decoding, 0, fitting);
    }
    for from in (0..fitting).step_by(each) {
        let to = (from + each).min(fitting);
        let piece: Vec<Option<Bad>> =
            (from..to).into_par_iter().map(|i| pictures.image(i).map(drop).err()).collect();
        bad.extend(piece.into_iter().flatten());
        watch(Phase::Decoding, to, fitting);
    }
    if bad.is_empty() { Ok(fitting) } else { Err(refuse(folder, bad)) }
}

/// What is made of every picture.
fn recipe(folder: &Path, pictures: &[&Picture], config: &DataConfig) -> Result<Recipe> {
    let first = pictures[0];
    let size = match config.size {
        Some([height, width]) => (height, width),
        None => (first.height as usize, first.width as usize),
    };
    check_size(&folder.display().to_string(), size)?;
    let is_other = |picture: &&&Picture| (picture.height, picture.width) != (first.height, first.width);
    if config.size.is_none()
        && let Some(other) = pictures.iter().find(is_other)
    {
        let more = pictures.iter().filter(is_other).count();
        return Err(Error::invalid(
            other.path.display().to_string(),
            format!("{}x{} like {} (height x width)", size.0, size.1, file_name(&first.path)),
            format!("{}x{}, one of {more} that differ", other.height, other.width),
            "pictures of several sizes need one to be resized and cut to: give a `size`",
        ));
    }
    let background = config.background;
    let is_grey = |p: &Picture| p.is_grey && !(p.has_alpha && background.is_coloured());
    let usual = if pictures.iter().all(|picture| is_grey(picture)) { 1 } else { 3 };
    Ok(Recipe { size, channels: config.channels.unwrap_or(usual), background })
}

/// Says in a line each what the pictures are and what is made of them.
fn describe(
    pictures: &[&Picture],
    listings: &[Listing],
    recipe: &Recipe,
    config: &DataConfig,
    notes: &mut Vec<String>,
) {
    let count = |which: &dyn Fn(&Picture) -> bool| pictures.iter().filter(|picture| which(picture)).count();
    let total = pictures.len();
    let mut formats: BTreeMap<String, usize> = BTreeMap::new();
    for picture in pictures {
        *formats.entry(format_name(picture.format)).or_default() += 1;
    }
    let formats: Vec<String> = formats.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let mut done = vec![formats.join(", ")];
    let (h, w) = recipe.size;
    let other_size = count(&|p| (p.height as usize, p.width as usize) != recipe.size);
    if config.size.is_some() && other_size > 0 {
        // The aspect is the same to a pixel: nothing is cut off.
        let is_cut = |p: &Picture| {
            let (a, b) = (u64::from(p.height) * w as u64, u64::from(p.width) * h as u64);
            a.abs_diff(b) > a.min(b) / 100
        };
        done.push(format!(
            "{other_size} resized to {h}x{w}, their short side to its length, {} of them cut at both ends of the long \
             side",
            count(&is_cut)
        ));
    }
    let grey = count(&|p| p.is_grey);
    if recipe.channels == 1 && grey < total {
        done.push(format!("{} of them colour, made grey", total - grey));
    } else if recipe.channels == 3 && grey > 0 {
        done.push(format!("{grey} of them grey, made colour"));
    }
    for (count, what) in [
        (count(&|p| p.has_alpha), format!("with transparency, put on {}", recipe.background)),
        (count(&|p| p.is_turned), "turned as their cameras noted".to_owned()),
        (count(&|p| p.is_deep), "of more than eight bits, rounded to eight".to_owned()),
        (count(&|p| p.has_more), "of several pages or frames, of which the first is taken".to_owned()),
    ] {
        if count > 0 {
            done.push(format!("{count} {what}"));
        }
    }
    notes.push(format!("{total} pictures: {}", done.join("; ")));
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for (kind, count) in listings.iter().flat_map(|listing| &listing.kinds) {
        *kinds.entry(kind.clone()).or_default() += count;
    }
    notes.extend(passed_over(&kinds));
}

fn format_name(format: ImageFormat) -> String {
    match format {
        ImageFormat::WebP => "WebP".to_owned(),
        ImageFormat::Pnm => "PNM".to_owned(),
        other => format!("{other:?}").to_uppercase(),
    }
}

/// The error about a folder without pictures.
fn empty(folder: &Path, parts: &[PathBuf], listings: &[Listing]) -> Error {
    let without = parts.iter().zip(listings).find(|(_, listing)| listing.pictures.is_empty());
    let (part, listing) = without.expect("one is empty");
    let got = match passed_over(&listing.kinds) {
        Some(kinds) => format!("none of them; {kinds}"),
        None => "none of them".to_owned(),
    };
    let help = if part == folder { "give the folder that holds the files themselves" } else { "" };
    Error::invalid(
        part.display().to_string(),
        "IDX files (train-images-idx3-ubyte, plain or .gz), CIFAR-10's binary batches (data_batch_1.bin, ...) or \
         pictures (PNG, JPEG, WebP, TIFF, GIF, BMP, PNM) in it or in the folders in it",
        got,
        help,
    )
}
