//! FAVOR+'s features, equation (24), on a tile of tokens, stabilised so that attention (26) holds at any norm.
//!
//! With x^ = x / d^(1/4) (q or k scaled) and u_j = w_j . x^, attention is O_i = N_i / D_i with N_i = sum_j q'_ij sum_l k'_lj v_l
//! and D_i the same sums without v. Whatever multiplies a query's features for all j leaves O_i as it is; so does what
//! multiplies feature j of the keys for all l and divides feature j of the queries. That frees us of 1/sqrt(m), of the
//! queries' factor h, and of overflow:
//!
//! - Positive, equation (25), exponents e_lj = u_lj - |k^_l|^2/2. With c_j = max_l e_lj over the tokens of the sample and head:
//!   k'_lj = exp(e_lj - c_j), q'_ij = exp(u_ij + c_j - s_i), s_i = max_j (u_ij + c_j). Every feature is at most 1, and D_i >= 1:
//!   at the j of s_i the query's feature is 1, and so is one of the keys'. Nothing overflows, D cannot underflow, and
//!   no constant is added. Subtracting a query's and the keys' maxima by themselves, as usual, lets D underflow where
//!   the two lie at different j.
//! - Hyperbolic: the same over the 2m exponents +-u_j - |k^|^2/2.
//! - Trigonometric: q'_i = (sin u_i, cos u_i), k'_l = exp(|k^_l|^2/2 - c) (sin u_l, cos u_l), c = max_l |k^_l|^2/2 (kept m l times, so
//!   that all maps share their code). D may have any sign: see [`guarded`].
//! - ReLU: max(u, 0) + [`RELU_CONSTANT`], not stabilised.
//!
//! c is found in one pass over the keys: where a tile raises it, what was summed is multiplied by exp(c_old - c_new), as
//! in online softmax. No gradient flows through c and s, since they cancel (but see `favor_attention` on the guard).
//!
//! Source: Choromanski et al. (2021), sections 2.3 and 2.4, Lemma 1; the stabiliser by feature is this project's.

use super::reductions::{dot, larger, max, raise_to_columns};
use crate::config::FeatureMap;
use crate::equations::features::RELU_CONSTANT;
use crate::kernels::{Element, Isa, Product, vectorised};
use crate::real::Real;

/// 2^-20, the least |D|. Only trigonometric features, whose D is a sum of up to L m cosines, the largest term of order
/// one, come near it: then D is all cancellation, and in `f32` all rounding error. The other maps' D lies above it by
/// construction, in `f32` too: positive and hyperbolic at 1 or more, ReLU at L m 1e-6 or more.
pub const DENOMINATOR_GUARD: f64 = 1.0 / 1_048_576.0;

/// D^: D where |D| >= [`DENOMINATOR_GUARD`], elsewhere the guard with D's sign (plus at both zeros). NaN stays.
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

/// A feature map with its projections. Tiles of features are \[rows, l m\], row-major: f_1 of all w, then f_2.
pub(super) struct Features<'a, T> {
    pub isa: Isa,
    pub map: FeatureMap,
    pub m: usize,
    pub d: usize,
    /// \[m, d\].
    pub w: &'a [T],
    /// \[d, m\].
    pub w_t: &'a [T],
}

