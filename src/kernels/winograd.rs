//! Winograd's minimal filtering F(4x4, 3x3) for convolutions with 3x3 kernels, stride 1 and a border of one
//! zero.
//!
//! One dimension first. Four outputs y of a three-tap filter g over six inputs d are the coefficients that a
//! product of polynomials leaves when it is read backwards (Toom and Cook): evaluate at six points, multiply,
//! interpolate. With the points 0, p, -p, q, -q and infinity (Winograd 1980; Lavin and Gray 2016,
//! arXiv:1509.09308),
//!
//! y = A^T \[ (G g) * (B^T d) \], where * is element by element, and with N_i = the product of (p_i - p_j)
//! over j != i:
//! - row i of A is 1, p_i, p_i^2, p_i^3; infinity's is 0, 0, 0, 1;
//! - row i of G is 1, p_i, p_i^2, each over N_i; infinity's is 0, 0, 1;
//! - row i of B^T holds the coefficients of the product of (t - p_j) over j != i, lowest first; infinity's is
//!   the product over all five.
//!
//! In two dimensions both directions go through the same matrices: for every 4x4 tile of outputs, from its
//! 6x6 inputs d and the kernel g, summed over the input channels c before the way back, y\[o\] = A^T ( sum
//! over c of (G g\[c, o\] G^T) * (B^T d\[c\] B) ) A. That is 36 products for sixteen outputs instead of 144;
//! each of the 36 is a matrix product over tiles x c x o.
//!
//! The gradients are the transposed map. In the input it is the same convolution with the turned kernel. In
//! the kernel, from the output's gradient e, summed over all tiles before the way back: dg\[c, o\] = G^T (
//! sum over tiles of (B^T d\[c\] B) * (A e\[o\] A^T) ) G.
//!
//! Rounding grows with the matrices' entries. Points of 5/8 and 3/2, exact in binary, err five times less
//! than the usual 1 and 2 (largest error over largest output, unit normals, 256 channels: 3e-6 against 15e-6,
//! and 4e-7 for a direct sum). An infinite input makes every output of its tiles NaN or infinite, where the
//! direct sum spoils only its neighbours'.

mod fast;
mod points;
#[cfg(test)]
mod tests;
mod transforms;

pub(super) use fast::{forward_fast, weight_gradient_fast};

use crate::real::Real;
use points::{Matrices, matrices};

/// A 3x3 convolution with stride 1 and a border of one zero, over any number of \[h, w, c_in\] images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winograd {
    /// Height.
    pub h: usize,
    /// Width.
    pub w: usize,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
}

impl Winograd {
    /// Tiles down and across; the last ones may reach beyond the image.
    fn tiles(&self) -> (usize, usize) {
        (self.h.div_ceil(4), self.w.div_ceil(4))
    }

    /// Scratch elements that both passes need.
    pub fn work_len(&self) -> usize {
        fast::work_len(self)
    }
}

type Square<T, const N: usize> = [[T; N]; N];

/// M x M^T for M of `OUT` rows.
fn both_ways<T: Real, const IN: usize, const OUT: usize>(
    m: &[[f64; IN]; OUT],
    x: &Square<T, IN>,
) -> Square<T, OUT> {
    let mut y = [[T::zero(); OUT]; OUT];
    for (i, j) in (0..OUT).flat_map(|i| (0..OUT).map(move |j| (i, j))) {
        for (k, l) in (0..IN).flat_map(|k| (0..IN).map(move |l| (k, l))) {
            y[i][j] += T::of(m[i][k] * m[j][l]) * x[k][l];
        }
    }
    y
}

fn transposed<const R: usize, const C: usize>(m: &[[f64; C]; R]) -> [[f64; R]; C] {
    std::array::from_fn(|j| std::array::from_fn(|i| m[i][j]))
}

/// The `N` x `N` pixels from (top, left) of channel c, zeros outside the \[h, w, channels\] image.
fn window<T: Real, const N: usize>(
    image: &[T],
    (h, w, channels): (usize, usize, usize),
    (top, left): (isize, isize),
    c: usize,
) -> Square<T, N> {
    let pixel = |i: isize, j: isize| {
        let inside = 0 <= i && i < h as isize && 0 <= j && j < w as isize;
        if inside { image[(i as usize * w + j as usize) * channels + c] } else { T::zero() }
    };
    std::array::from_fn(|i| std::array::from_fn(|j| pixel(top + i as isize, left + j as isize)))
}

