//! Convolution by strided matrix products, without an im2col copy.

use super::operands::{Affine, AffineGradient, Context, Update, elements, expect_len, samples_in};
use super::reductions::add_column_sums;
use crate::error::{Error, Result};
use crate::kernels::{
    ConvAlgorithm, Convolution, ConvolutionGradient, Element, Kernels, Product, Run, Winograd,
    WinogradForward, WinogradWeightGradient, transpose,
};
use crate::real::Real;

/// A k x k convolution of \[h, w, c_in\] images with zero borders.
///
/// With X the image inside its border, y\[i, j, o\] = b\[o\] + sum over u, v, c of X\[s i + u, s j + v, c\]
/// W\[u, v, c, o\]. Hence, for a loss whose gradient in y is dY, dW\[u, v, c, o\] = sum over i, j of X\[s i +
/// u, s j + v, c\] dY\[i, j, o\], db\[o\] = sum over i, j of dY\[i, j, o\], and dX\[p, q, c\] = sum over u,
/// v, o of E\[p - u, q - v, o\] W\[u, v, c, o\], where E\[s i, s j\] = dY\[i, j\] and 0 elsewhere. The last
/// is again a convolution: of dY, spread out, with the kernel rotated by 180 degrees and its channels
/// transposed.
///
/// Each of the three is one [`Product`] per sample, since a row of the kernel with its channels is contiguous
/// in X, in E and in W. Where [`Winograd`]'s algorithm applies, it takes fewer products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    h: usize,
    w: usize,
    c_in: usize,
    c_out: usize,
    window: Window,
}

/// The window of a convolution and how it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// k, its height and width.
    pub kernel: usize,
    /// s, the pixels from one output's window to the next.
    pub stride: usize,
    /// Rows of zeros above the image, columns of zeros to its left; at most k - 1.
    pub pad_before: usize,
    /// Rows of zeros below, columns of zeros to the right; at most k - 1.
    pub pad_after: usize,
}

/// No layer needs more, and the distances between the rows that a product reads stay far from overflowing.
const MOST_STRIDE: usize = 1 << 16;

impl Window {
    /// The outputs along a side of `n` pixels; `None` where the window does not fit into it or does not move.
    pub(crate) fn outputs(&self, n: usize) -> Option<usize> {
        let padded = n.checked_add(self.pad_before)?.checked_add(self.pad_after)?;
        Some(padded.checked_sub(self.kernel)?.checked_div(self.stride)? + 1)
    }
}

impl Conv {
    /// A convolution of h x w images with c_in channels, to c_out channels.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a side, a number of channels, a kernel or a stride of 0, a border of more than
    /// k - 1, a window that does not fit into the image with its border, and tensors too large to address.
    pub fn new([h, w]: [usize; 2], [c_in, c_out]: [usize; 2], window: Window) -> Result<Conv> {
        let Window { kernel, stride, pad_before, pad_after } = window;
        elements("a convolution's kernel", &[kernel, kernel, c_in, c_out])?;
        elements("a convolution's image", &[h, w, c_in.max(c_out)])?;
        let fits = pad_before < kernel
            && pad_after < kernel
            && (1..=MOST_STRIDE).contains(&stride)
            && window.outputs(h).is_some()
            && window.outputs(w).is_some();
        if !fits {
            return Err(Error::invalid(
                "a convolution's window",
                format!(
                    "one that fits into an image of {h} x {w} pixels, borders below its size, and a stride"
                ),
                format!("kernel {kernel}, stride {stride}, borders of {pad_before} and {pad_after}"),
                "",
            ));
        }
        let border = 2 * (kernel - 1);
        elements("a convolution's image inside its border", &[h + border, w + border, c_in.max(c_out)])?;
        Ok(Conv { h, w, c_in, c_out, window })
    }

    /// The output's height.
    pub fn out_h(&self) -> usize {
        self.window.outputs(self.h).expect("checked when the layer was made")
    }

    /// The output's width.
    pub fn out_w(&self) -> usize {
        self.window.outputs(self.w).expect("checked when the layer was made")
    }

    /// Elements of the weight \[k, k, c_in, c_out\].
    pub fn weight_len(&self) -> usize {
        self.window.kernel * self.window.kernel * self.c_in * self.c_out
    }

    /// Height and width of the input inside its border.
    fn padded(&self) -> (usize, usize) {
        let border = self.window.pad_before + self.window.pad_after;
        (self.h + border, self.w + border)
    }

