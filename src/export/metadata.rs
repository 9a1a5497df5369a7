//! The metadata of an exported file, with which the file alone suffices to sample.
//!
//! Every key begins with `performer_ddpm.`; values are text, numbers and lists as JSON.
//!
//! | key | value |
//! |---|---|
//! | `version` | the version of the program that wrote the file |
//! | `graph` | `denoiser`, `step` or `sampler` |
//! | `parameterisation` | `eps`: the network predicts the noise |
//! | `betas` | beta_1 .. beta_T, to the last bit |
//! | `schedule` | the schedule's name and parameters, for a reader; absent where only the betas are known |
//! | `variance` | sigma_t^2 of Algorithm 2: `fixed_small` (beta~_t) or `fixed_large` (beta_t) |
//! | `clip_x0` | `true` where samplers clip the predicted x_0 to the data range |
//! | `data_range` | the images' range, `[-1.0,1.0]` |
//! | `attention` | which blocks attend and how, for a reader |
//! | `step` | the training step of the weights, where it is known |
//! | `sampler` | of the sampler graph: `ddpm` or `ddim` |
//! | `clip` | of the sampler graph: `off`, `keep` or `rederive`, see [`ClipX0`]; for `ddpm` the last two
//! agree |
//! | `steps` | of the sampler graph: K |
//! | `eta` | of the sampler graph with `ddim` |
//! | `spacing` | of the sampler graph: `leading`, `trailing` or `linspace` |
//! | `steps_per_run` | of the sampler graph: the steps of one run; K where the key is absent |
//! | `timesteps` | of the sampler graph: its K values of t (indices 0..T-1) in the order of sampling |

use crate::config::{BetaSchedule, BlockAttention, DiffusionConfig, FavorConfig, UnetConfig, VarianceKind};
use crate::equations::ddim::{ClipX0, Ddim};
use crate::equations::reverse::Reverse;
use crate::equations::update::ReverseProcess;
use crate::equations::{Schedule, Spacing, Timestep};
use crate::error::{Error, Result};
use performer_ddpm_onnx::Model;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

const PREFIX: &str = "performer_ddpm.";

/// Which of the three graphs a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GraphKind {
    /// x \[N, C, H, W\], t \[N\] -> eps: the network.
    Denoiser,
    /// x, t, coefficients \[8\], z -> x_next: the network and one step of any sampler.
    Step,
    /// x_T \[N, C, H, W\], noise \[K, N, C, H, W\] -> images: K steps of one sampler.
    Sampler,
}

impl GraphKind {
    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            GraphKind::Denoiser => "denoiser",
            GraphKind::Step => "step",
            GraphKind::Sampler => "sampler",
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
    pub process: ReverseProcess,
    /// How its timesteps were chosen.
    pub spacing: Spacing,
    /// Its timesteps in the order of sampling.
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
    /// The images' range.
    pub data_range: [f64; 2],
    /// How the network attends.
    pub attention: AttentionSummary,
    /// The training step of the weights.
    pub step: Option<u64>,
    /// Of a sampler graph: its sampler.
    pub sampler: Option<SamplerSummary>,
}

impl Metadata {
    /// The metadata of a network's file, written by this version of the program.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the diffusion process is out of range.
    pub fn new(
        graph: GraphKind,
        network: &UnetConfig,
        diffusion: &DiffusionConfig,
        step: Option<u64>,
        sampler: Option<SamplerSummary>,
    ) -> Result<Self> {
        Ok(Metadata {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            graph,
            schedule: Schedule::from_config(diffusion)?,
            named_schedule: Some(diffusion.schedule.clone()),
            variance: match sampler.as_ref().map(|sampler| sampler.process) {
                Some(ReverseProcess::Alg2(reverse)) => reverse.variance,
                Some(ReverseProcess::Ddim(_)) | None => diffusion.variance,
            },
            clip_x0: diffusion.clip_x0,
            data_range: [-1.0, 1.0],
            attention: network.into(),
            step,
            sampler,
        })
    }

