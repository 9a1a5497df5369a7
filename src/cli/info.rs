//! `info`: the layers and the cost of a model.

mod onnx_file;

use super::{model_path, print_json};
use crate::config::{DiffusionConfig, FeatureMap, TimeScaleShift, UnetConfig};
use crate::equations::{Schedule, Timestep};
use crate::model::report::{GraphReport, report};
use crate::{Result, checkpoint};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show a model's parameters, layers, cost, attention and schedule.
///
/// Example: performer-ddpm info runs/latest
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Model folder, run folder or .onnx file [default: runs/latest]
    model: Option<PathBuf>,
    /// Batch of the memory estimate
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    /// The totals only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Info<'a> {
    model: String,
    step: Option<u64>,
    note: Option<String>,
    diffusion: &'a DiffusionConfig,
    unet: &'a UnetConfig,
    alpha_bar_t: f64,
    #[serde(flatten)]
    network: GraphReport,
}

/// With a relative variance above this, attention is mostly noise.
const VARIANCE_CONCERN: f64 = 100.0;

/// Prints the report.
pub fn run(args: InfoArgs) -> Result<ExitCode> {
    let path = model_path(args.model)?;
    if onnx_file::is_one(&path) {
        return onnx_file::run(&path, args.json, args.quiet);
    }
    let loaded = checkpoint::model_folder::load::<f32>(&path)?;
    let schedule = Schedule::from_config(&loaded.diffusion)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let info = Info {
        model: path.display().to_string(),
        step: loaded.step,
        note: loaded.note.clone(),
        diffusion: &loaded.diffusion,
        unet: &loaded.model.config,
        alpha_bar_t: schedule.last().alpha_bar,
        network: report(&loaded.model.graph, args.batch as usize, threads)?,
    };
    if args.json {
        print_json(&info);
        return Ok(ExitCode::SUCCESS);
    }
    print_totals(&info, args.batch, threads);
    if !args.quiet {
        print_layers(&info, &schedule)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_totals(info: &Info, batch: u32, threads: usize) {
    let network = &info.network;
    println!("{}{}", info.model, info.step.map_or(String::new(), |step| format!(", step {step}")));
    if let Some(note) = &info.note {
        println!("note: {note}");
    }
    println!(
        "{} parameters, {:.1} million multiply-adds an image, about {:.0} MiB to train at batch {batch} on \
         {threads} threads",
        network.parameters,
        network.multiply_adds as f64 / 1e6,
        network.training_mib
    );
    let UnetConfig { act_fn, resnet_time_scale_shift, center_input_sample, num_class_embeds, .. } = info.unet;
    let time = match resnet_time_scale_shift {
        TimeScaleShift::Default => "the time embedding added",
        TimeScaleShift::ScaleShift => "the time embedding as scale and shift",
    };
    let range = if *center_input_sample { "; takes images in [0, 1]" } else { "" };
    println!("residual blocks with {}, {time}{range}", act_fn.name());
    if num_class_embeds.is_some() {
        println!("{}", classes_in_words(info.unet));
    }
}

/// The classes that the network knows.
fn classes_in_words(unet: &UnetConfig) -> String {
    let null = match unet.null_class() {
        Some(null) => format!(" and the null class {null}, for guidance"),
        None => String::new(),
    };
    let names = match unet.class_names.join(", ") {
        names if names.is_empty() => ", without names".to_owned(),
        names => format!(": {names}"),
    };
    format!("{} classes{null}{names}", unet.classes())
}

fn print_layers(info: &Info, schedule: &Schedule) -> Result<()> {
    let network = &info.network;
    println!("\n{:<44} {:<18} {:>12} {:>10} {:>12}", "layer", "kind", "output", "parameters", "M mult-adds");
    for layer in &network.layers {
        println!(
            "{:<44} {:<18} {:>12} {:>10} {:>12.2}",
            layer.name,
            layer.kind,
            layer.output,
            layer.parameters,
            layer.multiply_adds as f64 / 1e6
        );
    }
    println!("\nattention");
    for layer in &network.attention {
        let sizes =
            format!("{}: L = {}, {} heads of d = {}", layer.name, layer.tokens, layer.heads, layer.dim);
        match (layer.features, layer.break_even, layer.favor_is_cheaper) {
            (Some(m), Some(even), Some(cheaper)) => {
                let verdict =
                    if cheaper { "fewer operations than softmax" } else { "more operations than softmax" };
                println!("{sizes}; FAVOR+ with m = {m}: {verdict} (break-even at L = {even})");
                if let Some(variance) = layer.relative_variance {
                    let concern = if variance > VARIANCE_CONCERN {
                        ": too large, unless training keeps queries and keys shorter"
                    } else {
                        ""
                    };
                    println!(
                        "    kernel estimate for q and k of unit variance: relative variance {variance:.1e}{concern}"
                    );
                }
                if layer.map == Some(FeatureMap::Trigonometric) {
                    println!(
                        "    trigonometric features may be negative, and so may denominators: such rows are no averages of the values \
                         (22 % of them at d = 32 and m = 128, q and k of unit variance)"
                    );
                }
            }
            _ => println!("{sizes}; softmax"),
        }
    }
    println!("\nschedule: {:?}, T = {}", info.diffusion.schedule, schedule.steps());
    for t in [1, schedule.steps() / 4, schedule.steps() / 2, schedule.steps()] {
        let level = schedule.at(Timestep::new(t.max(1))?)?;
        println!("    t = {:>5}  beta {:.4e}  alpha_bar {:.4e}", t.max(1), level.beta, level.alpha_bar);
    }
    Ok(())
}