    /// Height and width of E, the spread-out gradient in the output.
    fn spread(&self) -> (usize, usize) {
        (self.h + self.window.kernel - 1, self.w + self.window.kernel - 1)
    }

    /// The length of the workspace that every method needs.
    pub fn work_len(&self) -> usize {
        let ((hp, wp), (he, we)) = (self.padded(), self.spread());
        let direct = (hp * wp * self.c_in).max(he * we * self.c_out);
        self.as_winograd().map_or(direct, |layer| layer.work_len().max(direct))
    }

    fn as_winograd(&self) -> Option<Winograd> {
        let window = Window { kernel: 3, stride: 1, pad_before: 1, pad_after: 1 };
        let layer = || Winograd::new(self.h, self.w, self.c_in, self.c_out).ok();
        if self.window == window { layer() } else { None }
    }

    /// Chooses the algorithm; no other place does. It is Winograd's if that was asked for, if the layer has
    /// its shape, and if the pass sums over enough channels, `depth`, to pay for the transforms.
    fn winograd<T: Element>(&self, kernels: Kernels, depth: usize) -> Option<Winograd> {
        let wanted = kernels.conv == ConvAlgorithm::Winograd && T::has_fast_kernels(kernels.isa);
        self.as_winograd().filter(|_| wanted && depth >= 8)
    }

    /// Elements of one input.
    pub fn input_len(&self) -> usize {
        self.h * self.w * self.c_in
    }

    /// Elements of one output.
    pub fn output_len(&self) -> usize {
        self.out_h() * self.out_w() * self.c_out
    }

    /// Refuses inputs or gradients in them, and outputs or gradients in those, that are not of the same
    /// number of samples.
    fn check<T>(&self, x: &[T], y: &[T]) -> Result<()> {
        let n = samples_in("a convolution's x", self.input_len(), x)?;
        expect_len("a convolution's y", n * self.output_len(), y)
    }

    /// y \[n, out_h, out_w, c_out\] from x \[n, h, w, c_in\], weight \[k, k, c_in, c_out\] and bias
    /// \[c_out\].
    ///
    /// # Errors
    /// [`Error::Invalid`] for an operand of another length.
    pub fn forward<T: Element>(
        &self,
        context: &mut Context<T>,
        x: &[T],
        affine: Affine<T>,
        y: &mut [T],
    ) -> Result<()> {
        self.check(x, y)?;
        affine.check(self.weight_len(), self.c_out)?;
        let (kernels, team) = (context.kernels, context.team);
        let work = context.workspace(self.work_len())?;
        let Affine { weight, bias } = affine;
        if let Some(layer) = self.winograd::<T>(kernels, self.c_in) {
            let bias = Some(bias);
            let operands = Convolution { layer: &layer, x, weight, bias, y, accumulate: false, work };
            WinogradForward::run((kernels.isa, team), operands);
            return Ok(());
        }
        let (hp, wp) = self.padded();
        let (c, k, stride) = (self.c_in, self.window.kernel, self.window.stride);
        let product = Product {
            outer: self.out_h(),
            a_outer: stride * wp * c,
            b_outer: 0,
            c_outer: self.out_w() * self.c_out,
            m: self.out_w(),
            n: self.c_out,
            segments: k,
            k: k * c,
            a_row: stride * c,
            a_segment: wp * c,
            a_k: 1,
            b_segment: k * c * self.c_out,
            b_k: self.c_out,
            c_row: self.c_out,
            accumulate: true,
        };
        let place = Place { size: (hp, wp), channels: c, before: self.window.pad_before, stride: 1 };
        for (x, y) in x.chunks_exact(self.input_len()).zip(y.chunks_exact_mut(self.output_len())) {
            place.copy(x, self.w, work);
            for pixel in y.chunks_exact_mut(self.c_out) {
                pixel.copy_from_slice(bias);
            }
            product.multiply_weight((kernels.isa, team), work, weight, y);
        }
        Ok(())
    }

    /// Transposes a weight for [`Conv::backward_input`]: the kernel rotated by 180 degrees, and every tap's
    /// \[c_in, c_out\] matrix transposed, so transposed\[u, v, o, c\] = weight\[k-1-u, k-1-v, c, o\].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a slice of another length than the weight's.
    pub fn transpose_weight<T: Real>(&self, weight: &[T], transposed: &mut [T]) -> Result<()> {
        expect_len("a convolution's weight", self.weight_len(), weight)?;
        expect_len("a convolution's transposed weight", self.weight_len(), transposed)?;
        let size = self.c_in * self.c_out;
        for (tap, transposed) in weight.rchunks_exact(size).zip(transposed.chunks_exact_mut(size)) {
            transpose(tap, self.c_in, self.c_out, transposed);
        }
        Ok(())
    }

