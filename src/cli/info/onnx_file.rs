//! `info` of an ONNX file, written by this program or by another.

use crate::Result;
use crate::cli::print_json;
use crate::export::Metadata;
use performer_ddpm_onnx::Model;
use performer_ddpm_onnx::model::Summary;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

#[derive(Serialize)]
struct Info {
    file: String,
    producer: String,
    ir_version: i64,
    opsets: BTreeMap<String, i64>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    weights: usize,
    parameters: usize,
    nodes: usize,
    operators: BTreeMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

/// Whether a path names an ONNX file.
pub fn is_one(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
}

/// Prints the report.
pub fn run(path: &Path, as_json: bool, quiet: bool) -> Result<ExitCode> {
    let model = Model::read(path)?;
    let summary = model.summary()?;
    // Damaged metadata is refused, not shown.
    let ours = Metadata::read(&model)?;
    let info = Info::new(path, summary);
    if as_json {
        print_json(&info);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}, ONNX by {}", info.file, if info.producer.is_empty() { "?" } else { &info.producer });
    println!("{} parameters in {} weights, {} nodes", info.parameters, info.weights, info.nodes);
    if quiet {
        return Ok(ExitCode::SUCCESS);
    }
    let opsets: Vec<String> = info.opsets.iter().map(|(name, version)| format!("{name} {version}")).collect();
    println!("file version {}, operator sets: {}", info.ir_version, opsets.join(", "));
    for (kind, ports) in [("input ", &info.inputs), ("output", &info.outputs)] {
        ports.iter().for_each(|port| println!("    {kind} {port}"));
    }
    let operators: Vec<String> =
        info.operators.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("operators: {}", operators.join(", "));
    if ours.is_none() {
        println!("no metadata of this program: to sample, give the schedule");
    }
    print_metadata(&info.metadata);
    Ok(ExitCode::SUCCESS)
}

impl Info {
    fn new(path: &Path, summary: Summary) -> Info {
        let named = |domain: String| if domain.is_empty() { "ai.onnx".to_owned() } else { domain };
        Info {
            file: path.display().to_string(),
            producer: summary.producer.clone(),
            ir_version: summary.ir_version,
            opsets: summary.opsets.iter().map(|(name, version)| (named(name.clone()), *version)).collect(),
            inputs: summary.inputs.iter().map(ToString::to_string).collect(),
            outputs: summary.outputs.iter().map(ToString::to_string).collect(),
            weights: summary.weights.len(),
            parameters: summary.parameters,
            nodes: summary.nodes(),
            operators: summary.operators,
            metadata: summary.metadata.into_iter().collect(),
        }
    }
}

/// Prints the properties, long ones cut short.
fn print_metadata(metadata: &BTreeMap<String, String>) {
    const SHOWN: usize = 100;
    for (key, value) in metadata {
        let cut: String = value.chars().take(SHOWN).collect();
        let more = if cut.len() < value.len() { " ..." } else { "" };
        println!("    {key:<32} {cut}{more}");
    }
}
