//! The gradients in every runtime that is available, against the layer's reference in `f64`.

use super::backward;
use crate::config::{AttentionKind, FeatureMap};
use crate::export::attention;
use crate::export::testing::{difference, normal, runners};
use crate::kernels::{Isa, Team, transpose};
use crate::nn::{
    Attention, AttentionOutput, AttentionShape, Context, DENOMINATOR_GUARD, Projections, Qkv, QkvGradient,
};
use performer_ddpm_onnx::builder::{GraphBuilder, ModelInfo};
use performer_ddpm_onnx::{Dim, ElementType, Model, Tensor};
use std::ops::Range;

const HEADS: usize = 2;
const DIM: usize = 16;
const SIDES: [usize; 2] = [6, 5];
const TOKENS: usize = 30;
const FEATURES: usize = 20;
const BATCH: usize = 3;
const CHANNELS: usize = HEADS * DIM;
const NAMES: [&str; 3] = ["d_q", "d_k", "d_v"];

/// q, k, v and the gradient in the output \[N, C, H, W\], and w \[m, d\].
struct Input {
    qkv: [Vec<f32>; 3],
    d_out: Vec<f32>,
    w: Vec<f32>,
}

impl Input {
    fn scaled(factor: f32) -> Input {
        let len = BATCH * CHANNELS * TOKENS;
        let times = |factor: f32, x: Vec<f32>| x.into_iter().map(|x| factor * x).collect();
        Input {
            qkv: [times(factor, normal(1, len)), times(factor, normal(2, len)), normal(3, len)],
            d_out: normal(5, len),
            w: normal(4, FEATURES * DIM),
        }
    }

    /// The engine's output and gradients in q, k and v, \[N, C, H, W\].
    fn expected(&self, map: Option<FeatureMap>) -> [Vec<f64>; 4] {
        let kind = map.map_or(AttentionKind::Softmax, AttentionKind::Favor);
        let shape = AttentionShape { tokens: TOKENS, heads: HEADS, dim: DIM, features: FEATURES };
        let layer = Attention::new(kind, shape).expect("a layer");
        let w: Vec<f64> = self.w.iter().map(|w| f64::from(*w)).collect();
        let mut w_t = vec![0.0; w.len()];
        transpose(&w, FEATURES, DIM, &mut w_t);
        let projections = match map {
            None => Projections::default(),
            Some(_) => Projections { w: &w, w_t: &w_t },
        };
        let (mut saved, mut work) = (vec![0.0; layer.saved_len()], vec![0.0; layer.backward_work_len()]);
        work.resize(work.len().max(layer.forward_work_len()), 0.0);
        let each = CHANNELS * TOKENS;
        let mut all: [Vec<f64>; 4] = Default::default();
        for image in 0..BATCH {
            let tokens_first = |x: &[f32]| {
                let wide: Vec<f64> = x[image * each..][..each].iter().map(|x| f64::from(*x)).collect();
                let mut rows = vec![0.0; each];
                transpose(&wide, CHANNELS, TOKENS, &mut rows);
                rows
            };
            let [q, k, v] = [0, 1, 2].map(|i| tokens_first(&self.qkv[i]));
            let d_out = tokens_first(&self.d_out);
            let (isa, qkv) = (Isa::Reference, Qkv { q: &q, k: &k, v: &v });
            let mut results: [Vec<f64>; 4] = std::array::from_fn(|_| vec![0.0; each]);
            let mut context = Context { kernels: isa.into(), team: Team::Solo, workspace: &mut work };
            let [out, d_q, d_k, d_v] = &mut results;
            layer.forward(&mut context, projections, qkv, out, &mut saved).expect("lengths that fit");
            let output = AttentionOutput { out, saved: &saved };
            let gradient = QkvGradient { d_q, d_k, d_v };
            layer
                .backward(&mut context, projections, qkv, output, &d_out, gradient)
                .expect("lengths that fit");
            for (all, result) in all.iter_mut().zip(results) {
                let mut image = vec![0.0; each];
                transpose(&result, TOKENS, CHANNELS, &mut image);
                all.extend(image);
            }
        }
        all
    }

    fn graph(&self, map: Option<FeatureMap>) -> performer_ddpm_onnx::Result<Model> {
        let mut g = GraphBuilder::new("attention");
        let mut port = |name: &str| {
            let shape = [Dim::from("N"), CHANNELS.into(), SIDES[0].into(), SIDES[1].into()];
            g.input(name, ElementType::F32, shape)
        };
        let (q, k, v, d_out) = (port("q")?, port("k")?, port("v")?, port("d_out")?);
        let features = match map {
            None => None,
            Some(map) => Some((map, g.initializer_f32("w", &[FEATURES, DIM], &self.w)?)),
        };
        let (_, saved) = attention::write(&mut g, HEADS, features, q, k, v)?;
        let gradients = backward(&mut g, &saved, d_out)?;
        for (name, gradient) in NAMES.iter().zip(gradients) {
            g.output(name, gradient)?;
        }
        g.into_model(ModelInfo::default())
    }