    /// The gradient in x from d_y, the gradient in y. `transposed` is the weight as
    /// [`Conv::transpose_weight`] gives it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an operand of another length.
    pub fn backward_input<T: Element>(
        &self,
        context: &mut Context<T>,
        transposed: &[T],
        d_y: &[T],
        d_x: &mut [T],
        update: Update,
    ) -> Result<()> {
        self.check(d_x, d_y)?;
        expect_len("a convolution's transposed weight", self.weight_len(), transposed)?;
        let (kernels, team, add) = (context.kernels, context.team, update.adds());
        let work = context.workspace(self.work_len())?;
        if let Some(layer) = self.winograd::<T>(kernels, self.c_out) {
            let (layer, weight) = (&layer.transposed(), transposed);
            let operands = Convolution { layer, x: d_y, weight, bias: None, y: d_x, accumulate: add, work };
            WinogradForward::run((kernels.isa, team), operands);
            return Ok(());
        }
        let (he, we) = self.spread();
        let (c, k) = (self.c_out, self.window.kernel);
        let product = Product {
            outer: self.h,
            a_outer: we * c,
            b_outer: 0,
            c_outer: self.w * self.c_in,
            m: self.w,
            n: self.c_in,
            segments: k,
            k: k * c,
            a_row: c,
            a_segment: we * c,
            a_k: 1,
            b_segment: k * c * self.c_in,
            b_k: self.c_in,
            c_row: self.c_in,
            accumulate: add,
        };
        let before = k - 1 - self.window.pad_before;
        let place = Place { size: (he, we), channels: c, before, stride: self.window.stride };
        for (d_y, d_x) in d_y.chunks_exact(self.output_len()).zip(d_x.chunks_exact_mut(self.input_len())) {
            place.copy(d_y, self.out_w(), work);
            product.multiply_weight((kernels.isa, team), work, transposed, d_x);
        }
        Ok(())
    }

    /// Adds the gradients in the weight and in the bias, given x and the gradient in y.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an operand of another length.
    pub fn backward_weight<T: Element>(
        &self,
        context: &mut Context<T>,
        x: &[T],
        d_y: &[T],
        gradient: AffineGradient<T>,
    ) -> Result<()> {
        self.check(x, d_y)?;
        gradient.check(self.weight_len(), self.c_out)?;
        let (kernels, team) = (context.kernels, context.team);
        let work = context.workspace(self.work_len())?;
        let AffineGradient { weight: d_weight, bias: d_bias } = gradient;
        add_column_sums(kernels.isa, d_y, d_bias);
        if let Some(layer) = self.winograd::<T>(kernels, self.c_in.min(self.c_out)) {
            let operands = ConvolutionGradient { layer: &layer, x, d_y, d_weight, work };
            WinogradWeightGradient::run((kernels.isa, team), operands);
            return Ok(());
        }
        let (hp, wp) = self.padded();
        let (c, k, stride) = (self.c_in, self.window.kernel, self.window.stride);
        let product = Product {
            outer: k,
            a_outer: wp * c,
            b_outer: 0,
            c_outer: k * c * self.c_out,
            m: k * c,
            n: self.c_out,
            segments: self.out_h(),
            k: self.out_w(),
            a_row: 1,
            a_segment: stride * wp * c,
            a_k: stride * c,
            b_segment: self.out_w() * self.c_out,
            b_k: self.c_out,
            c_row: self.c_out,
            accumulate: true,
        };
        let place = Place { size: (hp, wp), channels: c, before: self.window.pad_before, stride: 1 };
        for (x, d_y) in x.chunks_exact(self.input_len()).zip(d_y.chunks_exact(self.output_len())) {
            place.copy(x, self.w, work);
            product.multiply_weight((kernels.isa, team), work, d_y, d_weight);
        }
        Ok(())
    }
}

/// Where an image's pixels go in a larger image of zeros.
struct Place {
    /// Height and width of the larger image.
    size: (usize, usize),
    channels: usize,
    /// The row and the column of the first pixel.
    before: usize,
    /// Rows and columns from one pixel to the next.
    stride: usize,
}

