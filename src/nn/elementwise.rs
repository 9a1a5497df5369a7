//! Layers without products: additions, concatenation, nearest upsampling, and
//! an activation's gradient.
//!
//! Their gradients can be read off. y = a + b passes dY to both; a concatenation's dY is cut; an upsampled
//! pixel collects the dY of its four copies. Additions work in place: the memory plan puts y where an input
//! was that nobody reads any more. Dropout multiplies dY by the mask that it multiplied x by, so
//! [`DropOut`](crate::kernels::DropOut) serves both ways.
//!
//! Their callers, the two sweeps of the executor, pass whole tensors of the shapes that the graph has.

use super::operands::Update;
use super::reductions::add_column_sums;
use crate::config::Activation;
use crate::kernels::{ActivateBackward, Element, Isa, PointwiseBackward, Run, Team, each_pair, vectorised};
use crate::real::Real;
use std::ops::Range;

/// Replaces y by (x + y) scale.
pub fn add_scaled<T: Real>(isa: Isa, team: Team, x: &[T], scale: f64, y: &mut [T]) {
    let scale = T::of(scale);
    team.rows(y, 1, |first, y| {
        vectorised(
            isa,
            #[inline(always)]
            || {
                each_pair(y, &x[first..], |y, x| *y = (*x + *y) * scale);
            },
        );
    });
}

/// Multiplies x by `scale`.
pub fn scale_by<T: Real>(isa: Isa, scale: f64, x: &mut [T]) {
    let scale = T::of(scale);
    vectorised(
        isa,
        #[inline(always)]
        || x.iter_mut().for_each(|x| *x *= scale),
    );
}

/// Passes x scale on to y.
pub fn pass<T: Real>(isa: Isa, x: &[T], scale: f64, y: &mut [T], update: Update) {
    if update.adds() {
        add_to(isa, x, scale, y);
    } else {
        y.copy_from_slice(x);
        if scale != 1.0 {
            scale_by(isa, scale, y);
        }
    }
}

/// Adds x scale to `sum`.
pub fn add_to<T: Real>(isa: Isa, x: &[T], scale: f64, sum: &mut [T]) {
    let scale = T::of(scale);
    vectorised(
        isa,
        #[inline(always)]
        || {
            each_pair(sum, x, |sum, x| *sum += *x * scale);
        },
    );
}

/// Adds v\[c\] to y\[i, c\].
pub fn add_channels<T: Real>(isa: Isa, team: Team, v: &[T], y: &mut [T]) {
    team.rows(y, v.len(), |_, y| {
        vectorised(
            isa,
            #[inline(always)]
            || {
                for y in y.chunks_exact_mut(v.len()) {
                    each_pair(y, v, |y, v| *y += *v);
                }
            },
        );
    });
}

/// The gradient in v\[c\] of [`add_channels`], the sum over i of d_y\[i, c\]. The gradient in the other
/// addend is d_y.
pub fn add_channels_backward<T: Real>(isa: Isa, d_y: &[T], d_v: &mut [T], update: Update) {
    if update == Update::Set {
        d_v.fill(T::zero());
    }
    add_column_sums(isa, d_y, d_v);
}

/// Sets the c_a + c_b channels of every pixel of y to the c_a channels of a, then the c_b of b.
pub fn concat<T: Real>(team: Team, a: &[T], c_a: usize, b: &[T], c_b: usize, y: &mut [T]) {
    team.rows(y, c_a + c_b, |first, y| {
        let inputs = a[first * c_a..].chunks_exact(c_a).zip(b[first * c_b..].chunks_exact(c_b));
        for (y, (a, b)) in y.chunks_exact_mut(c_a + c_b).zip(inputs) {
            y[..c_a].copy_from_slice(a);
            y[c_a..].copy_from_slice(b);
        }
    });
}

/// The gradient in one input of a concatenation: the `channels` of the c_y channels of d_y.
pub fn concat_backward<T: Real>(
    isa: Isa,
    d_y: &[T],
    c_y: usize,
    channels: Range<usize>,
    d_x: &mut [T],
    update: Update,
) {
    let pixels = d_x
        .chunks_exact_mut(channels.len())
        .zip(d_y.chunks_exact(c_y))
        .map(|(d_x, d_y)| (d_x, &d_y[channels.clone()]));
    if update == Update::Set {
        return pixels.for_each(|(d_x, d_y)| d_x.copy_from_slice(d_y));
    }
    vectorised(
        isa,
        #[inline(always)]
        || {
            for (d_x, d_y) in pixels {
                each_pair(d_x, d_y, |d_x, d_y| *d_x += *d_y);
            }
        },
    );
}

