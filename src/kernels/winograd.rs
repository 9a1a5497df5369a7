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
//! over all tiles, channels c and channels o, each of the 36 points is a matrix product of its own.
//!
//! The gradients are the transposed map. The gradient in the input is the same convolution of the output's
//! gradient, with the kernel rotated by half a turn and its two channel axes swapped. The gradient in the
//! kernel comes from the output's gradient e, summed over all tiles before the way back: dg\[c, o\] = G^T (
//! sum over tiles of (B^T d\[c\] B) * (A e\[o\] A^T) ) G.
//!
//! Rounding errors grow with the matrices' entries. With the points 5/8 and 3/2, exact in binary, they are
//! five times smaller than with the usual 1 and 2 (largest error over largest output, unit normals, 256
//! channels: 3e-6 against 15e-6, and 4e-7 for a direct sum). An infinite input makes every output of its
//! tiles NaN or infinite; in the direct sum it only reaches its neighbours.

mod fast;
mod points;
#[cfg(test)]
mod tests;
mod transforms;

use super::kernel::{Checked, Context, Kernel, ensure, ensure_len};
use crate::error::{Error, Result};
use crate::real::Real;
use points::{Matrices, matrices};

/// A 3x3 convolution with stride 1 and a border of one zero, over any number of \[h, w, c_in\] images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winograd {
    h: usize,
    w: usize,
    c_in: usize,
    c_out: usize,
}

impl Winograd {
    /// The convolution of images of that height and width.
    ///
    /// # Errors
    /// [`Error`] if a size is 0, or if the image, the weight or the workspace is larger than any
    /// memory.
    pub fn new(h: usize, w: usize, c_in: usize, c_out: usize) -> Result<Winograd> {
        let layer = Winograd { h, w, c_in, c_out };
        let lens = [Some(layer.work_len()), product(&[h, w, c_in]), product(&[h, w, c_out])];
        let weight = product(&[9, c_in, c_out]);
        // No slice is longer.
        const MOST: usize = isize::MAX as usize / size_of::<f64>();
        if lens.into_iter().chain([weight]).all(|len| len.is_some_and(|len| (1..=MOST).contains(&len))) {
            return Ok(layer);
        }
        Err(Error::invalid(
            "a 3x3 convolution",
            "sizes of at least 1 whose image, weight and workspace fit into memory",
            format!("{layer:?}"),
            "",
        ))
    }

    /// The convolution whose forward pass is this one's gradient in the input: the channels are swapped.
    pub fn transposed(&self) -> Winograd {
        Winograd { c_in: self.c_out, c_out: self.c_in, ..*self }
    }

    /// Tiles down and across; the last ones may reach beyond the image.
    fn tiles(&self) -> (usize, usize) {
        (self.h.div_ceil(4), self.w.div_ceil(4))
    }

    fn input_len(&self) -> usize {
        self.h * self.w * self.c_in
    }

    fn output_len(&self) -> usize {
        self.h * self.w * self.c_out
    }

    fn weight_len(&self) -> usize {
        9 * self.c_in * self.c_out
    }

    /// Elements of the workspace that both passes need.
    pub fn work_len(&self) -> usize {
        fast::work_len(self)
    }

    /// Refuses operands of other lengths; `output` is y or its gradient.
    fn check(&self, x: usize, weight: usize, output: usize, work: usize) -> Result<()> {
        let samples = x / self.input_len();
        let whole = x == samples * self.input_len()
            && output.is_multiple_of(self.output_len())
            && output / self.output_len() == samples;
        let expected = || format!("whole images, as many in as out, of {self:?}");
        ensure(whole, "a convolution's images", expected, || format!("{x} and {output} elements"))?;
        ensure_len("a convolution's weight", weight, self.weight_len())?;
        let least = || format!("at least {} elements", self.work_len());
        ensure(work >= self.work_len(), "a convolution's workspace", least, || work.to_string())
    }
}

/// The product of sizes, if a `usize` holds it.
fn product(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size))
}

/// The operands of [`WinogradForward`].
#[derive(Debug)]
pub struct Convolution<'a, T> {
    /// The sizes.
    pub layer: &'a Winograd,
    /// Images \[n, h, w, c_in\].
    pub x: &'a [T],
    /// \[3, 3, c_in, c_out\].
    pub weight: &'a [T],
    /// \[c_out\].
    pub bias: Option<&'a [T]>,
    /// Images \[n, h, w, c_out\].
    pub y: &'a mut [T],
    /// Whether the result is added to y instead of overwriting it.
    pub accumulate: bool,
    /// At least [`Winograd::work_len`] elements, of any content.
    pub work: &'a mut [T],
}

/// y = the convolution of x with the weight, plus the bias if there is one; or that added to y.
#[derive(Debug)]
pub struct WinogradForward;

impl Kernel for WinogradForward {
    type Operands<'a, T: Real> = Convolution<'a, T>;

    fn check<T: Real>(operands: &Convolution<T>) -> Result<()> {
        let Convolution { layer, x, weight, bias, y, work, .. } = operands;
        layer.check(x.len(), weight.len(), y.len(), work.len())?;
        bias.map_or(Ok(()), |bias| ensure_len("a convolution's bias", bias.len(), layer.c_out))
    }

    fn reference<T: Real>(Checked(operands): Checked<Self, T>) {
        forward_with(&matrices(), operands);
    }

    fn fast(context: Context, Checked(operands): Checked<Self, f32>) {
        fast::forward(context, operands);
    }
}

/// The operands of [`WinogradWeightGradient`].
#[derive(Debug)]
pub struct ConvolutionGradient<'a, T> {
    /// The sizes.
    pub layer: &'a Winograd,
    /// The forward pass's images \[n, h, w, c_in\].
    pub x: &'a [T],
    /// The gradient in its results \[n, h, w, c_out\].
    pub d_y: &'a [T],
    /// \[3, 3, c_in, c_out\], added to.
    pub d_weight: &'a mut [T],
    /// At least [`Winograd::work_len`] elements, of any content.
    pub work: &'a mut [T],
}

/// d_weight += the gradient in the weight.
#[derive(Debug)]
pub struct WinogradWeightGradient;

impl Kernel for WinogradWeightGradient {
    type Operands<'a, T: Real> = ConvolutionGradient<'a, T>;

    fn check<T: Real>(operands: &ConvolutionGradient<T>) -> Result<()> {
        let ConvolutionGradient { layer, x, d_y, d_weight, work } = operands;
        layer.check(x.len(), d_weight.len(), d_y.len(), work.len())
    }

    fn reference<T: Real>(Checked(operands): Checked<Self, T>) {
        weight_gradient_with(&matrices(), operands);
    }

    fn fast(context: Context, Checked(operands): Checked<Self, f32>) {
        fast::weight_gradient(context, operands);
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

/// The convolution as plain text, with the given matrices.
fn forward_with<T: Real>(Matrices { b_t, g, a }: &Matrices, operands: Convolution<T>) {
    let Convolution { layer, x, weight, bias, y, accumulate, .. } = operands;
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
                    let old = if accumulate { *y } else { T::zero() };
                    *y = old + outputs[i][j] + bias.map_or(T::zero(), |bias| bias[o]);
                }
            }
        }
    }
}

/// The gradient in the weight as plain text, with the given matrices.
fn weight_gradient_with<T: Real>(Matrices { b_t, g, a }: &Matrices, operands: ConvolutionGradient<T>) {
    let ConvolutionGradient { layer, x, d_y, d_weight, .. } = operands;
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
