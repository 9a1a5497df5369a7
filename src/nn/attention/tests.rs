use super::*;
use crate::config::FeatureMap::{self, Hyperbolic, Positive, Relu, Trigonometric};
use crate::equations::attention::{eq22_attention, eq26_favor_attention};
use crate::equations::features::{self, RELU_CONSTANT};
use crate::kernels::with_crew;
use crate::kernels::{Isa, Team, transpose};
use crate::nn::favor_features::{DENOMINATOR_GUARD, guarded, is_guarded};
use crate::nn::reductions::dot;
use crate::real::Real;
use crate::rng::{Stream, fill_normal, rng};
use ndarray::{ArrayD, ArrayView2, ArrayView3, Axis};

mod extremes;

/// An attention with an input; d_out are the weights of the loss sum d_out . out.
#[derive(Clone)]
struct Case<T> {
    layer: Attention,
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    d_out: Vec<T>,
    w: Vec<T>,
}

/// out, d_q, d_k, d_v.
type Results<T> = [Vec<T>; 4];

fn normal<T: Element>(len: usize, id: u64) -> Vec<T> {
    let mut x = vec![T::zero(); len];
    fill_normal(&mut rng(11, Stream::Check, len as u64, id), &mut x);
    x
}

fn scaled<T: Element>(x: &[T], by: f64) -> Vec<T> {
    x.iter().map(|x| *x * T::of(by)).collect()
}

/// A kind of attention and its number of projections.
type Kind = (AttentionKind, usize);

/// Softmax and every map.
fn kinds(features: usize) -> impl Iterator<Item = Kind> {
    AttentionKind::ALL.into_iter().map(move |kind| (kind, features))
}

impl<T: Element> Case<T> {
    /// Standard normal numbers, q and k times `scale`.
    fn normal([tokens, heads, dim]: [usize; 3], (kind, features): Kind, scale: f64) -> Case<T> {
        let len = tokens * heads * dim;
        let m = kind.map().map_or(0, |_| features);
        Case {
            layer: Attention::new(kind, AttentionShape { tokens, heads, dim, features }).expect("a layer"),
            q: scaled(&normal(len, 1), scale),
            k: scaled(&normal(len, 2), scale),
            v: normal(len, 3),
            d_out: normal(len, 4),
            w: normal(m * dim, 5),
        }
    }

    fn map(&self) -> Option<FeatureMap> {
        self.layer.kind.map()
    }

    fn w_t(&self) -> Vec<T> {
        let mut w_t = self.w.clone();
        if !w_t.is_empty() {
            transpose(&self.w, self.w.len() / self.layer.shape.dim, self.layer.shape.dim, &mut w_t);
        }
        w_t
    }

    fn qkv(&self) -> Qkv<'_, T> {
        Qkv { q: &self.q, k: &self.k, v: &self.v }
    }

    /// The output and what is saved. Everything lent holds NaN first: nothing may be read before it is
    /// written.
    fn forward(&self, isa: Isa, team: Team) -> (Vec<T>, Vec<T>) {
        let lend = |len| vec![T::nan(); len];
        let (mut out, mut saved) = (lend(self.q.len()), lend(self.layer.saved_len()));
        let mut work = lend(self.layer.forward_work_len());
        let context = &mut Context { kernels: isa.into(), team, workspace: &mut work };
        let projections = Projections { w: &self.w, w_t: &self.w_t() };
        self.layer.forward(context, projections, self.qkv(), &mut out, &mut saved).expect("lengths that fit");
        (out, saved)
    }

    fn results(&self, isa: Isa, team: Team) -> Results<T> {
        let (out, saved) = self.forward(isa, team);
        let lend = |len| vec![T::nan(); len];
        let [mut d_q, mut d_k, mut d_v] = [(); 3].map(|()| lend(self.q.len()));
        let mut work = lend(self.layer.backward_work_len());
        let context = &mut Context { kernels: isa.into(), team, workspace: &mut work };
        let projections = Projections { w: &self.w, w_t: &self.w_t() };
        let output = AttentionOutput { out: &out, saved: &saved };
        let gradient = QkvGradient { d_q: &mut d_q, d_k: &mut d_k, d_v: &mut d_v };
        self.layer
            .backward(context, projections, self.qkv(), output, &self.d_out, gradient)
            .expect("lengths that fit");
        [out, d_q, d_k, d_v]
    }

    fn wide(&self) -> Case<f64> {
        let wide = |x: &[T]| x.iter().map(|x| x.f64()).collect();
        Case {
            layer: self.layer,
            q: wide(&self.q),
            k: wide(&self.k),
            v: wide(&self.v),
            d_out: wide(&self.d_out),
            w: wide(&self.w),
        }
    }
}

