//! The metadata of an exported file, with which the file alone suffices to sample.
//!
//! Every key begins with `performer_ddpm.`; values are text, numbers and lists as JSON.
//!
//! | key | value |
//! |---|---|
//! | `version` | the version of the program that wrote the file |
//! | `graph` | `denoiser`, `step`, `sampler` or `train-step` |
//! | `parameterisation` | what the network predicts: `eps`, the noise; `x0`, the image; or `v` |
//! | `betas` | beta_1 .. beta_T, to the last bit |
//! | `alpha_bars` | abar_1 .. abar_T, where the last is 0 (zero terminal SNR): betas do not say it exactly |
//! | `schedule` | the schedule's name and parameters, for a reader; absent where only the betas are known |
//! | `variance` | sigma_t^2 of Algorithm 2: `fixed_small` (beta~_t) or `fixed_large` (beta_t) |
//! | `clip_x0` | `true` where samplers clip the predicted x_0 to the data range |
//! | `scheduler` | a [`Scheduler`] in JSON: the sampler graph's, or that of the others where none is named |
//! | `data_range` | the images' range, `[-1.0,1.0]` |
//! | `attention` | which blocks attend and how, for a reader |
//! | `classes` | of a network that takes classes, the input `y`: how many |
//! | `null_class` | of a network that has one: the class that stands for none, for a reader |
//! | `class_names` | the names of the classes as a JSON list, where they have names, but for the null class |
//! | `step` | the training step of the weights, where it is known |
//! | `coefficients` | of the step graph: the names of its row's numbers, for a reader |
//! | `carried` | of the step graph: what is carried from step to step beside x, for a reader |
//! | `sampler` | of the sampler graph: `ddpm`, `ddim`, `dpm++` or `unipc`, for a reader |
//! | `steps` | of the sampler graph: K |
//! | `asked_steps` | of the sampler graph: the steps that its scheduler was asked for; K where it is absent |
//! | `steps_per_run` | of the sampler graph: the steps of one run; K where the key is absent |
//! | `timesteps` | of the sampler graph: its K values of t (indices 0..T-1) in the order of sampling |
//! | `training` | of the train-step graph: a [`TrainStep`] in JSON, Adam's numbers, clipping, average and states |

use super::source::Source;
use super::train_step::TrainStep;
use crate::config::{BetaSchedule, BlockAttention, DiffusionConfig, FavorConfig, Prediction};
use crate::config::{ClassEmbedding, UnetConfig, VarianceKind};
use crate::equations::solver::{Method, Scheduler, StepForm, Variance};
use crate::equations::{Schedule, Timestep};
use crate::error::{Error, Result};
use performer_ddpm_onnx::Model;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

const PREFIX: &str = "performer_ddpm.";

/// Which of the four graphs a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GraphKind {
    /// x \[N, C, H, W\], t \[N\] -> the prediction: the network.
    Denoiser,
    /// x, t, coefficients, z -> x_next: the network and one step of samplers of one form.
    Step,
    /// x_T \[N, C, H, W\], noise \[K, N, C, H, W\] -> images: K steps of one sampler.
    Sampler,
    /// x_0, eps, t, lr, step and the states -> loss, grad_norm and the next states: one training step.
    #[serde(rename = "train-step")]
    TrainStep,
}

impl GraphKind {
    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            GraphKind::Denoiser => "denoiser",
            GraphKind::Step => "step",
            GraphKind::Sampler => "sampler",
            GraphKind::TrainStep => "train-step",
        }
    }
}

/// How a network attends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionSummary {
    /// Each level on the way down, the full resolution first.
    pub down: Vec<BlockAttention>,
    /// The middle block.
    pub middle: BlockAttention,
    /// Each level on the way up, the lowest resolution first.
    pub up: Vec<BlockAttention>,
    /// Channels of a head; `None` for one head over all channels.
    pub head_dim: Option<usize>,
    /// FAVOR+'s settings, where a block uses it.
    pub favor: Option<FavorConfig>,
}

impl From<&UnetConfig> for AttentionSummary {
    fn from(config: &UnetConfig) -> Self {
        let (down, middle, up) = (&config.down_attention, config.mid_attention, &config.up_attention);
        let favor = down.iter().chain([&middle]).chain(up).any(|kind| *kind == BlockAttention::Favor);
        AttentionSummary {
            down: down.clone(),
            middle,
            up: up.clone(),
            head_dim: config.attention_head_dim,
            favor: favor.then(|| config.favor.clone()),
        }
    }
}

