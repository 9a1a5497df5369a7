//! The file of a comparison: the plan and the results, written after every stage.

use super::approximation::Approximation;
use super::conversion::Conversion;
use super::cost::Cost;
use super::full_resolution::FullResolutionRun;
use super::json::{json, text};
use super::plan::Plan;
use super::runs::VariantRun;
use super::samples::SampleStudy;
use super::{conversion, full_resolution};
use crate::config::AttentionKind;
use crate::data::Datasets;
use crate::disk;
use crate::error::{Error, Result};
use crate::output::write_atomically;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// The file's name in the comparison's folder.
pub(super) const FILE: &str = "comparison.json";
/// The name of the configuration that all runs share, except for their attention.
pub(super) const CONFIG: &str = "config.toml";

/// The images of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataNote {
    /// The name of the data set.
    pub name: String,
    /// Training images.
    pub train: usize,
    /// Test images; `None` where there are none, and training images are used for the held-out measures.
    pub test: Option<usize>,
    /// Height, width and channels.
    pub shape: [usize; 3],
}

impl DataNote {
    /// Describes a data set.
    pub fn of(data: &Datasets) -> DataNote {
        let train = &data.train;
        DataNote {
            name: train.name().to_owned(),
            train: train.len(),
            test: data.test.as_ref().map(|test| test.len()),
            shape: [train.height(), train.width(), train.channels()],
        }
    }
}

/// A comparison's plan and results; what is not finished is empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// What is done.
    pub plan: Plan,
    /// The images.
    pub data: DataNote,
    /// The variants' runs that are finished, in the plan's order.
    pub runs: Vec<VariantRun>,
    /// The samples under a features network.
    pub samples: Option<SampleStudy>,
    /// Training at full resolution.
    pub full_resolution: Vec<FullResolutionRun>,
    /// The attention layer alone.
    pub cost: Option<Cost>,
    /// The random features' error.
    pub approximation: Option<Approximation>,
    /// Softmax weights run with FAVOR+.
    pub conversion: Option<Conversion>,
}

impl Findings {
    /// Nothing found yet.
    pub fn new(plan: Plan, data: &Datasets) -> Findings {
        Findings {
            plan,
            data: DataNote::of(data),
            runs: Vec::new(),
            samples: None,
            full_resolution: Vec::new(),
            cost: None,
            approximation: None,
            conversion: None,
        }
    }

    /// Loads the findings of a folder, if it holds a comparison.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a damaged file or one of another version; [`Error::Read`].
    pub fn load(folder: &Path) -> Result<Option<Findings>> {
        let file = folder.join(FILE);
        if !file.exists() {
            return Ok(None);
        }
        let text = disk::read_to_string(&file).map_err(|e| Error::read(&file, e))?;
        let findings = serde_json::from_str(&text).map_err(|e| {
            let what = format!("{}, line {}", file.display(), e.line());
            let help =
                "choose another `folder`, or remove the file to begin again with the runs that are there";
            Error::invalid(what, "what a comparison of this version wrote", e.to_string(), help)
        })?;
        Ok(Some(findings))
    }

    /// Why softmax weights cannot be run with FAVOR+; `None` where they can.
    pub(super) fn no_conversion(&self) -> Option<&'static str> {
        let softmax = self.runs.iter().find(|run| run.variant == AttentionKind::Softmax);
        match softmax.map(|run| run.quality.is_some()) {
            Some(true) => None,
            Some(false) => Some("the softmax run left no model that could be measured"),
            None if self.plan.variants.contains(&AttentionKind::Softmax) => {
                Some("there is no softmax run to convert yet (the part `runs` makes one)")
            }
            None => Some("softmax is not among the variants, so there are no weights to convert"),
        }
    }

    /// Whether every part is finished, except a conversion that is not possible.
    pub fn are_complete(&self) -> bool {
        let runs =
            self.plan.variants.iter().all(|variant| self.runs.iter().any(|run| run.variant == *variant));
        let converted = self.conversion.as_ref().map_or(self.no_conversion().is_some(), |conversion| {
            conversion.fine_tuned.len() == conversion::to_fine_tune(&self.plan).len()
        });
        let wide = self.full_resolution.len() == full_resolution::VARIANTS.len();
        runs && wide && self.cost.is_some() && self.approximation.is_some() && converted
    }

    /// The plan and the findings as the file has them.
    pub fn json(&self) -> serde_json::Value {
        json(self)
    }

    /// Writes the findings; each file is written whole or not at all.
    pub(super) fn save(&self, folder: &Path) -> Result<()> {
        let config = self.plan.config.to_toml();
        write_atomically(&folder.join(CONFIG), |f| f.write_all(config.as_bytes()))?;
        write_atomically(&folder.join(FILE), |f| f.write_all(text(self).as_bytes()))
    }
}
