//! Which images are read and what is made of them: the options of `train`, `evaluate` and `compare`.

use super::flags::in_flags;
use super::parse_size;
use super::progress::Progress;
use crate::config::{Background, DataConfig};
use crate::data::{self, Datasets, Phase, Reading};
use crate::{Error, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The options; what is left out is as the configuration has it.
#[derive(Clone, Debug, Args)]
pub struct ImageArgs {
    /// The images: a folder of IDX files, of CIFAR-10's binary batches, or of pictures, nested as they may be
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Height and width, such as 32 or 32x48: every image's short side is resized, the long one cut at both
    /// ends
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<[usize; 2]>,
    /// 1 to make all images grey, 3 to make all coloured [default: coloured if any is]
    #[arg(long, value_name = "C")]
    pub channels: Option<usize>,
    /// What transparent pictures are put on: white, black, grey or a colour such as #8040ff [default: white]
    #[arg(long, value_name = "COLOUR")]
    pub background: Option<Background>,
    /// Hold out this share of the images, such as 0.1; which ones is a function of the seed
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub held_out: Option<f64>,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// How they are read, which changes none of them.
#[derive(Clone, Copy, Debug, Args)]
pub struct ReadingArgs {
    /// Refuse files that are no pictures, instead of passing over them
    #[arg(long)]
    strict: bool,
    /// Memory for decoded pictures in MiB; the rest are decoded whenever they are needed [default: half of
    /// what is free]
    #[arg(long, value_name = "MIB")]
    cache: Option<u32>,
}

impl From<ReadingArgs> for Reading {
    fn from(args: ReadingArgs) -> Reading {
        Reading { strict: args.strict, cache: args.cache.map(|mib| u64::from(mib) << 20) }
    }
}

impl ImageArgs {
    /// Whether one of the options that change images was given.
    pub fn says_something(&self) -> bool {
        let ImageArgs { data, size, channels, background, held_out, reading: _ } = self;
        let named = data.is_some() || size.is_some() || channels.is_some();
        named || background.is_some() || held_out.is_some()
    }

    /// The configuration with what the options say.
    pub fn apply(&self, mut config: DataConfig) -> Result<DataConfig> {
        if let Some(path) = &self.data {
            config.path = Some(absolute(path)?);
        }
        config.size = self.size.or(config.size);
        config.channels = self.channels.or(config.channels);
        config.background = self.background.unwrap_or(config.background);
        config.held_out = self.held_out.or(config.held_out);
        Ok(config)
    }
}

/// A path as it is kept in a configuration.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(|e| Error::read(path, e))?;
    if path.to_str().is_none() {
        let help = "rename the folder: the run's configuration keeps its name as text";
        return Err(Error::invalid("--data", "a path of Unicode letters", path.display().to_string(), help));
    }
    Ok(path)
}

/// Reading that takes less is not shown.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Reads the images that a configuration names, and tells what was made of them.
pub fn load(config: &DataConfig, seed: u64, reading: Reading, progress: &mut Progress) -> Result<Datasets> {
    let start = Instant::now();
    let loaded = data::read(config, seed, reading, &mut |phase, done, of| {
        if start.elapsed() < AT_ONCE {
            return;
        }
        let what = match phase {
            Phase::Listing => "looking at the files",
            Phase::Decoding => "decoding the pictures",
        };
        progress.update(done as f64 / of.max(1) as f64, || format!("{what}, {done} of {of}"));
    })?;
    for note in &loaded.notes {
        progress.say(&in_flags(note));
    }
    Ok(loaded.sets)
}
