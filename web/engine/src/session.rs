//! A model and what is done with it.

use crate::request::{Request, Wishes};
use crate::told::{Model as ModelTold, Moment, Told};
use ndarray::{Array2, Array3};
use performer_ddpm::checkpoint::in_memory;
use performer_ddpm::checkpoint::model_folder::LoadedModel;
use performer_ddpm::config::{AttentionKind, Prediction, UnetConfig};
use performer_ddpm::equations::solver::{Limit, Method, Scheduler, Step, s01_predict_x0};
use performer_ddpm::kernels::{Isa, Kernels};
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::sample::edit::Resampling;
use performer_ddpm::sample::{Diffusion, Editor, Native, sample_with};
use performer_ddpm::{Error, Result, SampleOptions};
use std::cell::Cell;

/// Whom everything is told to: a message, and numbers beside it.
pub type Tell<'a> = dyn FnMut(Told, &[f32]) + 'a;

/// A model in memory, once there is one.
#[derive(Debug, Default)]
pub struct Session {
    files: Vec<(String, Vec<u8>)>,
    loaded: Option<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    diffusion: Diffusion,
    own: Network,
    /// The same weights with the other attention, from its first use on.
    exchanged: Option<Network>,
}

#[derive(Debug)]
struct Network {
    model: Model<f32>,
    engine: Engine<f32>,
}

impl Network {
    fn new(model: Model<f32>) -> Result<Network> {
        let engine = Engine::new(&model, 1, Kernels::from(Isa::detect()))?;
        Ok(Network { model, engine })
    }
}

impl Session {
    /// Keeps a file of the model for the next request to load it.
    pub fn add_file(&mut self, path: String, contents: Vec<u8>) {
        self.files.push((path, contents));
    }

    /// Does what a request asks for. `numbers` are `f32`, the lowest byte first.
    pub fn answer(&mut self, request: &[u8], numbers: &[u8], tell: &mut Tell) {
        if let Err(error) = self.try_answer(request, numbers, tell) {
            tell(Told::error(&error.to_string()), &[]);
        }
    }

    fn try_answer(&mut self, request: &[u8], numbers: &[u8], tell: &mut Tell) -> Result<()> {
        let request: Request = serde_json::from_slice(request)
            .map_err(|e| Error::invalid("the request", "what the page asks for", e.to_string(), ""))?;
        match request {
            Request::Load {} => self.load(tell),
            Request::Sample(wishes) => self.loaded()?.sample(&wishes, tell),
            Request::Inpaint { wishes, jump, times } => {
                let numbers: Vec<f32> =
                    numbers.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
                self.loaded()?.inpaint(&wishes, [jump, times], &numbers, tell)
            }
        }
    }

    fn loaded(&mut self) -> Result<&mut Loaded> {
        self.loaded.as_mut().ok_or_else(|| Error::invalid("the session", "a model", "none", "load one first"))
    }

    fn load(&mut self, tell: &mut Tell) -> Result<()> {
        let files = std::mem::take(&mut self.files);
        let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
        let loaded: LoadedModel<f32> = in_memory::load(&files)?;
        let (diffusion, note) = (Diffusion::of(&loaded)?, loaded.note);
        let own = Network::new(loaded.model)?;
        tell(Told::Loaded(Box::new(description(&own, &diffusion, note))), &[]);
        self.loaded = Some(Loaded { diffusion, own, exchanged: None });
        Ok(())
    }
}

impl Loaded {
    fn network(&mut self, exchanged: bool) -> Result<(&mut Network, &Diffusion)> {
        if !exchanged {
            return Ok((&mut self.own, &self.diffusion));
        }
        if self.exchanged.is_none() {
            let (own, kind) = (&self.own.model, other_attention(&self.own.model.config));
            let kind = kind.ok_or_else(|| {
                Error::invalid("the network", "one that attends", "one without attention", "")
            })?;
            let model = own.with_attention(&own.config.with_attention(kind), 0, 0)?;
            self.exchanged = Some(Network::new(model)?);
        }
        Ok((self.exchanged.as_mut().expect("it was made"), &self.diffusion))
    }

    fn sample(&mut self, wishes: &Wishes, tell: &mut Tell) -> Result<()> {
        let (network, diffusion) = self.network(wishes.exchanged)?;
        let options = wishes.options(diffusion)?;
        let process = options.process(&diffusion.schedule)?;
        let mut steps = Steps::new(&options, process.table()?, process.alpha_bars(), network.image());
        steps.calls = steps.table.len();
        let images = {
            let mut k = 0;
            let native = Native::new(&network.model, &mut network.engine)?;
            let mut native = native.heard_by(|_, x, prediction| {
                steps.tell(k, k + 1, x, prediction, tell);
                k += 1;
            });
            sample_with(&mut native, &diffusion.schedule, &options, None, |_| {})?
        };
        tell(Told::Done { count: options.count }, images.as_slice().expect("images in order"));
        Ok(())
    }