/// The sampler of a sampler graph.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerSummary {
    /// The sampler with its settings.
    pub scheduler: Scheduler,
    /// The steps that it was asked for.
    pub steps: usize,
    /// Its timesteps in the order of sampling, which may be fewer.
    pub timesteps: Vec<Timestep>,
    /// The number of steps of one run. Where it is not all of them, the graph has the input `first`.
    pub per_run: usize,
}

impl SamplerSummary {
    /// Whether the chain takes more than one run.
    pub fn is_cut(&self) -> bool {
        self.per_run < self.timesteps.len()
    }
}

/// The metadata of an exported file.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    /// The version of the program that wrote the file.
    pub version: String,
    /// Which graph it is.
    pub graph: GraphKind,
    /// The diffusion process: all T levels.
    pub schedule: Schedule,
    /// The schedule's name, where it has one.
    pub named_schedule: Option<BetaSchedule>,
    /// sigma_t^2 of Algorithm 2.
    pub variance: VarianceKind,
    /// Whether samplers clip the predicted x_0.
    pub clip_x0: bool,
    /// How the model is sampled where nothing else is said; of a sampler graph, what it does.
    pub scheduler: Scheduler,
    /// The images' range.
    pub data_range: [f64; 2],
    /// How the network attends.
    pub attention: AttentionSummary,
    /// The number of classes of a network that takes them, the null class included.
    pub classes: Option<usize>,
    /// Their names, but for the null class.
    pub class_names: Vec<String>,
    /// The training step of the weights.
    pub step: Option<u64>,
    /// Of a sampler graph: its steps.
    pub sampler: Option<SamplerSummary>,
    /// Of a train-step graph: what it does with the gradient.
    pub training: Option<TrainStep>,
}

impl Metadata {
    /// The metadata of a network's file, written by this version of the program.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the diffusion process is out of range.
    pub fn new(graph: GraphKind, source: Source, sampler: Option<SamplerSummary>) -> Result<Self> {
        let Source { model, diffusion, step, .. } = source;
        let scheduler = sampler.as_ref().map_or(source.scheduler, |sampler| sampler.scheduler);
        Ok(Metadata {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            graph,
            schedule: Schedule::from_config(diffusion)?,
            named_schedule: Some(diffusion.schedule.clone()),
            variance: match scheduler.method {
                Method::Ddpm { variance: Variance::FixedSmall, .. } => VarianceKind::FixedSmall,
                Method::Ddpm { variance: Variance::FixedLarge, .. } => VarianceKind::FixedLarge,
                _ => diffusion.variance,
            },
            clip_x0: diffusion.clip_x0,
            scheduler,
            data_range: [-1.0, 1.0],
            attention: (&model.config).into(),
            classes: model.graph.classes(),
            class_names: model.config.class_names.clone(),
            step,
            sampler,
            training: None,
        })
    }

