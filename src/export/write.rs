//! A model written as a file and checked in the runtimes that will run it.

use super::check::{Difference, Expectation};
use super::file::write_checked;
use super::graphs::{GraphSpec, build};
use super::source::Source;
use crate::error::{Error, Result};
use crate::machine;
use performer_ddpm_onnx::runner::ort::{OrtOptions, OrtRunner};
use performer_ddpm_onnx::runner::{Backend, Description, Runner, TRACT_BUILT_IN, load_tract};
use performer_ddpm_onnx::{Error as OnnxError, Model};
use std::path::Path;

/// How a model is exported.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportOptions {
    /// What the file computes.
    pub graph: GraphSpec,
    /// The runtimes that have to agree with the engine.
    pub check: Check,
    /// Threads of the check; `None` for as many as the processor has.
    pub threads: Option<usize>,
}

impl Default for ExportOptions {
    /// The denoiser, checked in the runtimes that are here.
    fn default() -> Self {
        ExportOptions { graph: GraphSpec::Denoiser, check: Check::Available, threads: None }
    }
}

/// In which runtimes a written file is compared with the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// In those that are here.
    Available,
    /// In all of these; one that is not here is an error.
    In(Vec<Backend>),
    /// In none: the file is read back and is what was built, no more.
    Nowhere,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// The file's length.
    pub bytes: u64,
    /// Its operators.
    pub nodes: usize,
    /// The largest difference from the engine in each runtime that was asked.
    pub checks: Vec<(Description, Difference)>,
    /// What could not be checked, and why.
    pub not_checked: Vec<String>,
}

/// Writes the network in a graph so that `path` holds it only once it has been read back and agrees with the
/// engine. `observer` is told the share done of the engine's own results.
///
/// # Errors
/// [`Error::Disagrees`] where a runtime computes something else; those of [`build`], [`write_checked`] and
/// the runtimes. What was under `path` before then stays.
pub fn write(
    path: &Path,
    source: Source,
    options: &ExportOptions,
    observer: &mut dyn FnMut(f64),
) -> Result<Exported> {
    let model = build(source, &options.graph)?;
    let mut exported = Exported {
        bytes: model.to_bytes()?.len() as u64,
        nodes: model.summary()?.nodes(),
        checks: Vec::new(),
        not_checked: Vec::new(),
    };
    write_checked(path, &model, |written| check(written, source, options, &mut exported, observer))?;
    Ok(exported)
}

fn check(
    written: &Model,
    source: Source,
    options: &ExportOptions,
    exported: &mut Exported,
    observer: &mut dyn FnMut(f64),
) -> Result<()> {
    let built_in = || TRACT_BUILT_IN.then_some(Backend::Tract).into_iter().chain([Backend::OnnxRuntime]);
    let wanted = match &options.check {
        Check::Available => built_in().collect(),
        Check::In(wanted) => wanted.clone(),
        Check::Nowhere => Vec::new(),
    };
    let mut runners: Vec<Box<dyn Runner>> = Vec::new();
    for backend in wanted {
        if backend == Backend::Tract && matches!(options.graph, GraphSpec::TrainStep(_)) {
            let why = "tract: its convolutions take no kernel of an open size, and a batch's weight gradient has one";
            if options.check != Check::Available {
                return Err(Error::invalid(
                    "the check of a training step",
                    "ONNX Runtime",
                    why,
                    "leave tract out",
                ));
            }
            exported.not_checked.push(why.to_owned());
            continue;
        }
        match load(backend, written) {
            Ok(runner) => runners.push(runner),
            Err(error) if options.check == Check::Available && is_missing(&error) => {
                exported.not_checked.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    if runners.is_empty() {
        return Ok(());
    }
    let threads = options.threads.unwrap_or_else(machine::threads);
    let expectation = Expectation::new(source, &options.graph, threads, observer)?;
    if expectation.amplification() > 1e4 {
        exported.not_checked.push(format!(
            "the images to better than a few per cent: this network's chain enlarges a change of x_T {:.0e} times \
             (it may be untrained)",
            expectation.amplification()
        ));
    }
    for mut runner in runners {
        let difference = expectation.compare(runner.as_mut())?;
        exported.checks.push((runner.describe().clone(), difference));
    }
    Ok(())
}

fn load(backend: Backend, model: &Model) -> Result<Box<dyn Runner>> {
    match backend {
        Backend::Tract => Ok(load_tract(model)?),
        Backend::OnnxRuntime => Ok(Box::new(OrtRunner::load(model, &OrtOptions::default())?)),
        Backend::Native => {
            let help = "the engine is what a runtime is compared with";
            Err(Error::invalid("`ExportOptions::check`", "tract or ONNX Runtime", "the engine", help))
        }
    }
}

/// Whether a runtime is not here, rather than at odds with the file.
fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Onnx(OnnxError::RuntimeMissing { .. } | OnnxError::NotBuiltIn { .. }))
}