impl Case<f64> {
    fn loss(&self) -> f64 {
        let (out, _) = self.forward(Isa::Reference, Team::Solo);
        dot(&out, &self.d_out)
    }

    /// The output by (22) or (26), head by head.
    fn oracle(&self) -> Vec<f64> {
        let AttentionShape { tokens, heads, dim, .. } = self.layer.shape;
        let mut out = ArrayD::zeros(vec![tokens, heads, dim]);
        let of_head = |x: &[f64], head| {
            let all = ArrayView3::from_shape((tokens, heads, dim), x).unwrap();
            all.index_axis_move(Axis(1), head).to_owned()
        };
        let w = ArrayView2::from_shape((self.w.len() / dim, dim), &self.w).unwrap();
        for head in 0..heads {
            let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| of_head(x, head));
            let map = self.map().map(|map| match map {
                Positive => features::FeatureMap::Positive,
                Hyperbolic => features::FeatureMap::Hyperbolic,
                Trigonometric => features::FeatureMap::Trigonometric,
                Relu => features::FeatureMap::Relu,
            });
            let attended = match map {
                None => eq22_attention(q.view(), k.view(), v.view()),
                Some(map) => eq26_favor_attention(map, q.view(), k.view(), v.view(), w),
            };
            out.index_axis_mut(Axis(1), head).assign(&attended.unwrap());
        }
        out.into_raw_vec_and_offset().0
    }
}

fn largest<T: Element>(x: &[T]) -> f64 {
    x.iter().fold(0.0, |max, x| x.f64().abs().max(max))
}

#[track_caller]
fn assert_close<T: Element>(got: &[T], want: &[f64], bound: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (got.f64() - want).abs();
        assert!(error <= bound, "{what} [{i}]: {got} for {want}, off by {error:e}, not {bound:e}");
    }
}

/// Every derivative against (loss(x + h) - loss(x - h)) / 2h, to `tolerance` of the tensor's largest.
fn check_gradients(case: &Case<f64>, h: f64, tolerance: f64) {
    let [_, d_q, d_k, d_v] = case.results(Isa::Reference, Team::Solo);
    type Field = fn(&mut Case<f64>) -> &mut Vec<f64>;
    let fields: [(&str, Field, Vec<f64>); 3] =
        [("d_q", |c| &mut c.q, d_q), ("d_k", |c| &mut c.k, d_k), ("d_v", |c| &mut c.v, d_v)];
    for (name, field, got) in fields {
        let mut moved = case.clone();
        let want: Vec<f64> = (0..got.len())
            .map(|i| {
                let x = field(&mut moved)[i];
                field(&mut moved)[i] = x + h;
                let above = moved.loss();
                field(&mut moved)[i] = x - h;
                let below = moved.loss();
                field(&mut moved)[i] = x;
                (above - below) / (2.0 * h)
            })
            .collect();
        let bound = tolerance * largest(&want) + 1e-9;
        assert_close(&got, &want, bound, &format!("{:?} {name}", case.layer));
    }
}

/// Tolerance: the differences err by about h^2 = 1e-10 times third derivatives (some tens of the first ones
/// here) and by the loss's rounding over h, 1e-15 * 100 / 1e-5 = 1e-8, of derivatives of order 0.1 to 1.
#[test]
fn gradients_are_the_central_differences() {
    let shapes = [
        ([67, 2, 5], 7),
        ([1, 2, 5], 3),
        ([67, 1, 7], 3),
        ([130, 1, 3], 4),
        ([6, 3, 1], 2),
        ([67, 1, 2], 80),
    ];
    for (shape, m) in shapes {
        for kind in kinds(m) {
            check_gradients(&Case::normal(shape, kind, 0.7), 1e-5, 1e-6);
        }
    }
}

/// Tolerance: both sides are sums of at most 130 * 9 terms in f64, each with a relative error of a few 1e-16
/// times the exponent (below 30); the trigonometric denominators cancel all but about a hundredth.
#[test]
fn attention_is_that_of_the_equations() {
    for (shape, m) in [([67, 2, 5], 7), ([1, 2, 5], 3), ([130, 1, 3], 9), ([64, 2, 16], 8)] {
        for kind in kinds(m) {
            let case = Case::normal(shape, kind, 0.7);
            let want = case.oracle();
            let (out, _) = case.forward(Isa::Reference, Team::Solo);
            assert_close(&out, &want, 1e-11 * largest(&want), &format!("{:?}", case.layer));
        }
    }
}