    /// The classes that the network is told.
    pub fn class_embedding(&self) -> ClassEmbedding<'_> {
        ClassEmbedding { embeds: self.classes, names: &self.class_names }
    }

    /// What the steps of a step graph need.
    pub fn form(&self) -> StepForm {
        self.scheduler.form()
    }

    /// The keys and values for the file.
    pub fn write(&self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        let mut put = |key: &str, value: String| pairs.push((format!("{PREFIX}{key}"), value));
        put("version", self.version.clone());
        put("graph", self.graph.name().to_owned());
        put("parameterisation", prediction_name(self.scheduler.prediction).to_owned());
        put("betas", json(&self.schedule.betas()));
        if self.schedule.last().alpha_bar == 0.0 {
            put("alpha_bars", json(&self.schedule.alpha_bars()));
        }
        if let Some(named) = &self.named_schedule {
            put("schedule", json(named));
        }
        put("variance", word(&self.variance));
        put("clip_x0", json(&self.clip_x0));
        put("scheduler", json(&self.scheduler));
        put("data_range", json(&self.data_range));
        put("attention", json(&self.attention));
        for (key, number) in [("classes", self.classes), ("null_class", self.class_embedding().null_class())]
        {
            if let Some(number) = number {
                put(key, number.to_string());
            }
        }
        if !self.class_names.is_empty() {
            put("class_names", json(&self.class_names));
        }
        if let Some(step) = self.step {
            put("step", step.to_string());
        }
        if self.graph == GraphKind::Step {
            put("coefficients", json(&self.form().names()));
            put("carried", json(&self.form().carried()));
        }
        if let Some(sampler) = &self.sampler {
            let name = match sampler.scheduler.method {
                Method::Ddpm { .. } => "ddpm",
                Method::Ddim(_) => "ddim",
                Method::DpmSolver(_) => "dpm++",
                Method::UniPc(_) => "unipc",
            };
            put("sampler", name.to_owned());
            let steps = sampler.timesteps.len();
            put("steps", steps.to_string());
            if sampler.steps != steps {
                put("asked_steps", sampler.steps.to_string());
            }
            let indices: Vec<usize> = sampler.timesteps.iter().map(|t| t.index()).collect();
            put("timesteps", json(&indices));
            if sampler.is_cut() {
                put("steps_per_run", sampler.per_run.to_string());
            }
        }
        if let Some(training) = &self.training {
            put("training", json(training));
        }
        pairs
    }

    /// Reads the metadata of a file. `None` for a file without our keys, which another program wrote.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the file and the key that is missing, damaged or contradicts another.
    pub fn read(model: &Model) -> Result<Option<Metadata>> {
        let entries = &model.proto().metadata_props;
        if !entries.iter().any(|entry| entry.key.starts_with(PREFIX)) {
            return Ok(None);
        }
        let reader = Reader { model };
        let prediction = reader.prediction()?;
        let schedule = reader.schedule()?;
        let graph = reader.word("graph", "denoiser, step, sampler or train-step")?;
        let variance = reader.word("variance", "fixed_small or fixed_large")?;
        let clip_x0 = reader.json("clip_x0", "true or false")?;
        let scheduler = match (reader.find("scheduler"), graph) {
            // Files of earlier versions have none; they are sampled as these did, and their step graphs carry
            // nothing for other samplers.
            (None, GraphKind::Denoiser | GraphKind::Step) => Scheduler::ddim_of(&DiffusionConfig {
                variance,
                clip_x0,
                prediction,
                ..DiffusionConfig::default()
            }),
            _ => reader.scheduler(prediction)?,
        };
        let classes = reader.optional("classes", "a whole number")?;
        let class_names = reader.class_names(classes)?;
        let sampler = match graph {
            GraphKind::Denoiser | GraphKind::Step | GraphKind::TrainStep => None,
            GraphKind::Sampler => Some(reader.sampler(&schedule, scheduler)?),
        };
        let training = match graph {
            GraphKind::Denoiser | GraphKind::Step | GraphKind::Sampler => None,
            GraphKind::TrainStep => Some(reader.json("training", "the optimiser's numbers as JSON")?),
        };
        Ok(Some(Metadata {
            version: reader.text("version", "a version")?.to_owned(),
            graph,
            schedule,
            named_schedule: reader.optional("schedule", "a schedule's name and parameters as JSON")?,
            variance,
            clip_x0,
            scheduler,
            data_range: reader.json("data_range", "two numbers as a JSON list")?,
            attention: reader.json("attention", "the blocks' attention as JSON")?,
            classes,
            class_names,
            step: reader.optional("step", "a whole number")?,
            sampler,
            training,
        }))
    }
}

/// The name of what a network predicts: of a denoiser's output, and in the metadata.
pub(super) fn prediction_name(prediction: Prediction) -> &'static str {
    match prediction {
        Prediction::Epsilon => "eps",
        Prediction::Sample => "x0",
        Prediction::VPrediction => "v",
    }
}

/// A file's metadata under the prefix.
struct Reader<'a> {
    model: &'a Model,
}

impl<'a> Reader<'a> {
    fn refuse(&self, key: &str, expected: &str, got: &str) -> Error {
        Error::invalid(
            format!("{}, metadata {PREFIX}{key}", self.model.origin()),
            expected,
            got,
            "the file is damaged or of another version; export it again",
        )
    }

