//! A trained model as an `.onnx` file: all steps of one sampler in one graph, for any ONNX runtime.
//!
//! `cargo run --example export -- [MODEL [OUT.onnx]]`; MODEL is a run or model folder, `runs/latest` where it
//! is left out.

use performer_ddpm::export::{ExportOptions, Exported, GraphSpec};
use performer_ddpm::{Pipeline, Result};
use std::path::Path;

/// Writes the sampler graph of so many steps, checked against the engine in the runtimes that are here.
pub fn export(model: &Path, out: &Path, steps: usize) -> Result<Exported> {
    let pipeline = Pipeline::load(model)?;
    let scheduler = pipeline.options().scheduler();
    let graph = GraphSpec::Sampler { scheduler, steps: Some(steps), per_run: None };
    pipeline.export(out, &ExportOptions { graph, ..ExportOptions::default() })
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let model = arguments.first().map_or("runs/latest", String::as_str);
    let out = arguments.get(1).map_or("sampler.onnx", String::as_str);
    let exported = export(model.as_ref(), out.as_ref(), 20)?;
    for (runtime, difference) in &exported.checks {
        println!("{runtime}: largest difference from the engine {:.1e}", difference.absolute);
    }
    exported.not_checked.iter().for_each(|why| println!("not checked: {why}"));
    println!("{out}: {} bytes", exported.bytes);
    Ok(())
}
