//! A comparison in its folder, done stage by stage; each stage is recorded when it is finished.

use super::context::{Context, Event, PeakMib};
use super::plan::{Part, Plan};
use super::samples::{Features, SampleStudy};
use super::store::{self, DataNote, Findings};
use super::{approximation, conversion, cost, full_resolution, runs, samples};
use crate::config::AttentionKind;
use crate::data::Datasets;
use crate::disk;
use crate::error::{Error, Result};
use crate::kernels::{ConvAlgorithm, Isa, Kernels};
use crate::train::check_fit;
use std::path::{Path, PathBuf};

/// What one call of [`Comparison::run`] works with.
struct Session<'a> {
    plan: &'a Plan,
    kernels: Kernels,
    data: &'a Datasets,
    features: &'a mut Features,
    peak_mib: &'a PeakMib<'a>,
    stop: &'a dyn Fn() -> bool,
    observer: &'a mut dyn FnMut(Event),
}

/// A comparison in its folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    folder: PathBuf,
    findings: Findings,
}

impl Comparison {
    /// Opens the comparison in a folder to continue it, or prepares a new one. Nothing is written yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the folder holds one with another plan, or if the images are not of the
    /// network's size.
    pub fn open(folder: &Path, plan: Plan, data: &Datasets) -> Result<Comparison> {
        check_fit(&plan.config, &data.train)?;
        let held_out = data.test.as_ref().unwrap_or(&data.train).len();
        if held_out < 2 {
            let help = "errors are estimated from the images' spread";
            return Err(Error::invalid("the held-out images", "at least 2", held_out.to_string(), help));
        }
        let findings = match Findings::load(folder)? {
            None => Findings::new(plan, data),
            Some(findings) => {
                if let Some((at, there, asked)) = findings.plan.difference(&plan) {
                    return Err(Error::invalid(
                        format!("{}, the plan's {at}", folder.join(store::FILE).display()),
                        format!("{asked}, as asked for"),
                        there,
                        "go on with it by its `folder` alone, or give a new `folder`",
                    ));
                }
                findings
            }
        };
        if findings.data != DataNote::of(data) {
            return Err(Error::invalid(
                "the images",
                format!("those that the comparison in {} began with", folder.display()),
                "others",
                "give a new `folder`",
            ));
        }
        Ok(Comparison { folder: folder.to_path_buf(), findings })
    }