/// Moves q of token 0 so that its trigonometric denominator is `target`, by bisection on its first element.
fn with_denominator(target: f64) -> Case<f64> {
    let mut case = Case::<f64>::normal([5, 1, 2], (AttentionKind::Favor(Trigonometric), 2), 0.7);
    let denominator = |case: &Case<f64>, q: f64| {
        let mut case = case.clone();
        case.q[0] = q;
        *case.forward(Isa::Reference, Team::Solo).1.iter().rev().nth(4).unwrap()
    };
    let (mut low, mut high) = (0.0, 0.0);
    while denominator(&case, high) > target {
        high += 0.1;
    }
    assert!(denominator(&case, low) > target);
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        *(if denominator(&case, middle) > target { &mut low } else { &mut high }) = middle;
    }
    case.q[0] = high;
    let reached = denominator(&case, high);
    assert!((reached - target).abs() < 1e-12, "{reached} for {target}");
    case
}

/// Steps well inside the guard's width and the denominator's size, off the jump at D = 0. Tolerances: the
/// loss, of order N / D, is rounded to 1e-16 of itself; over h = 1e-8 that is at most 1e-7 of the largest
/// derivative, of order N / D (guarded) or N / D^2.
#[test]
fn gradients_are_the_central_differences_where_the_guard_is_near_or_active() {
    for target in [1e-4, -1e-4, 1e-2] {
        check_gradients(&with_denominator(target), 1e-8, 1e-6);
    }
    for target in [0.1, 0.5, -0.1, -0.6].map(|share| share * DENOMINATOR_GUARD) {
        let case = with_denominator(target);
        let (out, _) = case.forward(Isa::Reference, Team::Solo);
        assert!(largest(&out) > 1e3, "the guard's division shows");
        check_gradients(&case, 1e-8, 1e-6);
    }
}

#[test]
fn the_guard_keeps_sign_and_size_and_not_a_number() {
    let g = DENOMINATOR_GUARD as f32;
    assert_eq!(f64::from(g), DENOMINATOR_GUARD);
    for (d, want) in [(0.0, g), (-0.0, g), (g / 2.0, g), (-g / 2.0, -g), (g, g), (-g, -g), (-2.0, -2.0)] {
        assert_eq!(guarded(d), want, "{d}");
        assert_eq!(is_guarded(d), d.abs() < g);
    }
    assert!(guarded(f32::NAN).is_nan() && !is_guarded(f32::NAN));
    const { assert!(RELU_CONSTANT * RELU_CONSTANT > DENOMINATOR_GUARD) };
}

/// Largest |u| + |x^|^2/2, or |score|, that queries and keys can have: what rounding in exponents is relative
/// to.
fn exponent_scale(case: &Case<f64>) -> f64 {
    let d = case.layer.shape.dim;
    let longest = |x: &[f64]| x.chunks_exact(d).map(|x| dot(x, x).sqrt()).fold(0.0, f64::max);
    let x = longest(&case.q).max(longest(&case.k)) / (d as f64).powf(0.25);
    x * if case.map().is_some() { longest(&case.w) + x / 2.0 } else { x }
}

/// Bound on the relative error of attention's output for positive weights: exponents err by (d + 4) eps times
/// their scale, on the query's and on the key's side, sums of L and of M terms by (L + M) eps, exp and the
/// rest by 16 eps; so much do the weights err relatively, and their weighted mean by twice that of the
/// largest |v|.
fn f32_bound(case: &Case<f64>) -> f64 {
    let AttentionShape { tokens, dim, .. } = case.layer.shape;
    let sums = (tokens + 2 * case.w.len() / dim + 16) as f64;
    2.0 * f64::from(f32::EPSILON) * ((dim + 4) as f64 * 2.0 * exponent_scale(case) + sums)
}

