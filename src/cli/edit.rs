//! `edit`: uses of a trained model on given pictures.

mod args;
mod session;

use crate::data::Picture;
use crate::equations::Timestep;
use crate::output::read_npy;
use crate::{Error, Result};
use args::{DenoiseArgs, InpaintArgs, InterpolateArgs, OutpaintArgs, VaryArgs};
use clap::{Args, Subcommand};
use ndarray::{Array2, Array3, Array4, s};
use session::Session;
use std::path::Path;
use std::process::ExitCode;

/// Use a model on given pictures: vary them, paint parts of them anew, go from one to another.
///
/// A picture of another size than the model's is cut around its centre to the model's aspect and resized, as
/// training images are, and a line says so. The result of one image is a PNG of the model's size, of several
/// a grid; --npy has them as numbers. The same seed gives the same bits on any number of threads.
///
/// Examples:
///   performer-ddpm edit vary shoe.png --at 500 -n 8 --out variations.png
///   performer-ddpm edit inpaint shoe.png --mask heel.png --out painted.png
///   performer-ddpm edit interpolate shoe.png boot.png -n 8 --out row.png
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct EditArgs {
    #[command(subcommand)]
    r#use: Use,
}

#[derive(Debug, Subcommand)]
enum Use {
    Vary(VaryArgs),
    Inpaint(InpaintArgs),
    Outpaint(OutpaintArgs),
    Interpolate(InterpolateArgs),
    Denoise(DenoiseArgs),
}

/// Edits; prints the files' paths.
pub fn run(args: EditArgs) -> Result<ExitCode> {
    match args.r#use {
        Use::Vary(args) => vary(&args),
        Use::Inpaint(args) => inpaint(&args),
        Use::Outpaint(args) => outpaint(&args),
        Use::Interpolate(args) => interpolate(&args),
        Use::Denoise(args) => denoise(&args),
    }
}

fn vary(args: &VaryArgs) -> Result<ExitCode> {
    args.common.check_outputs(&[&args.image])?;
    let mut session = Session::open(&args.common, args.n as usize)?;
    let image = session.picture(&args.image)?;
    let at = args.at.unwrap_or(session.timesteps().div_ceil(2));
    if at > 0 {
        session.timestep(Some(at))?;
    }
    let images = session.edit(|editor| editor.vary(image.view(), at))?;
    session.finish(&images, None)
}

fn inpaint(args: &InpaintArgs) -> Result<ExitCode> {
    args.common.check_outputs(&[&args.image, &args.mask])?;
    let mut session = Session::open_to_paint(&args.common, args.n as usize)?;
    let picture = Picture::open(&args.image)?;
    let image = session.fitted(&args.image, &picture)?;
    let paint = mask(&args.mask, &picture, &image)?;
    let images =
        session.edit(|editor| editor.inpaint(image.view(), paint.view(), args.resampling.resampling()))?;
    session.finish(&images, None)
}

/// The mask, which has the picture's size or the model's.
fn mask(path: &Path, picture: &Picture, image: &Array3<f32>) -> Result<Array2<bool>> {
    let (mask, (h, w, _)) = (Picture::open(path)?, image.dim());
    let size = mask.size();
    if size != picture.size() && size != (h, w) {
        let (picture_h, picture_w) = picture.size();
        return Err(Error::invalid(
            path.display().to_string(),
            match picture.size() == (h, w) {
                true => format!("{h}x{w} pixels (height x width), as the picture has"),
                false => {
                    format!("{picture_h}x{picture_w} pixels (height x width), as the picture has, or {h}x{w}")
                }
            },
            format!("{}x{}", size.0, size.1),
            "draw the mask on a copy of the picture",
        ));
    }
    let white = mask.white((h, w))?;
    if !white.iter().any(|white| *white) {
        return Err(Error::invalid(
            path.display().to_string(),
            "a mask with white in it: white is painted anew",
            "a mask without",
            "invert it, if black is what is to be painted",
        ));
    }
    Ok(white)
}

fn outpaint(args: &OutpaintArgs) -> Result<ExitCode> {
    args.common.check_outputs(&[&args.image])?;
    let picture = Picture::open(&args.image)?;
    let ((h, w), [canvas_h, canvas_w]) = (picture.size(), args.canvas);
    let inside = |[top, left]: [usize; 2]| {
        top.checked_add(h).is_some_and(|end| end <= canvas_h)
            && left.checked_add(w).is_some_and(|end| end <= canvas_w)
    };
    let centred = [canvas_h.saturating_sub(h) / 2, canvas_w.saturating_sub(w) / 2];
    let [top, left] = args.place.unwrap_or(centred);
    if !inside([top, left]) || (h, w) == (canvas_h, canvas_w) {
        return Err(Error::invalid(
            args.image.display().to_string(),
            format!("a picture smaller than the canvas of {canvas_h}x{canvas_w}, and inside it"),
            format!("{h}x{w} pixels (height x width) at row {top}, column {left}"),
            "give a larger --canvas or another --place",
        ));
    }
    let mut session = Session::open_to_paint(&args.common, args.n as usize)?.on_canvas(args.canvas)?;
    let pixels = picture.pixels((h, w), session.channels())?;
    let mut image = Array3::zeros((canvas_h, canvas_w, session.channels()));
    image.slice_mut(s![top..top + h, left..left + w, ..]).assign(&pixels);
    let mut paint = Array2::from_elem((canvas_h, canvas_w), true);
    paint.slice_mut(s![top..top + h, left..left + w]).fill(false);
    let images =
        session.edit(|editor| editor.inpaint(image.view(), paint.view(), args.resampling.resampling()))?;
    session.finish(&images, None)
}

fn interpolate(args: &InterpolateArgs) -> Result<ExitCode> {
    args.common.check_outputs(&args.images.iter().map(|path| path.as_path()).collect::<Vec<_>>())?;
    let columns = args.n as usize;
    let mut session = Session::open_between(&args.common, columns, args.samples.is_none())?;
    let t = session.timestep(args.at)?;
    let pictures = args.images.iter().map(|path| session.picture(path)).collect::<Result<Vec<_>>>()?;
    let images = session.edit(|editor| {
        let ends: Vec<Array3<f32>> = match (&pictures[..], args.samples.as_deref()) {
            ([a, b], _) => {
                let given = ndarray::stack![ndarray::Axis(0), *a, *b];
                editor.encode(given.view(), t)?.outer_iter().map(|x| x.to_owned()).collect()
            }
            (_, samples) => samples.unwrap_or(&[]).iter().map(|i| editor.start(*i as usize)).collect(),
        };
        let [a, b] = &ends[..] else {
            return Err(Error::invalid(
                "the ends",
                "two pictures or --samples I,J",
                ends.len().to_string(),
                "",
            ));
        };
        editor.interpolate([a.view(), b.view()], t)
    })?;
    session.finish(&images, Some(columns))
}

fn denoise(args: &DenoiseArgs) -> Result<ExitCode> {
    args.common.check_outputs(&[&args.from])?;
    let is_array = args.from.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npy"));
    let given = if is_array { Some(read_npy::<ndarray::Ix4>(&args.from)?) } else { None };
    let mut session = Session::open(&args.common, given.as_ref().map_or(1, |x| x.dim().0))?;
    let t: Timestep = session.timestep(Some(args.at))?;
    let x: Array4<f32> = match given {
        Some(x) => x.permuted_axes([0, 2, 3, 1]).as_standard_layout().into_owned(),
        None => session.picture(&args.from)?.insert_axis(ndarray::Axis(0)),
    };
    let images = session.edit(|editor| editor.denoise(x.view(), t))?;
    session.finish(&images, None)
}
