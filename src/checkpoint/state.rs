//! Training states: what a run needs to go on with the same bits, in one file,
//! `RUN/checkpoints/step-00001234.safetensors`.
//!
//! The file is a safetensors file: `weights`, `ema`, `first_moment` and `second_moment` are the flat vectors,
//! in the engine's order and layout, and the FAVOR+ projections have the graph's names. The one metadata
//! entry of its header is JSON with the step, the configuration and a CRC-32 of everything, so that a run is
//! never resumed from a damaged file. Random numbers need no state: they are functions of the seed and the
//! step ([`crate::rng`]).

use super::safetensors_io::{self, Tensor, Tensors, little_endian};
use crate::config::Config;
use crate::disk;
use crate::error::{Error, Result};
use crate::model::{graph::Graph, unet};
use crate::output::write_atomically;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The layout of the file and of the flat vectors; another number is refused.
const VERSION: u32 = 1;
pub(super) const HEADER: &str = "performer-ddpm training state";
/// How many checkpoints a run keeps.
const KEPT: usize = 2;

/// A training run after some step.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingState {
    /// Everything that determines the run.
    pub config: Config,
    /// Steps made.
    pub step: u64,
    /// Training images seen, repetitions counted.
    pub images_seen: u64,
    /// Bytes of `metrics.jsonl` written so far; resuming cuts the file to this length.
    pub metrics_len: u64,
    /// The trained parameters, in the order and layout of the graph's table, as are the three vectors below.
    pub weights: Vec<f32>,
    /// Their exponential moving average.
    pub ema: Vec<f32>,
    /// Adam's first moment.
    pub first_moment: Vec<f32>,
    /// Adam's second moment.
    pub second_moment: Vec<f32>,
    /// The FAVOR+ projections, \[m, d\] row-major, in the graph's order.
    pub projections: Vec<Vec<f32>>,
}

/// The newest checkpoint that can be resumed from.
#[derive(Clone, Debug, PartialEq)]
pub struct Newest {
    /// What it holds.
    pub state: TrainingState,
    /// Its file.
    pub file: PathBuf,
    /// Which newer checkpoint was skipped, and why, where one is damaged.
    pub note: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    step: u64,
    images_seen: u64,
    metrics_len: u64,
    /// The run's configuration as TOML text.
    config: String,
    /// CRC-32 (ISO 3309) of this header with 0 in this field, then of every tensor's name, shape and bytes.
    crc32: u32,
}

/// Saves a state under the run folder and removes older checkpoints by [`remove_old`]. One that cannot be
/// removed stays, since the state is saved all the same.
///
/// # Errors
/// [`Error::Write`] where the system refuses a step; earlier checkpoints are then all there.
/// [`Error::Invalid`] for vectors that do not have the network's lengths.
pub fn save(run: &Path, state: &TrainingState) -> Result<PathBuf> {
    let graph = unet::build(&state.config.unet)?;
    let tensors = tensors(state, &graph);
    for (name, shape, values) in &tensors {
        let len: usize = shape.iter().product();
        if values.len() != len {
            return Err(Error::invalid(
                format!("training state, {name}"),
                format!("{len} numbers"),
                values.len().to_string(),
                "",
            ));
        }
    }
    if state.projections.len() != graph.projections.len() {
        let got = state.projections.len().to_string();
        return Err(Error::invalid(
            "training state, projections",
            graph.projections.len().to_string(),
            got,
            "",
        ));
    }
    let mut header = Header {
        version: VERSION,
        step: state.step,
        images_seen: state.images_seen,
        metrics_len: state.metrics_len,
        config: state.config.to_toml(),
        crc32: 0,
    };
    let with_bytes = tensors.iter().map(|(name, shape, x)| (*name, shape.as_slice(), little_endian(x)));
    header.crc32 = checksum(&header, with_bytes);
    let text = json(&header);

    let folder = folder(run);
    disk::create_dir(&folder).map_err(|e| Error::write(&folder, e))?;
    let file = folder.join(format!("step-{:08}.safetensors", state.step));
    write_atomically(&file, |f| safetensors_io::write(f, (HEADER, &text), &tensors))?;
    let _ = remove_old(run, state.step);
    Ok(file)
}

/// Removes checkpoints other than the last two up to a step. Later checkpoints, which can only be damaged ones
/// that [`newest`] skipped, are removed too.
///
/// # Errors
/// [`Error::Write`] naming the first that the system does not let go; the others are removed.
pub fn remove_old(run: &Path, step: u64) -> Result<()> {
    let (kept, mut surplus): (Vec<_>, Vec<_>) =
        checkpoints(run)?.into_iter().partition(|(of, _)| *of <= step);
    surplus.extend(kept.into_iter().rev().skip(KEPT));
    let remove = |(_, old): (u64, PathBuf)| disk::remove_file(&old).map_err(|e| Error::write(&old, e));
    surplus.into_iter().map(remove).fold(Ok(()), Result::and)
}