    /// Compares the gradients in these channels of every head, each relative to its largest or to `least`, if
    /// that is more.
    fn agrees(&self, map: Option<FeatureMap>, bound: f64, channels: Range<usize>, least: f64) {
        let [_, want @ ..] = self.expected(map);
        let model = self.graph(map).expect("a graph");
        let tensor = |x: &[f32]| Tensor::f32([BATCH, CHANNELS, SIDES[0], SIDES[1]], x).expect("images");
        let [q, k, v] = [0, 1, 2].map(|i| tensor(&self.qkv[i]));
        let inputs = [("q", &q), ("k", &k), ("v", &v), ("d_out", &tensor(&self.d_out))];
        for mut runner in runners(&model) {
            for ((name, got), want) in runner.run(&inputs).expect("gradients").iter().zip(&want) {
                let kept = |i: &usize| channels.contains(&(i / TOKENS % DIM));
                let got = got.as_f32().expect("floats");
                let (got, want): (Vec<f32>, Vec<f64>) =
                    (0..want.len()).filter(kept).map(|i| (got[i], want[i])).unzip();
                let largest = want.iter().fold(0.0, |largest: f64, want| largest.max(want.abs()));
                if largest > 0.0 {
                    let off = difference(&got, &want) * largest / largest.max(least);
                    let runtime = runner.describe();
                    assert!(off < bound, "{name} of {map:?}, channels {channels:?}, in {runtime}: {off:e}");
                }
            }
        }
    }
}

/// Queries and keys of norm 1 at most. Tolerance: f32 rounding in sums of 30 terms, a quotient, and back.
#[test]
fn eq22_eq26_the_gradients_of_every_kind_are_the_engine_s() {
    for map in std::iter::once(None).chain(FeatureMap::ALL.map(Some)) {
        Input::scaled(0.3).agrees(map, 1e-5, 0..DIM, 0.0);
    }
}

/// Exponents that would leave f32's range without their shifts: the shifts have no gradient. Tolerance: as
/// for the forward pass, the rounding of exponents of up to some 100 in queries and in keys, 1.3e-5 each, in
/// sums whose terms cancel.
#[test]
fn eq25_the_shifts_of_large_exponents_have_no_gradient() {
    for map in [FeatureMap::Positive, FeatureMap::Hyperbolic] {
        Input::scaled(12.0).agrees(Some(map), 1e-4, 0..DIM, 0.0);
    }
}

/// One key far larger than all others is at a right angle to every other query, whose D is then L m times
/// -4.4e-8, the cosine of the rounded right angle, and guarded; the output is then proportional to exp(-c),
/// and the key that c belongs to has a gradient for it.
#[test]
fn eq26_the_guard_s_gradient_is_the_engine_s() {
    let mut input = Input::scaled(0.0);
    input.w = (0..FEATURES * DIM).map(|i| if i % DIM == 0 { 2.0 } else { 0.0 }).collect();
    let [q, k, _] = &mut input.qkv;
    for image_and_head in 0..BATCH * HEADS {
        let start = image_and_head * DIM * TOKENS;
        for token in 0..TOKENS {
            q[start + token] = if token % 2 == 0 { 1e-8 } else { 1.0 };
            k[start + token] = 0.1 * token as f32;
        }
        k[start + 7] = std::f32::consts::FRAC_PI_2;
        k[start + TOKENS + 7] = 13.5;
    }
    let map = Some(FeatureMap::Trigonometric);
    let [out, ..] = input.expected(map);
    let guarded = &out[..TOKENS];
    let value = f64::from(input.qkv[2][7]);
    // v_7 but for the guard, which is larger than D.
    let share = |token: usize| guarded[token] / value;
    assert!((0.1..0.9).contains(&share(0).abs()) && (share(1) - 1.0).abs() < 1e-3, "{DENOMINATOR_GUARD:e}");
    input.agrees(map, 1e-5, 0..1, 0.0);
    // What the guard adds is along the key's second channel, beside gradients of 1 / 2^-20 in its first.
    // There it cancels what the guarded queries give by way of the features, so the sum is compared with its
    // terms.
    let slopes = input.d_out[..DIM * TOKENS].iter().zip(&out).enumerate();
    let of_guarded = slopes.filter(|(i, _)| (i % TOKENS).is_multiple_of(2));
    let along: f64 = of_guarded.map(|(_, (slope, out))| f64::from(*slope) * out).sum();
    let term = along.abs() * 13.5 / (DIM as f64).sqrt();
    assert!(term > 1.0, "{term}");
    input.agrees(map, 1e-5, 1..2, term);
}
