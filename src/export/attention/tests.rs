//! The attention graphs in every runtime that is available, against the layer's reference in `f64`.

use super::write;
use crate::config::{AttentionKind, FeatureMap};
use crate::export::testing::{difference, normal, runners};
use crate::kernels::{Isa, Team, transpose};
use crate::nn::{Attention, AttentionShape, Context, Projections, Qkv};
use performer_ddpm_onnx::builder::{GraphBuilder, ModelInfo};
use performer_ddpm_onnx::{Dim, ElementType, Model, Tensor};

const HEADS: usize = 2;
const DIM: usize = 16;
const SIDES: [usize; 2] = [6, 5];
const TOKENS: usize = 30;
const FEATURES: usize = 20;
const BATCH: usize = 3;
const CHANNELS: usize = HEADS * DIM;

/// q, k, v \[N, C, H, W\] and w \[m, d\].
#[derive(Clone)]
struct Input {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    w: Vec<f32>,
}

impl Input {
    /// Queries and keys of N(0, 1) times these factors.
    fn scaled(queries: f32, keys: f32) -> Input {
        let len = BATCH * CHANNELS * TOKENS;
        let times = |factor: f32, x: Vec<f32>| x.into_iter().map(|x| factor * x).collect();
        Input {
            q: times(queries, normal(1, len)),
            k: times(keys, normal(2, len)),
            v: normal(3, len),
            w: normal(4, FEATURES * DIM),
        }
    }

    /// The largest exponent w . q / d^(1/4) of any query.
    fn largest_exponent(&self) -> f64 {
        let mut largest = 0.0f64;
        for image in self.q.chunks_exact(CHANNELS * TOKENS) {
            for head in image.chunks_exact(DIM * TOKENS) {
                for token in 0..TOKENS {
                    for w in self.w.chunks_exact(DIM) {
                        let u: f64 =
                            (0..DIM).map(|i| f64::from(w[i]) * f64::from(head[i * TOKENS + token])).sum();
                        largest = largest.max(u.abs() / (DIM as f64).powf(0.25));
                    }
                }
            }
        }
        largest
    }

    /// The engine's output, \[N, C, H, W\].
    fn expected(&self, map: Option<FeatureMap>) -> Vec<f64> {
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
        let (mut saved, mut work) = (vec![0.0; layer.saved_len()], vec![0.0; layer.forward_work_len()]);
        let each = CHANNELS * TOKENS;
        let mut all = Vec::new();
        for n in 0..BATCH {
            let tokens_first = |x: &[f32]| {
                let wide: Vec<f64> = x[n * each..][..each].iter().map(|x| f64::from(*x)).collect();
                let mut out = vec![0.0; each];
                transpose(&wide, CHANNELS, TOKENS, &mut out);
                out
            };
            let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| tokens_first(x));
            let mut out = vec![0.0; each];
            let context =
                &mut Context { kernels: Isa::Reference.into(), team: Team::Solo, workspace: &mut work };
            let qkv = Qkv { q: &q, k: &k, v: &v };
            layer.forward(context, projections, qkv, &mut out, &mut saved).expect("lengths that fit");
            let mut channels_first = vec![0.0; each];
            transpose(&out, TOKENS, CHANNELS, &mut channels_first);
            all.extend(channels_first);
        }
        all
    }

    /// The graph's output in every runtime that is available.
    fn computed(&self, map: Option<FeatureMap>) -> Vec<(String, Vec<f32>)> {
        let model = self.graph(map).unwrap();
        let shape = [BATCH, CHANNELS, SIDES[0], SIDES[1]];
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| Tensor::f32(shape, x.clone()).unwrap());
        runners(&model)
            .into_iter()
            .map(|mut runner| {
                let name = runner.describe().backend.name().to_owned();
                let outputs = runner.run(&[("q", &q), ("k", &k), ("v", &v)]).unwrap();
                assert_eq!(outputs[0].1.shape(), shape);
                (name, outputs[0].1.as_f32().unwrap().to_vec())
            })
            .collect()
    }

    fn graph(&self, map: Option<FeatureMap>) -> performer_ddpm_onnx::Result<Model> {
        let mut g = GraphBuilder::new("attention");
        let mut port = |name: &str| {
            let shape = [Dim::from("N"), CHANNELS.into(), SIDES[0].into(), SIDES[1].into()];
            g.input(name, ElementType::F32, shape)
        };
        let (q, k, v) = (port("q")?, port("k")?, port("v")?);
        let features = match map {
            None => None,
            Some(map) => Some((map, g.initializer_f32("w", &[FEATURES, DIM], &self.w)?)),
        };
        let (out, _) = write(&mut g, HEADS, features, q, k, v)?;
        g.output("out", out)?;
        g.into_model(ModelInfo::default())
    }
}

