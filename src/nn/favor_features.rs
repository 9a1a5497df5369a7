//! FAVOR+'s features, equation (24), on a tile of tokens, stabilised so that attention (26) holds at any
//! norm.
//!
//! With x^ = x / d^(1/4) (q or k scaled) and u_j = w_j . x^, attention is O_i = N_i / D_i with N_i = sum_j
//! q'_ij sum_l k'_lj v_l and D_i the same sums without v. Whatever multiplies a query's features for all j
//! leaves O_i as it is; so does what multiplies feature j of the keys for all l and divides feature j of the
//! queries. That frees us of 1/sqrt(m), of the queries' factor h, and of overflow:
//!
//! - Positive, equation (25), exponents e_lj = u_lj - |k^_l|^2/2. With c_j the largest e_lj over the tokens
//!   of the sample and head, or some e_lj that lies at most [`SLACK`] below it: k'_lj = exp(e_lj - c_j),
//!   q'_ij = exp(u_ij + c_j - s_i), s_i = max_j (u_ij + c_j). A query's features are at most 1, a key's at
//!   most 2^SLACK, and D_i >= 1: at the j of s_i the query's feature is 1, and so is one of the keys'.
//!   Nothing overflows, D cannot underflow, and no constant is added. Subtracting a query's and the keys'
//!   maxima by themselves, as usual, lets D underflow where the two lie at different j.
//! - Hyperbolic: the same over the 2m exponents +-u_j - |k^|^2/2.
//! - Trigonometric: q'_i = (sin u_i, cos u_i), k'_l = exp(|k^_l|^2/2 - c) (sin u_l, cos u_l), c =
//!   max_l |k^_l|^2/2 (kept m l times, so that all maps share their code). D may have any sign: see
//!   [`guarded`].
//! - ReLU: max(u, 0) + [`RELU_CONSTANT`], not stabilised.
//!
//! c is found in one pass over the keys: where a tile raises it, what was summed is multiplied by exp(c_old -
//! c_new), as in online softmax; the slack makes that rare. No gradient flows through c and s, since they
//! cancel (but see `favor_backward` on the guard).
//!
//! In the code all exponents, and so c and s, are to base 2: times log2(e).
//!
//! Source: Choromanski et al. (2021), sections 2.3 and 2.4, Lemma 1; the stabiliser by feature is this
//! project's.

use super::attention::Head;
use super::reductions::{dot, larger, raise_to_columns};
use crate::config::FeatureMap;
use crate::equations::features::RELU_CONSTANT;
use crate::kernels::{
    Angles, Columns, Element, Exp2, Exp2BelowMaxima, Exponent, Isa, Powers, PowersBelowMaxima, Product, Run,
    SinCos, vectorised,
};
use crate::real::Real;
use std::ops::Range;

/// 2^-20, the least |D|. Only trigonometric features, whose D is a sum of up to L m cosines, the largest term
/// of order one, come near it: then D is all cancellation, and in `f32` all rounding error. The other maps' D
/// lies above it by construction, in `f32` too: positive and hyperbolic at 1 or more, ReLU at L m 1e-6 or
/// more.
pub const DENOMINATOR_GUARD: f64 = 1.0 / 1_048_576.0;

/// By how much an exponent exceeds c_j before it raises it: 2 to it is far from the largest `f32`.
const SLACK: f64 = 12.0;

/// D^: D where |D| >= [`DENOMINATOR_GUARD`], elsewhere the guard with D's sign (plus at both zeros). NaN
/// stays.
pub fn guarded<T: Real>(d: T) -> T {
    let guard = T::of(DENOMINATOR_GUARD);
    match is_guarded(d) {
        true if d < T::zero() => -guard,
        true => guard,
        false => d,
    }
}

/// Whether [`guarded`] replaces `d`; its derivative is then 0.
pub fn is_guarded<T: Real>(d: T) -> bool {
    d.abs() < T::of(DENOMINATOR_GUARD)
}

/// A feature map with its projections. Tiles of features are \[rows, l m\], row-major: f_1 of all w, then
/// f_2.
pub(super) struct Features<'a, T> {
    pub isa: Isa,
    pub map: FeatureMap,
    pub m: usize,
    pub d: usize,
    /// d^(-1/4) W \[m, d\], read by [`Features::project_back`] alone.
    pub w: &'a [T],
    /// W^T \[d, m\] times [`Favor::exponent_scale`](super::favor_shares::Favor::exponent_scale).
    pub w_t: &'a [T],
}

