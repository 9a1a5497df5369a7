//! The training step's graph on its device, as a CUDA graph where that can be.

use super::batch::{Batch, some};
use super::states::{MOMENT, STATES};
use crate::config::RuntimeConfig;
use crate::error::{Error, Result};
use performer_ddpm_onnx::runner::ort::{OrtLoop, OrtOptions, OrtRunner};
use performer_ddpm_onnx::runner::{Carried, Device, LoopSpec, StepLoop};
use performer_ddpm_onnx::{Error as OnnxError, Model, Tensor};
use std::path::Path;

/// The outputs that are read after every step.
pub(super) const LOSS: &str = "loss";
pub(super) const NORM: &str = "grad_norm";

/// Where and how the graph is run.
#[derive(Debug)]
pub(super) struct Session {
    options: OrtOptions,
    replay: Replay,
}

/// Whether the steps are replayed as a CUDA graph.
#[derive(Debug)]
enum Replay {
    Unwanted,
    Captured {
        /// Whether a trial had the same bits twice.
        same_bits: bool,
    },
    /// With the reason.
    Refused(String),
}

impl Session {
    /// As a configuration says. `threads` are those of a processor.
    pub(super) fn new(runtime: &RuntimeConfig, library: Option<&Path>, threads: usize) -> Session {
        let on_processor = runtime.device == Device::Cpu;
        let options = OrtOptions {
            library: library.map(Path::to_path_buf),
            threads: on_processor.then_some(threads),
            device: runtime.device,
            tf32: runtime.tf32,
            cuda_graph: runtime.cuda_graph && !on_processor,
            placement: false,
            repeatable: runtime.repeatable,
        };
        Session { options, replay: Replay::Unwanted }
    }

    /// The same device and library for other graphs, none of which is replayed. A repeatable choice of
    /// algorithms is made sooner than one by trial, too.
    pub(super) fn options(&self) -> OrtOptions {
        OrtOptions { cuda_graph: false, ..self.options.clone() }
    }

    /// How the steps are computed, to be told after who computes them.
    pub(super) fn remark(&self) -> String {
        match &self.replay {
            Replay::Unwanted => String::new(),
            Replay::Captured { same_bits: true } => ", the step replayed as a CUDA graph".to_owned(),
            Replay::Captured { same_bits: false } => {
                ", the step replayed as a CUDA graph, which has other bits every time".to_owned()
            }
            Replay::Refused(why) => format!(", the step not replayed as a CUDA graph: {why}"),
        }
    }

    /// A loop over batches like this one from the `first` states on, replayed where that is wanted and can
    /// be.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(super) fn open(&mut self, graph: &Model, batch: &Batch, first: &[Tensor; 4]) -> Result<OrtLoop> {
        if self.options.cuda_graph {
            match self.tried(graph, batch, first) {
                Ok((turns, same_bits)) => {
                    self.replay = Replay::Captured { same_bits };
                    return Ok(turns);
                }
                Err(error @ Error::Onnx(OnnxError::OutOfMemory { .. })) => return Err(error),
                Err(error) => {
                    self.options.cuda_graph = false;
                    self.replay = Replay::Refused(error.to_string());
                }
            }
        }
        self.start(graph, batch, first)
    }

    /// The loop after a trial, and whether that had the same bits twice: both turns are run, which captures
    /// them, and again from the same states. A captured copy from the host may read what the other capture
    /// has written there since, and would give other results.
    fn tried(&self, graph: &Model, batch: &Batch, first: &[Tensor; 4]) -> Result<(OrtLoop, bool)> {
        let trial = somewhere(first)?;
        let mut turns = self.start(graph, batch, &trial)?;
        let once = two_steps(&mut turns)?;
        with_spec(batch, &trial, |spec| turns.restart(spec))??;
        let again = two_steps(&mut turns)?;
        with_spec(batch, first, |spec| turns.restart(spec))??;
        if !once.iter().zip(&again).all(|(once, again)| agree(once, again)) {
            return Err(Error::Onnx(OnnxError::Run {
                backend: "ONNX Runtime",
                action: "replay",
                reason: "as a CUDA graph it gave other results at the second replay".to_owned(),
            }));
        }
        let bits = |results: &[Vec<f32>]| results.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        Ok((turns, bits(&once) == bits(&again)))
    }

    /// The loop without a trial.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(super) fn start(&self, graph: &Model, batch: &Batch, first: &[Tensor; 4]) -> Result<OrtLoop> {
        let runner = OrtRunner::load(&graph.with_length("N", batch.len()), &self.options)?;
        Ok(with_spec(batch, first, |spec| runner.into_step_loop(spec))??)
    }
}

