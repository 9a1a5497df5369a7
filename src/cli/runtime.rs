//! Options of training in a runtime instead of the engine.

use super::ComputeArgs;
use crate::config::RuntimeConfig;
use crate::{Error, Result};
use clap::{Args, ValueEnum};
use performer_ddpm_onnx::runner::Device;
use std::path::PathBuf;

/// What computes the steps.
#[derive(Debug, Args)]
pub struct RuntimeArgs {
    /// What computes the steps: the engine, or ONNX Runtime by the training step as an ONNX graph [default:
    /// native, or as the run or the configuration file has it]
    #[arg(long, value_enum, value_name = "NAME")]
    backend: Option<BackendName>,
    /// Where ONNX Runtime computes: cpu, cuda or cuda:INDEX [default: cpu, or as the run has it]
    #[arg(long, value_name = "NAME")]
    device: Option<Device>,
    /// Let a GPU compute products in TF32: faster, about three decimal digits
    #[arg(long)]
    tf32: bool,
    /// Do not let a GPU replay the step as a CUDA graph, which is faster
    #[arg(long)]
    no_cuda_graph: bool,
    /// ONNX Runtime's library or its folder [default: looked for; see onnx/README.md]
    #[arg(long, value_name = "PATH")]
    pub ort_lib: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendName {
    /// Our own engine
    Native,
    /// ONNX Runtime
    Ort,
}

impl RuntimeArgs {
    /// The runtime of a run that had `recorded` so far. A device that is named starts without the other
    /// options of the one before.
    ///
    /// # Errors
    /// [`Error::Invalid`] for options that mean nothing to what computes.
    pub fn apply(
        &self,
        recorded: Option<RuntimeConfig>,
        compute: &ComputeArgs,
    ) -> Result<Option<RuntimeConfig>> {
        let refuse = |flag: &str, expected: &str, got: &str, help: &str| {
            Err(Error::invalid(flag, expected, got, help))
        };
        let chosen = match (self.backend, recorded, self.device) {
            (Some(BackendName::Native), ..) | (None, None, _) => None,
            (_, Some(recorded), None) => Some(recorded),
            (_, Some(_), Some(device)) => Some(RuntimeConfig::ort(device)),
            (Some(BackendName::Ort), None, device) => Some(RuntimeConfig::ort(device.unwrap_or_default())),
        };
        let Some(chosen) = chosen else {
            let given = [
                ("--device", self.device.is_some()),
                ("--tf32", self.tf32),
                ("--no-cuda-graph", self.no_cuda_graph),
                ("--ort-lib", self.ort_lib.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                Some((flag, _)) => refuse(flag, "--backend ort", "the native backend", ""),
                None => Ok(None),
            };
        };
        let kernels = [
            ("--isa", compute.isa.map(|isa| isa.to_string())),
            ("--conv", compute.conv.map(|conv| conv.to_string())),
        ];
        for (flag, value) in kernels {
            if let Some(value) = value {
                return refuse(flag, "--backend native", &value, "a runtime has its own kernels");
            }
        }
        let (tf32, cuda_graph) = (chosen.tf32 || self.tf32, chosen.cuda_graph && !self.no_cuda_graph);
        for (flag, given) in [("--tf32", tf32), ("--no-cuda-graph", self.no_cuda_graph)] {
            if given && chosen.device == Device::Cpu {
                return refuse(flag, "--device cuda", "cpu", "");
            }
        }
        Ok(Some(RuntimeConfig { tf32, cuda_graph, ..chosen }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        runtime: RuntimeArgs,
        #[command(flatten)]
        compute: ComputeArgs,
    }

    fn apply(options: &str, recorded: Option<RuntimeConfig>) -> Result<Option<RuntimeConfig>> {
        let line = Line::try_parse_from(["train"].into_iter().chain(options.split_whitespace()));
        let Line { runtime, compute } = line.unwrap_or_else(|error| panic!("{error}"));
        runtime.apply(recorded, &compute)
    }

    #[test]
    fn a_run_goes_on_where_it_was_unless_told_otherwise() {
        let (cpu, gpu) = (RuntimeConfig::ort(Device::Cpu), RuntimeConfig::ort(Device::Cuda(1)));
        let fast = RuntimeConfig { tf32: true, version: Some("1.32.0".to_owned()), ..gpu.clone() };
        let plain = RuntimeConfig { cuda_graph: false, ..fast.clone() };
        for (options, recorded, want) in [
            ("", None, None),
            ("--threads 3", Some(&cpu), Some(&cpu)),
            ("--backend ort", None, Some(&cpu)),
            ("--backend ort --device cuda:1", None, Some(&gpu)),
            ("", Some(&fast), Some(&fast)),
            ("--backend ort --no-cuda-graph", Some(&fast), Some(&plain)),
            ("--device cuda:1", Some(&plain), Some(&gpu)),
            ("--device cpu", Some(&fast), Some(&cpu)),
            ("--backend native --isa portable", Some(&fast), None),
        ] {
            let got = apply(options, recorded.cloned()).expect(options);
            assert_eq!(got.as_ref(), want, "{options}, {recorded:?}");
        }
    }

    #[test]
    fn options_that_mean_nothing_are_refused() {
        let gpu = RuntimeConfig::ort(Device::Cuda(0));
        for (options, recorded, flag) in [
            ("--device cuda", None, "--device: expected --backend ort"),
            ("--backend native --tf32", Some(&gpu), "--tf32: expected --backend ort"),
            ("--ort-lib x.so", None, "--ort-lib: expected --backend ort"),
            ("--backend ort --tf32", None, "--tf32: expected --device cuda, got cpu"),
            ("--backend ort --no-cuda-graph", None, "--no-cuda-graph: expected --device cuda, got cpu"),
            ("--backend ort --isa portable", None, "--isa: expected --backend native, got portable"),
            ("--conv direct", Some(&gpu), "--conv: expected --backend native, got direct"),
        ] {
            let error = apply(options, recorded.cloned()).expect_err(options);
            assert_eq!(error.exit_status(), 2);
            assert!(error.to_string().starts_with(flag), "{options}: {error}");
        }
    }
}
