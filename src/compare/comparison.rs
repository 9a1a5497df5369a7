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
use crate::group::{Group, Solo, told};
use crate::kernels::{ConvAlgorithm, Isa, Kernels};
use crate::model::Interrupt;
use crate::train::{check_alike, check_fit, check_ranks};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// What one call of [`Comparison::run`] works with.
struct Session<'a> {
    plan: &'a Plan,
    kernels: Kernels,
    data: &'a Datasets,
    features: &'a mut Features,
    peak_mib: &'a PeakMib<'a>,
    group: &'a dyn Group<f32>,
    stop: &'a dyn Fn() -> bool,
    observer: &'a mut dyn FnMut(Event),
}

/// A comparison in its folder.
#[derive(Clone, Debug)]
pub struct Comparison {
    folder: PathBuf,
    findings: Findings,
    interrupt: Interrupt,
}

impl Comparison {
    fn at(folder: &Path, findings: Findings) -> Comparison {
        Comparison { folder: folder.to_path_buf(), findings, interrupt: Interrupt::default() }
    }

    /// The comparison of a rank that leaves the folder's file to rank 0, which has opened it: see
    /// [`Comparison::run_in`].
    pub fn of_rank_0(folder: &Path, plan: Plan, data: &Datasets) -> Comparison {
        Comparison::at(folder, Findings::new(plan, data))
    }

    /// The same comparison, whose runs also stop where the flag is set: see
    /// [`Run::interrupted_by`](crate::train::Run::interrupted_by).
    pub fn interrupted_by(self, interrupt: Interrupt) -> Comparison {
        Comparison { interrupt, ..self }
    }

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
        Ok(Comparison::at(folder, findings))
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
        observer: impl FnMut(Event),
    ) -> Result<bool> {
        self.run_in(&Solo, parts, data, features, peak_mib, stop, observer)
    }

    /// The same in the ranks of a group, which share out training, samples and bounds, to the same findings
    /// but for the times. All call this with the same parts and images and see the same folder; rank 0 alone
    /// writes into it, takes `features` of images, and measures the layer's cost and the random features'
    /// error. It stops where any rank's `stop` says so, in what rank 0 does alone behind it.
    ///
    /// # Errors
    /// Those of [`Comparison::run`] in all ranks or in the one that finds them: the others may then wait for
    /// it, and are to be ended. [`Error::OtherRank`] where another has an image or a bound that is not
    /// finite. [`Error::Invalid`] for more ranks than a batch can be shared out over, and for ranks that
    /// differ in images or kernels.
    #[expect(clippy::too_many_arguments, reason = "those of `run`, and the group")]
    pub fn run_in(
        &mut self,
        group: &dyn Group<f32>,
        parts: &[Part],
        data: &Datasets,
        features: Option<&mut Features>,
        peak_mib: &PeakMib,
        stop: impl Fn() -> bool,
        mut observer: impl FnMut(Event),
    ) -> Result<bool> {
        self.findings = told(group, group.leads().then(|| self.findings.clone()))?;
        let plan = self.findings.plan.clone();
        let kernels = kernels(&plan)?;
        check_shares(&plan, parts, group.ranks())?;
        for images in [&data.train, data.test.as_ref().unwrap_or(&data.train)] {
            check_alike(group, images, kernels)?;
        }
        let mut blocks = Features::blocks(None);
        let features = features.unwrap_or(&mut blocks);
        if parts.contains(&Part::Runs) {
            features.check(&plan, data)?;
        }
        if group.leads() {
            disk::create_dir_all(&self.folder).map_err(|e| Error::write(&self.folder, e))?;
        }
        let session = &mut Session {
            plan: &plan,
            kernels,
            data,
            features,
            peak_mib,
            group,
            stop: &stop,
            observer: &mut observer,
        };
        self.save(session)?;
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
            self.save(session)?;
        }
        Ok(true)
    }

    /// Compares samples with images by their features.
    fn samples(&mut self, session: &mut Session) -> Result<bool> {
        let (plan, data) = (session.plan, session.data);
        // Rank 0 alone has the features.
        let study = session.group.leads().then(|| match self.findings.samples.take() {
            Some(study) if session.features.gives_way_to(&study) => (study, true),
            Some(study) if study.is_of(session.features, plan, data) => (study, false),
            _ => (SampleStudy::new(session.features, plan, data), false),
        });
        let (study, is_kept) = told(session.group, study)?;
        self.findings.samples = Some(study);
        if is_kept {
            return Ok(true);
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
            self.save(session)?;
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
            self.save(session)?;
        }
        Ok(true)
    }

    fn cost(&mut self, session: &mut Session) -> Result<bool> {
        let plan = session.plan;
        if self.findings.cost.is_none() {
            let stage = |context: &mut Context| cost::study(context, &plan.cost);
            let cost = self.stage_of_rank_0(session, "the attention layer's cost", stage)?;
            let Some(cost) = cost else { return Ok(false) };
            self.findings.cost = Some(cost);
            self.save(session)?;
        }
        Ok(true)
    }

    fn approximation(&mut self, session: &mut Session) -> Result<bool> {
        let plan = session.plan;
        if self.findings.approximation.is_none() {
            let stage = |context: &mut Context| approximation::study(context, &plan.approximation);
            let found = self.stage_of_rank_0(session, "the random features' error", stage)?;
            let Some(found) = found else { return Ok(false) };
            self.findings.approximation = Some(found);
            self.save(session)?;
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
            self.save(session)?;
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
            self.save(session)?;
        }
        Ok(true)
    }

    /// Writes the findings.
    fn save(&self, session: &Session) -> Result<()> {
        if session.group.leads() { self.findings.save(&self.folder) } else { Ok(()) }
    }

    /// [`Comparison::stage`] of what rank 0 does alone.
    fn stage_of_rank_0<T: Serialize + DeserializeOwned>(
        &self,
        session: &mut Session,
        name: &str,
        work: impl FnOnce(&mut Context) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let stage = |context: &mut Context| if context.group.leads() { work(context) } else { Ok(None) };
        self.stage(session, name, stage)
    }

    /// Announces a stage and does it, unless it was asked to stop.
    fn stage<T: Serialize + DeserializeOwned>(
        &self,
        session: &mut Session,
        name: &str,
        work: impl FnOnce(&mut Context) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        self.stage_with_features(session, name, |context, _| work(context))
    }

    fn stage_with_features<T: Serialize + DeserializeOwned>(
        &self,
        session: &mut Session,
        name: &str,
        work: impl FnOnce(&mut Context, &mut Features) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let Session { plan, kernels, features, peak_mib, group, stop, observer, .. } = session;
        if group.any(stop()) {
            return Ok(None);
        }
        observer(Event::Stage(name));
        let mut progress = |done: f64, message: &str| observer(Event::Progress { done, message });
        let context = &mut Context {
            out: self.folder.clone(),
            threads: plan.threads,
            kernels: *kernels,
            peak_mib: *peak_mib,
            group: *group,
            stop,
            interrupt: &self.interrupt,
            progress: &mut progress,
        };
        let found = work(context, features)?;
        told(*group, group.leads().then_some(found))
    }
}