/// The kernel of one pair of channels from \[3, 3, c_in, c_out\].
fn taps<T: Real>(layer: &Winograd, weight: &[T], c: usize, o: usize) -> Square<T, 3> {
    std::array::from_fn(|u| std::array::from_fn(|v| weight[((u * 3 + v) * layer.c_in + c) * layer.c_out + o]))
}

/// The convolution as plain text; `y` is overwritten, or added to if `add`.
pub(super) fn forward_reference<T: Real>(
    layer: &Winograd,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    add: bool,
    y: &mut [T],
) {
    forward_with(&matrices(), layer, x, weight, bias, add, y);
}

fn forward_with<T: Real>(
    Matrices { b_t, g, a }: &Matrices,
    layer: &Winograd,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    add: bool,
    y: &mut [T],
) {
    let Winograd { h, w, c_in, c_out } = *layer;
    let a_t = transposed(a);
    for (x, y) in x.chunks_exact(h * w * c_in).zip(y.chunks_exact_mut(h * w * c_out)) {
        for (top, left) in (0..h).step_by(4).flat_map(|i| (0..w).step_by(4).map(move |j| (i, j))) {
            let inputs: Vec<Square<T, 6>> = (0..c_in)
                .map(|c| both_ways(b_t, &window(x, (h, w, c_in), (top as isize - 1, left as isize - 1), c)))
                .collect();
            for o in 0..c_out {
                let mut sum = [[T::zero(); 6]; 6];
                for (c, input) in inputs.iter().enumerate() {
                    let kernel = both_ways(g, &taps(layer, weight, c, o));
                    for (i, j) in (0..6).flat_map(|i| (0..6).map(move |j| (i, j))) {
                        sum[i][j] += kernel[i][j] * input[i][j];
                    }
                }
                let outputs: Square<T, 4> = both_ways(&a_t, &sum);
                for (i, j) in (0..4.min(h - top)).flat_map(|i| (0..4.min(w - left)).map(move |j| (i, j))) {
                    let y = &mut y[((top + i) * w + left + j) * c_out + o];
                    let old = if add { *y } else { T::zero() };
                    *y = old + outputs[i][j] + bias.map_or(T::zero(), |bias| bias[o]);
                }
            }
        }
    }
}

/// d_weight += the kernel's gradient, as plain text.
pub(super) fn weight_gradient_reference<T: Real>(layer: &Winograd, x: &[T], d_y: &[T], d_weight: &mut [T]) {
    weight_gradient_with(&matrices(), layer, x, d_y, d_weight);
}

fn weight_gradient_with<T: Real>(
    Matrices { b_t, g, a }: &Matrices,
    layer: &Winograd,
    x: &[T],
    d_y: &[T],
    d_weight: &mut [T],
) {
    let Winograd { h, w, c_in, c_out } = *layer;
    let g_t = transposed(g);
    for (c, o) in (0..c_in).flat_map(|c| (0..c_out).map(move |o| (c, o))) {
        let mut sum = [[T::zero(); 6]; 6];
        for (x, d_y) in x.chunks_exact(h * w * c_in).zip(d_y.chunks_exact(h * w * c_out)) {
            for (top, left) in (0..h).step_by(4).flat_map(|i| (0..w).step_by(4).map(move |j| (i, j))) {
                let (top, left) = (top as isize, left as isize);
                let input: Square<T, 6> = both_ways(b_t, &window(x, (h, w, c_in), (top - 1, left - 1), c));
                let output: Square<T, 6> = both_ways(a, &window::<T, 4>(d_y, (h, w, c_out), (top, left), o));
                for (i, j) in (0..6).flat_map(|i| (0..6).map(move |j| (i, j))) {
                    sum[i][j] += input[i][j] * output[i][j];
                }
            }
        }
        let gradient: Square<T, 3> = both_ways(&g_t, &sum);
        for (u, v) in (0..3).flat_map(|u| (0..3).map(move |v| (u, v))) {
            d_weight[((u * 3 + v) * c_in + c) * c_out + o] += gradient[u][v];
        }
    }
}
