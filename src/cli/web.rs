//! `export --web`: the page that samples a model in a browser, as a folder for any static host.

mod serve;

pub use serve::serve;

use crate::checkpoint::foreign::{self, Untold};
use crate::checkpoint::{is_shipped, shipped_files};
use crate::data;
use crate::output::{write_atomically, write_picture};
use crate::sample::is_onnx;
use crate::{Error, Result};
use ndarray::{Array3, s};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::Path;

/// The page. The engine was built by web/build.sh.
const PAGE: [(&str, &[u8]); 9] = [
    ("index.html", include_bytes!("../../web/page/index.html")),
    ("style.css", include_bytes!("../../web/page/style.css")),
    ("app.js", include_bytes!("../../web/page/app.js")),
    ("images.js", include_bytes!("../../web/page/images.js")),
    ("lane.js", include_bytes!("../../web/page/lane.js")),
    ("mask.js", include_bytes!("../../web/page/mask.js")),
    ("math.js", include_bytes!("../../web/page/math.js")),
    ("worker.js", include_bytes!("../../web/page/worker.js")),
    (ENGINE, include_bytes!("../../web/page/engine.wasm")),
];

/// What no other page has.
const ENGINE: &str = "engine.wasm";

/// Writes the page with a model, and the garments that can be painted over. Returns notes on the model.
pub fn write(folder: &Path, model: &Path) -> Result<Vec<String>> {
    if folder.join("index.html").exists() && !folder.join(ENGINE).exists() {
        let got = "a folder with another page";
        return Err(Error::invalid(
            "--web",
            "a new folder, or one that this wrote",
            got,
            "name another folder",
        ));
    }
    if is_onnx(model) {
        let help = "name the model folder that it was exported from";
        return Err(Error::invalid("--model", "a model folder, for --web", "an .onnx file", help));
    }
    let mut notes = Vec::new();
    if is_shipped(model) {
        for (path, contents) in shipped_files() {
            put(folder, &format!("model/{path}"), contents)?;
        }
    } else {
        let loaded = foreign::load(model, Untold::default(), None)?;
        loaded.save(&folder.join("model"))?;
        notes = loaded.notes;
    }
    let (strip, names) = garments()?;
    write_picture(&folder.join("garments.png"), strip.view())?;
    let site = json!({ "model": name(model), "garments": names });
    put(folder, "site.json", format!("{site:#}\n").as_bytes())?;
    PAGE.iter().try_for_each(|(path, contents)| put(folder, path, contents))?;
    Ok(notes)
}

fn put(folder: &Path, path: &str, contents: &[u8]) -> Result<()> {
    let file = folder.join(path);
    let parent = file.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(|e| Error::write(parent, e))?;
    write_atomically(&file, |f| f.write_all(contents))
}

/// What the page calls the model: the last name of its path, or of what a link such as runs/latest leads to.
fn name(model: &Path) -> String {
    let whole = model.canonicalize();
    let path = whole.as_deref().unwrap_or(model);
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The first test garment of each class \[h, classes w, 1\], side by side, and the classes' names.
fn garments() -> Result<(Array3<f32>, Vec<String>)> {
    let sets = data::load(None, None)?;
    let test = sets.test.as_ref().unwrap_or(&sets.train);
    let [h, w, _] = test.shape();
    let names = test.class_names();
    let mut strip = Array3::zeros((h, names.len() * w, 1));
    let firsts = (0..names.len()).filter_map(|class| {
        let labels = test.labels().unwrap_or(&[]);
        Some((class, labels.iter().position(|label| *label as usize == class)?))
    });
    for (class, image) in firsts {
        let bytes = test.bytes(image)?;
        let pixels = bytes.iter().map(|byte| data::unit_from_byte(*byte) as f32).collect();
        let image = Array3::from_shape_vec((h, w, 1), pixels).expect("a grey image's bytes");
        strip.slice_mut(s![.., class * w..(class + 1) * w, ..]).assign(&image);
    }
    Ok((strip, names.to_vec()))
}
