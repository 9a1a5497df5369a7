//! FAVOR+'s features, equation (24), of a tile of tokens at a time, in a form that neither overflows nor
//! loses its denominators, whatever the norms of queries and keys.
//!
//! Let x^ = x / d^(1/4) be a scaled query or key, and u_j = w_j . x^. Attention (26) is O_i = N_i / D_i with
//! N_i = sum_j q'_ij sum_l k'_lj v_l, and D_i the same sums without v_l. Two changes of the features leave
//! O_i as it is:
//!
//! - to multiply all features of one query i by the same factor, which N_i and D_i then share;
//! - to multiply feature j of every key by a factor, and to divide feature j of every query by it.
//!
//! They make 1/sqrt(m) and the factor h of the queries unnecessary, and they keep exponents small. Feature by
//! feature map:
//!
//! - Positive, equation (25). The exponents of the keys are e_lj = u_lj - |k^_l|^2/2. Let c_j be the largest
//!   e_lj over the keys of the sample and head, or some e_lj at most [`SLACK`] below it. Then k'_lj =
//!   exp(e_lj - c_j) and q'_ij = exp(u_ij + c_j - s_i), with s_i = max_j (u_ij + c_j). The features of a
//!   query are at most 1 and those of a key at most 2^SLACK, so nothing overflows. At the j that attains s_i
//!   the query's feature is 1, and so is one of the keys' features; hence D_i >= 1, and no constant has to be
//!   added to it. (Usually the maxima of the queries and of the keys are subtracted separately. D then
//!   underflows where they lie at different j.)
//! - Hyperbolic: the same with the 2m exponents u_j - |k^|^2/2 and -u_j - |k^|^2/2.
//! - Trigonometric: q'_i = (sin u_i, cos u_i) and k'_l = exp(|k^_l|^2/2 - c) (sin u_l, cos u_l), with c =
//!   max_l |k^_l|^2/2. It is stored l m times, so that all maps share their code. D may have any sign: see
//!   [`guarded`].
//! - ReLU: max(u, 0) + [`RELU_CONSTANT`], without any shift.
//!
//! The keys are read once: where a tile of keys raises c, what was summed so far is multiplied by
//! exp(c_old - c_new), as in online softmax. Thanks to the slack this is rare. c and s cancel in N / D and so
//! have no gradient; `favor_backward` has the one exception, the guard.
//!
//! In the code all exponents, and so c and s, are to base 2: they are multiplied by log2(e).
//!
//! Source: Choromanski et al. (2021), sections 2.3 and 2.4, Lemma 1. Shifting by feature is this project's.

use super::favor_shares::{Favor, KeyState};
use super::heads::Head;
use super::operands::Update;
use super::reductions::{dot, larger, raise_to_columns};
use crate::config::FeatureMap;
use crate::equations::features::RELU_CONSTANT;
use crate::kernels::{
    Angles, Columns, Element, Exp2, Exp2BelowMaxima, Exponent, Isa, Powers, PowersBelowMaxima, Product, Run,
    SinCos, each_pair, vectorised,
};
use crate::real::Real;
use std::ops::Range;

/// The least |D| that an output is divided by: 2^-20. Only trigonometric features come near it. Their D is a
/// sum of up to L m cosines whose largest term is of order one, so that a D this small has lost all its
/// digits to cancellation, and in `f32` is nothing but rounding error. The D of the other maps is larger by
/// construction, in `f32` too: at least 1 for positive and hyperbolic features, at least L m 1e-6 for ReLU.
pub const DENOMINATOR_GUARD: f64 = 1.0 / 1_048_576.0;

/// How far an exponent to base 2 may exceed c_j before c_j is raised. 2^SLACK is far from the largest `f32`.
const SLACK: f64 = 12.0;

/// D^, what the output is divided by: D where |D| >= [`DENOMINATOR_GUARD`], elsewhere the guard with the sign
/// of D (plus at both zeros). NaN stays NaN.
#[inline(always)]
pub fn guarded<T: Real>(d: T) -> T {
    let guard = T::of(DENOMINATOR_GUARD);
    match is_guarded(d) {
        true if d < T::zero() => -guard,
        true => guard,
        false => d,
    }
}