    /// The keys and values for the file.
    pub fn write(&self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        let mut put = |key: &str, value: String| pairs.push((format!("{PREFIX}{key}"), value));
        put("version", self.version.clone());
        put("graph", self.graph.name().to_owned());
        put("parameterisation", "eps".to_owned());
        put("betas", json(&self.schedule.betas()));
        if let Some(named) = &self.named_schedule {
            put("schedule", json(named));
        }
        put("variance", word(&self.variance));
        put("clip_x0", json(&self.clip_x0));
        put("data_range", json(&self.data_range));
        put("attention", json(&self.attention));
        if let Some(step) = self.step {
            put("step", step.to_string());
        }
        if let Some(sampler) = &self.sampler {
            let (name, clip, eta) = match sampler.process {
                ReverseProcess::Alg2(Reverse { clip_x0: false, .. }) => ("ddpm", "off", None),
                ReverseProcess::Alg2(Reverse { clip_x0: true, .. }) => ("ddpm", "rederive", None),
                ReverseProcess::Ddim(Ddim { eta, clip_x0 }) => ("ddim", clip_name(clip_x0), Some(eta)),
            };
            put("sampler", name.to_owned());
            put("clip", clip.to_owned());
            put("steps", sampler.timesteps.len().to_string());
            if let Some(eta) = eta {
                put("eta", json(&eta));
            }
            put("spacing", spacing_name(sampler.spacing).to_owned());
            let indices: Vec<usize> = sampler.timesteps.iter().map(|t| t.index()).collect();
            put("timesteps", json(&indices));
            if sampler.is_cut() {
                put("steps_per_run", sampler.per_run.to_string());
            }
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
        let parameterisation = reader.text("parameterisation", "eps")?;
        if parameterisation != "eps" {
            return Err(reader.refuse("parameterisation", "eps", parameterisation));
        }
        let betas: Vec<f64> = reader.json("betas", "beta_1 .. beta_T as a JSON list")?;
        let schedule = Schedule::from_betas(&betas)
            .map_err(|error| reader.refuse("betas", "a usable schedule", &error.to_string()))?;
        let graph = reader.word("graph", "denoiser, step or sampler")?;
        let variance = reader.word("variance", "fixed_small or fixed_large")?;
        let sampler = match graph {
            GraphKind::Denoiser | GraphKind::Step => None,
            GraphKind::Sampler => Some(reader.sampler(&schedule, variance)?),
        };
        Ok(Some(Metadata {
            version: reader.text("version", "a version")?.to_owned(),
            graph,
            schedule,
            named_schedule: reader.optional("schedule", "a schedule's name and parameters as JSON")?,
            variance,
            clip_x0: reader.json("clip_x0", "true or false")?,
            data_range: reader.json("data_range", "two numbers as a JSON list")?,
            attention: reader.json("attention", "the blocks' attention as JSON")?,
            step: reader.optional("step", "a whole number")?,
            sampler,
        }))
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

    fn sampler(&self, schedule: &Schedule, variance: VarianceKind) -> Result<SamplerSummary> {
        let clip = match self.text("clip", "off, keep or rederive")? {
            "off" => ClipX0::Off,
            "keep" => ClipX0::KeepEps,
            "rederive" => ClipX0::RederiveEps,
            other => return Err(self.refuse("clip", "off, keep or rederive", other)),
        };
        let process = match self.text("sampler", "ddpm or ddim")? {
            "ddpm" => ReverseProcess::Alg2(Reverse { variance, clip_x0: clip != ClipX0::Off }),
            "ddim" => {
                let eta: f64 = self.json("eta", "a number from 0 to 1")?;
                ReverseProcess::Ddim(Ddim { eta, clip_x0: clip })
            }
            other => return Err(self.refuse("sampler", "ddpm or ddim", other)),
        };
        let spacings = "leading, trailing or linspace";
        let spacing = match self.text("spacing", spacings)? {
            "leading" => Spacing::Leading,
            "trailing" => Spacing::Trailing,
            "linspace" => Spacing::Linspace,
            other => return Err(self.refuse("spacing", spacings, other)),
        };
        let descending = format!("indices from {} down as a JSON list", schedule.last().t.index());
        let indices: Vec<usize> = self.json("timesteps", &descending)?;
        let falls = indices.windows(2).all(|pair| pair[0] > pair[1]);
        if indices.is_empty() || !falls || indices[0] > schedule.last().t.index() {
            return Err(self.refuse("timesteps", &descending, &format!("{indices:?}")));
        }
        let steps: usize = self.json("steps", "a whole number")?;
        if steps != indices.len() {
            return Err(self.refuse(
                "steps",
                &format!("{}, the timesteps", indices.len()),
                &steps.to_string(),
            ));
        }
        let expected = format!("a whole number from 1 to {steps}");
        let per_run = self.optional("steps_per_run", &expected)?.unwrap_or(steps);
        if !(1..=steps).contains(&per_run) {
            return Err(self.refuse("steps_per_run", &expected, &per_run.to_string()));
        }
        let timesteps = indices.into_iter().map(Timestep::from_index).collect();
        Ok(SamplerSummary { process, spacing, timesteps, per_run })
    }
}

fn clip_name(clip: ClipX0) -> &'static str {
    match clip {
        ClipX0::Off => "off",
        ClipX0::KeepEps => "keep",
        ClipX0::RederiveEps => "rederive",
    }
}

fn spacing_name(spacing: Spacing) -> &'static str {
    match spacing {
        Spacing::Leading => "leading",
        Spacing::Trailing => "trailing",
        Spacing::Linspace => "linspace",
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
    use performer_ddpm_onnx::builder::{GraphBuilder, ModelInfo};
    use performer_ddpm_onnx::{Dim, ElementType};

    fn model(metadata: Vec<(String, String)>) -> Model {
        let mut graph = GraphBuilder::new("file");
        let x = graph.input("x", ElementType::F32, [Dim::from("N")]).unwrap();
        graph.output("y", x).unwrap();
        graph.into_model(ModelInfo { metadata, ..ModelInfo::default() }).unwrap()
    }

    fn samplers() -> Vec<Option<SamplerSummary>> {
        let timesteps = || [1000, 500, 1].map(|t| Timestep::new(t).unwrap()).to_vec();
        let summary =
            |process, spacing| Some(SamplerSummary { process, spacing, timesteps: timesteps(), per_run: 3 });
        let mut all = vec![None];
        for clip_x0 in [ClipX0::Off, ClipX0::KeepEps, ClipX0::RederiveEps] {
            let process = ReverseProcess::Ddim(Ddim { eta: 0.1 + 0.2, clip_x0 });
            all.push(summary(process, Spacing::Leading));
        }
        for clip_x0 in [false, true] {
            let reverse = Reverse { variance: VarianceKind::FixedLarge, clip_x0 };
            all.push(summary(ReverseProcess::Alg2(reverse), Spacing::Trailing));
        }
        let last = all.last().cloned().flatten();
        all.push(last.map(|last| SamplerSummary { per_run: 2, ..last }));
        all
    }

    fn metadata(sampler: Option<SamplerSummary>) -> Metadata {
        let graph = if sampler.is_some() { GraphKind::Sampler } else { GraphKind::Step };
        let diffusion = DiffusionConfig {
            schedule: BetaSchedule::Cosine,
            variance: VarianceKind::FixedLarge,
            ..DiffusionConfig::default()
        };
        Metadata::new(graph, &Preset::Tiny.config().unet, &diffusion, Some(7), sampler).unwrap()
    }

    /// The file of a sampler has the variance of its own process, whatever the model's is.
    #[test]
    fn the_variance_is_the_sampler_s() {
        for variance in [VarianceKind::FixedSmall, VarianceKind::FixedLarge] {
            let process = ReverseProcess::Alg2(Reverse { variance, clip_x0: true });
            let timesteps = vec![Timestep::new(1).unwrap()];
            let summary = SamplerSummary { process, spacing: Spacing::Leading, timesteps, per_run: 1 };
            assert_eq!(metadata(Some(summary)).variance, variance);
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

    #[test]
    fn every_missing_or_damaged_key_is_named() {
        let whole = metadata(samplers().pop().unwrap().clone()).write();
        let optional = ["schedule", "step", "steps_per_run"];
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
            if short == "version" {
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
            ("steps", "4"),
            ("steps_per_run", "0"),
            ("steps_per_run", "4"),
            ("betas", "[0.1,2.0]"),
            ("parameterisation", "v"),
            ("graph", "loop"),
        ] {
            let mut pairs = whole.clone();
            let entry = pairs.iter_mut().find(|(k, _)| *k == format!("{PREFIX}{key}")).unwrap();
            entry.1 = value.to_owned();
            assert!(Metadata::read(&model(pairs)).is_err(), "{key} {value}");
        }
    }
}
