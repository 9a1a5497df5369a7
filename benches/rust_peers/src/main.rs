//! A residual block's forward and backward pass in this engine, in candle and in burn: milliseconds and
//! ratios.
//!
//! `cd benches/rust_peers && cargo run --release -- --json results.json`

mod block;
mod burn;
mod candle;
mod ours;

use ::burn::tensor::Device;
use block::{Block, Peer, Sizes};
use clap::Parser;
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// Blocks of the Fashion-MNIST network: at full resolution and at half, with and without a convolution on the
/// shortcut.
const BLOCKS: [(usize, usize, usize); 4] = [(28, 32, 32), (28, 64, 32), (14, 64, 64), (14, 128, 64)];
const BATCHES: [usize; 2] = [16, 64];

/// Times a residual block in this engine, in candle and in burn, in turn, on the same numbers and the same
/// number of threads.
#[derive(Parser)]
struct Arguments {
    /// Rounds; in each, every program runs once. The medians count
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Threads of every program; burn's `ndarray` multiplies with at most four [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Write the figures here as JSON too
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let threads = match arguments.threads {
        Some(threads) => usize::from(threads),
        None => std::thread::available_parallelism()?.get(),
    };
    limit_peers(threads);
    println!("{}\n", machine(threads));
    println!("| block | batch | pass | who | ms | GFLOP/s | times ours |");
    println!("|---|---:|---|---|---:|---:|---:|");
    let mut figures = Vec::new();
    for (side, c_in, c_out) in BLOCKS {
        for batch in BATCHES {
            let block = Block::new(Sizes { batch, side, c_in, c_out })?;
            let mut peers = peers(&block, threads)?;
            check(&mut peers)?;
            for (pass, flops, run) in [
                ("forward", 1.0, Peer::forward as fn(&mut (dyn Peer + 'static))),
                ("forward and backward", 3.0, Peer::forward_backward),
            ] {
                let times = interleaved(&mut peers, arguments.rounds, run);
                for (peer, ms) in peers.iter().zip(&times) {
                    let (name, ratio) = (peer.name(), ms / times[0]);
                    let gflops = flops * block.sizes.forward_flops() / ms * 1e-6;
                    let size = format!("{c_in} to {c_out} channels, {side}x{side}");
                    println!("| {size} | {batch} | {pass} | {name} | {ms:.2} | {gflops:.0} | {ratio:.1} |");
                    figures.push(json!({
                        "c_in": c_in, "c_out": c_out, "side": side, "batch": batch, "pass": pass, "who": name,
                        "ms": ms, "gflops": gflops, "times_ours": ratio,
                    }));
                }
            }
        }
    }
    if let Some(path) = arguments.json {
        let all = json!({ "machine": machine(threads), "rounds": arguments.rounds, "figures": figures });
        std::fs::write(path, format!("{all:#}\n"))?;
    }
    Ok(())
}

/// Sets the number of threads for candle and burn, which otherwise count cores each in their own way. They
/// read the variables when they first compute: rayon's is candle's and burn's, the other is that of
/// matrixmultiply, which burn's `ndarray` multiplies with.
fn limit_peers(threads: usize) {
    for variable in ["RAYON_NUM_THREADS", "MATMUL_NUM_THREADS"] {
        // SAFETY: `main` calls this before there is another thread.
        unsafe { std::env::set_var(variable, threads.to_string()) };
    }
}

/// This engine first. burn is about to drop its `ndarray` backend; it is measured as long as it exists.
#[allow(deprecated)]
fn peers(block: &Block, threads: usize) -> Result<Vec<Box<dyn Peer>>, Box<dyn std::error::Error>> {
    Ok(vec![
        Box::new(ours::Ours::new(block, threads)?),
        Box::new(candle::Candle::new(block)?),
        Box::new(burn::Burn::new(block, "flex", Device::flex())),
        Box::new(burn::Burn::new(block, "ndarray", Device::ndarray())),
        #[cfg(feature = "burn-cpu")]
        Box::new(burn::Burn::new(block, "cpu", Device::cpu())),
    ])
}

/// Refuses to compare programs that compute something else.
fn check(peers: &mut [Box<dyn Peer>]) -> Result<(), String> {
    peers.iter_mut().for_each(|peer| peer.forward_backward());
    let ours = peers[0].found();
    for peer in peers.iter() {
        let theirs = peer.found();
        if !ours.agrees(&theirs) {
            return Err(format!("{} found {theirs:?}, {} {ours:?}", peer.name(), peers[0].name()));
        }
    }
    Ok(())
}

/// The median milliseconds of every program, running in turn after a round that does not count.
fn interleaved(peers: &mut [Box<dyn Peer>], rounds: u32, run: fn(&mut (dyn Peer + 'static))) -> Vec<f64> {
    let mut times = vec![Vec::new(); peers.len()];
    for round in 0..=rounds {
        for (peer, times) in peers.iter_mut().zip(&mut times) {
            let start = Instant::now();
            run(peer.as_mut());
            if round > 0 {
                times.push(1e3 * start.elapsed().as_secs_f64());
            }
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times.into_iter().map(median).collect()
}

/// The processor, the threads and the date.
fn machine(threads: usize) -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let date = Command::new("date").arg("+%Y-%m-%d").output().map(|out| out.stdout).unwrap_or_default();
    let date = String::from_utf8_lossy(&date);
    let isa = performer_ddpm::kernels::Isa::detect();
    format!("{}, {threads} threads, {isa}, {}", model.unwrap_or("processor"), date.trim())
}