/// Sets y \[2h, 2w, c\] to every pixel of x \[h, w, c\], twice in both directions.
pub fn upsample<T: Real>(team: Team, x: &[T], w: usize, c: usize, y: &mut [T]) {
    team.rows(y, 4 * w * c, |row, y| {
        for (x, y) in x[row * w * c..].chunks_exact(w * c).zip(y.chunks_exact_mut(4 * w * c)) {
            let (first, second) = y.split_at_mut(2 * w * c);
            for (pixel, y) in x.chunks_exact(c).zip(first.chunks_exact_mut(2 * c)) {
                y[..c].copy_from_slice(pixel);
                y[c..].copy_from_slice(pixel);
            }
            second.copy_from_slice(first);
        }
    });
}

/// The gradient in x of [`upsample`]: the sum of d_y over each pixel's four copies.
pub fn upsample_backward<T: Real>(isa: Isa, d_y: &[T], w: usize, c: usize, d_x: &mut [T], update: Update) {
    let add = update.adds();
    vectorised(
        isa,
        #[inline(always)]
        || {
            for (d_x, d_y) in d_x.chunks_exact_mut(w * c).zip(d_y.chunks_exact(4 * w * c)) {
                let (first, second) = d_y.split_at(2 * w * c);
                let rows = first.chunks_exact(2 * c).zip(second.chunks_exact(2 * c));
                for (d_x, (a, b)) in d_x.chunks_exact_mut(c).zip(rows) {
                    for i in 0..c {
                        let sum = (a[i] + a[c + i]) + (b[i] + b[c + i]);
                        d_x[i] = if add { d_x[i] + sum } else { sum };
                    }
                }
            }
        },
    );
}

/// Sets y to 2 x - 1.
pub fn center<T: Real>(isa: Isa, x: &[T], y: &mut [T]) {
    vectorised(
        isa,
        #[inline(always)]
        || {
            each_pair(y, x, |y, x| *y = (*x + *x) - T::one());
        },
    );
}

