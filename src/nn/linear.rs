//! The linear layer on rows.

use super::operands::{Affine, AffineGradient, Context, Update, elements, expect_len};
use super::reductions::add_column_sums;
use crate::error::Result;
use crate::kernels::{Element, Product, transpose};

/// y = x W + b for every row of x; a 1x1 convolution is this over pixels.
///
/// dX = dY W^T, dW = X^T dY, db = the column sums of dY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    rows: usize,
    c_in: usize,
    c_out: usize,
}

impl Linear {
    /// A layer from rows of c_in features to rows of c_out features.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a size of 0 and tensors too large to address.
    pub fn new(rows: usize, c_in: usize, c_out: usize) -> Result<Linear> {
        elements("a linear layer's rows x features", &[rows, c_in.max(c_out)])?;
        elements("a linear layer's weight", &[c_in, c_out])?;
        Ok(Linear { rows, c_in, c_out })
    }

    fn check<T>(&self, x: &[T], y: &[T]) -> Result<()> {
        expect_len("a linear layer's x", self.rows * self.c_in, x)?;
        expect_len("a linear layer's y", self.rows * self.c_out, y)
    }

    /// y \[rows, c_out\] from x \[rows, c_in\], weight \[c_in, c_out\] and bias \[c_out\].
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an operand of another length.
    pub fn forward<T: Element>(
        &self,
        context: &mut Context<T>,
        x: &[T],
        affine: Affine<T>,
        y: &mut [T],
    ) -> Result<()> {
        self.check(x, y)?;
        affine.check(self.c_in * self.c_out, self.c_out)?;
        for row in y.chunks_exact_mut(self.c_out) {
            row.copy_from_slice(affine.bias);
        }
        let product = Product::dense(self.rows, self.c_out, self.c_in).accumulating();
        product.multiply_weight((context.isa(), context.team), x, affine.weight, y);
        Ok(())
    }

    /// Transposes a weight, to \[c_out, c_in\], for [`Linear::backward_input`].
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a slice of another length than the weight's.
    pub fn transpose_weight<T: Element>(&self, weight: &[T], transposed: &mut [T]) -> Result<()> {
        expect_len("a linear layer's weight", self.c_in * self.c_out, weight)?;
        expect_len("a linear layer's transposed weight", self.c_in * self.c_out, transposed)?;
        transpose(weight, self.c_in, self.c_out, transposed);
        Ok(())
    }

    /// The gradient in x, dY W^T. `transposed` is the weight's transpose \[c_out, c_in\].
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an operand of another length.
    pub fn backward_input<T: Element>(
        &self,
        context: &mut Context<T>,
        transposed: &[T],
        d_y: &[T],
        d_x: &mut [T],
        update: Update,
    ) -> Result<()> {
        self.check(d_x, d_y)?;
        expect_len("a linear layer's transposed weight", self.c_in * self.c_out, transposed)?;
        let product =
            Product { accumulate: update.adds(), ..Product::dense(self.rows, self.c_in, self.c_out) };
        product.multiply_weight((context.isa(), context.team), d_y, transposed, d_x);
        Ok(())
    }

    /// Adds the gradients in the weight, X^T dY, and in the bias, the column sums of dY.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an operand of another length.
    pub fn backward_weight<T: Element>(
        &self,
        context: &mut Context<T>,
        x: &[T],
        d_y: &[T],
        gradient: AffineGradient<T>,
    ) -> Result<()> {
        self.check(x, d_y)?;
        gradient.check(self.c_in * self.c_out, self.c_out)?;
        let product = Product::transposed_a(self.c_in, self.c_out, self.rows).accumulating();
        product.multiply_weight((context.isa(), context.team), x, d_y, gradient.weight);
        add_column_sums(context.isa(), d_y, gradient.bias);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Isa, Team};
    use crate::nn::gradient_check::{check_gradient, dot, normal};

    fn context() -> Context<'static, f64> {
        Context { kernels: Isa::Reference.into(), team: Team::Solo, workspace: &mut [] }
    }

    #[test]
    fn gradients_are_central_differences_and_add_up() {
        let layer = Linear::new(5, 4, 3).expect("a layer");
        let (x, weight, bias, d_y) = (normal(20, 1), normal(12, 2), normal(3, 3), normal(15, 4));
        let mut transposed = vec![0.0; 12];
        layer.transpose_weight(&weight, &mut transposed).expect("lengths that fit");
        let (mut d_x, mut d_weight, mut d_bias) = (vec![1.0; 20], vec![2.0; 12], vec![3.0; 3]);
        let gradient = AffineGradient { weight: &mut d_weight, bias: &mut d_bias };
        layer
            .backward_input(&mut context(), &transposed, &d_y, &mut d_x, Update::Add)
            .expect("lengths that fit");
        layer.backward_weight(&mut context(), &x, &d_y, gradient).expect("lengths that fit");
        let forward = |x: &[f64], weight: &[f64], bias: &[f64]| {
            let mut y = vec![0.0; 15];
            layer.forward(&mut context(), x, Affine { weight, bias }, &mut y).expect("lengths that fit");
            y
        };
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

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn sizes_and_lengths_that_do_not_fit_are_refused() {
        for (rows, c_in, c_out) in [(0, 4, 3), (5, 0, 3), (5, 4, 0), (1 << 40, 1 << 20, 1 << 20)] {
            assert!(Linear::new(rows, c_in, c_out).is_err(), "{rows} {c_in} {c_out}");
        }
        let layer = Linear::new(5, 4, 3).expect("a layer");
        let run = |x: usize, weight: usize, bias: usize, y: usize| {
            let [x, weight, bias, mut y] = [x, weight, bias, y].map(|n| vec![0.0; n]);
            let context =
                &mut Context { kernels: Isa::Reference.into(), team: Team::Solo, workspace: &mut [] };
            layer.forward(context, &x, Affine { weight: &weight, bias: &bias }, &mut y).is_ok()
        };
        assert!(run(20, 12, 3, 15));
        for (x, weight, bias, y) in [(19, 12, 3, 15), (20, 11, 3, 15), (20, 12, 4, 15), (20, 12, 3, 18)] {
            assert!(!run(x, weight, bias, y), "{x} {weight} {bias} {y}");
        }
    }
}
