//! Muon (Jordan et al. 2024): the momentum of a weight matrix, made nearly orthogonal.
//!
//! With the clipped gradient G of a matrix W \[rows, columns\] and the numbers of [`MuonConfig`]:
//!
//! - M <- momentum M + (1 - momentum) G, and U = momentum M + (1 - momentum) G (Nesterov's);
//! - O = the matrix of U's singular vectors with all singular values near 1;
//! - W <- W - lr rate 0.2 sqrt(max(rows, columns)) O.
//!
//! The iteration that computes O is in [`equations::muon`](crate::equations::muon).
//!
//! A convolution's weight is the matrix \[taps c_in, c_out\]. The momentum is kept where Adam keeps its first
//! moment; the second moment of these parameters stays 0.

use super::optimizer::Update;
use crate::config::MuonConfig;
use crate::equations::muon::{LEAST_SQUARE, NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, STEP_SIZE};
use crate::kernels::{Element, Isa, Product, transpose, vectorised};
use crate::model::params::{Param, ParamKind};
use std::sync::Mutex;

/// A weight that is updated as a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    rows: usize,
    columns: usize,
}

impl Matrix {
    /// A parameter's, if it [has one](Param::is_inner_matrix).
    pub(super) fn of(param: &Param) -> Option<Matrix> {
        match param.kind {
            _ if !param.is_inner_matrix() => None,
            ParamKind::Conv { kernel, c_in, c_out } => {
                Some(Matrix { rows: kernel * kernel * c_in, columns: c_out })
            }
            ParamKind::Linear { c_in, c_out } => Some(Matrix { rows: c_in, columns: c_out }),
            _ => None,
        }
    }

    fn len(self) -> usize {
        self.rows * self.columns
    }

    /// The shorter side.
    fn side(self) -> usize {
        self.rows.min(self.columns)
    }

    /// The numbers that [`Workspace`] holds for it.
    fn work_len(self) -> usize {
        2 * self.len() + 4 * self.side() * self.side()
    }
}

/// Memory for one matrix at a time on each thread, of the size that the largest needs.
#[derive(Debug, Default)]
pub(super) struct Workspace<T> {
    len: usize,
    spare: Mutex<Vec<Vec<T>>>,
}

impl<T: Element> Workspace<T> {
    pub(super) fn new(matrices: impl Iterator<Item = Matrix>) -> Workspace<T> {
        Workspace { len: matrices.map(Matrix::work_len).max().unwrap_or(0), spare: Mutex::default() }
    }

    fn with(&self, f: impl FnOnce(&mut [T])) {
        let mut work = self.spare.lock().expect("no thread panicked").pop().unwrap_or_default();
        work.resize(self.len, T::zero());
        f(&mut work);
        self.spare.lock().expect("no thread panicked").push(work);
    }
}

/// A matrix's state and gradient.
pub(super) struct Operands<'a, T> {
    pub(super) momentum: &'a mut [T],
    pub(super) gradient: &'a [T],
    pub(super) weights: &'a mut [T],
    pub(super) average: &'a mut [T],
}

/// One update of a matrix, on the calling thread.
pub(super) fn update<T: Element>(
    isa: Isa,
    config: MuonConfig,
    update: Update,
    matrix: Matrix,
    operands: Operands<T>,
    workspace: &Workspace<T>,
) {
    workspace.with(|work| {
        let (direction, work) = work.split_at_mut(matrix.len());
        let (orthogonal, work) = work.split_at_mut(matrix.len());
        let (kept, fresh) = (T::of(config.momentum), T::of(1.0 - config.momentum));
        let clip = T::of(update.clip);
        let Operands { momentum, gradient, weights, average } = operands;
        vectorised(
            isa,
            #[inline(always)]
            || {
                let len = direction.len();
                let (momentum, gradient) = (&mut momentum[..len], &gradient[..len]);
                for i in 0..len {
                    let g = gradient[i] * clip;
                    momentum[i] = kept * momentum[i] + fresh * g;
                    direction[i] = kept * momentum[i] + fresh * g;
                }
            },
        );
        let norm = orthogonalise(isa, matrix, direction, orthogonal, work);
        let longest = matrix.rows.max(matrix.columns) as f64;
        let rate = T::of(update.lr * config.rate * STEP_SIZE * longest.sqrt() / norm);
        let decay = T::of(1.0 - update.ema_decay);
        vectorised(
            isa,
            #[inline(always)]
            || {
                let len = orthogonal.len();
                let (weights, average) = (&mut weights[..len], &mut average[..len]);
                for i in 0..len {
                    weights[i] -= rate * orthogonal[i];
                    average[i] += decay * (weights[i] - average[i]);
                }
            },
        );
    });
}

