//! Scale and shift: how a time embedding enters a residual block after Nichol & Dhariwal (2021).
//!
//! With v = (s, b), one scale and one shift for each channel, y_ic = x_ic (1 + s_c) + b_c. So dX_ic = dY_ic
//! (1 + s_c), ds_c = sum_i dY_ic x_ic and db_c = sum_i dY_ic.
//!
//! Its callers, the two sweeps of the executor, pass one sample's whole tensors of the shapes that the graph
//! has.

use super::operands::Update;
use super::reductions::add_column_sums;
use crate::kernels::{Element, Isa, Team, vectorised};
use crate::real::Real;

/// Sets y \[pixels, c\] from x \[pixels, c\] and v \[2 c\].
pub fn scale_shift<T: Real>(isa: Isa, team: Team, x: &[T], v: &[T], y: &mut [T]) {
    let c = v.len() / 2;
    let (scale, shift) = v.split_at(c);
    team.rows(y, c, |first, y| {
        vectorised(
            isa,
            #[inline(always)]
            || {
                for (x, y) in x[first * c..].chunks_exact(c).zip(y.chunks_exact_mut(c)) {
                    for i in 0..c {
                        y[i] = x[i] * (T::one() + scale[i]) + shift[i];
                    }
                }
            },
        );
    });
}

/// The gradient in x of [`scale_shift`].
pub fn scale_shift_backward_x<T: Real>(isa: Isa, v: &[T], d_y: &[T], d_x: &mut [T], update: Update) {
    let c = v.len() / 2;
    let add = update.adds();
    vectorised(
        isa,
        #[inline(always)]
        || {
            for (d_x, d_y) in d_x.chunks_exact_mut(c).zip(d_y.chunks_exact(c)) {
                for i in 0..c {
                    let d = d_y[i] * (T::one() + v[i]);
                    d_x[i] = if add { d_x[i] + d } else { d };
                }
            }
        },
    );
}

/// The gradient in v of [`scale_shift`].
pub fn scale_shift_backward_v<T: Element>(isa: Isa, x: &[T], d_y: &[T], d_v: &mut [T], update: Update) {
    let c = d_v.len() / 2;
    if update == Update::Set {
        d_v.fill(T::zero());
    }
    let (d_scale, d_shift) = d_v.split_at_mut(c);
    vectorised(
        isa,
        #[inline(always)]
        || {
            for (x, d_y) in x.chunks_exact(c).zip(d_y.chunks_exact(c)) {
                for i in 0..c {
                    d_scale[i] += d_y[i] * x[i];
                }
            }
        },
    );
    add_column_sums(isa, d_y, d_shift);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::with_crew;
    use crate::nn::gradient_check::{check_gradient, dot, normal};

    #[test]
    fn gradients_are_central_differences_and_add_up() {
        let (x, v, d_y): (Vec<f64>, Vec<f64>, Vec<f64>) = (normal(15, 1), normal(6, 2), normal(15, 3));
        for isa in Isa::available() {
            let value = |x: &[f64], v: &[f64]| {
                let mut y = vec![f64::NAN; 15];
                scale_shift(isa, Team::Solo, x, v, &mut y);
                dot(&y, &d_y)
            };
            let (mut d_x, mut d_v) = (vec![7.0; 15], vec![7.0; 6]);
            scale_shift_backward_x(isa, &v, &d_y, &mut d_x, Update::Set);
            scale_shift_backward_v(isa, &x, &d_y, &mut d_v, Update::Set);
            check_gradient("d_x", &x, &d_x, |x| value(x, &v));
            check_gradient("d_v", &v, &d_v, |v| value(&x, v));
            let (once_x, once_v) = (d_x.clone(), d_v.clone());
            scale_shift_backward_x(isa, &v, &d_y, &mut d_x, Update::Add);
            scale_shift_backward_v(isa, &x, &d_y, &mut d_v, Update::Add);
            let twice =
                |d: &[f64], once: &[f64]| d.iter().zip(once).all(|(d, o)| (d - 2.0 * o).abs() < 1e-13);
            assert!(twice(&d_x, &once_x) && twice(&d_v, &once_v));
        }
    }

    #[test]
    fn a_team_gives_the_same_bits() {
        let (x, v): (Vec<f32>, Vec<f32>) = (normal(1600 * 24, 1), normal(48, 2));
        let run = |team: Team| {
            let mut y = vec![0.0; x.len()];
            scale_shift(Isa::detect(), team, &x, &v, &mut y);
            y
        };
        assert_eq!(run(Team::Solo), with_crew(2, run));
    }
}
