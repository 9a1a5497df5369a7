//! Convolution by strided matrix products, without an im2col copy.

use super::linear::add_column_sums;
use crate::kernels::{
    ConvAlgorithm, Convolution, ConvolutionGradient, Element, Kernels, Product, Run, Team, Winograd,
    WinogradForward, WinogradWeightGradient,
};
use crate::real::Real;

/// A k x k convolution of an \[h, w, c_in\] image with zero borders.
///
/// With X the image inside its border, y\[i, j, o\] = b\[o\] + sum over u, v, c of X\[s i + u, s j + v, c\]
/// W\[u, v, c, o\]. Hence, for a loss whose gradient in y is dY, dW\[u, v, c, o\] = sum over i, j of X\[s i +
/// u, s j + v, c\] dY\[i, j, o\], db\[o\] = sum over i, j of dY\[i, j, o\], and dX\[p, q, c\] = sum over u,
/// v, o of E\[p - u, q - v, o\] W\[u, v, c, o\], where E\[s i, s j\] = dY\[i, j\] and 0 elsewhere: again a
/// convolution, of the spread-out dY with the kernel turned by half a turn and its channels swapped.
///
/// Each of the three is one [`Product`] a sample: a row of the kernel with its channels is contiguous in X,
/// in E and in W. Where [`Winograd`] serves, its fewer products take their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Input height.
    pub h: usize,
    /// Input width.
    pub w: usize,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// k.
    pub kernel: usize,
    /// s.
    pub stride: usize,
    /// Rows of zeros above, columns of zeros left; at most k - 1.
    pub pad_before: usize,
    /// Rows of zeros below, columns of zeros right; at most k - 1.
    pub pad_after: usize,
}

impl Conv {
    /// Output height.
    pub fn out_h(&self) -> usize {
        (self.h + self.pad_before + self.pad_after - self.kernel) / self.stride + 1
    }

    /// Output width.
    pub fn out_w(&self) -> usize {
        (self.w + self.pad_before + self.pad_after - self.kernel) / self.stride + 1
    }

    /// Elements of the weight.
    pub fn weight_len(&self) -> usize {
        self.kernel * self.kernel * self.c_in * self.c_out
    }

    fn padded(&self) -> (usize, usize) {
        let border = self.pad_before + self.pad_after;
        (self.h + border, self.w + border)
    }

    fn spread(&self) -> (usize, usize) {
        (self.h + self.kernel - 1, self.w + self.kernel - 1)
    }

    /// Scratch elements that every method needs.
    pub fn work_len(&self) -> usize {
        let ((hp, wp), (he, we)) = (self.padded(), self.spread());
        let direct = (hp * wp * self.c_in).max(he * we * self.c_out);
        self.as_winograd().map_or(direct, |layer| layer.work_len().max(direct))
    }

    fn as_winograd(&self) -> Option<Winograd> {
        let fits = self.kernel == 3 && self.stride == 1 && self.pad_before == 1 && self.pad_after == 1;
        // Sizes that no memory holds are left to the direct products, which refuse them.
        if fits { Winograd::new(self.h, self.w, self.c_in, self.c_out).ok() } else { None }
    }

    /// The one place that chooses: Winograd's algorithm if asked for, if the layer fits it, and if the
    /// `depth` channels that a pass sums over are enough to pay for the transforms.
    fn winograd<T: Element>(&self, kernels: Kernels, depth: usize) -> Option<Winograd> {
        let wanted = kernels.conv == ConvAlgorithm::Winograd && T::has_fast_kernels(kernels.isa);
        self.as_winograd().filter(|_| wanted && depth >= 8)
    }

    fn input_len(&self) -> usize {
        self.h * self.w * self.c_in
    }

    fn output_len(&self) -> usize {
        self.out_h() * self.out_w() * self.c_out
    }