/// Sets `out` to O |U| for the matrix `u`, which is overwritten, and returns |U|.
fn orthogonalise<T: Element>(isa: Isa, matrix: Matrix, u: &mut [T], out: &mut [T], work: &mut [T]) -> f64 {
    let Matrix { rows, columns } = matrix;
    let n = matrix.side();
    let (y, work) = work.split_at_mut(n * n);
    let (p, work) = work.split_at_mut(n * n);
    let (factor, work) = work.split_at_mut(n * n);
    let square = &mut work[..n * n];
    // U U^T = (U^T)^T U^T: the transpose stands in `out` until the last product.
    if rows < columns {
        transpose(u, rows, columns, out);
        Product::transposed_a(n, n, columns).multiply(isa, out, out, y);
    } else {
        Product::transposed_a(n, n, rows).multiply(isa, u, u, y);
    }
    let trace: f64 = (0..n).map(|i| y[i * n + i].f64()).sum();
    let norm_squared = trace + LEAST_SQUARE;
    let scale = T::of(1.0 / norm_squared);
    y.iter_mut().for_each(|y| *y *= scale);
    let product = Product::dense(n, n, n);
    for step in 0..NEWTON_SCHULZ_STEPS {
        product.multiply(isa, y, y, square);
        newton_schulz_factor(y, square, n, factor);
        if step == 0 {
            p.copy_from_slice(factor);
        } else {
            product.multiply(isa, factor, p, square);
            p.copy_from_slice(square);
        }
        if step + 1 < NEWTON_SCHULZ_STEPS {
            product.multiply(isa, factor, y, square);
            product.multiply(isa, factor, square, y);
        }
    }
    match rows < columns {
        true => Product::dense(rows, columns, n).multiply(isa, p, u, out),
        false => Product::dense(rows, columns, n).multiply(isa, u, p, out),
    }
    norm_squared.sqrt()
}

