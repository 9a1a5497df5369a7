//! Averages of 2 x 2 pixels: the downsampling of residual blocks, after Dhariwal & Nichol (2021).
//!
//! y is a quarter of the sum of four pixels, so each of them gets a quarter of dY.
//!
//! Its callers, the two sweeps of the executor, pass whole tensors of the shapes that the graph has.

use super::operands::Update;
use crate::kernels::{Isa, Team, vectorised};
use crate::real::Real;

/// Sets y \[h, w, c\] to the averages of the 2 x 2 pixels of x \[2h, 2w, c\]; `w` and `c` are y's.
pub fn average_pool<T: Real>(isa: Isa, team: Team, x: &[T], w: usize, c: usize, y: &mut [T]) {
    let quarter = T::of(0.25);
    team.rows(y, w * c, |row, y| {
        vectorised(
            isa,
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(w * c).zip(x[row * 4 * w * c..].chunks_exact(4 * w * c)) {
                    let (first, second) = x.split_at(2 * w * c);
                    let pairs = first.chunks_exact(2 * c).zip(second.chunks_exact(2 * c));
                    for (y, (a, b)) in y.chunks_exact_mut(c).zip(pairs) {
                        for i in 0..c {
                            y[i] = ((a[i] + a[c + i]) + (b[i] + b[c + i])) * quarter;
                        }
                    }
                }
            },
        );
    });
}

/// The gradient in x of [`average_pool`].
pub fn average_pool_backward<T: Real>(
    isa: Isa,
    d_y: &[T],
    w: usize,
    c: usize,
    d_x: &mut [T],
    update: Update,
) {
    let (quarter, add) = (T::of(0.25), update.adds());
    vectorised(
        isa,
        #[inline(always)]
        || {
            for (d_y, d_x) in d_y.chunks_exact(w * c).zip(d_x.chunks_exact_mut(4 * w * c)) {
                for d_x in d_x.chunks_exact_mut(2 * w * c) {
                    for (d_y, d_x) in d_y.chunks_exact(c).zip(d_x.chunks_exact_mut(2 * c)) {
                        for i in 0..2 * c {
                            let d = d_y[i % c] * quarter;
                            d_x[i] = if add { d_x[i] + d } else { d };
                        }
                    }
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::with_crew;
    use crate::nn::gradient_check::{check_gradient, dot, normal};

    #[test]
    fn averages_and_their_gradient() {
        let (h, w, c) = (2, 3, 2);
        let (x, d_y): (Vec<f64>, Vec<f64>) = (normal(4 * h * w * c, 1), normal(h * w * c, 2));
        let pooled = |x: &[f64]| {
            let mut y = vec![f64::NAN; h * w * c];
            average_pool(Isa::Reference, Team::Solo, x, w, c, &mut y);
            y
        };
        let y = pooled(&x);
        let pixel = |i: usize, j: usize, k: usize| x[(i * 2 * w + j) * c + k];
        for (i, j, k) in [(0, 0, 0), (1, 2, 1), (0, 1, 1)] {
            let sum = pixel(2 * i, 2 * j, k)
                + pixel(2 * i, 2 * j + 1, k)
                + pixel(2 * i + 1, 2 * j, k)
                + pixel(2 * i + 1, 2 * j + 1, k);
            assert!((y[(i * w + j) * c + k] - sum / 4.0).abs() < 1e-15);
        }
        let mut d_x = vec![7.0; x.len()];
        average_pool_backward(Isa::Reference, &d_y, w, c, &mut d_x, Update::Set);
        check_gradient("d_x", &x, &d_x, |x| dot(&pooled(x), &d_y));
        let once = d_x.clone();
        average_pool_backward(Isa::Reference, &d_y, w, c, &mut d_x, Update::Add);
        assert!(d_x.iter().zip(&once).all(|(d, once)| *d == 2.0 * once));
    }

    #[test]
    fn a_team_gives_the_same_bits() {
        let x: Vec<f32> = normal(80 * 80 * 24, 1);
        let run = |team: Team| {
            let mut y = vec![0.0; x.len() / 4];
            average_pool(Isa::detect(), team, &x, 40, 24, &mut y);
            y
        };
        assert_eq!(run(Team::Solo), with_crew(2, run));
    }
}