    fn inpaint(
        &mut self,
        wishes: &Wishes,
        [jump, times]: [usize; 2],
        numbers: &[f32],
        tell: &mut Tell,
    ) -> Result<()> {
        let (network, diffusion) = self.network(wishes.exchanged)?;
        let options = wishes.options_to_paint(diffusion)?;
        let [h, w, c] = network.image();
        let len = h * w * c;
        if numbers.len() != len + h * w {
            let expected = format!("{} numbers: an image and its mask", len + h * w);
            return Err(Error::invalid("the picture", expected, numbers.len().to_string(), ""));
        }
        let (image, mask) = numbers.split_at(len);
        let image = Array3::from_shape_vec((h, w, c), image.to_vec()).expect("an image's numbers");
        let mask = mask.iter().map(|paint| *paint > 0.5).collect();
        let mask = Array2::from_shape_vec((h, w), mask).expect("a number for each pixel");
        let resampling = Resampling { jump, times };
        let process = options.clone().without_history().process(&diffusion.schedule)?;
        let mut steps = Steps::new(&options, process.table()?, process.alpha_bars(), network.image());
        steps.calls = resampling.calls(steps.table.len());
        let call = Cell::new(0);
        let images = {
            let native = Native::new(&network.model, &mut network.engine)?;
            let native = native.heard_by(|t, x, prediction| {
                let k = steps.table.iter().position(|step| step.t == t).unwrap_or_default();
                call.set(call.get() + 1);
                steps.tell(k, call.get(), x, prediction, tell);
            });
            Editor::new(Box::new(native), &diffusion.schedule, &options)?.inpaint(
                image.view(),
                mask.view(),
                resampling,
            )?
        };
        tell(Told::Done { count: options.count }, images.as_slice().expect("images in order"));
        Ok(())
    }
}

impl Network {
    fn image(&self) -> [usize; 3] {
        let shape = self.model.graph.shape(self.model.graph.input);
        [shape.h, shape.w, shape.c]
    }
}

/// The table of a sampler, and what of it is told with every step.
struct Steps {
    table: Vec<Step>,
    alpha_bars: Vec<f64>,
    prediction: Prediction,
    limit: Limit,
    sampler: &'static str,
    eta: Option<f64>,
    image: usize,
    calls: usize,
}

impl Steps {
    fn new(options: &SampleOptions, table: Vec<Step>, alpha_bars: Vec<f64>, image: [usize; 3]) -> Steps {
        let Scheduler { prediction, limit, method, .. } = options.scheduler();
        let eta = if let Method::Ddim(choice) = method { Some(choice.eta) } else { None };
        let (sampler, image) = (name(method), image.iter().product());
        Steps { table, alpha_bars, prediction, limit, sampler, eta, image, calls: 0 }
    }

    /// Tells of step `k`, whose network's input and output are given.
    fn tell(&self, k: usize, call: usize, x: &[f32], prediction: &[f32], tell: &mut Tell) {
        let (Some(step), Some(levels)) = (self.table.get(k), self.alpha_bars.get(k..k + 2)) else { return };
        let [alpha_bar, next] = [levels[0], levels[1]];
        let x0 = s01_predict_x0(self.prediction, alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
        let [from_x, from_output] = x0.map(|a| a as f32);
        let mut numbers = x.to_vec();
        numbers.extend(x.iter().zip(prediction).map(|(x, m)| from_x * x + from_output * m));
        numbers[x.len()..].chunks_mut(self.image).for_each(|image| self.limit.s02_limit(image));
        let (steps, calls) = (self.table.len(), self.calls);
        let moment = Moment {
            call,
            calls,
            step: k + 1,
            steps,
            sampler: self.sampler,
            eta: self.eta,
            ..Moment::new(step, [alpha_bar, next], x0, self.limit)
        };
        tell(Told::Step(Box::new(moment)), &numbers);
    }
}

/// The attention that can take the place of a network's with the same weights.
fn other_attention(config: &UnetConfig) -> Option<AttentionKind> {
    match attention(config)? {
        AttentionKind::Softmax => Some(AttentionKind::FAVOR),
        AttentionKind::Favor(_) => Some(AttentionKind::Softmax),
    }
}

/// A network's attention: FAVOR+ where any block has it.
fn attention(config: &UnetConfig) -> Option<AttentionKind> {
    let kinds = config.attention_blocks().filter_map(|block| config.attention_kind(block));
    kinds.max_by_key(|kind| kind.map().is_some())
}

fn name(method: Method) -> &'static str {
    match method {
        Method::Ddpm { .. } => "ddpm",
        Method::Ddim(_) => "ddim",
        Method::DpmSolver(_) => "dpm++",
        Method::UniPc(_) => "unipc",
    }
}

fn description(network: &Network, diffusion: &Diffusion, note: Option<String>) -> ModelTold {
    let (config, scheduler) = (&network.model.config, diffusion.scheduler);
    let classes = config.class_embedding();
    ModelTold {
        image: network.image(),
        timesteps: diffusion.schedule.steps(),
        classes: (0..classes.classes()).map(|class| classes.class_name(class)).collect(),
        guidable: classes.null_class().is_some(),
        parameters: network.model.graph.params.total(),
        attention: attention(config).map_or("none", AttentionKind::name),
        exchanged: other_attention(config).map(AttentionKind::name),
        features: config.favor.features,
        prediction: match scheduler.prediction {
            Prediction::Epsilon => "epsilon",
            Prediction::Sample => "sample",
            Prediction::VPrediction => "v",
        },
        sampler: name(scheduler.method),
        steps: scheduler.usual_steps(diffusion.schedule.steps()),
        isa: network.engine.kernels().isa.name(),
        note,
    }
}

#[cfg(test)]
mod tests;