/// The gradient in x of an activation f, d_y f'(x). The workspace is at least as long as x.
pub fn activate_backward<T: Element>(
    isa: Isa,
    function: Activation,
    x: &[T],
    d_y: &[T],
    d_x: &mut [T],
    update: Update,
    work: &mut [T],
) {
    if update == Update::Set {
        return ActivateBackward::run(isa, PointwiseBackward { function, x, d_y, d_x });
    }
    let work = &mut work[..x.len()];
    ActivateBackward::run(isa, PointwiseBackward { function, x, d_y, d_x: work });
    add_to(isa, work, 1.0, d_x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::with_crew;
    use crate::kernels::{Activate, DropOut, Dropped, Pointwise};
    use crate::nn::gradient_check::{check_gradient, dot, normal};

    const ISA: Isa = Isa::Reference;

    #[test]
    fn activations_gradients_are_central_differences() {
        for function in Activation::ALL {
            let (x, d_y) = (normal(9, 1), normal(9, 2));
            let (mut d_x, mut work) = (vec![0.0; 9], vec![f64::NAN; 9]);
            activate_backward(ISA, function, &x, &d_y, &mut d_x, Update::Add, &mut work);
            let mut set = vec![7.0; 9];
            activate_backward(ISA, function, &x, &d_y, &mut set, Update::Set, &mut work);
            assert_eq!(set, d_x);
            check_gradient("d_x", &x, &d_x, |x| {
                let mut y = vec![0.0; 9];
                Activate::run(ISA, Pointwise { function, x, y: &mut y });
                dot(&y, &d_y)
            });
        }
    }

    #[test]
    fn centred_images_have_twice_the_slope() {
        let (x, d_y): (Vec<f64>, Vec<f64>) = (normal(9, 1), normal(9, 2));
        let mut d_x = vec![7.0; 9];
        pass(ISA, &d_y, 2.0, &mut d_x, Update::Set);
        check_gradient("d_x", &x, &d_x, |x| {
            let mut y = vec![0.0; 9];
            center(ISA, x, &mut y);
            dot(&y, &d_y)
        });
    }

    #[test]
    fn additions_pass_gradients_through() {
        let (x, v, d_y): (Vec<f64>, Vec<f64>, Vec<f64>) = (normal(12, 1), normal(3, 2), normal(12, 3));
        let mut d_v = vec![7.0; 3];
        add_channels_backward(ISA, &d_y, &mut d_v, Update::Set);
        check_gradient("d_v", &v, &d_v, |v| {
            let mut y = x.clone();
            add_channels(ISA, Team::Solo, v, &mut y);
            dot(&y, &d_y)
        });
        let once = d_v.clone();
        add_channels_backward(ISA, &d_y, &mut d_v, Update::Add);
        assert!(d_v.iter().zip(&once).all(|(twice, once)| (twice - 2.0 * once).abs() < 1e-14));
        let mut y = vec![1.0, 2.0, 3.0];
        add_scaled(ISA, Team::Solo, &[4.0, 5.0, 6.0], 0.5, &mut y);
        assert_eq!(y, [2.5, 3.5, 4.5]);
        pass(ISA, &[2.0, 4.0, 6.0], 0.5, &mut y, Update::Add);
        assert_eq!(y, [3.5, 5.5, 7.5]);
        pass(ISA, &[2.0, 4.0, 6.0], 0.5, &mut y, Update::Set);
        assert_eq!(y, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn concatenation_and_upsampling_have_their_adjoints() {
        let (a, b): (Vec<f64>, Vec<f64>) = (normal(8, 1), normal(12, 2));
        let mut y = vec![0.0; 20];
        concat(Team::Solo, &a, 2, &b, 3, &mut y);
        assert_eq!(y[5..10], [a[2], a[3], b[3], b[4], b[5]]);
        let d_y = normal(20, 3);
        let (mut d_a, mut d_b) = (vec![0.0; 8], vec![0.0; 12]);
        concat_backward(ISA, &d_y, 5, 0..2, &mut d_a, Update::Add);
        concat_backward(ISA, &d_y, 5, 2..5, &mut d_b, Update::Set);
        let mut again = vec![7.0; 8];
        concat_backward(ISA, &d_y, 5, 0..2, &mut again, Update::Set);
        assert_eq!(again, d_a);
        assert!((dot(&y, &d_y) - dot(&a, &d_a) - dot(&b, &d_b)).abs() < 1e-13);

        let x: Vec<f64> = normal(2 * 3 * 2, 4);
        let (mut y, d_y) = (vec![0.0; 48], normal(48, 5));
        upsample(Team::Solo, &x, 3, 2, &mut y);
        for (i, j, c) in [(0, 0, 0), (1, 5, 1), (3, 2, 0), (2, 4, 1)] {
            assert_eq!(y[(i * 6 + j) * 2 + c], x[(i / 2 * 3 + j / 2) * 2 + c]);
        }
        let mut d_x = vec![0.0; 12];
        upsample_backward(ISA, &d_y, 3, 2, &mut d_x, Update::Add);
        let mut again = vec![7.0; 12];
        upsample_backward(ISA, &d_y, 3, 2, &mut again, Update::Set);
        assert_eq!(again, d_x);
        assert!((dot(&y, &d_y) - dot(&x, &d_x)).abs() < 1e-13);
    }

    /// 600 elements, since masks are made for 512 at a time.
    #[test]
    fn dropout_s_gradient_has_the_mask_and_the_scale_of_its_output() {
        let (x, d_y): (Vec<f64>, Vec<f64>) = (normal(600, 1), normal(600, 2));
        for isa in Isa::available() {
            let dropped = |x: &[f64]| {
                let mut y = x.to_vec();
                DropOut::run(isa, Dropped { key: &[7; 32], p: 0.3, x: &mut y });
                y
            };
            let (y, d_x) = (dropped(&x), dropped(&d_y));
            check_gradient("d_x", &x, &d_x, |x| dot(&dropped(x), &d_y));
            let kept = y.iter().filter(|y| **y != 0.0).count();
            assert!(
                (1..600).contains(&kept) && y.iter().zip(&d_x).all(|(y, d_x)| (*y == 0.0) == (*d_x == 0.0))
            );
        }
    }

    #[test]
    fn a_team_gives_the_same_bits() {
        let isa = Isa::detect();
        let (a, b): (Vec<f32>, Vec<f32>) = (normal(40 * 40 * 24, 1), normal(40 * 40 * 9, 2));
        let run = |team: Team| {
            let mut joined = vec![0.0; 40 * 40 * 33];
            concat(team, &a, 24, &b, 9, &mut joined);
            add_channels(isa, team, &b[..33], &mut joined);
            add_scaled(isa, team, &joined.clone(), 0.7, &mut joined);
            let mut larger = vec![0.0; 4 * joined.len()];
            upsample(team, &joined, 40, 33, &mut larger);
            (joined, larger)
        };
        assert_eq!(run(Team::Solo), with_crew(2, run));
    }
}
