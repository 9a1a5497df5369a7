//! A model that is used on pictures, from its loading to the files that are written.

use super::args::Common;
use crate::cli::progress::Progress;
use crate::cli::{check_writable, model_path, print_json};
use crate::data::Picture;
use crate::equations::Timestep;
use crate::output::{write_npy, write_picture, write_png};
use crate::sample::{Choice, ClipX0, Compute, Editor, Family, is_onnx};
use crate::{Error, Pipeline, Result, SampleOptions};
use ndarray::{Array3, Array4, Axis, s};
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// The largest number of images in a grid; all are in the array.
const GRID: usize = 400;

pub struct Session<'a> {
    common: &'a Common,
    pipeline: Pipeline,
    options: SampleOptions,
    classes: Vec<usize>,
    progress: Progress,
    seconds: f64,
    steps: usize,
}

#[derive(Serialize)]
struct Figures {
    images: usize,
    /// Steps of a batch of images: calls of the network.
    steps: usize,
    seconds: f64,
    files: Vec<String>,
}

impl<'a> Session<'a> {
    /// Loads the model, to paint so many images anew: by DDIM where the model's own scheduler looks back on
    /// earlier steps, which do not hold where pixels are put back between them, and the arguments name no
    /// sampler.
    pub fn open_to_paint(common: &'a Common, count: usize) -> Result<Self> {
        let mut session = Self::open(common, count)?;
        let diffusion = session.pipeline.diffusion();
        session.options = common.reverse.choice().of_one_step(diffusion).options(diffusion)?;
        session.count(count);
        Ok(session)
    }

    /// Loads the model, to make so many images as the arguments and the model's scheduler say.
    pub fn open(common: &'a Common, count: usize) -> Result<Self> {
        for file in common.npy.iter().chain([&common.out]) {
            check_writable(file)?;
        }
        let path = model_path(common.model.clone())?;
        let progress = Progress::new(common.compute.quiet);
        let pipeline = if is_onnx(&path) {
            Pipeline::load(&path)?
        } else {
            let (threads, kernels) = (Some(common.compute.threads()), common.compute.kernels());
            Pipeline::load_with(&path, &Compute::Engine { threads, kernels })?
        };
        if let Some(note) = pipeline.note() {
            progress.say(note);
        }
        let options = common.reverse.choose(pipeline.diffusion())?;
        let in_file = || {
            let help = "use the model folder that it was exported from";
            Error::invalid("--class", "a model folder, which knows its classes", "an .onnx file", help)
        };
        let find = |text: &String| pipeline.unet().ok_or_else(in_file)?.find_class(text);
        let classes = common.class.iter().map(find).collect::<Result<Vec<_>>>()?;
        let mut session = Session { common, pipeline, options, classes, progress, seconds: 0.0, steps: 0 };
        session.count(count);
        Ok(session)
    }

    /// The same for a way between images: by DDIM where the model's own scheduler adds noise and the
    /// arguments name no other sampler. Where pictures are `encoded`, the way back is DDIM's too, as the way
    /// up is, and clips nothing, as that does, unless the arguments say so: it would not lead back to them.
    pub fn open_between(common: &'a Common, count: usize, encoded: bool) -> Result<Self> {
        let mut session = Self::open(common, count)?;
        let diffusion = session.pipeline.diffusion();
        let mut choice = common.reverse.choice();
        if encoded {
            choice = choice.of_one_step(diffusion);
        }
        let adds_noise = session.options.process(&diffusion.schedule)?.adds_noise();
        if adds_noise && choice.family.is_none() && choice.eta.is_none() {
            session.progress.say("the model's scheduler adds noise: this is DDIM, which does not");
            choice = Choice { family: Some(Family::Ddim), eta: Some(0.0), ..choice };
        }
        choice.clip = choice.clip.or(encoded.then_some(ClipX0::Off));
        session.options = choice.options(diffusion)?;
        session.count(count);
        Ok(session)
    }

