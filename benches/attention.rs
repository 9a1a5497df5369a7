//! The attention layer on one thread, forward and backward: four heads of d = 32, and FAVOR+ with m = 128.
//!
//! `cargo bench --bench attention`; items are the products' multiply-adds, so twice the items per second are
//! FLOP/s. The same over threads and beside other programs: `cargo run --example attention_speed`.

use divan::{Bencher, counter::ItemsCount};
use performer_ddpm::config::FeatureMap::{self, Hyperbolic, Positive, Relu, Trigonometric};
use performer_ddpm::kernels::{Isa, Team};
use performer_ddpm::nn::{Attention, AttentionKind, Projections};

fn main() {
    divan::main();
}

const HEADS: usize = 4;
const DIM: usize = 32;
const FEATURES: usize = 128;

/// `None` is softmax attention.
const KINDS: [Option<FeatureMap>; 5] =
    [Some(Positive), Some(Hyperbolic), Some(Trigonometric), Some(Relu), None];

/// Kinds of attention at 28x28 and more tokens, and softmax attention at 7x7 to 16x16.
fn cases() -> impl Iterator<Item = (Option<FeatureMap>, usize)> {
    let of = |tokens: &'static [usize]| KINDS.iter().flat_map(|kind| tokens.iter().map(|l| (*kind, *l)));
    [(None, 49), (None, 196)].into_iter().chain(of(&[256, 784, 1024]))
}

struct Layer {
    attention: Attention,
    inputs: [Vec<f32>; 4],
    outputs: [Vec<f32>; 4],
    w: Vec<f32>,
    saved: Vec<f32>,
    work: Vec<f32>,
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 7919 % 1000) as f32 / 1000.0 - 0.5).collect()
}

impl Layer {
    fn new((map, tokens): (Option<FeatureMap>, usize)) -> Layer {
        let kind = map.map_or(AttentionKind::Softmax, |map| AttentionKind::Favor { map, features: FEATURES });
        let attention = Attention { tokens, heads: HEADS, dim: DIM, kind };
        let len = tokens * HEADS * DIM;
        let work = attention.forward_work_len().max(attention.backward_work_len());
        Layer {
            attention,
            inputs: [(); 4].map(|()| numbers(len)),
            outputs: [(); 4].map(|()| numbers(len)),
            w: numbers(FEATURES * DIM),
            saved: numbers(attention.saved_len()),
            work: numbers(work),
        }
    }

    /// Multiply-adds of the forward or of the backward products.
    fn items(&self, backward: bool) -> ItemsCount {
        let a = &self.attention;
        let (each, forward, back) = match a.kind {
            AttentionKind::Softmax => (a.tokens, 2, 5),
            AttentionKind::Favor { map, .. } if map.functions() == 2 => (FEATURES, 6, 12),
            AttentionKind::Favor { .. } => (FEATURES, 4, 8),
        };
        ItemsCount::new(if backward { back } else { forward } * each * a.tokens * a.heads * a.dim)
    }

    fn forward(&mut self) {
        let ([q, k, v, _], [out, ..]) = (&self.inputs, &mut self.outputs);
        let projections = Projections { w: &self.w, w_t: &self.w };
        let (isa, team) = (Isa::detect(), Team::Solo);
        self.attention.forward(isa, team, projections, q, k, v, out, &mut self.saved, &mut self.work);
    }

    fn backward(&mut self) {
        let ([q, k, v, d_out], [out, d_q, d_k, d_v]) = (&self.inputs, &mut self.outputs);
        let projections = Projections { w: &self.w, w_t: &self.w };
        let (isa, team) = (Isa::detect(), Team::Solo);
        let (a, saved, work) = (&self.attention, &self.saved, &mut self.work);
        a.backward(isa, team, projections, q, k, v, out, d_out, saved, d_q, d_k, d_v, work);
    }
}

#[divan::bench(args = cases())]
fn forward(bencher: Bencher, case: (Option<FeatureMap>, usize)) {
    let mut layer = Layer::new(case);
    bencher.counter(layer.items(false)).bench_local(|| layer.forward());
}

#[divan::bench(args = cases())]
fn backward(bencher: Bencher, case: (Option<FeatureMap>, usize)) {
    let mut layer = Layer::new(case);
    layer.forward();
    bencher.counter(layer.items(true)).bench_local(|| layer.backward());
}