impl<T: Element> Features<'_, T> {
    /// l m, the number of features.
    fn len(&self) -> usize {
        self.map.functions() * self.m
    }

    /// c before any key.
    pub fn start_c(&self, c: &mut [T]) {
        c.fill(match self.map {
            FeatureMap::Relu => T::zero(),
            _ => T::neg_infinity(),
        });
    }

    /// The features of the keys `tokens` of `k` during the pass that finds c. Returns whether `rescale` \[l
    /// m\] now holds what to multiply the sums over earlier tiles by. `row` \[rows\] is scratch.
    pub fn keys_raising_c(
        &self,
        k: Head<T>,
        tokens: Range<usize>,
        f: &mut [T],
        row: &mut [T],
        c: &mut [T],
        rescale: &mut [T],
    ) -> bool {
        self.exponents(k, &tokens, f);
        self.half_norms(k, tokens, row);
        let raised = match self.map {
            FeatureMap::Relu => false,
            FeatureMap::Trigonometric => {
                let largest = row.iter().fold(c[0], |c, half_norm| larger(c, *half_norm));
                rescale.fill((c[0] - largest).exp2());
                let raised = largest > c[0];
                c.fill(largest);
                raised
            }
            FeatureMap::Positive | FeatureMap::Hyperbolic => self.raise(f, row, c, rescale),
        };
        self.finish_keys(f, row, c);
        raised
    }

    /// The keys' features, c known; `row` \[rows\] is scratch.
    pub fn keys(&self, k: Head<T>, tokens: Range<usize>, f: &mut [T], row: &mut [T], c: &[T]) {
        self.exponents(k, &tokens, f);
        self.half_norms(k, tokens, row);
        self.finish_keys(f, row, c);
    }

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
                        for (row, factor) in f.chunks_exact_mut(len).zip(half_norms.iter()) {
                            row.iter_mut().for_each(|f| *f *= *factor);
                        }
                    },
                );
            }
            FeatureMap::Positive | FeatureMap::Hyperbolic => {
                Exp2::run(self.isa, Powers::dense(f, len, Exponent::RowsThenColumns(half_norms, c)));
            }
        }
    }

    /// The queries' features, their s, and D = q' . `sums`.
    pub fn queries_attending(
        &self,
        q: Head<T>,
        tokens: Range<usize>,
        f: &mut [T],
        c: &[T],
        sums: &[T],
        shifts: &mut [T],
        denominators: &mut [T],
    ) {
        let len = self.len();
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
                for (denominator, f) in denominators.iter_mut().zip(f.chunks_exact(len)) {
                    *denominator = dot(f, sums);
                }
            },
        );
    }

    /// The queries' features, s known.
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

    /// From the features f and the derivatives g_tj + a_t b_j by them, in place (a is 1 where there is none;
    /// b is \[l m\]): g's first m columns become the derivatives by u,
    ///
    /// - positive: f = exp(u + ..), so d_u = g f; hyperbolic: d_u = g_1 f_1 - g_2 f_2;
    /// - trigonometric: f = a (sin u, cos u), so d_u = g_1 f_2 - g_2 f_1;
    /// - ReLU: d_u = g where u > 0, which is f > c (but for a u that rounding takes from f), else 0;
    ///
    /// and `radial` \[rows\] what h's factor adds: the derivative by x^ is d_u W + radial x^. As h =
    /// exp(-+|x^|^2/2), that is radial = -+sum_j g_j f_j, and 0 for ReLU. For queries sum_j g_j f_j is 0 in
    /// theory; they need no `radial`.
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
                for (t, (f, g)) in f.chunks_exact(len).zip(g.chunks_exact_mut(len)).enumerate() {
                    let a = a.map_or(T::one(), |a| a[t]);
                    g.iter_mut().zip(b).for_each(|(g, b)| *g += a * *b);
                    if let Some(radial) = &mut radial {
                        radial[t] = match map {
                            FeatureMap::Relu => T::zero(),
                            FeatureMap::Trigonometric => dot(f, g),
                            FeatureMap::Positive | FeatureMap::Hyperbolic => -dot(f, g),
                        };
                    }
                    let ((f1, f2), (g1, g2)) = (f.split_at(m), g.split_at_mut(m));
                    match map {
                        FeatureMap::Positive => g1.iter_mut().zip(f1).for_each(|(g, f)| *g *= *f),
                        FeatureMap::Relu => {
                            for (g, f) in g1.iter_mut().zip(f1) {
                                *g = if *f <= relu_constant { T::zero() } else { *g };
                            }
                        }
                        FeatureMap::Hyperbolic => {
                            for ((g1, g2), (f1, f2)) in g1.iter_mut().zip(g2).zip(f1.iter().zip(f2)) {
                                *g1 = *g1 * *f1 - *g2 * *f2;
                            }
                        }
                        FeatureMap::Trigonometric => {
                            for ((g1, g2), (f1, f2)) in g1.iter_mut().zip(g2).zip(f1.iter().zip(f2)) {
                                *g1 = *g1 * *f2 - *g2 * *f1;
                            }
                        }
                    }
                }
            },
        );
    }

    /// d_x = d_u W / d^(1/4), or += if `accumulate`, to `rows` rows of d, `stride` apart, from the first m
    /// columns of `d_u`.
    pub fn project_back(&self, d_u: &[T], rows: usize, stride: usize, accumulate: bool, d_x: &mut [T]) {
        let shape =
            Product { a_row: self.len(), c_row: stride, accumulate, ..Product::dense(rows, self.d, self.m) };
        shape.multiply(self.isa, d_u, self.w, d_x);
    }

    /// |x^|^2/2 log2(e).
    #[inline(always)]
    pub fn half_norm(&self, x: &[T]) -> T {
        T::of(0.5 * std::f64::consts::LOG2_E / (self.d as f64).sqrt()) * dot(x, x)
    }

    fn half_norms(&self, x: Head<T>, tokens: Range<usize>, out: &mut [T]) {
        vectorised(
            self.isa,
            #[inline(always)]
            || {
                for (out, token) in out.iter_mut().zip(tokens) {
                    *out = self.half_norm(x.token(token));
                }
            },
        );
    }

    /// u = x^ W^T, as an exponent to base 2 if it is one, to the first m columns of f; -u to the others if
    /// the map is hyperbolic.
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
                        f2.iter_mut().zip(f1).for_each(|(f2, u)| *f2 = -*u);
                    }
                },
            );
        }
    }

    /// Raises c_j to max_t (f_tj - half_norm_t) where that exceeds it by more than the slack, and says
    /// whether any was: then `rescale` is 2^(c_old - c_new).
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

    /// (sin u, cos u) for u in the first m columns.
    fn waves(&self, f: &mut [T]) {
        for row in f.chunks_exact_mut(self.len()) {
            let (sines, cosines) = row.split_at_mut(self.m);
            SinCos::run(self.isa, Angles { x: sines, cosines });
        }
    }
}