/// Whether [`guarded`] replaces `d`. Its derivative is then 0.
#[inline(always)]
pub fn is_guarded<T: Real>(d: T) -> bool {
    d.abs() < T::of(DENOMINATOR_GUARD)
}

/// A feature map with its projections. A tile of features is \[rows, l m\], row-major: first the function f_1
/// of all m projections, then f_2.
pub(super) struct Features<'a, T> {
    isa: Isa,
    map: FeatureMap,
    m: usize,
    d: usize,
    w: &'a [T],
    w_t: &'a [T],
}

impl<'a, T: Element> Features<'a, T> {
    /// The features of a layer. `w_t` is W^T \[d, m\] times [`Favor::exponent_scale`]; `w`, which only
    /// [`Features::project_back`] reads, is W \[m, d\] times [`Favor::scale`].
    pub fn new(favor: &Favor, isa: Isa, w: &'a [T], w_t: &'a [T]) -> Self {
        Features { isa, map: favor.map, m: favor.shape.features, d: favor.shape.dim, w, w_t }
    }

    /// l m, the number of features.
    fn len(&self) -> usize {
        self.map.functions() * self.m
    }

    /// Sets c to its value before any key is read.
    pub fn start_c(&self, c: &mut [T]) {
        c.fill(match self.map {
            FeatureMap::Relu => T::zero(),
            _ => T::neg_infinity(),
        });
    }

    /// The features of the keys `tokens`, in the pass over the keys that finds c. Where it raises c, it
    /// returns true, and `rescale` \[l m\] holds the factors by which the sums over earlier tiles have to be
    /// multiplied. `half_norms` \[rows\] is overwritten.
    pub fn keys_raising_c(
        &self,
        k: Head<T>,
        tokens: Range<usize>,
        f: &mut [T],
        half_norms: &mut [T],
        c: &mut [T],
        rescale: &mut [T],
    ) -> bool {
        self.exponents(k, &tokens, f);
        self.half_norms(k, tokens, half_norms);
        let raised = match self.map {
            FeatureMap::Relu => false,
            FeatureMap::Trigonometric => {
                let largest = half_norms.iter().fold(c[0], |c, half_norm| larger(c, *half_norm));
                rescale.fill((c[0] - largest).exp2());
                let raised = largest > c[0];
                c.fill(largest);
                raised
            }
            FeatureMap::Positive | FeatureMap::Hyperbolic => self.raise(f, half_norms, c, rescale),
        };
        self.finish_keys(f, half_norms, c);
        raised
    }

    /// The features of the keys `tokens` once c is known. `half_norms` \[rows\] is overwritten.
    pub fn keys(&self, k: Head<T>, tokens: Range<usize>, f: &mut [T], half_norms: &mut [T], c: &[T]) {
        self.exponents(k, &tokens, f);
        self.half_norms(k, tokens, half_norms);
        self.finish_keys(f, half_norms, c);
    }

    /// Turns u of the keys into their features.
    fn finish_keys(&self, f: &mut [T], half_norms: &mut [T], c: &[T]) {
        let len = self.len();
        match self.map {
            FeatureMap::Relu => self.relu(f),
            FeatureMap::Trigonometric => {
                self.waves(f);
                half_norms.iter_mut().for_each(|x| *x = (*x - c[0]).exp2());
                vectorised(
                    self.isa,
                    #[inline(always)]
                    || {
                        for (t, row) in f.chunks_exact_mut(len).enumerate() {
                            row.iter_mut().for_each(|f| *f *= half_norms[t]);
                        }
                    },
                );
            }
            FeatureMap::Positive | FeatureMap::Hyperbolic => {
                Exp2::run(self.isa, Powers::dense(f, len, Exponent::RowsThenColumns(half_norms, c)));
            }
        }
    }