    /// work\[p, q, ..c\] = src with its pixels `stride` apart from (`before`, `before`) on, 0 elsewhere.
    fn place<T: Real>(
        work: &mut [T],
        (hp, wp): (usize, usize),
        c: usize,
        before: usize,
        stride: usize,
        src: &[T],
        width: usize,
    ) {
        let work = &mut work[..hp * wp * c];
        work.fill(T::zero());
        for (i, row) in src.chunks_exact(width * c).enumerate() {
            let to = &mut work[((before + i * stride) * wp + before) * c..];
            if stride == 1 {
                to[..row.len()].copy_from_slice(row);
            } else {
                for (pixel, to) in row.chunks_exact(c).zip(to.chunks_mut(stride * c)) {
                    to[..c].copy_from_slice(pixel);
                }
            }
        }
    }

    /// y \[n, out_h, out_w, c_out\] from x \[n, h, w, c_in\], weight \[k, k, c_in, c_out\] and bias
    /// \[c_out\].
    pub fn forward<T: Element>(
        &self,
        kernels: Kernels,
        team: Team,
        x: &[T],
        weight: &[T],
        bias: &[T],
        y: &mut [T],
        work: &mut [T],
    ) {
        if let Some(layer) = self.winograd::<T>(kernels, self.c_in) {
            let bias = Some(bias);
            let operands = Convolution { layer: &layer, x, weight, bias, y, accumulate: false, work };
            return WinogradForward::run((kernels.isa, team), operands);
        }
        let (hp, wp) = self.padded();
        let (c, k) = (self.c_in, self.kernel);
        let product = Product {
            outer: self.out_h(),
            a_outer: self.stride * wp * c,
            b_outer: 0,
            c_outer: self.out_w() * self.c_out,
            m: self.out_w(),
            n: self.c_out,
            segments: k,
            k: k * c,
            a_row: self.stride * c,
            a_segment: wp * c,
            a_k: 1,
            b_segment: k * c * self.c_out,
            b_k: self.c_out,
            c_row: self.c_out,
            accumulate: true,
        };
        for (x, y) in x.chunks_exact(self.input_len()).zip(y.chunks_exact_mut(self.output_len())) {
            Self::place(work, (hp, wp), c, self.pad_before, 1, x, self.w);
            for pixel in y.chunks_exact_mut(self.c_out) {
                pixel.copy_from_slice(bias);
            }
            product.multiply_weight((kernels.isa, team), work, weight, y);
        }
    }

    /// The weight as [`Conv::backward_input`] takes it: turned \[u, v, o, c\] = weight\[k-1-u, k-1-v, c, o\].
    pub fn turn_weight<T: Real>(&self, weight: &[T], turned: &mut [T]) {
        let taps = self.kernel * self.kernel;
        let size = self.c_in * self.c_out;
        for (tap, turned) in turned.chunks_exact_mut(size).enumerate() {
            crate::kernels::transpose(
                &weight[(taps - 1 - tap) * size..][..size],
                self.c_in,
                self.c_out,
                turned,
            );
        }
    }

    /// d_x = or, if `add`, += the gradient in x; `turned` is [`Conv::turn_weight`]'s.
    pub fn backward_input<T: Element>(
        &self,
        kernels: Kernels,
        team: Team,
        turned: &[T],
        d_y: &[T],
        d_x: &mut [T],
        add: bool,
        work: &mut [T],
    ) {
        if let Some(layer) = self.winograd::<T>(kernels, self.c_out) {
            let (layer, weight) = (&layer.transposed(), turned);
            let operands = Convolution { layer, x: d_y, weight, bias: None, y: d_x, accumulate: add, work };
            return WinogradForward::run((kernels.isa, team), operands);
        }
        let (he, we) = self.spread();
        let (c, k) = (self.c_out, self.kernel);
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
        for (d_y, d_x) in d_y.chunks_exact(self.output_len()).zip(d_x.chunks_exact_mut(self.input_len())) {
            Self::place(work, (he, we), c, k - 1 - self.pad_before, self.stride, d_y, self.out_w());
            product.multiply_weight((kernels.isa, team), work, turned, d_x);
        }
    }