    fn count(&mut self, count: usize) {
        let batch = self.common.batch as usize;
        let batch = self.pipeline.fixed_batch().map_or(batch, |fixed| batch.min(fixed));
        self.options.count = count;
        self.options.batch = batch;
        self.options.seed = self.common.seed;
        self.options.classes = self.classes.clone();
        self.options.guidance = self.common.guidance.choose();
    }

    /// The same model on images of another size.
    pub fn on_canvas(self, canvas: [usize; 2]) -> Result<Self> {
        let [h, w, _] = self.pipeline.image();
        if canvas == [h, w] {
            return Ok(self);
        }
        let pipeline = self.pipeline.resized(canvas)?;
        self.progress.say(&format!("a model of {h}x{w} pixels on a canvas of {}x{}", canvas[0], canvas[1]));
        Ok(Session { pipeline, ..self })
    }

    /// T.
    pub fn timesteps(&self) -> usize {
        self.pipeline.diffusion().schedule.steps()
    }

    /// The channels of the model's images.
    pub fn channels(&self) -> usize {
        self.pipeline.image()[2]
    }

    /// The timestep of --at, or T.
    pub fn timestep(&self, at: Option<usize>) -> Result<Timestep> {
        let most = self.timesteps();
        match at.unwrap_or(most) {
            t if (1..=most).contains(&t) => Timestep::new(t),
            t => Err(Error::invalid("--at", format!("a timestep from 1 to {most}"), t.to_string(), "")),
        }
    }

    /// A picture as the model has its images.
    pub fn picture(&self, path: &Path) -> Result<Array3<f32>> {
        self.fitted(path, &Picture::open(path)?)
    }

    /// The same of one that has been opened.
    pub fn fitted(&self, path: &Path, picture: &Picture) -> Result<Array3<f32>> {
        let ([h, w, c], (from_h, from_w)) = (self.pipeline.image(), picture.size());
        if (from_h, from_w) != (h, w) {
            self.progress.say(&format!(
                "{}: {from_h}x{from_w}, cut around the centre and resized to the model's {h}x{w}",
                path.display()
            ));
        }
        picture.pixels((h, w), c)
    }

    /// Uses the model, with its progress shown.
    pub fn edit(
        &mut self,
        r#use: impl FnOnce(&mut Editor<f32>) -> Result<Array4<f32>>,
    ) -> Result<Array4<f32>> {
        let Session { pipeline, options, progress, steps, seconds, .. } = self;
        let begun = Instant::now();
        let mut editor = pipeline.edit(options)?.watched(|now| {
            *steps += 1;
            progress
                .update(now.done as f64 / now.total as f64, || format!("step {}/{}", now.done, now.total));
        });
        let images = r#use(&mut editor);
        drop(editor);
        progress.finish();
        *seconds = begun.elapsed().as_secs_f64();
        images
    }

    /// Writes the files and prints their names; `columns` are those of the grid.
    pub fn finish(&self, images: &Array4<f32>, columns: Option<usize>) -> Result<ExitCode> {
        let (common, count) = (self.common, images.len_of(Axis(0)));
        // The files' images are in [-1, 1]; the last step of some samplers leaves it.
        let images = images.mapv(|x| x.clamp(-1.0, 1.0));
        if count == 1 {
            write_picture(&common.out, images.index_axis(Axis(0), 0))?;
        } else {
            write_png(&common.out, images.slice(s![..count.min(GRID), .., .., ..]), columns)?;
        }
        let mut files = vec![common.out.display().to_string()];
        if let Some(path) = &common.npy {
            write_npy(path, images.view().permuted_axes([0, 3, 1, 2]))?;
            files.push(path.display().to_string());
        }
        if common.json {
            print_json(&Figures { images: count, steps: self.steps, seconds: self.seconds, files });
            return Ok(ExitCode::SUCCESS);
        }
        if !common.compute.quiet {
            eprintln!("{count} images in {} steps, {:.1} s", self.steps, self.seconds);
        }
        files.iter().for_each(|file| println!("{file}"));
        Ok(ExitCode::SUCCESS)
    }
}