    /// The features of the queries `tokens`, and their normalisers s and D = q' . (sum over the keys of k').
    pub fn queries_attending(
        &self,
        q: Head<T>,
        tokens: Range<usize>,
        f: &mut [T],
        keys: &KeyState<&[T]>,
        shifts: &mut [T],
        denominators: &mut [T],
    ) {
        let (len, c, sums) = (self.len(), keys.c, keys.denominators);
        self.exponents(q, &tokens, f);
        match self.map {
            FeatureMap::Positive | FeatureMap::Hyperbolic => {
                let columns = Some(Columns { shifts: c, weights: sums });
                let (maxima, sums) = (shifts, denominators);
                let powers = PowersBelowMaxima { x: f, width: len, stride: len, columns, maxima, sums };
                Exp2BelowMaxima::run(self.isa, powers);
                return;
            }
            FeatureMap::Relu => self.relu(f),
            FeatureMap::Trigonometric => self.waves(f),
        }
        shifts.fill(T::zero());
        vectorised(
            self.isa,
            #[inline(always)]
            || {
                for (t, f) in f.chunks_exact(len).enumerate() {
                    denominators[t] = dot(f, sums);
                }
            },
        );
    }

    /// The features of the queries `tokens` once s is known.
    pub fn queries(&self, q: Head<T>, tokens: Range<usize>, f: &mut [T], c: &[T], shifts: &[T]) {
        let len = self.len();
        self.exponents(q, &tokens, f);
        match self.map {
            FeatureMap::Relu => self.relu(f),
            FeatureMap::Trigonometric => self.waves(f),
            FeatureMap::Positive | FeatureMap::Hyperbolic => {
                Exp2::run(self.isa, Powers::dense(f, len, Exponent::ColumnsThenRows(c, shifts)));
            }
        }
    }

    /// Goes back from the gradients in the features to those in u, in place.
    ///
    /// The gradient in feature j of token t is g_tj + a_t b_j, with a_t = 1 where there is no `a`; `b` is
    /// \[l m\]. On return the first m columns of g hold the gradients d_u:
    ///
    /// - positive: f = exp(u + ..), so d_u = g f; hyperbolic: d_u = g_1 f_1 - g_2 f_2;
    /// - trigonometric: f = (sin u, cos u) times a factor, so d_u = g_1 f_2 - g_2 f_1;
    /// - ReLU: d_u = g where u > 0, elsewhere 0. u > 0 is where f exceeds its constant (except where rounding
    ///   makes u vanish in f).
    ///
    /// `radial` \[rows\] takes what the factor h(x) = exp(-+|x^|^2/2) contributes, as the gradient in x^ is
    /// d_u W + radial x^. It is radial = -+sum_j g_j f_j, and 0 for ReLU, which has no such factor. The
    /// factor of the queries cancels, so they have no `radial`.
    pub fn pull_back(
        &self,
        f: &[T],
        g: &mut [T],
        (a, b): (Option<&[T]>, &[T]),
        mut radial: Option<&mut [T]>,
    ) {
        let (len, m, map) = (self.len(), self.m, self.map);
        let relu_constant = T::of(RELU_CONSTANT);
        vectorised(
            self.isa,
            #[inline(always)]
            || {
                for (t, g) in g.chunks_exact_mut(len).enumerate() {
                    let f = &f[t * len..][..len];
                    let a = a.map_or(T::one(), |a| a[t]);
                    each_pair(g, b, |g, b| *g += a * *b);
                    if let Some(radial) = &mut radial {
                        radial[t] = match map {
                            FeatureMap::Relu => T::zero(),
                            FeatureMap::Trigonometric => dot(f, g),
                            FeatureMap::Positive | FeatureMap::Hyperbolic => -dot(f, g),
                        };
                    }
                    let ((f1, f2), (g1, g2)) = (f.split_at(m), g.split_at_mut(m));
                    match map {
                        FeatureMap::Positive => each_pair(g1, f1, |g, f| *g *= *f),
                        FeatureMap::Relu => {
                            each_pair(g1, f1, |g, f| *g = if *f <= relu_constant { T::zero() } else { *g });
                        }
                        FeatureMap::Hyperbolic => {
                            for j in 0..m {
                                g1[j] = g1[j] * f1[j] - g2[j] * f2[j];
                            }
                        }
                        FeatureMap::Trigonometric => {
                            for j in 0..m {
                                g1[j] = g1[j] * f2[j] - g2[j] * f1[j];
                            }
                        }
                    }
                }
            },
        );
    }

