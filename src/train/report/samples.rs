//! The runs' samples over time.

use super::Record;
use crate::output::html::{escape, paragraph, picture, png_address};
use crate::output::{grid_columns, tile};
use crate::sample::images_for;
use crate::train::folder::{GRID, SAMPLES};
use image::RgbImage;
use image::codecs::png::PngEncoder;
use image::imageops::replace;
use std::fs;
use std::path::{Path, PathBuf};

/// Grids of a run that are shown, evenly over its steps.
const ROWS: usize = 12;
/// Images of each.
const COLUMNS: usize = 8;

/// The sample grids of a run's folder with their steps, in order.
pub(super) fn grids(folder: &Path) -> Vec<(u64, PathBuf)> {
    let step = |path: &Path| path.file_stem()?.to_str()?.strip_prefix("step-")?.parse().ok();
    let entries = fs::read_dir(folder.join(SAMPLES)).into_iter().flatten().flatten();
    let mut grids: Vec<(u64, PathBuf)> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "png"))
        .filter_map(|path| Some((step(&path)?, path)))
        .collect();
    grids.sort();
    grids
}

/// The section of the samples; nothing where there are none.
pub(super) fn section(runs: &[Record]) -> String {
    if runs.iter().all(|run| run.grids.is_empty()) {
        return String::new();
    }
    let mut html = String::from("<h2>Samples over time</h2>\n");
    html += &paragraph("Each column is made from the same noise at every time.");
    html += "<div class=\"figures\">\n";
    for run in runs {
        html += &strip(run);
    }
    html += "</div>\n<h2>The newest samples</h2>\n<div class=\"figures\">\n";
    for run in runs {
        if let Some((step, path)) = run.grids.last()
            && let Ok(png) = fs::read(path)
        {
            let caption = format!("{}, step {step}", run.name);
            html += &picture(&png, &format!("A grid of samples: {caption}"), &caption);
        }
    }
    html + "</div>\n"
}

/// A run's strip: a row of the same samples for each of some grids.
fn strip(run: &Record) -> String {
    let count = run.grids.len();
    let shown = (0..count.min(ROWS)).map(|i| match count <= ROWS {
        true => i,
        // The first and the last among them.
        false => i * (count - 1) / (ROWS - 1),
    });
    let mut rows = String::new();
    for (step, path) in shown.map(|i| &run.grids[i]) {
        let Some(png) = row(run, path) else { continue };
        rows += &format!(
            "<li><span>step {step}</span><img alt=\"Samples of {} at step {step}\" src=\"{}\"/></li>\n",
            escape(&run.name),
            png_address(&png)
        );
    }
    format!("<div><h3>{}</h3>\n<ol class=\"strip\">\n{rows}</ol></div>\n", escape(&run.name))
}

/// Some images of a grid beside each other, pixel for pixel: the first ones, or one of each class. `None` for
/// a picture that is no grid of this run's.
fn row(run: &Record, path: &Path) -> Option<Vec<u8>> {
    let canvas = image::load_from_memory(&fs::read(path).ok()?).ok()?.into_rgb8();
    let unet = &run.config.unet;
    let [height, width] = unet.sample_size.map(|side| side as u32);
    let count = images_for(unet.classes(), GRID);
    let columns = grid_columns(count, unet.classes());
    let is_a_row_each = unet.classes() > 1 && count > unet.classes();
    let tiles = (0..COLUMNS as u32).map_while(|i| {
        let (row, column) = if is_a_row_each { (i, 0) } else { (0, i) };
        tile(&canvas, (height, width), columns as u32, (row, column))
    });
    let tiles: Vec<RgbImage> = tiles.collect();
    let shown = tiles.len() as u32;
    if shown == 0 {
        return None;
    }
    let mut row = RgbImage::new(shown * (width + 1) - 1, height);
    for (i, tile) in tiles.iter().enumerate() {
        replace(&mut row, tile, i as i64 * i64::from(width + 1), 0);
    }
    let mut png = Vec::new();
    row.write_with_encoder(PngEncoder::new(&mut png)).ok()?;
    Some(png)
}
