//! `edit` through the binary: pictures in and out.

use crate::support::binary::{run, succeed};
use crate::support::networks::randomised;
use crate::support::pictures::decoded;
use image::{GrayImage, Luma};
use ndarray::{Array4, Axis, s};
use performer_ddpm::checkpoint::model_folder;
use performer_ddpm::config::{DiffusionConfig, Preset};
use performer_ddpm::output::{read_npy, write_npy};
use performer_ddpm::{Pipeline, SampleOptions};
use std::path::Path;

/// Pixels on a side of the model's images.
const SIDE: u32 = 12;

/// A folder with a model of T = 40 and a picture.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = Preset::Tiny.config().unet;
    config.sample_size = [SIDE as usize; 2];
    let diffusion = DiffusionConfig { timesteps: 40, ..DiffusionConfig::default() };
    model_folder::save(&folder.path().join("model"), &randomised(&config, 3), None, &diffusion)
        .expect("a model");
    picture(&folder.path().join("in.png"), SIDE);
    folder
}

fn picture(path: &Path, side: u32) {
    GrayImage::from_fn(side, side, |x, y| Luma([(x * 17 + y * 3) as u8])).save(path).expect("a picture");
}

fn read(path: &Path) -> GrayImage {
    decoded(path).into_luma8()
}

/// `edit` with these arguments and the folder's model.
fn edit(folder: &Path, arguments: &[&str]) -> String {
    let model = ["--model", "model", "--steps", "8"];
    succeed(folder, &[&["edit"], arguments, &model].concat())
}

fn array(path: &Path) -> Array4<f32> {
    read_npy(path).expect("an array")
}

#[test]
fn a_variation_at_0_is_the_picture_and_others_are_functions_of_the_seed() {
    let folder = folder();
    let folder = folder.path();
    edit(folder, &["vary", "in.png", "--at", "0", "-n", "1", "--out", "same.png"]);
    assert_eq!(read(&folder.join("same.png")), read(&folder.join("in.png")));

    let vary = |options: &[&str]| {
        let to = [&["vary", "in.png", "-n", "3", "--npy", "a.npy"], options].concat();
        let told = edit(folder, &to);
        assert_eq!(told.lines().collect::<Vec<_>>(), ["edited.png", "a.npy"], "{told}");
        array(&folder.join("a.npy"))
    };
    let images = vary(&["--threads", "1", "--batch", "2"]);
    assert_eq!(images.shape(), [3, 1, 12, 12]);
    assert_eq!(images, vary(&["--threads", "3"]));
    assert_eq!(images, vary(&["--at", "20"]), "half of T where nothing is said");
    assert!(images != vary(&["--seed", "1"]) && images != vary(&["--at", "30"]));
    assert!(images.index_axis(Axis(0), 0) != images.index_axis(Axis(0), 1));
    vary(&["--sampler", "dpm++"]);
    vary(&["--sampler", "ddpm"]);
}

#[test]
fn known_pixels_come_out_as_they_went_in() {
    let folder = folder();
    let folder = folder.path();
    let white = |x: u32, y: u32| x > 4 && y < 7;
    GrayImage::from_fn(SIDE, SIDE, |x, y| Luma([if white(x, y) { 255 } else { 100 }]))
        .save(folder.join("mask.png"))
        .expect("a mask");
    let given = read(&folder.join("in.png"));
    let mut paintings = Vec::new();
    for options in [&["--threads", "1"][..], &["--threads", "3"], &["--sampler", "unipc", "--jump", "2"]] {
        let to = [&["inpaint", "in.png", "--mask", "mask.png", "--json"], options].concat();
        let told = edit(folder, &to);
        assert!(told.contains("\"images\":1"), "{told}");
        let out = read(&folder.join("edited.png"));
        assert_eq!(out.dimensions(), (SIDE, SIDE));
        let mut changed = 0;
        for (x, y, pixel) in out.enumerate_pixels() {
            match white(x, y) {
                true => changed += usize::from(pixel != given.get_pixel(x, y)),
                false => assert_eq!(pixel, given.get_pixel(x, y), "{x} {y}"),
            }
        }
        assert!(changed > 20, "{options:?}: {changed} of 49 pixels painted");
        paintings.push(out);
    }
    assert_eq!(paintings[0], paintings[1]);
    assert!(paintings[0] != paintings[2]);
    edit(folder, &["inpaint", "in.png", "--mask", "mask.png", "-n", "3", "--out", "grid.png"]);
    assert!(read(&folder.join("grid.png")).width() > 2 * SIDE);
}