    fn find(&self, key: &str) -> Option<&'a str> {
        self.model.metadata(&format!("{PREFIX}{key}"))
    }

    fn text(&self, key: &str, expected: &str) -> Result<&'a str> {
        self.find(key).ok_or_else(|| self.refuse(key, expected, "no such key"))
    }

    fn parse<T: DeserializeOwned>(&self, key: &str, expected: &str, text: &str) -> Result<T> {
        serde_json::from_str(text).map_err(|error| {
            let shown: String = text.chars().take(40).collect();
            self.refuse(key, expected, &format!("{shown} ({error})"))
        })
    }

    fn json<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<T> {
        self.parse(key, expected, self.text(key, expected)?)
    }

    fn optional<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Option<T>> {
        self.find(key).map(|text| self.parse(key, expected, text)).transpose()
    }

    /// A name without JSON's quotation marks.
    fn word<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<T> {
        let text = self.text(key, expected)?;
        serde_json::from_value(text.into()).map_err(|_| self.refuse(key, expected, text))
    }

    fn schedule(&self) -> Result<Schedule> {
        let betas: Vec<f64> = self.json("betas", "beta_1 .. beta_T as a JSON list")?;
        let alpha_bars: Option<Vec<f64>> = self.optional("alpha_bars", "abar_1 .. abar_T as a JSON list")?;
        let (key, schedule) = match &alpha_bars {
            None => ("betas", Schedule::from_betas(&betas)),
            Some(alpha_bars) => ("alpha_bars", Schedule::from_alpha_bars(alpha_bars)),
        };
        let schedule = schedule.map_err(|error| self.refuse(key, "a usable schedule", &error.to_string()))?;
        if schedule.betas() != betas {
            return Err(self.refuse("alpha_bars", "those of the betas", "others"));
        }
        Ok(schedule)
    }

    fn class_names(&self, classes: Option<usize>) -> Result<Vec<String>> {
        let names: Vec<String> = self.optional("class_names", "names as a JSON list")?.unwrap_or_default();
        let number = classes.unwrap_or(0);
        if names.is_empty() || names.len() == number || names.len() + 1 == number {
            return Ok(names);
        }
        let expected = format!("{number} names, or one fewer where the last class is the null class");
        Err(self.refuse("class_names", &expected, &names.len().to_string()))
    }

    fn prediction(&self) -> Result<Prediction> {
        let text = self.text("parameterisation", "eps, x0 or v")?;
        let all = [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction];
        let named = all.into_iter().find(|prediction| prediction_name(*prediction) == text);
        named.ok_or_else(|| self.refuse("parameterisation", "eps, x0 or v", text))
    }

    /// The scheduler, for a network that predicts what the file says.
    fn scheduler(&self, prediction: Prediction) -> Result<Scheduler> {
        let scheduler: Scheduler = self.json("scheduler", "a sampler's settings as JSON")?;
        let usable = scheduler.validate();
        usable.map_err(|error| self.refuse("scheduler", "a usable sampler", &error.to_string()))?;
        if scheduler.prediction != prediction {
            let expected = prediction_name(scheduler.prediction);
            return Err(self.refuse("parameterisation", expected, prediction_name(prediction)));
        }
        Ok(scheduler)
    }

    fn sampler(&self, schedule: &Schedule, scheduler: Scheduler) -> Result<SamplerSummary> {
        let steps: usize = self.json("steps", "a whole number")?;
        let asked = self.optional("asked_steps", "a whole number")?.unwrap_or(steps);
        let visited = scheduler
            .steps(schedule, asked)
            .map_err(|error| self.refuse("steps", "steps of the sampler", &error.to_string()))?;
        let timesteps: Vec<Timestep> = visited.iter().map(|step| step.t).collect();
        if steps != timesteps.len() {
            let expected = format!("{}, the sampler's steps", timesteps.len());
            return Err(self.refuse("steps", &expected, &steps.to_string()));
        }
        let indices: Vec<usize> = self.json("timesteps", "indices as a JSON list")?;
        if !indices.iter().copied().eq(timesteps.iter().map(|t| t.index())) {
            return Err(self.refuse("timesteps", "those of the sampler", &format!("{indices:?}")));
        }
        let expected = format!("a whole number from 1 to {steps}");
        let per_run = self.optional("steps_per_run", &expected)?.unwrap_or(steps);
        if !(1..=steps).contains(&per_run) {
            return Err(self.refuse("steps_per_run", &expected, &per_run.to_string()));
        }
        Ok(SamplerSummary { scheduler, steps: asked, timesteps, per_run })
    }
}