/// Refuses more ranks than the batches of these parts can be shared out over, before hours of the others.
fn check_shares(plan: &Plan, parts: &[Part], ranks: usize) -> Result<()> {
    if parts.contains(&Part::Runs) || parts.contains(&Part::Conversion) {
        check_ranks(&plan.config, ranks)?;
    }
    if !parts.contains(&Part::FullResolution) {
        return Ok(());
    }
    match check_ranks(&plan.full_resolution_config(AttentionKind::FAVOR), ranks) {
        Err(Error::Invalid { expected, got, .. }) => {
            let help = "start fewer, or leave out `Part::FullResolution`";
            Err(Error::invalid("the ranks of training at full resolution", expected, got, help))
        }
        checked => checked,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Budget, Quality};
    use crate::config::Preset;
    use crate::data::Dataset;
    use crate::group::local::Local;

    /// Images of 8x8 with increasing bytes.
    fn images(count: usize) -> Dataset {
        let pixels = (0..count * 64).map(|i| (i * 37 % 256) as u8).collect();
        Dataset::new("counting", [8, 8, 1], pixels, None, false).expect("images")
    }

    /// Three shards a batch, and studies of a few images.
    fn plan() -> Plan {
        let mut config = Preset::Tiny.config();
        config.unet.sample_size = [8, 8];
        config.diffusion.timesteps = 10;
        config.train.batch = 12;
        let variants = [AttentionKind::Softmax, AttentionKind::FAVOR];
        let mut plan = Plan::new("small", &config, &variants, Budget::Steps(3), 1, Isa::detect().into())
            .expect("a plan");
        let measuring = &mut plan.measuring;
        (measuring.images, measuring.timesteps, measuring.steps) = (4, 3, 2);
        (measuring.samples, measuring.grid) = (20, 5);
        let conversion = &mut plan.conversion;
        (conversion.images, conversion.timesteps, conversion.samples) = (4, 2, 2);
        (conversion.features, conversion.tuned) = (vec![4], vec![8]);
        plan
    }

    /// What every rank has found, and the files of rank 0's images.
    fn findings_in(ranks: usize) -> (Vec<Findings>, Vec<Vec<u8>>) {
        let folder = tempfile::tempdir().expect("a folder");
        let data = Datasets::new(images(24), Some(images(8))).expect("images of one shape");
        let found = Local::with_ranks(ranks, |group| {
            let group: &dyn Group<f32> = &group;
            let mut comparison = match group.leads() {
                true => Comparison::open(folder.path(), plan(), &data).expect("a comparison"),
                false => Comparison::of_rank_0(folder.path(), plan(), &data),
            };
            let parts = [Part::Runs, Part::Conversion];
            let none = |_: &Path, _: usize| None;
            let finished = comparison.run_in(group, &parts, &data, None, &none, || false, |_| {});
            assert!(finished.expect("findings"));
            comparison.findings
        });
        let image = |name: &str| std::fs::read(folder.path().join("images").join(name)).expect("an image");
        let names = ["samples-softmax.png", "samples-favor.png", "conversion.png"];
        (found, names.map(image).into())
    }

    #[test]
    fn ranks_find_what_one_process_finds() {
        let (alone, images) = findings_in(1);
        let [alone] = alone.try_into().expect("one rank's");
        let timeless = |quality: &Quality| Quality { sample_seconds: None, ..quality.clone() };
        for ranks in [2, 3] {
            let (found, images_there) = findings_in(ranks);
            assert_eq!(found.len(), ranks);
            assert!(found.iter().all(|of_a_rank| of_a_rank == &found[0]), "ranks differ");
            let found = &found[0];
            assert_eq!((found.runs.len(), alone.runs.len()), (2, 2));
            for (run, one) in found.runs.iter().zip(&alone.runs) {
                let losses = |run: &runs::VariantRun| {
                    run.training.curve.iter().map(|point| point.loss.to_bits()).collect::<Vec<_>>()
                };
                assert_eq!(losses(run), losses(one));
                assert_eq!(
                    (&run.training.processes[..], &one.training.processes[..]),
                    (&[ranks][..], &[1][..])
                );
                assert_eq!(run.quality.as_ref().map(timeless), one.quality.as_ref().map(timeless));
            }
            assert_eq!(found.samples, alone.samples);
            let (there, here) = (found.conversion.as_ref(), alone.conversion.as_ref());
            let (there, here) = (there.expect("a conversion"), here.expect("a conversion"));
            assert_eq!((&there.in_place, there.softmax_loss), (&here.in_place, here.softmax_loss));
            let measured = |tuned: &super::conversion::FineTuned| tuned.measured.clone();
            assert!(there.fine_tuned.iter().map(measured).eq(here.fine_tuned.iter().map(measured)));
            assert_eq!(images_there, images);
        }
    }

    #[test]
    fn more_ranks_than_a_batch_has_shards_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = Datasets::new(images(24), Some(images(8))).expect("images of one shape");
        let refused = Local::with_ranks(4, |group| {
            let group: &dyn Group<f32> = &group;
            let mut comparison = Comparison::of_rank_0(folder.path(), plan(), &data);
            let none = |_: &Path, _: usize| None;
            let outcome = comparison.run_in(group, &[Part::Runs], &data, None, &none, || false, |_| {});
            outcome.expect_err("too many ranks").to_string()
        });
        assert!(refused.iter().all(|error| error.contains("3 shards")), "{refused:?}");
        // A batch of 8 at full resolution has two shards.
        let plan = plan();
        check_shares(&plan, &Part::ALL, 2).expect("two ranks");
        let refused = check_shares(&plan, &Part::ALL, 3).expect_err("three ranks").to_string();
        assert!(refused.contains("full resolution: expected at most 2"), "{refused}");
        check_shares(&plan, &[Part::Cost], 64).expect("what rank 0 does alone");
    }

    #[test]
    fn ranks_with_other_held_out_images_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = Local::with_ranks(2, |group| {
            let group: &dyn Group<f32> = &group;
            let data = Datasets::new(images(24), Some(images(8 + group.rank()))).expect("images");
            let mut comparison = Comparison::of_rank_0(folder.path(), plan(), &data);
            let none = |_: &Path, _: usize| None;
            let outcome = comparison.run_in(group, &[Part::Runs], &data, None, &none, || false, |_| {});
            outcome.expect_err("other images").to_string()
        });
        assert!(refused.iter().all(|error| error.contains("others on rank 1")), "{refused:?}");
    }
}