fn kinds() -> Vec<Option<FeatureMap>> {
    std::iter::once(None).chain(FeatureMap::ALL.map(Some)).collect()
}

/// Queries and keys of norm 1 at most: 5e-6 of the largest value, f32 rounding in sums of 30 terms and a
/// quotient. (For trigonometric features the denominator is far from zero there, as their relative variance
/// (exp(|q + k|^2) - 1)/m is small.)
#[test]
fn eq22_eq26_every_kind_agrees_with_the_engine() {
    let input = Input::scaled(0.3, 0.3);
    for map in kinds() {
        let want = input.expected(map);
        for (runtime, got) in input.computed(map) {
            let off = difference(&got, &want);
            assert!(off < 5e-6, "{map:?} in {runtime}: {off:e}");
        }
    }
}

/// exp(u) leaves f32's range at 88.7. The tolerance is the relative error of exp(110) when the exponent is
/// rounded once or twice, 110 x 2^-23 = 1.3e-5, in both queries and keys.
#[test]
fn eq25_positive_and_hyperbolic_agree_where_a_naive_exp_overflows() {
    for (target, keys) in [(88.0, 1.0), (97.0, 3.0), (110.0, 0.3)] {
        let plain = Input::scaled(1.0, keys).largest_exponent();
        let input = Input::scaled((target / plain) as f32, keys);
        assert!((input.largest_exponent() - target).abs() < 1e-3);
        for map in [FeatureMap::Positive, FeatureMap::Hyperbolic] {
            let want = input.expected(Some(map));
            for (runtime, got) in input.computed(Some(map)) {
                let off = difference(&got, &want);
                assert!(off < 2e-5, "{map:?} in {runtime}, exponents to {target}: {off:e}");
            }
        }
    }
}

#[test]
fn eq25_nothing_finite_becomes_nan() {
    for (queries, keys) in [(300.0, 1.0), (1.0, 300.0), (1e4, 1e4), (0.0, 0.0), (1e-30, 1e-30)] {
        let input = Input::scaled(queries, keys);
        for map in [FeatureMap::Positive, FeatureMap::Hyperbolic] {
            for (runtime, got) in input.computed(Some(map)) {
                assert!(got.iter().all(|x| x.is_finite()), "{map:?} in {runtime}, {queries} {keys}");
            }
        }
    }
}

/// All projections alike, keys at angles pi/2 and -pi/2 and queries near pi/2: the keys' sines cancel
/// exactly, what is left of D is L m cos(q) times the cosine of the rounded pi/2, -4.4e-8, while N is of
/// order one. Within 0.03 of pi/2 that is below the guard 2^-20, on either side with another sign; at 0.1 it
/// is above. (d^(1/4) = 2 keeps the angles exact.)
#[test]
fn eq26_the_denominator_s_guard_is_the_engine_s() {
    let right_angle = std::f32::consts::FRAC_PI_2;
    let at = |offset: f32| {
        let mut input = Input::scaled(0.0, 0.0);
        let first = |i: usize| (i / TOKENS).is_multiple_of(DIM);
        input.w = (0..FEATURES * DIM).map(|i| if i % DIM == 0 { 2.0 } else { 0.0 }).collect();
        for (i, (q, k)) in input.q.iter_mut().zip(&mut input.k).enumerate().filter(|(i, _)| first(*i)) {
            *q = right_angle + offset;
            *k = if i % 2 == 0 { right_angle } else { -right_angle };
        }
        input
    };
    let map = Some(FeatureMap::Trigonometric);
    let middle = at(0.0).expected(map);
    for (offset, sign) in
        [(0.0, Some(1.0)), (0.03, Some(1.0)), (-0.03, Some(-1.0)), (0.1, None), (-0.1, None)]
    {
        let want = at(offset).expected(map);
        let guarded =
            sign.is_some_and(|sign| want.iter().zip(&middle).all(|(a, b)| (a / b - sign).abs() < 1e-3));
        assert_eq!(guarded, sign.is_some(), "{offset}");
        for (runtime, got) in at(offset).computed(map) {
            // 1e-5: the rounding of a sum of 30 small cosines and of a quotient; nothing cancels in N.
            let off = difference(&got, &want);
            assert!(off < 1e-5, "{runtime}, {offset} from a right angle: {off:e}");
        }
    }
}