/// Numbers, lists and records of them always become JSON.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A name without JSON's quotation marks.
fn word(value: &impl Serialize) -> String {
    json(value).trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::equations::Spacing;
    use crate::equations::ddim::{ClipX0, Ddim};
    use crate::equations::reverse::Reverse;
    use crate::equations::solver::{DpmSolver, Limit, StepSet, UniPc};
    use crate::equations::update::ReverseProcess;
    use performer_ddpm_onnx::builder::{GraphBuilder, ModelInfo};
    use performer_ddpm_onnx::{Dim, ElementType};

    fn model(metadata: Vec<(String, String)>) -> Model {
        let mut graph = GraphBuilder::new("file");
        let x = graph.input("x", ElementType::F32, [Dim::from("N")]).unwrap();
        graph.output("y", x).unwrap();
        graph.into_model(ModelInfo { metadata, ..ModelInfo::default() }).unwrap()
    }

    fn summary(scheduler: Scheduler, diffusion: &DiffusionConfig, steps: usize) -> SamplerSummary {
        let schedule = Schedule::from_config(diffusion).unwrap();
        let visited = scheduler.steps(&schedule, steps).unwrap();
        let timesteps: Vec<Timestep> = visited.iter().map(|step| step.t).collect();
        SamplerSummary { scheduler, steps, per_run: timesteps.len(), timesteps }
    }

    fn diffusion() -> DiffusionConfig {
        DiffusionConfig {
            schedule: BetaSchedule::Cosine,
            variance: VarianceKind::FixedLarge,
            ..DiffusionConfig::default()
        }
    }

    /// Samplers of every kind.
    fn samplers() -> Vec<Option<SamplerSummary>> {
        let mut schedulers = Vec::new();
        for clip_x0 in [ClipX0::Off, ClipX0::KeepEps, ClipX0::RederiveEps] {
            let process = ReverseProcess::Ddim(Ddim { eta: 0.1 + 0.2, clip_x0 });
            schedulers.push(Scheduler::of_text(process, Spacing::Leading));
        }
        for clip_x0 in [false, true] {
            let reverse = Reverse { variance: VarianceKind::FixedLarge, clip_x0 };
            schedulers.push(Scheduler::of_text(ReverseProcess::Alg2(reverse), Spacing::Trailing));
        }
        let usual = schedulers[0];
        for lambda_min in [f64::NEG_INFINITY, -1.0] {
            let solver = DpmSolver { lambda_min, ..DpmSolver::default() };
            let trailing = Scheduler { spacing: Spacing::Trailing, ..usual };
            schedulers.push(trailing.with_method(Method::DpmSolver(solver), true));
        }
        let corrector_off = StepSet::new(&[0, 127]).unwrap();
        let unipc = UniPc { sigma_max: Some(0.1 + 0.2), karras: true, corrector_off, ..UniPc::default() };
        schedulers.push(usual.with_method(Method::UniPc(unipc), true));
        let threshold = Limit::Threshold { ratio: 0.9, max: 1.5 };
        schedulers.push(Scheduler { limit: threshold, steps_offset: 1, ..usual });
        let summaries = schedulers.into_iter().map(|scheduler| Some(summary(scheduler, &diffusion(), 9)));
        let mut all: Vec<_> = [None].into_iter().chain(summaries).collect();
        let fewer = |sampler: &SamplerSummary| sampler.timesteps.len() < sampler.steps;
        assert!(all.iter().flatten().any(fewer), "a bound on lambda that leaves steps out");
        let last = all.last().cloned().flatten();
        all.push(last.map(|last| SamplerSummary { per_run: 2, ..last }));
        all
    }

    fn metadata(sampler: Option<SamplerSummary>) -> Metadata {
        let graph = if sampler.is_some() { GraphKind::Sampler } else { GraphKind::Step };
        let model = crate::model::Model::new(&Preset::Tiny.config().unet, 1).unwrap();
        let diffusion = diffusion();
        let source = Source { step: Some(7), ..Source::new(&model, &diffusion) };
        Metadata::new(graph, source, sampler).unwrap()
    }

    /// The file of a sampler has the variance of its own process, whatever the model's is.
    #[test]
    fn the_variance_is_the_sampler_s() {
        for variance in [VarianceKind::FixedSmall, VarianceKind::FixedLarge] {
            let process = ReverseProcess::Alg2(Reverse { variance, clip_x0: true });
            let scheduler = Scheduler::of_text(process, Spacing::Leading);
            assert_eq!(metadata(Some(summary(scheduler, &diffusion(), 1))).variance, variance);
        }
    }

    /// To the last bit of every beta.
    #[test]
    fn what_is_written_is_read_back() {
        for sampler in samplers() {
            let original = metadata(sampler);
            let bytes = model(original.write()).to_bytes().unwrap();
            let again = Model::from_bytes("again.onnx", &bytes).unwrap();
            assert_eq!(Metadata::read(&again).unwrap(), Some(original));
        }
        assert_eq!(Metadata::read(&model(vec![("producer".into(), "another".into())])).unwrap(), None);
    }

    /// Classes, guidance, another prediction, and zero terminal SNR, whose last beta is 1.
    #[test]
    fn what_few_files_say_is_read_back() {
        let mut network = Preset::Tiny.config().unet;
        network.num_class_embeds = Some(4);
        network.class_names = ["cat", "dog", "dog, hound"].map(str::to_owned).to_vec();
        let network = crate::model::Model::new(&network, 1).unwrap();
        let diffusion = DiffusionConfig {
            zero_terminal_snr: true,
            prediction: Prediction::VPrediction,
            ..DiffusionConfig::default()
        };
        let source = Source::new(&network, &diffusion);
        for sampler in [None, Some(summary(source.scheduler, &diffusion, 5))] {
            let graph = if sampler.is_some() { GraphKind::Sampler } else { GraphKind::Step };
            let original = Metadata::new(graph, source, sampler).unwrap();
            let read = Metadata::read(&model(original.write())).unwrap().unwrap();
            assert_eq!((read.class_embedding().classes(), read.class_embedding().null_class()), (3, Some(3)));
            assert_eq!(read, original);
            let mut pairs = original.write();
            pairs.retain(|(key, _)| *key != format!("{PREFIX}alpha_bars"));
            let error = Metadata::read(&model(pairs)).unwrap_err().to_string();
            assert!(error.contains("betas"), "{error}");
            let mut pairs = original.write();
            pairs.retain(|(key, _)| *key != format!("{PREFIX}classes"));
            let error = Metadata::read(&model(pairs)).unwrap_err().to_string();
            assert!(error.contains("class_names"), "{error}");
        }
    }

    /// Files from before there were other samplers.
    #[test]
    fn a_file_that_names_no_scheduler_is_sampled_by_ddim() {
        let original = metadata(None);
        let scheduler = Scheduler::ddim_of(&diffusion());
        let original = Metadata { scheduler, ..original };
        let mut pairs = original.write();
        pairs.retain(|(key, _)| *key != format!("{PREFIX}scheduler"));
        assert_eq!(Metadata::read(&model(pairs)).unwrap(), Some(original));
    }

    #[test]
    fn every_missing_or_damaged_key_is_named() {
        let whole = metadata(samplers().pop().unwrap().clone()).write();
        // The last one is for readers alone.
        let optional = ["schedule", "step", "steps_per_run", "sampler"];
        for (i, (key, _)) in whole.iter().enumerate() {
            let mut missing = whole.clone();
            missing.remove(i);
            let outcome = Metadata::read(&model(missing));
            let short = key.strip_prefix(PREFIX).unwrap();
            if optional.contains(&short) {
                assert!(outcome.is_ok(), "{key}");
            } else {
                assert!(outcome.unwrap_err().to_string().contains(key), "{key}");
            }
            if ["version", "sampler"].contains(&short) {
                continue;
            }
            let mut damaged = whole.clone();
            damaged[i].1 = "[1.5,".to_owned();
            let error = Metadata::read(&model(damaged)).unwrap_err();
            assert!(error.to_string().contains(key), "{key}: {error}");
            assert_eq!(error.exit_status(), 2);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let whole = metadata(samplers().pop().unwrap()).write();
        for (key, value) in [
            ("timesteps", "[5,7,1]"),
            ("timesteps", "[]"),
            ("timesteps", "[1000,4,1]"),
            ("steps", "10"),
            ("steps_per_run", "0"),
            ("steps_per_run", "10"),
            ("betas", "[0.1,2.0]"),
            ("parameterisation", "v"),
            ("parameterisation", "noise"),
            ("scheduler", "{}"),
            ("graph", "loop"),
        ] {
            let mut pairs = whole.clone();
            let entry = pairs.iter_mut().find(|(k, _)| *k == format!("{PREFIX}{key}")).unwrap();
            entry.1 = value.to_owned();
            assert!(Metadata::read(&model(pairs)).is_err(), "{key} {value}");
        }
    }
}