/// Tolerance: a third of `f32_bound` of each tensor's largest, since roundings do not conspire: about twice
/// the largest seen on all instruction sets, which is the trigonometric map's, and ten times that of the
/// others. An absolute 4 eps serves the single token, whose d_q and d_k are 0 in theory and a difference of
/// numbers of order one in practice.
#[test]
fn f32_agrees_with_f64_on_every_isa() {
    for (shape, m) in
        [([67, 2, 5], 7), ([1, 1, 3], 2), ([100, 2, 16], 32), ([130, 1, 40], 24), ([300, 1, 8], 80)]
    {
        for kind in kinds(m) {
            let narrow = Case::<f32>::normal(shape, kind, 0.7);
            let case = narrow.wide();
            let want = case.results(Isa::Reference, Team::Solo);
            for isa in Isa::available() {
                let got = narrow.results(isa, Team::Solo);
                for (i, name) in ["out", "d_q", "d_k", "d_v"].into_iter().enumerate() {
                    let bound = f32_bound(&case) / 3.0 * largest(&want[i]) + 4.0 * f64::from(f32::EPSILON);
                    assert_close(&got[i], &want[i], bound, &format!("{isa} {:?} {name}", case.layer));
                }
            }
        }
    }
}

/// 300 tokens are three shares.
#[test]
fn a_team_of_any_size_gives_the_same_bits() {
    for kind in kinds(6) {
        let case = Case::<f32>::normal([300, 3, 5], kind, 1.0);
        for isa in Isa::available() {
            let alone = case.results(isa, Team::Solo);
            for others in [0, 1, 6] {
                let together = with_crew(others, |team| case.results(isa, team));
                assert_eq!(alone, together, "{isa} {kind:?} on {} threads", others + 1);
            }
        }
    }
}

/// The state of FAVOR+'s work does not grow with the tokens beyond the most shares.
#[test]
fn memory_is_linear_in_the_tokens() {
    for (kind, features) in kinds(32) {
        let at = |tokens| {
            let shape = AttentionShape { tokens, heads: 2, dim: 16, features };
            Attention::new(kind, shape).expect("a layer")
        };
        let lens = |a: Attention| [a.saved_len(), a.forward_work_len(), a.backward_work_len()];
        let [a, b, c] = [1 << 10, 1 << 11, 1 << 12].map(|tokens| lens(at(tokens)));
        for i in 0..3 {
            assert!(c[i] - b[i] <= 2 * (b[i] - a[i]), "{kind:?}");
        }
        if kind != AttentionKind::Softmax {
            assert!(c[0] - b[0] <= (1 << 11) * 2 * 2 && c[1] == b[1] && c[2] == b[2], "{kind:?}");
        }
    }
}

#[test]
fn sizes_that_make_no_attention_are_refused() {
    let shape = AttentionShape { tokens: 4, heads: 2, dim: 3, features: 5 };
    let most = usize::MAX;
    for kind in AttentionKind::ALL {
        assert!(Attention::new(kind, shape).is_ok());
        for shape in [
            AttentionShape { tokens: 0, ..shape },
            AttentionShape { heads: 0, ..shape },
            AttentionShape { dim: 0, ..shape },
            AttentionShape { tokens: most, ..shape },
            AttentionShape { heads: most, dim: most, ..shape },
        ] {
            assert!(Attention::new(kind, shape).is_err(), "{kind} {shape:?}");
        }
        for features in [0, most] {
            let made = Attention::new(kind, AttentionShape { features, ..shape });
            assert_eq!(made.is_ok(), kind == AttentionKind::Softmax, "{kind} {features}");
        }
    }
}

#[test]
fn operands_of_other_lengths_are_refused() {
    for kind in kinds(6) {
        let case = Case::<f64>::normal([5, 2, 3], kind, 1.0);
        let layer = case.layer;
        let (saved, work) = (layer.saved_len(), layer.forward_work_len());
        let run = |case: &Case<f64>, w_t: Vec<f64>, out: usize, saved: usize, work: usize| {
            let [mut out, mut saved, mut work] = [out, saved, work].map(|len| vec![0.0; len]);
            let context =
                &mut Context { kernels: Isa::Reference.into(), team: Team::Solo, workspace: &mut work };
            let projections = Projections { w: &case.w, w_t: &w_t };
            layer.forward(context, projections, case.qkv(), &mut out, &mut saved).is_ok()
        };
        assert!(run(&case, case.w_t(), 30, saved, work));
        assert!(!run(&case, case.w_t(), 29, saved, work), "{kind:?}");
        assert!(!run(&case, case.w_t(), 30, saved - 1, work), "{kind:?}");
        assert!(!run(&case, case.w_t(), 30, saved, work - 1), "{kind:?}");
        for i in 0..3 {
            let mut short = case.clone();
            [&mut short.q, &mut short.k, &mut short.v][i].pop();
            assert!(!run(&short, case.w_t(), 30, saved, work), "{kind:?}");
        }
        if kind.0 != AttentionKind::Softmax {
            assert!(!run(&case, case.w_t()[1..].to_vec(), 30, saved, work), "{kind:?}");
        }
    }
}