impl Place {
    /// Copies an image with rows of `width` pixels to the workspace.
    fn copy<T: Real>(&self, image: &[T], width: usize, work: &mut [T]) {
        let Place { size: (h, w), channels: c, before, stride } = *self;
        let work = &mut work[..h * w * c];
        work.fill(T::zero());
        for (i, row) in image.chunks_exact(width * c).enumerate() {
            let to = &mut work[((before + i * stride) * w + before) * c..];
            if stride == 1 {
                to[..row.len()].copy_from_slice(row);
            } else {
                for (pixel, to) in row.chunks_exact(c).zip(to.chunks_mut(stride * c)) {
                    to[..c].copy_from_slice(pixel);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Isa, Team};
    use crate::nn::gradient_check::{check_gradient, dot, normal};

    fn convs() -> Vec<Conv> {
        let conv = |size, channels, kernel, stride, pad_before, pad_after| {
            Conv::new(size, channels, Window { kernel, stride, pad_before, pad_after }).expect("a layer")
        };
        vec![
            conv([5, 4], [3, 2], 3, 1, 1, 1),
            conv([6, 4], [2, 5], 3, 2, 0, 1),
            conv([6, 6], [3, 2], 3, 2, 1, 1),
            conv([3, 5], [4, 3], 1, 1, 0, 0),
            conv([2, 2], [1, 1], 3, 2, 0, 1),
        ]
    }

    fn context(workspace: &mut [f64]) -> Context<'_, f64> {
        Context { kernels: Isa::Reference.into(), team: Team::Solo, workspace }
    }

    fn forward(conv: &Conv, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; conv.out_h() * conv.out_w() * conv.c_out];
        let mut work = vec![f64::NAN; conv.work_len()];
        conv.forward(&mut context(&mut work), x, Affine { weight, bias }, &mut y).expect("lengths that fit");
        y
    }

    #[test]
    fn there_is_an_output_wherever_the_kernel_fits_inside_the_border() {
        let sizes: Vec<_> = convs().iter().map(|conv| (conv.out_h(), conv.out_w())).collect();
        assert_eq!(sizes, [(5, 4), (3, 2), (3, 3), (3, 5), (1, 1)]);
    }

    /// Tolerance 1e-12: sums of at most 40 products of unit normals in f64, in another order.
    #[test]
    fn forward_is_the_definition() {
        for conv in convs() {
            let (x, weight) = (normal(conv.h * conv.w * conv.c_in, 1), normal(conv.weight_len(), 2));
            let bias = normal(conv.c_out, 3);
            let y = forward(&conv, &x, &weight, &bias);
            for i in 0..conv.out_h() {
                for j in 0..conv.out_w() {
                    for o in 0..conv.c_out {
                        let mut want = bias[o];
                        let Window { kernel, stride, pad_before, .. } = conv.window;
                        for (u, v) in (0..kernel).flat_map(|u| (0..kernel).map(move |v| (u, v))) {
                            let (p, q) = (stride * i + u, stride * j + v);
                            if p < pad_before || q < pad_before {
                                continue;
                            }
                            let (p, q) = (p - pad_before, q - pad_before);
                            if p >= conv.h || q >= conv.w {
                                continue;
                            }
                            for c in 0..conv.c_in {
                                want += x[(p * conv.w + q) * conv.c_in + c]
                                    * weight[((u * kernel + v) * conv.c_in + c) * conv.c_out + o];
                            }
                        }
                        let got = y[(i * conv.out_w() + j) * conv.c_out + o];
                        assert!((got - want).abs() < 1e-12, "{conv:?} [{i},{j},{o}]: {got} for {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn gradients_are_central_differences_and_add_up() {
        for conv in convs() {
            let x = normal(conv.h * conv.w * conv.c_in, 1);
            let (weight, bias) = (normal(conv.weight_len(), 2), normal(conv.c_out, 3));
            let d_y = normal(conv.out_h() * conv.out_w() * conv.c_out, 4);
            let mut work = vec![f64::NAN; conv.work_len()];
            let mut transposed = vec![0.0; weight.len()];
            conv.transpose_weight(&weight, &mut transposed).expect("lengths that fit");
            let (mut d_x, mut d_weight, mut d_bias) =
                (vec![1.0; x.len()], vec![2.0; weight.len()], vec![3.0; bias.len()]);
            let context = &mut context(&mut work);
            let d_affine = AffineGradient { weight: &mut d_weight, bias: &mut d_bias };
            conv.backward_input(context, &transposed, &d_y, &mut d_x, Update::Add).expect("lengths that fit");
            conv.backward_weight(context, &x, &d_y, d_affine).expect("lengths that fit");
            d_x.iter_mut().for_each(|d| *d -= 1.0);
            d_weight.iter_mut().for_each(|d| *d -= 2.0);
            d_bias.iter_mut().for_each(|d| *d -= 3.0);
            check_gradient("d_x", &x, &d_x, |x| dot(&forward(&conv, x, &weight, &bias), &d_y));
            check_gradient("d_weight", &weight, &d_weight, |w| dot(&forward(&conv, &x, w, &bias), &d_y));
            check_gradient("d_bias", &bias, &d_bias, |b| dot(&forward(&conv, &x, &weight, b), &d_y));
        }
    }

    /// <C x, y> = <x, C^T y> to rounding: 1e-12 of the sum of absolute products.
    #[test]
    fn backward_input_is_the_adjoint() {
        for conv in convs() {
            let x = normal(conv.h * conv.w * conv.c_in, 1);
            let weight = normal(conv.weight_len(), 2);
            let d_y = normal(conv.out_h() * conv.out_w() * conv.c_out, 4);
            let y = forward(&conv, &x, &weight, &vec![0.0; conv.c_out]);
            let (mut transposed, mut d_x) = (vec![0.0; weight.len()], vec![9.0; x.len()]);
            conv.transpose_weight(&weight, &mut transposed).expect("lengths that fit");
            let mut work = vec![f64::NAN; conv.work_len()];
            conv.backward_input(&mut context(&mut work), &transposed, &d_y, &mut d_x, Update::Set)
                .expect("lengths that fit");
            let scale: f64 = y.iter().zip(&d_y).map(|(a, b)| (a * b).abs()).sum();
            assert!((dot(&y, &d_y) - dot(&x, &d_x)).abs() <= 1e-12 * scale);
        }
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn sizes_that_make_no_convolution_are_refused() {
        let window = Window { kernel: 3, stride: 1, pad_before: 1, pad_after: 1 };
        let most = usize::MAX;
        // The product of these sides is 16 modulo 2^64.
        let wraps = [4 * 67_280_421_310_721, 4 * 274_177];
        for (size, channels, window) in [
            ([0, 4], [1, 1], window),
            ([4, 4], [0, 1], window),
            ([4, 4], [1, 0], window),
            ([4, 4], [1, 1], Window { kernel: 0, pad_before: 0, pad_after: 0, ..window }),
            ([4, 4], [1, 1], Window { stride: 0, ..window }),
            ([4, 4], [1, 1], Window { stride: most, ..window }),
            ([4, 4], [1, 1], Window { pad_before: 3, ..window }),
            ([4, 4], [1, 1], Window { pad_after: most, ..window }),
            ([4, 4], [1, 1], Window { kernel: most, ..window }),
            ([1, 4], [1, 1], Window { pad_before: 0, ..window }),
            (wraps, [1, 1], window),
            ([4, 4], [1 << 32, 1 << 32], window),
            ([most, 1], [1, 1], window),
        ] {
            let made = Conv::new(size, channels, window);
            assert!(made.is_err(), "{made:?}");
        }
    }

    #[test]
    fn operands_of_other_lengths_are_refused() {
        let conv = convs()[0];
        let (x, y) = (vec![0.0; conv.input_len()], vec![0.0; conv.output_len()]);
        let (weight, bias) = (vec![0.0; conv.weight_len()], vec![0.0; 2]);
        let run = |x: &[f64], weight: &[f64], bias: &[f64], mut y: Vec<f64>, work: usize| {
            let mut work = vec![0.0; work];
            let context = &mut context(&mut work);
            let (d_y, mut d_x, mut d_weight, mut d_bias) =
                (y.clone(), x.to_vec(), weight.to_vec(), bias.to_vec());
            let forward = conv.forward(context, x, Affine { weight, bias }, &mut y);
            let gradient = AffineGradient { weight: &mut d_weight, bias: &mut d_bias };
            let backward = conv.backward_weight(context, x, &d_y, gradient);
            let input = conv.backward_input(context, weight, &d_y, &mut d_x, Update::Set);
            [forward.is_ok(), backward.is_ok(), input.is_ok()]
        };
        let work = conv.work_len();
        assert_eq!(run(&x, &weight, &bias, y.clone(), work), [true; 3]);
        assert_eq!(run(&x[1..], &weight, &bias, y.clone(), work), [false; 3]);
        assert_eq!(run(&x, &weight[1..], &bias, y.clone(), work), [false; 3]);
        assert_eq!(run(&x, &weight, &bias[1..], y.clone(), work), [false, false, true]);
        assert_eq!(run(&x, &weight, &bias, y[1..].to_vec(), work), [false; 3]);
        assert_eq!(run(&x, &weight, &bias, y, work - 1), [false; 3]);
    }
}