    /// The results so far.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Does the parts that are not finished and records each stage; false if it was asked to stop before the
    /// end. Without `features`, samples are compared by the means of blocks of pixels.
    ///
    /// # Errors
    /// [`Error::Write`] if the system refuses; [`Error::Invalid`] for a features network that does not take
    /// the images or has too many features, or for a run in the folder that does not belong to the
    /// comparison.
    pub fn run(
        &mut self,
        parts: &[Part],
        data: &Datasets,
        features: Option<&mut Features>,
        peak_mib: &PeakMib,
        stop: impl Fn() -> bool,
        mut observer: impl FnMut(Event),
    ) -> Result<bool> {
        let plan = self.findings.plan.clone();
        let kernels = kernels(&plan)?;
        let mut blocks = Features::blocks(None);
        let features = features.unwrap_or(&mut blocks);
        if parts.contains(&Part::Runs) {
            features.check(&plan, data)?;
        }
        disk::create_dir_all(&self.folder).map_err(|e| Error::write(&self.folder, e))?;
        self.findings.save(&self.folder)?;
        let session = &mut Session {
            plan: &plan,
            kernels,
            data,
            features,
            peak_mib,
            stop: &stop,
            observer: &mut observer,
        };
        for part in Part::ALL.into_iter().filter(|part| parts.contains(part)) {
            let finished = match part {
                Part::Runs => self.runs(session)? && self.samples(session)?,
                Part::FullResolution => self.full_resolution(session)?,
                Part::Cost => self.cost(session)?,
                Part::Approximation => self.approximation(session)?,
                Part::Conversion => self.conversion(session)?,
            };
            if !finished {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn runs(&mut self, session: &mut Session) -> Result<bool> {
        let (plan, data) = (session.plan, session.data);
        for &variant in &plan.variants {
            if self.findings.runs.iter().any(|run| run.variant == variant) {
                continue;
            }
            let name = format!("{variant}: training for {}", plan.budget.describe());
            let stage = |context: &mut Context| runs::run(context, plan, data, variant);
            let Some(run) = self.stage(session, &name, stage)? else {
                return Ok(false);
            };
            if let Some(what) = &run.training.diverged {
                (session.observer)(Event::Note(&format!("{variant} diverged: {what}; the others go on")));
            }
            self.findings.runs.push(run);
            self.findings.save(&self.folder)?;
        }
        Ok(true)
    }

    /// Compares samples with images by their features.
    fn samples(&mut self, session: &mut Session) -> Result<bool> {
        let (plan, data) = (session.plan, session.data);
        match &self.findings.samples {
            Some(study) if session.features.gives_way_to(study) => return Ok(true),
            Some(study) if study.is_of(session.features, plan, data) => {}
            _ => self.findings.samples = Some(SampleStudy::new(session.features, plan, data)),
        }
        let of = session.features.source(plan, &data.train).describe();
        let measured = self.findings.runs.iter().filter(|run| run.quality.is_some());
        let wanted: Vec<Option<AttentionKind>> =
            data.test.iter().map(|_| None).chain(measured.map(|run| Some(run.variant))).collect();
        for variant in wanted {
            let done = self.findings.samples.iter().flat_map(|study| &study.rows);
            if done.into_iter().any(|row| row.variant == variant) {
                continue;
            }
            let name = match variant {
                Some(variant) => format!("{variant}: samples under {of}"),
                None => format!("test images under {of}"),
            };
            let stage = |context: &mut Context, features: &mut Features| {
                samples::compare(context, plan, data, features, variant)
            };
            let Some(row) = self.stage_with_features(session, &name, stage)? else {
                return Ok(false);
            };
            if let Some(study) = &mut self.findings.samples {
                study.rows.push(row);
            }
            self.findings.save(&self.folder)?;
        }
        Ok(true)
    }

    fn full_resolution(&mut self, session: &mut Session) -> Result<bool> {
        let (plan, data) = (session.plan, session.data);
        let mut images = None;
        for variant in full_resolution::VARIANTS {
            if self.findings.full_resolution.iter().any(|run| run.variant == variant) {
                continue;
            }
            let images = match &mut images {
                Some(images) => &*images,
                none => none.insert(full_resolution::enlarged(plan, data)?),
            };
            let [h, w] = plan.full_resolution.size;
            let name =
                format!("{variant} at {h}x{w}: training for {}", plan.full_resolution.budget.describe());
            let stage = |context: &mut Context| full_resolution::run(context, plan, images, variant);
            let Some(run) = self.stage(session, &name, stage)? else {
                return Ok(false);
            };
            self.findings.full_resolution.push(run);
            self.findings.save(&self.folder)?;
        }
        Ok(true)
    }

    fn cost(&mut self, session: &mut Session) -> Result<bool> {
        let plan = session.plan;
        if self.findings.cost.is_none() {
            let stage = |context: &mut Context| cost::study(context, &plan.cost);
            let cost = self.stage(session, "the attention layer's cost", stage)?;
            let Some(cost) = cost else { return Ok(false) };
            self.findings.cost = Some(cost);
            self.findings.save(&self.folder)?;
        }
        Ok(true)
    }

    fn approximation(&mut self, session: &mut Session) -> Result<bool> {
        let plan = session.plan;
        if self.findings.approximation.is_none() {
            let stage = |context: &mut Context| approximation::study(context, &plan.approximation);
            let found = self.stage(session, "the random features' error", stage)?;
            let Some(found) = found else { return Ok(false) };
            self.findings.approximation = Some(found);
            self.findings.save(&self.folder)?;
        }
        Ok(true)
    }

    fn conversion(&mut self, session: &mut Session) -> Result<bool> {
        let (plan, data) = (session.plan, session.data);
        if let Some(why) = self.findings.no_conversion() {
            (session.observer)(Event::Note(&format!("conversion is left out: {why}")));
            return Ok(true);
        }
        let softmax = self.findings.runs.iter().find(|run| run.variant == AttentionKind::Softmax);
        let Some(quality) = softmax.and_then(|run| run.quality.clone()) else { return Ok(true) };
        if self.findings.conversion.is_none() {
            let stage = |context: &mut Context| conversion::in_place(context, plan, data, &quality);
            let found = self.stage(session, "softmax weights run with FAVOR+", stage)?;
            let Some(found) = found else { return Ok(false) };
            self.findings.conversion = Some(found);
            self.findings.save(&self.folder)?;
        }
        for (variant, features) in conversion::to_fine_tune(plan) {
            let done = self.findings.conversion.iter().flat_map(|conversion| &conversion.fine_tuned);
            if done.into_iter().any(|tuned| (tuned.variant, tuned.features) == (variant, features)) {
                continue;
            }
            let m = features.map_or(String::new(), |m| format!(" with m = {m}"));
            let name = format!("softmax weights, fine-tuned as {variant}{m}");
            let stage = |context: &mut Context| {
                conversion::fine_tune(context, plan, data, &quality, variant, features)
            };
            let Some(tuned) = self.stage(session, &name, stage)? else {
                return Ok(false);
            };
            if let Some(conversion) = &mut self.findings.conversion {
                conversion.fine_tuned.push(tuned);
            }
            self.findings.save(&self.folder)?;
        }
        Ok(true)
    }

    /// Announces a stage and does it, unless it was asked to stop.
    fn stage<T>(
        &self,
        session: &mut Session,
        name: &str,
        work: impl FnOnce(&mut Context) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        self.stage_with_features(session, name, |context, _| work(context))
    }

    fn stage_with_features<T>(
        &self,
        session: &mut Session,
        name: &str,
        work: impl FnOnce(&mut Context, &mut Features) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let Session { plan, kernels, features, peak_mib, stop, observer, .. } = session;
        if stop() {
            return Ok(None);
        }
        observer(Event::Stage(name));
        let mut progress = |done: f64, message: &str| observer(Event::Progress { done, message });
        let context = &mut Context {
            out: self.folder.clone(),
            threads: plan.threads,
            kernels: *kernels,
            peak_mib: *peak_mib,
            stop,
            progress: &mut progress,
        };
        work(context, features)
    }
}

/// The kernels that a plan names.
///
/// # Errors
/// [`Error::Invalid`] if this processor does not have them.
fn kernels(plan: &Plan) -> Result<Kernels> {
    let unknown = |what: &str, e: String| {
        Error::invalid(format!("the plan's {what}"), "one of this program's and this processor's", e, "")
    };
    let isa: Isa = plan.isa.parse().map_err(|e| unknown("isa", e))?;
    let conv: ConvAlgorithm = plan.conv.parse().map_err(|e| unknown("conv", e))?;
    Ok(Kernels { isa, conv })
}