    /// Sets the rows of d_x, which are `stride` apart, to d_u W / d^(1/4), or adds that to them. d_u stands
    /// in the first m columns of a tile of `rows` rows.
    pub fn project_back(&self, d_u: &[T], rows: usize, stride: usize, update: Update, d_x: &mut [T]) {
        let shape = Product {
            a_row: self.len(),
            c_row: stride,
            accumulate: update.adds(),
            ..Product::dense(rows, self.d, self.m)
        };
        shape.multiply(self.isa, d_u, self.w, d_x);
    }

    /// |x^|^2/2 as an exponent to base 2, that is, times log2(e).
    #[inline(always)]
    pub fn half_norm(&self, x: &[T]) -> T {
        T::of(0.5 * std::f64::consts::LOG2_E / (self.d as f64).sqrt()) * dot(x, x)
    }

    /// [`Features::half_norm`] of every token.
    fn half_norms(&self, x: Head<T>, tokens: Range<usize>, out: &mut [T]) {
        vectorised(
            self.isa,
            #[inline(always)]
            || {
                for (t, out) in out[..tokens.len()].iter_mut().enumerate() {
                    *out = self.half_norm(x.token(tokens.start + t));
                }
            },
        );
    }

    /// Sets the first m columns of f to u = x^ W^T, as an exponent to base 2 for the maps where it is one,
    /// and the other columns to -u for the hyperbolic map.
    fn exponents(&self, x: Head<T>, tokens: &Range<usize>, f: &mut [T]) {
        let shape =
            Product { a_row: x.stride, c_row: self.len(), ..Product::dense(tokens.len(), self.m, self.d) };
        shape.multiply(self.isa, x.from(tokens.start), self.w_t, f);
        if self.map == FeatureMap::Hyperbolic {
            vectorised(
                self.isa,
                #[inline(always)]
                || {
                    for f in f.chunks_exact_mut(self.len()) {
                        let (f1, f2) = f.split_at_mut(self.m);
                        each_pair(f2, f1, |f2, u| *f2 = -*u);
                    }
                },
            );
        }
    }

    /// Raises c_j to max_t (f_tj - half_norm_t) where that is larger by more than the slack. Returns whether
    /// any was raised; `rescale` is then 2^(c_old - c_new).
    fn raise(&self, f: &[T], half_norms: &[T], c: &mut [T], rescale: &mut [T]) -> bool {
        vectorised(
            self.isa,
            #[inline(always)]
            || {
                let largest = rescale;
                largest.fill(T::neg_infinity());
                raise_to_columns(largest, f, half_norms);
                let slack = T::of(SLACK);
                let mut raised = false;
                for (largest, c) in largest.iter().zip(c.iter()) {
                    raised |= *largest > *c + slack;
                }
                if raised {
                    for (largest, c) in largest.iter_mut().zip(c) {
                        let old = *c;
                        *c = if *largest > old + slack { *largest } else { old };
                        *largest = if *c > old { (old - *c).exp2() } else { T::one() };
                    }
                }
                raised
            },
        )
    }

    /// max(u, 0) plus the constant, in place.
    fn relu(&self, f: &mut [T]) {
        let constant = T::of(RELU_CONSTANT);
        vectorised(
            self.isa,
            #[inline(always)]
            || {
                for f in f {
                    // Written so that NaN stays.
                    *f = if *f < T::zero() { T::zero() } else { *f } + constant;
                }
            },
        );
    }

    /// (sin u, cos u) in place, for u in the first m columns.
    fn waves(&self, f: &mut [T]) {
        for row in f.chunks_exact_mut(self.len()) {
            let (sines, cosines) = row.split_at_mut(self.m);
            SinCos::run(self.isa, Angles { x: sines, cosines });
        }
    }
}