#[test]
fn a_row_between_samples_begins_and_ends_with_them() {
    let folder = folder();
    let folder = folder.path();
    let sample = ["sample", "model", "-n", "4", "--steps", "8", "--seed", "5", "--npy", "samples.npy"];
    succeed(folder, &sample);
    edit(folder, &["interpolate", "--samples", "0,3", "-n", "5", "--seed", "5", "--npy", "row.npy"]);
    let (samples, row) = (array(&folder.join("samples.npy")), array(&folder.join("row.npy")));
    assert_eq!(row.len_of(Axis(0)), 5);
    assert_eq!(row.index_axis(Axis(0), 0), samples.index_axis(Axis(0), 0));
    assert_eq!(row.index_axis(Axis(0), 4), samples.index_axis(Axis(0), 3));

    picture(&folder.join("large.png"), 30);
    let output =
        run(folder, &["edit", "interpolate", "in.png", "large.png", "--model", "model", "--steps", "8"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert!(message.contains("large.png: 30x30") && message.contains("12x12"), "{message}");
    // One row of eight images.
    let (width, height) = read(&folder.join("edited.png")).dimensions();
    assert!(width > 7 * height, "{width}x{height}");
}

#[test]
fn x_t_is_denoised_from_its_timestep() {
    let folder = folder();
    let folder = folder.path();
    let mut pipeline = Pipeline::load(folder.join("model")).expect("the model");
    let options = SampleOptions { count: 2, steps: Some(8), seed: 9, ..pipeline.options() };
    let want = pipeline.sample(&options).expect("images").mapv(|x| x.clamp(-1.0, 1.0));
    let editor = pipeline.edit(&options).expect("an editor");
    let starts = ndarray::stack![Axis(0), editor.start(0), editor.start(1)];
    drop(editor);
    write_npy(&folder.join("x.npy"), starts.view().permuted_axes([0, 3, 1, 2])).expect("a file");
    edit(folder, &["denoise", "x.npy", "--at", "40", "--npy", "out.npy"]);
    assert_eq!(array(&folder.join("out.npy")), want.permuted_axes([0, 3, 1, 2]));
    edit(folder, &["denoise", "in.png", "--at", "7", "--out", "clean.png"]);
    assert_eq!(read(&folder.join("clean.png")).dimensions(), (SIDE, SIDE));
}

#[test]
fn a_canvas_is_painted_around_the_picture() {
    let folder = folder();
    let folder = folder.path();
    edit(folder, &["outpaint", "in.png", "--canvas", "16x20", "--place", "4,2", "--out", "wide.png"]);
    let (wide, given) = (read(&folder.join("wide.png")), read(&folder.join("in.png")));
    assert_eq!(wide.dimensions(), (20, 16));
    let inside = image::imageops::crop_imm(&wide, 2, 4, SIDE, SIDE).to_image();
    assert_eq!(inside, given);
    edit(folder, &["outpaint", "in.png", "--canvas", "16", "-n", "2", "--npy", "two.npy"]);
    let two = array(&folder.join("two.npy"));
    let known = two.slice(s![.., .., 2..14, 2..14]);
    assert_eq!(known.index_axis(Axis(0), 0), known.index_axis(Axis(0), 1));
    assert!(two.index_axis(Axis(0), 0) != two.index_axis(Axis(0), 1));
}

#[test]
fn what_cannot_be_edited_is_refused_by_name() {
    let folder = folder();
    let folder = folder.path();
    picture(&folder.join("small.png"), 9);
    GrayImage::new(SIDE, SIDE).save(folder.join("black.png")).expect("a mask");
    std::fs::write(folder.join("no.png"), "no picture").expect("a file");
    write_npy(&folder.join("x.npy"), Array4::<f32>::zeros((1, 1, 5, 5)).view()).expect("a file");
    let cases: [(&[&str], &[&str]); 12] = [
        (&["vary", "in.png", "--at", "41"], &["--at", "1 to 40", "41"]),
        (&["vary", "missing.png"], &["missing.png"]),
        (&["vary", "no.png"], &["no.png", "picture"]),
        (&["denoise", "in.png", "--at", "0"], &["--at", "1 to 40"]),
        (&["denoise", "x.npy", "--at", "3"], &["x_t", "12x12", "5x5"]),
        (&["inpaint", "in.png", "--mask", "small.png"], &["small.png", "12x12", "9x9"]),
        (&["inpaint", "in.png", "--mask", "black.png"], &["black.png", "white is painted"]),
        (&["outpaint", "in.png", "--canvas", "8"], &["in.png", "8x8", "12x12", "--canvas"]),
        (&["outpaint", "in.png", "--canvas", "20", "--place", "9,0"], &["row 9", "--place"]),
        (&["outpaint", "in.png", "--canvas", "13"], &["canvas", "12 or 14"]),
        (&["interpolate", "in.png", "in.png", "--sampler", "ddpm"], &["adds no noise"]),
        (&["vary", "in.png", "--steps", "41"], &["1 to 40", "41"]),
    ];
    for (arguments, words) in cases {
        let output = run(folder, &[&["edit"], arguments, &["--model", "model"]].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert_eq!(message.matches("error:").count(), 1, "{arguments:?}: {message}");
        for word in words {
            assert!(message.contains(word), "{arguments:?}: {word:?} is not in: {message}");
        }
    }
    assert!(!folder.join("edited.png").exists());
    for usage in
        [&["interpolate", "in.png"][..], &["interpolate"], &["inpaint", "in.png"], &["denoise", "x.npy"]]
    {
        assert_eq!(run(folder, &[&["edit"], usage].concat()).status.code(), Some(2), "{usage:?}");
    }
}
