//! Layers without sums: additions, concatenation, nearest upsampling, dropout, and SiLU's gradient.
//!
//! Their derivatives are read off: y = a + b passes dY to both, a concatenation cuts dY, an upsampled pixel collects the dY of
//! its four copies, dropout scales dY by the mask it scaled x by.

use crate::kernels::{Element, Isa, vectorised};
use crate::real::Real;
use crate::rng::ChaCha8Rng;
use rand::Rng;

/// y = (a + b) scale.
pub fn add_scaled<T: Real>(isa: Isa, a: &[T], b: &[T], scale: f64, y: &mut [T]) {
    let scale = T::of(scale);
    vectorised(
        isa,
        #[inline(always)]
        || {
            for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
                *y = (*a + *b) * scale;
            }
        },
    );
}

/// sum += x scale.
pub fn add_to<T: Real>(isa: Isa, x: &[T], scale: f64, sum: &mut [T]) {
    let scale = T::of(scale);
    vectorised(
        isa,
        #[inline(always)]
        || {
            for (sum, x) in sum.iter_mut().zip(x) {
                *sum += *x * scale;
            }
        },
    );
}

/// y\[i, c\] = x\[i, c\] + v\[c\].
pub fn add_channels<T: Real>(isa: Isa, x: &[T], v: &[T], y: &mut [T]) {
    vectorised(
        isa,
        #[inline(always)]
        || {
            for (y, x) in y.chunks_exact_mut(v.len()).zip(x.chunks_exact(v.len())) {
                for ((y, x), v) in y.iter_mut().zip(x).zip(v) {
                    *y = *x + *v;
                }
            }
        },
    );
}

/// d_x += d_y and d_v\[c\] += the sum over i of d_y\[i, c\].
pub fn add_channels_backward<T: Real>(isa: Isa, d_y: &[T], d_x: &mut [T], d_v: &mut [T]) {
    add_to(isa, d_y, 1.0, d_x);
    super::linear::add_column_sums(isa, d_y, d_v);
}

/// y\[i\] = a\[i\], b\[i\] for every pixel i, of c_a and c_b channels.
pub fn concat<T: Real>(a: &[T], c_a: usize, b: &[T], c_b: usize, y: &mut [T]) {
    for ((y, a), b) in y.chunks_exact_mut(c_a + c_b).zip(a.chunks_exact(c_a)).zip(b.chunks_exact(c_b)) {
        y[..c_a].copy_from_slice(a);
        y[c_a..].copy_from_slice(b);
    }
}

/// d_a += and d_b += their channels of d_y.
pub fn concat_backward<T: Real>(isa: Isa, d_y: &[T], d_a: &mut [T], c_a: usize, d_b: &mut [T], c_b: usize) {
    vectorised(
        isa,
        #[inline(always)]
        || {
            let pixels =
                d_y.chunks_exact(c_a + c_b).zip(d_a.chunks_exact_mut(c_a)).zip(d_b.chunks_exact_mut(c_b));
            for ((d_y, d_a), d_b) in pixels {
                for (d_a, d_y) in d_a.iter_mut().zip(&d_y[..c_a]) {
                    *d_a += *d_y;
                }
                for (d_b, d_y) in d_b.iter_mut().zip(&d_y[c_a..]) {
                    *d_b += *d_y;
                }
            }
        },
    );
}

/// y \[2h, 2w, c\]: every pixel of x \[h, w, c\] twice in both directions.
pub fn upsample<T: Real>(x: &[T], w: usize, c: usize, y: &mut [T]) {
    for (x, y) in x.chunks_exact(w * c).zip(y.chunks_exact_mut(4 * w * c)) {
        let (first, second) = y.split_at_mut(2 * w * c);
        for (pixel, y) in x.chunks_exact(c).zip(first.chunks_exact_mut(2 * c)) {
            y[..c].copy_from_slice(pixel);
            y[c..].copy_from_slice(pixel);
        }
        second.copy_from_slice(first);
    }
}

/// d_x += the sum of d_y over each pixel's four copies.
pub fn upsample_backward<T: Real>(isa: Isa, d_y: &[T], w: usize, c: usize, d_x: &mut [T]) {
    vectorised(
        isa,
        #[inline(always)]
        || {
            for (d_x, d_y) in d_x.chunks_exact_mut(w * c).zip(d_y.chunks_exact(4 * w * c)) {
                let (first, second) = d_y.split_at(2 * w * c);
                let rows = first.chunks_exact(2 * c).zip(second.chunks_exact(2 * c));
                for (d_x, (a, b)) in d_x.chunks_exact_mut(c).zip(rows) {
                    for i in 0..c {
                        d_x[i] += (a[i] + a[c + i]) + (b[i] + b[c + i]);
                    }
                }
            }
        },
    );
}