/// p(Y) = a I + b Y + c Y^2 of a matrix \[n, n\].
fn newton_schulz_factor<T: Element>(y: &[T], y_squared: &[T], n: usize, factor: &mut [T]) {
    let [a, b, c] = NEWTON_SCHULZ.map(T::of);
    for ((p, y), square) in factor.iter_mut().zip(y).zip(y_squared) {
        *p = b * *y + c * *square;
    }
    for i in 0..n {
        factor[i * n + i] += a;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::equations::muon::newton_schulz;
    use crate::kernels::Isa;
    use crate::model::Model;
    use crate::rng::{Stream, fill_normal, rng};
    use ndarray::{Array2, s};

    /// Normal numbers of size `scale`.
    fn numbers<T: Element>(id: u64, len: usize, scale: f64) -> Vec<T> {
        let mut x = vec![0f32; len];
        fill_normal(&mut rng(6, Stream::Check, id, 0), &mut x);
        x.iter().map(|x| T::of(scale * f64::from(*x))).collect()
    }

    /// One update of a matrix from a gradient, a momentum and weights: its momentum, weights and average
    /// afterwards.
    fn updated_from<T: Element>(
        isa: Isa,
        matrix: Matrix,
        config: MuonConfig,
        number: Update,
        [gradient, mut momentum, mut weights]: [Vec<T>; 3],
    ) -> [Vec<T>; 3] {
        let mut average = weights.clone();
        let operands = Operands {
            momentum: &mut momentum,
            gradient: &gradient,
            weights: &mut weights,
            average: &mut average,
        };
        update(isa, config, number, matrix, operands, &Workspace::new([matrix].into_iter()));
        [momentum, weights, average]
    }

    /// The same from normal numbers.
    fn updated<T: Element>(isa: Isa, matrix: Matrix, config: MuonConfig, number: Update) -> [Vec<T>; 3] {
        let from = [(0, 0.3), (1, 0.1), (2, 0.1)].map(|(id, scale)| numbers(id, matrix.len(), scale));
        updated_from(isa, matrix, config, number, from)
    }

    const CONFIG: MuonConfig = MuonConfig { momentum: 0.9, rate: 1.5 };
    const NUMBER: Update = Update { lr: 0.02, number: 1, clip: 0.5, ema_decay: 0.75 };
    const SIZES: [(usize, usize); 4] = [(27, 8), (8, 27), (5, 5), (1, 6)];

    /// A reflection of `n` dimensions along normal numbers: orthogonal.
    fn reflection(id: u64, n: usize) -> Array2<f64> {
        let v = Array2::from_shape_vec((n, 1), numbers::<f64>(id, n, 1.0)).expect("n numbers");
        Array2::eye(n) - v.dot(&v.t()) * (2.0 / v.mapv(|x| x * x).sum())
    }

    /// Momentum and gradient of the same singular vectors, so that those of every sum of them are known: each
    /// value is taken through the polynomial by itself. Tolerance 1e-10 of steps of size 0.03: f64 rounding
    /// of some ten products, of which the smallest singular values are enlarged by a^5 = 485.
    #[test]
    fn an_update_takes_each_singular_value_through_the_polynomial() {
        for (rows, columns) in SIZES {
            let rank = rows.min(columns);
            let [u, v] = [(3, rows), (4, columns)].map(|(id, n)| reflection(id, n));
            let between = |singular: &[f64]| {
                let singular = Array2::from_diag(&ndarray::arr1(singular));
                u.slice(s![.., ..rank]).dot(&singular).dot(&v.slice(s![..rank, ..]))
            };
            let [before, gradient] =
                [5, 6].map(|id| numbers::<f64>(id, rank, 0.1).into_iter().map(f64::abs).collect::<Vec<_>>());
            let sum = |a: &[f64], x: f64, b: &[f64], y: f64| -> Vec<f64> {
                a.iter().zip(b).map(|(a, b)| x * a + y * b).collect()
            };
            let m = sum(&before, 0.9, &gradient, 0.1 * NUMBER.clip);
            let after = sum(&m, 0.9, &gradient, 0.1 * NUMBER.clip);
            let norm = after.iter().map(|s| s * s).sum::<f64>().sqrt();
            let orthogonal: Vec<f64> = after.iter().map(|s| newton_schulz(s / norm)).collect();
            let [m, orthogonal] = [between(&m), between(&orthogonal)];
            let start = numbers::<f64>(2, rows * columns, 0.1);
            let [gradient, before] = [&gradient, &before].map(|s| between(s).iter().copied().collect());
            let from = [gradient, before, start.clone()];
            let update = updated_from(Isa::Reference, Matrix { rows, columns }, CONFIG, NUMBER, from);
            let step = 0.02 * 1.5 * 0.2 * (rows.max(columns) as f64).sqrt();
            for i in 0..rows * columns {
                let [momentum, weights, average] = [update[0][i], update[1][i], update[2][i]];
                let w = start[i] - step * orthogonal[(i / columns, i % columns)];
                assert!(
                    (momentum - m[(i / columns, i % columns)]).abs() < 1e-15,
                    "{rows} x {columns}, m[{i}]"
                );
                assert!((weights - w).abs() < 1e-10, "{rows} x {columns}, w[{i}]");
                let average_of_two = 0.75 * start[i] + 0.25 * w;
                assert!((average - average_of_two).abs() < 1e-10, "{rows} x {columns}, average[{i}]");
            }
        }
    }

    /// Every kernel in `f32`: 2e-5 of weights that move by 0.03, for the products' rounding and the
    /// smallest singular values' enlargement.
    #[test]
    fn f32_agrees_with_f64_on_every_isa() {
        for (rows, columns) in SIZES {
            let matrix = Matrix { rows, columns };
            let want = updated::<f64>(Isa::Reference, matrix, CONFIG, NUMBER);
            for isa in Isa::available() {
                let got = updated::<f32>(isa, matrix, CONFIG, NUMBER);
                for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
                    let off = (f64::from(*got) - want).abs();
                    assert!(off < 2e-5, "{isa}, {rows} x {columns}: {got} for {want}");
                }
            }
        }
    }

    /// Without a gradient or momentum nothing moves.
    #[test]
    fn a_matrix_without_gradient_stays() {
        let matrix = Matrix { rows: 6, columns: 4 };
        let (mut momentum, mut weights) = (vec![0f32; 24], numbers::<f32>(1, 24, 1.0));
        let (before, mut average) = (weights.clone(), weights.clone());
        let operands = Operands {
            momentum: &mut momentum,
            gradient: &[0.0; 24],
            weights: &mut weights,
            average: &mut average,
        };
        let workspace = Workspace::new([matrix].into_iter());
        update(Isa::detect(), CONFIG, NUMBER, matrix, operands, &workspace);
        assert_eq!(weights, before);
        assert_eq!(average, before);
    }

    /// Convolutions and linear layers but the first and the last; all of their elements are one matrix.
    #[test]
    fn what_lies_between_the_first_convolution_and_the_last_is_a_matrix() {
        let model = Model::<f32>::new(&Preset::Tiny.config().unet, 0).expect("a network");
        let names = |is_matrix: bool| -> Vec<&str> {
            let params = model.graph.params.iter().filter(|param| Matrix::of(param).is_some() == is_matrix);
            params.map(|param| &*param.name).collect()
        };
        let (matrices, others) = (names(true), names(false));
        assert!(others.contains(&"conv_in.weight") && others.contains(&"conv_out.weight"));
        assert!(matrices.contains(&"mid_block.resnets.0.conv1.weight"));
        assert!(matrices.contains(&"time_embedding.linear_1.weight"));
        let rest = |name: &&str| !name.starts_with("conv_in") && !name.starts_with("conv_out");
        assert!(others.iter().filter(|name| rest(name)).all(|name| !name.ends_with("proj.weight")));
        for param in model.graph.params.iter() {
            let len = Matrix::of(param).map_or(param.kind.len(), Matrix::len);
            assert_eq!(len, param.kind.len(), "{}", param.name);
        }
    }
}