    /// d_weight += and d_bias += the gradients in the weight and the bias.
    pub fn backward_weight<T: Element>(
        &self,
        kernels: Kernels,
        team: Team,
        x: &[T],
        d_y: &[T],
        d_weight: &mut [T],
        d_bias: &mut [T],
        work: &mut [T],
    ) {
        add_column_sums(kernels.isa, d_y, d_bias);
        if let Some(layer) = self.winograd::<T>(kernels, self.c_in.min(self.c_out)) {
            let operands = ConvolutionGradient { layer: &layer, x, d_y, d_weight, work };
            return WinogradWeightGradient::run((kernels.isa, team), operands);
        }
        let (hp, wp) = self.padded();
        let (c, k) = (self.c_in, self.kernel);
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
            a_segment: self.stride * wp * c,
            a_k: self.stride * c,
            b_segment: self.out_w() * self.c_out,
            b_k: self.c_out,
            c_row: self.c_out,
            accumulate: true,
        };
        for (x, d_y) in x.chunks_exact(self.input_len()).zip(d_y.chunks_exact(self.output_len())) {
            Self::place(work, (hp, wp), c, self.pad_before, 1, x, self.w);
            product.multiply_weight((kernels.isa, team), work, d_y, d_weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::nn::gradient_check::{check_gradient, dot, normal};

    fn convs() -> Vec<Conv> {
        let conv = |h, w, c_in, c_out, kernel, stride, pad_before, pad_after| Conv {
            h,
            w,
            c_in,
            c_out,
            kernel,
            stride,
            pad_before,
            pad_after,
        };
        vec![
            conv(5, 4, 3, 2, 3, 1, 1, 1),
            conv(6, 4, 2, 5, 3, 2, 0, 1),
            conv(6, 6, 3, 2, 3, 2, 1, 1),
            conv(3, 5, 4, 3, 1, 1, 0, 0),
            conv(2, 2, 1, 1, 3, 2, 0, 1),
        ]
    }

    fn forward(conv: &Conv, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; conv.out_h() * conv.out_w() * conv.c_out];
        let mut work = vec![f64::NAN; conv.work_len()];
        conv.forward(Isa::Reference.into(), Team::Solo, x, weight, bias, &mut y, &mut work);
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
                        for (u, v) in (0..conv.kernel).flat_map(|u| (0..conv.kernel).map(move |v| (u, v))) {
                            let (p, q) = (conv.stride * i + u, conv.stride * j + v);
                            if p < conv.pad_before || q < conv.pad_before {
                                continue;
                            }
                            let (p, q) = (p - conv.pad_before, q - conv.pad_before);
                            if p >= conv.h || q >= conv.w {
                                continue;
                            }
                            for c in 0..conv.c_in {
                                want += x[(p * conv.w + q) * conv.c_in + c]
                                    * weight[((u * conv.kernel + v) * conv.c_in + c) * conv.c_out + o];
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
            let mut turned = vec![0.0; weight.len()];
            conv.turn_weight(&weight, &mut turned);
            let (mut d_x, mut d_weight, mut d_bias) =
                (vec![1.0; x.len()], vec![2.0; weight.len()], vec![3.0; bias.len()]);
            let (kernels, team) = (Isa::Reference.into(), Team::Solo);
            conv.backward_input(kernels, team, &turned, &d_y, &mut d_x, true, &mut work);
            conv.backward_weight(kernels, team, &x, &d_y, &mut d_weight, &mut d_bias, &mut work);
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
            let (mut turned, mut d_x) = (vec![0.0; weight.len()], vec![9.0; x.len()]);
            conv.turn_weight(&weight, &mut turned);
            let mut work = vec![f64::NAN; conv.work_len()];
            conv.backward_input(Isa::Reference.into(), Team::Solo, &turned, &d_y, &mut d_x, false, &mut work);
            let scale: f64 = y.iter().zip(&d_y).map(|(a, b)| (a * b).abs()).sum();
            assert!((dot(&y, &d_y) - dot(&x, &d_x)).abs() <= 1e-12 * scale);
        }
    }
}