/// The loss, the gradient's norm and the moment, which is linear in the gradient, after each of two steps.
fn two_steps(turns: &mut OrtLoop) -> Result<Vec<Vec<f32>>> {
    let mut results = Vec::new();
    for _ in 0..2 {
        turns.step()?;
        for value in [turns.output(LOSS)?, turns.output(NORM)?, turns.state(MOMENT)?] {
            results.push(value.into_f32()?);
        }
    }
    Ok(results)
}

/// States whose weights are a little elsewhere: a network's first ones leave most gradients 0.
fn somewhere([w, m, v, ema]: &[Tensor; 4]) -> Result<[Tensor; 4]> {
    let moved = w.as_f32().unwrap_or_default().iter().zip(0..).map(|(w, i)| w + 0.02 * some(i));
    let moved: Vec<f32> = moved.collect();
    Ok([Tensor::f32(w.shape(), moved)?, m.clone(), v.clone(), ema.clone()])
}

/// Whether two results of the same work differ by no more than roundings in another order do.
fn agree(once: &[f32], again: &[f32]) -> bool {
    let largest = once.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    once.iter().zip(again).all(|(once, again)| (once - again).abs() <= 1e-3 * largest)
}

/// Calls `f` with a loop's ports and first values: the step on this batch.
fn with_spec<T>(batch: &Batch, first: &[Tensor; 4], f: impl FnOnce(&LoopSpec) -> T) -> Result<T> {
    let states = STATES.iter().zip(first);
    let (lr, step) = (Tensor::f32([1], [1e-3])?, Tensor::i64([1], [1])?);
    Ok(f(&LoopSpec {
        states: states.map(|(&(input, output), first)| Carried { input, output, first }).collect(),
        others: batch.inputs().chain([("lr", &lr), ("step", &step)]).collect(),
        wanted: vec![LOSS, NORM],
    }))
}

#[cfg(test)]
mod tests {
    use super::super::states::Layout;
    use super::super::train_step;
    use super::*;
    use crate::config::{Config, Preset};
    use crate::model::Model as Network;
    use crate::train::trainer::Progress;

    /// The trial of a CUDA graph leaves no trace: what it needs of a loop can be seen on the processor, which
    /// has the same bits every time.
    #[test]
    fn after_the_trial_the_loop_is_at_its_beginning() {
        let config: Config = Preset::Tiny.config().for_images([8, 8, 1]);
        let network: Network<f32> = Network::new(&config.unet, 1).expect("a network");
        let graph = train_step(&config, &network).expect("a graph");
        let batch = Batch::new(&network.graph, 3).expect("a batch");
        let first = Layout::new(&network.graph).first(&Progress::beginning(&network)).expect("states");
        let session = Session::new(&RuntimeConfig::ort(Device::Cpu), None, 1);
        let (mut turns, same_bits) = match session.tried(&graph, &batch, &first) {
            Err(Error::Onnx(error @ OnnxError::RuntimeMissing { .. })) => {
                let required =
                    std::env::var_os("PERFORMER_DDPM_REQUIRE_PEERS").is_some_and(|value| value == "1");
                assert!(!required, "{error}");
                return println!("skipped: {error}");
            }
            outcome => outcome.expect("a trial"),
        };
        assert!(same_bits);
        for ((input, _), first) in STATES.iter().zip(&first) {
            assert_eq!(turns.state(input).expect("a state"), *first, "{input}");
        }
        turns.step().expect("a step");
        assert_ne!(turns.state(MOMENT).expect("a state"), first[1]);
    }

    #[test]
    fn roundings_agree_and_other_numbers_do_not() {
        assert!(agree(&[1.0, -4.0, 0.0], &[1.001, -4.0, 0.003]));
        assert!(!agree(&[1.0, -4.0, 0.0], &[1.0, -4.01, 0.0]));
        assert!(!agree(&[1.0], &[f32::NAN]));
    }
}
