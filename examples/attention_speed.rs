//! Milliseconds of the attention layer alone, forward and forward with backward: one JSON object per line for
//! every number of tokens, with medians of `--runs` after two that do not count, or, with `--best yes`, the
//! fastest.
//!
//! `cargo run --example attention_speed -- --threads 2 --runs 5 --isa avx512`
//!
//! Samples are distributed over the threads, or, where there are fewer samples than threads, the work inside
//! the samples. The layer's input and the gradient of its output are normal numbers; buffers are reused, as
//! in a network.

use performer_ddpm::config::{AttentionKind, FeatureMap};
use performer_ddpm::kernels::{Isa, Team};
use performer_ddpm::nn::{
    Attention, AttentionOutput, AttentionShape, Context, Projections, Qkv, QkvGradient,
};
use performer_ddpm::rng::{Stream, fill_normal, rng};
use rayon::prelude::*;
use std::sync::Mutex;
use std::time::Instant;

/// L and the number of samples.
const SIZES: [(usize, usize); 6] = [(64, 32), (256, 16), (512, 16), (1024, 8), (4096, 2), (16384, 1)];
const HEADS: usize = 4;
const DIM: usize = 32;
const FEATURES: usize = 128;

fn normal(len: usize, id: u64) -> Vec<f32> {
    let mut x = vec![0.0; len];
    fill_normal(&mut rng(0, Stream::Check, len as u64, id), &mut x);
    x
}

/// One sample's tensors and buffers.
struct Sample {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_out: Vec<f32>,
    out: Vec<f32>,
    saved: Vec<f32>,
    d_q: Vec<f32>,
    d_k: Vec<f32>,
    d_v: Vec<f32>,
}

struct Layer {
    attention: Attention,
    isa: Isa,
    w: Vec<f32>,
    w_t: Vec<f32>,
}

impl Layer {
    fn new(kind: AttentionKind, tokens: usize, isa: Isa) -> performer_ddpm::Result<Layer> {
        let w = normal(FEATURES * DIM, 0);
        let w_t = (0..DIM).flat_map(|j| w[j..].iter().step_by(DIM)).copied().collect();
        let shape = AttentionShape { tokens, heads: HEADS, dim: DIM, features: FEATURES };
        Ok(Layer { attention: Attention::new(kind, shape)?, isa, w, w_t })
    }

    fn sample(&self, index: usize) -> Sample {
        let len = self.attention.shape().tokens * HEADS * DIM;
        let [q, k, v, d_out] = [1, 2, 3, 4].map(|id| normal(len, 4 * index as u64 + id));
        let [out, d_q, d_k, d_v] = [(); 4].map(|()| vec![0.0; len]);
        Sample { q, k, v, d_out, out, saved: vec![0.0; self.attention.saved_len()], d_q, d_k, d_v }
    }

    fn run(&self, team: Team, backward: bool, sample: &mut Sample, work: &mut [f32]) {
        let projections = Projections { w: &self.w, w_t: &self.w_t };
        let Sample { q, k, v, d_out, out, saved, d_q, d_k, d_v } = sample;
        let context = &mut Context { kernels: self.isa.into(), team, workspace: work };
        let qkv = Qkv { q, k, v };
        self.attention.forward(context, projections, qkv, out, saved).expect("lengths that fit");
        if backward {
            let (output, gradient) = (AttentionOutput { out, saved }, QkvGradient { d_q, d_k, d_v });
            self.attention
                .backward(context, projections, qkv, output, d_out, gradient)
                .expect("lengths that fit");
        }
    }

    /// The median or smallest number of milliseconds of a pass over the `samples`.
    fn milliseconds(
        &self,
        samples: &mut [Sample],
        backward: bool,
        runs: usize,
        best: bool,
    ) -> performer_ddpm::Result<f64> {
        let work_len = self.attention.forward_work_len().max(self.attention.backward_work_len());
        let works: Vec<_> =
            (0..rayon::current_num_threads()).map(|_| Mutex::new(vec![0.0; work_len])).collect();
        let run = |team: Team<'_>, sample: &mut Sample| {
            let work = &works[rayon::current_thread_index().expect("in a pool")];
            self.run(team, backward, sample, &mut work.lock().expect("one thread's own"));
        };
        let mut times = Vec::new();
        let mut time = |pass: &mut dyn FnMut()| {
            for _ in 0..runs + 2 {
                let start = Instant::now();
                pass();
                times.push(1e3 * start.elapsed().as_secs_f64());
            }
        };
        if samples.len() < works.len() {
            Team::with_threads(works.len(), |team| {
                time(&mut || samples.iter_mut().for_each(|sample| run(team, sample)));
            })?;
        } else {
            time(&mut || samples.par_iter_mut().for_each(|sample| run(Team::Solo, sample)));
        }
        let times = &mut times[2..];
        times.sort_by(f64::total_cmp);
        Ok(times[if best { 0 } else { runs / 2 }])
    }
}

/// The argument after `name` on the command line, or `default`.
fn argument(name: &str, default: &str) -> String {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1)).map_or(default, String::as_str).to_owned()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads: usize = argument("--threads", "2").parse()?;
    let runs: usize = argument("--runs", "5").parse()?;
    let best = argument("--best", "no") == "yes";
    let most: usize = argument("--most-tokens", "16384").parse()?;
    let isa: Isa = argument("--isa", Isa::detect().name()).parse()?;
    let all = [
        ("favor", AttentionKind::Favor(FeatureMap::Positive)),
        ("hyperbolic", AttentionKind::Favor(FeatureMap::Hyperbolic)),
        ("trigonometric", AttentionKind::Favor(FeatureMap::Trigonometric)),
        ("relu", AttentionKind::Favor(FeatureMap::Relu)),
        ("softmax", AttentionKind::Softmax),
    ];
    let wanted = argument("--kinds", "favor,hyperbolic,trigonometric,relu,softmax");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    for (tokens, batch) in SIZES.into_iter().filter(|(tokens, _)| *tokens <= most) {
        let mut line = serde_json::json!({
            "L": tokens, "batch": batch, "heads": HEADS, "d": DIM, "m": FEATURES, "threads": threads, "isa": isa.name(),
        });
        for (name, kind) in all.into_iter().filter(|(name, _)| wanted.split(',').any(|kind| kind == *name)) {
            let layer = Layer::new(kind, tokens, isa)?;
            let mut samples: Vec<Sample> = (0..batch).map(|index| layer.sample(index)).collect();
            for (what, backward) in [("forward", false), ("forward_backward", true)] {
                let ms = pool.install(|| layer.milliseconds(&mut samples, backward, runs, best))?;
                line[format!("{name}_{what}_ms")] = ((1e3 * ms).round() / 1e3).into();
            }
        }
        println!("{line}");
    }
    Ok(())
}
