//! The linear layer on rows.

use crate::kernels::{Element, Isa, Product, Team, vectorised};
use crate::real::Real;

/// y = x W + b for every row of x; a 1x1 convolution is this over pixels.
///
/// dX = dY W^T, dW = X^T dY, db = the column sums of dY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Rows.
    pub rows: usize,
    /// Features of a row of x.
    pub c_in: usize,
    /// Features of a row of y.
    pub c_out: usize,
}

impl Linear {
    /// y \[rows, c_out\] from x \[rows, c_in\], weight \[c_in, c_out\] and bias \[c_out\].
    pub fn forward<T: Element>(&self, isa: Isa, team: Team, x: &[T], weight: &[T], bias: &[T], y: &mut [T]) {
        for row in y.chunks_exact_mut(self.c_out) {
            row.copy_from_slice(bias);
        }
        let product = Product::dense(self.rows, self.c_out, self.c_in).accumulating();
        product.multiply_weight((isa, team), x, weight, y);
    }

    /// d_x = or, if `add`, += dY W^T; `transposed` is the weight's transpose \[c_out, c_in\].
    pub fn backward_input<T: Element>(
        &self,
        isa: Isa,
        team: Team,
        transposed: &[T],
        d_y: &[T],
        d_x: &mut [T],
        add: bool,
    ) {
        let product = Product { accumulate: add, ..Product::dense(self.rows, self.c_in, self.c_out) };
        product.multiply_weight((isa, team), d_y, transposed, d_x);
    }

    /// d_weight += X^T dY and d_bias += the column sums of dY.
    pub fn backward_weight<T: Element>(
        &self,
        isa: Isa,
        team: Team,
        x: &[T],
        d_y: &[T],
        d_weight: &mut [T],
        d_bias: &mut [T],
    ) {
        let product = Product::transposed_a(self.c_in, self.c_out, self.rows).accumulating();
        product.multiply_weight((isa, team), x, d_y, d_weight);
        add_column_sums(isa, d_y, d_bias);
    }
}

/// sums\[j\] += the sum over rows i of a\[i, j\].
pub(super) fn add_column_sums<T: Real>(isa: Isa, a: &[T], sums: &mut [T]) {
    vectorised(
        isa,
        #[inline(always)]
        || {
            for row in a.chunks_exact(sums.len()) {
                for (sum, a) in sums.iter_mut().zip(row) {
                    *sum += *a;
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::transpose;
    use crate::nn::gradient_check::{check_gradient, dot, normal};

    #[test]
    fn gradients_are_central_differences_and_add_up() {
        let layer = Linear { rows: 5, c_in: 4, c_out: 3 };
        let (x, weight, bias, d_y) = (normal(20, 1), normal(12, 2), normal(3, 3), normal(15, 4));
        let (isa, team) = (Isa::Reference, Team::Solo);
        let forward = |x: &[f64], weight: &[f64], bias: &[f64]| {
            let mut y = vec![0.0; 15];
            layer.forward(isa, team, x, weight, bias, &mut y);
            y
        };
        let mut transposed = vec![0.0; 12];
        transpose(&weight, 4, 3, &mut transposed);
        let (mut d_x, mut d_weight, mut d_bias) = (vec![1.0; 20], vec![2.0; 12], vec![3.0; 3]);
        layer.backward_input(isa, team, &transposed, &d_y, &mut d_x, true);
        layer.backward_weight(isa, team, &x, &d_y, &mut d_weight, &mut d_bias);
        d_x.iter_mut().for_each(|d| *d -= 1.0);
        d_weight.iter_mut().for_each(|d| *d -= 2.0);
        d_bias.iter_mut().for_each(|d| *d -= 3.0);
        check_gradient("d_x", &x, &d_x, |x| dot(&forward(x, &weight, &bias), &d_y));
        check_gradient("d_weight", &weight, &d_weight, |w| dot(&forward(&x, w, &bias), &d_y));
        check_gradient("d_bias", &bias, &d_bias, |b| dot(&forward(&x, &weight, b), &d_y));
        let y = forward(&x, &weight, &bias);
        let want: f64 = bias[1] + (0..4).map(|k| x[8 + k] * weight[k * 3 + 1]).sum::<f64>();
        assert!((y[2 * 3 + 1] - want).abs() < 1e-14, "{} for {want}", y[7]);
    }
}