/// sum += x / (1 - p) where the generator's next number says to keep, the same for x and, in the backward pass, for d_y.
pub fn dropout<T: Real>(rng: &mut ChaCha8Rng, p: f64, x: &[T], sum: &mut [T]) {
    let threshold = (p * 2f64.powi(32)) as u32;
    let scale = T::of(1.0 / (1.0 - p));
    for (sum, x) in sum.iter_mut().zip(x) {
        if rng.next_u32() >= threshold {
            *sum += *x * scale;
        }
    }
}

/// d_x += d_y silu'(x); `work` is as long as x.
pub fn silu_backward<T: Element>(isa: Isa, x: &[T], d_y: &[T], d_x: &mut [T], work: &mut [T]) {
    let work = &mut work[..x.len()];
    T::silu_backward(isa, x, d_y, work);
    add_to(isa, work, 1.0, d_x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::gradient_check::{check_gradient, dot, normal};
    use crate::rng::{Stream, rng};

    const ISA: Isa = Isa::Reference;

    #[test]
    fn silu_gradient_is_a_central_difference() {
        let (x, d_y) = (normal(9, 1), normal(9, 2));
        let (mut d_x, mut work) = (vec![0.0; 9], vec![f64::NAN; 9]);
        silu_backward(ISA, &x, &d_y, &mut d_x, &mut work);
        check_gradient("d_x", &x, &d_x, |x| {
            let mut y = vec![0.0; 9];
            f64::silu(ISA, x, &mut y);
            dot(&y, &d_y)
        });
    }

    #[test]
    fn additions_pass_gradients_through() {
        let (x, v, d_y) = (normal(12, 1), normal(3, 2), normal(12, 3));
        let (mut d_x, mut d_v) = (vec![0.0; 12], vec![0.0; 3]);
        add_channels_backward(ISA, &d_y, &mut d_x, &mut d_v);
        let value = |x: &[f64], v: &[f64]| {
            let mut y = vec![0.0; 12];
            add_channels(ISA, x, v, &mut y);
            dot(&y, &d_y)
        };
        check_gradient("d_x", &x, &d_x, |x| value(x, &v));
        check_gradient("d_v", &v, &d_v, |v| value(&x, v));
        let mut y = vec![0.0; 3];
        add_scaled(ISA, &[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0], 0.5, &mut y);
        assert_eq!(y, [2.5, 3.5, 4.5]);
        add_to(ISA, &[2.0, 4.0, 6.0], 0.5, &mut y);
        assert_eq!(y, [3.5, 5.5, 7.5]);
    }

    #[test]
    fn concatenation_and_upsampling_have_their_adjoints() {
        let (a, b): (Vec<f64>, Vec<f64>) = (normal(8, 1), normal(12, 2));
        let mut y = vec![0.0; 20];
        concat(&a, 2, &b, 3, &mut y);
        assert_eq!(y[5..10], [a[2], a[3], b[3], b[4], b[5]]);
        let d_y = normal(20, 3);
        let (mut d_a, mut d_b) = (vec![0.0; 8], vec![0.0; 12]);
        concat_backward(ISA, &d_y, &mut d_a, 2, &mut d_b, 3);
        assert!((dot(&y, &d_y) - dot(&a, &d_a) - dot(&b, &d_b)).abs() < 1e-13);

        let x: Vec<f64> = normal(2 * 3 * 2, 4);
        let (mut y, d_y) = (vec![0.0; 48], normal(48, 5));
        upsample(&x, 3, 2, &mut y);
        for (i, j, c) in [(0, 0, 0), (1, 5, 1), (3, 2, 0), (2, 4, 1)] {
            assert_eq!(y[(i * 6 + j) * 2 + c], x[(i / 2 * 3 + j / 2) * 2 + c]);
        }
        let mut d_x = vec![0.0; 12];
        upsample_backward(ISA, &d_y, 3, 2, &mut d_x);
        assert!((dot(&y, &d_y) - dot(&x, &d_x)).abs() < 1e-13);
    }

    /// The share kept is within five standard errors sqrt(p (1 - p) / n) of 1 - p.
    #[test]
    fn dropout_keeps_the_expectation_and_the_backward_mask() {
        let n = 100_000;
        let p = 0.3;
        let generator = || rng(5, Stream::Dropout, 1, 2);
        let (mut y, mut d_x) = (vec![0f64; n], vec![0f64; n]);
        dropout(&mut generator(), p, &vec![1.0; n], &mut y);
        dropout(&mut generator(), p, &vec![2.0; n], &mut d_x);
        let kept = y.iter().filter(|y| **y != 0.0).count() as f64 / n as f64;
        assert!((kept - 0.7).abs() < 5.0 * (0.21 / n as f64).sqrt(), "{kept}");
        assert!(y.iter().zip(&d_x).all(|(y, d)| *d == 2.0 * *y && (*y == 0.0 || *y == 1.0 / 0.7)));
    }
}