/// Loads a state.
///
/// # Errors
/// [`Error::Invalid`] naming the file if it is no state or is damaged; [`Error::Read`].
pub fn load(file: &Path) -> Result<TrainingState> {
    let bytes = disk::read(file).map_err(|e| Error::read(file, e))?;
    let broken = |got: String, help: &str| {
        Error::invalid(file.display().to_string(), "a whole training state", got, help)
    };
    let mut found = Tensors::open(file, &bytes)?;
    let text = found.metadata(HEADER).ok_or_else(|| {
        broken("another safetensors file".into(), "a model is loaded from its folder, not from its file")
    })?;
    let mut header: Header =
        serde_json::from_str(text).map_err(|e| broken(format!("an unusable header ({e})"), ""))?;
    if header.version != VERSION {
        return Err(broken(
            format!("layout {}, where this program's is {VERSION}", header.version),
            "use the version of the program that wrote it",
        ));
    }
    let stored = std::mem::take(&mut header.crc32);
    let computed = checksum(&header, found.iter().map(|(name, view)| (name, view.shape(), view.data())));
    if stored != computed {
        let got = format!("damaged bytes: checksum {computed:08x}, where {stored:08x} is recorded");
        return Err(broken(got, ""));
    }
    let config = Config::from_toml(&header.config, &format!("{}, configuration", file.display()))?;
    let graph = unet::build(&config.unet)?;
    let len = [graph.params.total()];
    let state = TrainingState {
        config,
        step: header.step,
        images_seen: header.images_seen,
        metrics_len: header.metrics_len,
        weights: found.take(&["weights"], &[&len])?,
        ema: found.take(&["ema"], &[&len])?,
        first_moment: found.take(&["first_moment"], &[&len])?,
        second_moment: found.take(&["second_moment"], &[&len])?,
        projections: safetensors_io::take_projections(&mut found, &graph.projections)?,
    };
    found.finish()?;
    Ok(state)
}

/// Loads a run's newest checkpoint. A damaged one is skipped, and the note says so; `None` where there is
/// none.
///
/// # Errors
/// The newest checkpoint's, where none can be read.
pub fn newest(run: &Path) -> Result<Option<Newest>> {
    let mut first_failure = None;
    for (_, file) in checkpoints(run)?.into_iter().rev() {
        match load(&file) {
            Ok(state) => {
                let note = first_failure.map(|e: Error| format!("{e}; {} is used", file.display()));
                return Ok(Some(Newest { state, file, note }));
            }
            Err(e) => first_failure = first_failure.or(Some(e)),
        }
    }
    first_failure.map_or(Ok(None), Err)
}

fn folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// A run's checkpoints by step.
fn checkpoints(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let folder = folder(run);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|e| Error::read(&folder, e))? {
        let file = entry.map_err(|e| Error::read(&folder, e))?.path();
        let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let step = name.strip_prefix("step-").and_then(|n| n.strip_suffix(".safetensors"));
        if let Some(step) = step.and_then(|s| s.parse().ok()) {
            found.push((step, file));
        }
    }
    found.sort();
    Ok(found)
}

/// A state's tensors in the order of their names, which the checksum follows.
fn tensors<'a>(state: &'a TrainingState, graph: &'a Graph) -> Vec<Tensor<'a>> {
    let len = graph.params.total();
    let projections = graph.projections.iter().zip(&state.projections);
    let mut tensors: Vec<Tensor<'a>> =
        projections.map(|(p, w)| (p.name.as_str(), vec![p.features, p.dim], w.as_slice())).collect();
    for (name, values) in [
        ("weights", &state.weights),
        ("ema", &state.ema),
        ("first_moment", &state.first_moment),
        ("second_moment", &state.second_moment),
    ] {
        tensors.push((name, vec![len], values));
    }
    tensors.sort_by_key(|(name, ..)| *name);
    tensors
}

fn checksum<'a, B: AsRef<[u8]>>(
    header: &Header,
    tensors: impl Iterator<Item = (&'a str, &'a [usize], B)>,
) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(json(header).as_bytes());
    for (name, shape, bytes) in tensors {
        crc.update(format!("{name}{shape:?}").as_bytes());
        crc.update(bytes.as_ref());
    }
    crc.finalize()
}

fn json(header: &Header) -> String {
    serde_json::to_string(header).expect("numbers and text always have a JSON form")
}