impl<T: Element> Features<'_, T> {
    /// l m, the number of features.
    pub fn len(&self) -> usize {
        self.map.functions() * self.m
    }

    /// The keys' features during the pass that finds c, which starts at -inf. Returns whether `rescale` \[l m\] now holds
    /// what to multiply the sums over earlier tiles by. `x` \[rows, d\], `factors` \[rows\].
    pub fn keys_raising_c(
        &self,
        x: &[T],
        f: &mut [T],
        factors: &mut [T],
        c: &mut [T],
        rescale: &mut [T],
    ) -> bool {
        self.project(x, f);
        self.half_norms(x, factors);
        rescale.copy_from_slice(c);
        match self.map {
            FeatureMap::Relu => {
                self.relu(f);
                return false;
            }
            FeatureMap::Trigonometric => {
                let largest = factors.iter().fold(c[0], |c, half_norm| larger(c, *half_norm));
                c.fill(largest);
                self.waves(f, factors, c);
            }
            FeatureMap::Positive | FeatureMap::Hyperbolic => {
                self.exponents(f, factors, c, |u, half_norm, _| u - half_norm);
                vectorised(
                    self.isa,
                    #[inline(always)]
                    || {
                        raise_to_columns(c, f);
                        for row in f.chunks_exact_mut(self.len()) {
                            for (e, c) in row.iter_mut().zip(c.iter()) {
                                *e -= *c;
                            }
                        }
                    },
                );
                T::exp_in_place(self.isa, f);
            }
        }
        for (rescale, c) in rescale.iter_mut().zip(c) {
            *rescale -= *c;
        }
        T::exp_in_place(self.isa, rescale);
        true
    }

    /// The keys' features, c known. Leaves exp(|k^|^2/2 - c) in `factors` \[rows\] if the map is trigonometric.
    pub fn keys(&self, x: &[T], f: &mut [T], factors: &mut [T], c: &[T]) {
        self.project(x, f);
        self.half_norms(x, factors);
        match self.map {
            FeatureMap::Relu => self.relu(f),
            FeatureMap::Trigonometric => self.waves(f, factors, c),
            FeatureMap::Positive | FeatureMap::Hyperbolic => {
                self.exponents(f, factors, c, |u, half_norm, c| (u - half_norm) - c);
                T::exp_in_place(self.isa, f);
            }
        }
    }

    /// The queries' features; leaves s in `shifts` \[rows\].
    pub fn queries_finding_s(&self, x: &[T], f: &mut [T], c: &[T], shifts: &mut [T]) {
        self.project(x, f);
        shifts.fill(T::zero());
        match self.map {
            FeatureMap::Relu => self.relu(f),
            FeatureMap::Trigonometric => self.queries_waves(f),
            FeatureMap::Positive | FeatureMap::Hyperbolic => {
                self.exponents(f, shifts, c, |u, _, c| u + c);
                vectorised(
                    self.isa,
                    #[inline(always)]
                    || {
                        for (row, shift) in f.chunks_exact_mut(self.len()).zip(shifts) {
                            *shift = max(row);
                            for e in row {
                                *e -= *shift;
                            }
                        }
                    },
                );
                T::exp_in_place(self.isa, f);
            }
        }
    }

    /// The queries' features, s known.
    pub fn queries(&self, x: &[T], f: &mut [T], c: &[T], shifts: &[T]) {
        self.project(x, f);
        match self.map {
            FeatureMap::Relu => self.relu(f),
            FeatureMap::Trigonometric => self.queries_waves(f),
            FeatureMap::Positive | FeatureMap::Hyperbolic => {
                self.exponents(f, shifts, c, |u, shift, c| (u + c) - shift);
                T::exp_in_place(self.isa, f);
            }
        }
    }

    /// From the features f and the derivatives g by them, in place: g's first m columns become the derivatives by u,
    ///
    /// - positive: f = exp(u + ..), so d_u = g f; hyperbolic: d_u = g_1 f_1 - g_2 f_2;
    /// - trigonometric: f = a (sin u, cos u), so d_u = g_1 f_2 - g_2 f_1;
    /// - ReLU: d_u = g where u > 0, which is f > c (but for a u that rounding takes from f), else 0;
    ///
    /// and `radial` \[rows\] what h's factor adds: the derivative by x^ is d_u W + radial x^. As h = exp(-+|x^|^2/2), that is
    /// radial = -+sum_j g_j f_j, and 0 for ReLU. For queries sum_j g_j f_j is 0 in theory; they need no `radial`.
    pub fn pull_back(&self, f: &[T], g: &mut [T], radial: Option<&mut [T]>) {
        let (len, m, map) = (self.len(), self.m, self.map);
        if let Some(radial) = radial {
            vectorised(
                self.isa,
                #[inline(always)]
                || {
                    for (radial, (f, g)) in
                        radial.iter_mut().zip(f.chunks_exact(len).zip(g.chunks_exact(len)))
                    {
                        *radial = match map {
                            FeatureMap::Relu => T::zero(),
                            FeatureMap::Trigonometric => dot(f, g),
                            FeatureMap::Positive | FeatureMap::Hyperbolic => -dot(f, g),
                        };
                    }
                },
            );
        }
        let relu_constant = T::of(RELU_CONSTANT);
        vectorised(
            self.isa,
            #[inline(always)]
            || {
                for (f, g) in f.chunks_exact(len).zip(g.chunks_exact_mut(len)) {
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

    /// d_x^ = d_u W, or += if `accumulate`: \[rows, d\] from the first m columns of `d_u`.
    pub fn project_back(&self, d_u: &[T], accumulate: bool, d_x: &mut [T]) {
        let rows = d_x.len() / self.d;
        let shape = Product { a_row: self.len(), accumulate, ..Product::dense(rows, self.d, self.m) };
        T::product(self.isa, &shape, d_u, self.w, d_x);
    }

    /// u = x^ W^T to the first m columns of f.
    fn project(&self, x: &[T], f: &mut [T]) {
        let rows = x.len() / self.d;
        let shape = Product { c_row: self.len(), ..Product::dense(rows, self.m, self.d) };
        T::product(self.isa, &shape, x, self.w_t, f);
    }

    fn half_norms(&self, x: &[T], out: &mut [T]) {
        vectorised(
            self.isa,
            #[inline(always)]
            || {
                for (out, x) in out.iter_mut().zip(x.chunks_exact(self.d)) {
                    *out = T::of(0.5) * dot(x, x);
                }
            },
        );
    }

    /// f_tj <- e(+-u_tj, rows_t, c_j), the minus sign in the second half where there is one.
    fn exponents(&self, f: &mut [T], rows: &[T], c: &[T], e: impl Fn(T, T, T) -> T) {
        let (c1, c2) = c.split_at(self.m);
        vectorised(
            self.isa,
            #[inline(always)]
            || {
                for (f, row) in f.chunks_exact_mut(self.len()).zip(rows) {
                    let (f1, f2) = f.split_at_mut(self.m);
                    for ((f2, u), c) in f2.iter_mut().zip(f1.iter()).zip(c2) {
                        *f2 = e(-*u, *row, *c);
                    }
                    for (f1, c) in f1.iter_mut().zip(c1) {
                        *f1 = e(*f1, *row, *c);
                    }
                }
            },
        );
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

    fn queries_waves(&self, f: &mut [T]) {
        for row in f.chunks_exact_mut(self.len()) {
            let (sines, cosines) = row.split_at_mut(self.m);
            for (sine, cosine) in sines.iter_mut().zip(cosines) {
                (*sine, *cosine) = sine.sin_cos();
            }
        }
    }

    /// `half_norms` becomes the factors a = exp(|x^|^2/2 - c), and f a (sin u, cos u).
    fn waves(&self, f: &mut [T], half_norms: &mut [T], c: &[T]) {
        self.queries_waves(f);
        half_norms.iter_mut().for_each(|x| *x -= c[0]);
        T::exp_in_place(self.isa, half_norms);
        vectorised(
            self.isa,
            #[inline(always)]
            || {
                for (row, factor) in f.chunks_exact_mut(self.len()).zip(half_norms.iter()) {
                    for f in row {
                        *f *= *factor;
                    }
                }
            },
        );
    }
}
