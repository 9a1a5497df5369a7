//! Group normalisation (Wu & He 2018), with the SiLU that follows it in a residual block.

use crate::kernels::{Element, Isa, vectorised};
use crate::real::Real;

/// y = SiLU(z), z = gamma_c xhat + beta_c, xhat = (x - mean_g) / sqrt(var_g + eps), over the pixels and channels of group g of
/// one sample; without the SiLU if `silu` is false.
///
/// With dZ = dY silu'(z), n the size of a group and sums over it,
/// dgamma_c = sum of dZ xhat and dbeta_c = sum of dZ over the pixels of channel c, and
/// dX = r (gamma_c dZ - S / n - xhat T / n), r = 1 / sqrt(var_g + eps), S = sum of gamma_c dZ, T = sum of gamma_c dZ xhat.
/// z is recomputed from x, the mean and r, which are all that is saved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Pixels of the sample.
    pub pixels: usize,
    /// Channels.
    pub channels: usize,
    /// Groups of channels / groups neighbouring channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Whether SiLU follows.
    pub silu: bool,
}

impl GroupNorm {
    /// Elements saved for the backward pass: the groups' means, then their 1 / sqrt(var + eps).
    pub fn saved_len(&self) -> usize {
        2 * self.groups
    }

    /// Scratch elements that every method needs.
    pub fn work_len(&self) -> usize {
        2 * self.pixels * self.channels + 4 * self.channels
    }

    /// y \[pixels, channels\] from x \[pixels, channels\], gamma and beta \[channels\].
    pub fn forward<T: Element>(
        &self,
        isa: Isa,
        x: &[T],
        gamma: &[T],
        beta: &[T],
        y: &mut [T],
        saved: &mut [T],
        work: &mut [T],
    ) {
        let c = self.channels;
        let (channel, z) = work.split_at_mut(4 * c);
        let (mean, rstd) = saved.split_at_mut(self.groups);
        let n = T::of((self.pixels * self.channels / self.groups) as f64);
        let (sum, rest) = channel.split_at_mut(c);
        vectorised(
            isa,
            #[inline(always)]
            || {
                sum.fill(T::zero());
                for row in x.chunks_exact(c) {
                    for (sum, x) in sum.iter_mut().zip(row) {
                        *sum += *x;
                    }
                }
            },
        );
        self.group_sums(sum, |g, total| mean[g] = total / n);
        let centre = &mut rest[..c];
        self.spread(mean, centre);
        vectorised(
            isa,
            #[inline(always)]
            || {
                sum.fill(T::zero());
                for row in x.chunks_exact(c) {
                    for ((sum, x), centre) in sum.iter_mut().zip(row).zip(centre.iter()) {
                        let d = *x - *centre;
                        *sum += d * d;
                    }
                }
            },
        );
        self.group_sums(sum, |g, total| rstd[g] = T::one() / (total / n + T::of(self.eps)).sqrt());
        if self.silu {
            let z = &mut z[..x.len()];
            self.affine(isa, x, gamma, beta, mean, rstd, channel, z);
            T::silu(isa, z, y);
        } else {
            self.affine(isa, x, gamma, beta, mean, rstd, channel, y);
        }
    }

    /// d_x +=, d_gamma += and d_beta += the gradients.
    pub fn backward<T: Element>(
        &self,
        isa: Isa,
        x: &[T],
        gamma: &[T],
        beta: &[T],
        saved: &[T],
        d_y: &[T],
        d_x: &mut [T],
        d_gamma: &mut [T],
        d_beta: &mut [T],
        work: &mut [T],
    ) {
        let c = self.channels;
        let (channel, buffers) = work.split_at_mut(4 * c);
        let (z, d_z) = buffers.split_at_mut(x.len());
        let (mean, rstd) = saved.split_at(self.groups);
        let d_z: &[T] = if self.silu {
            self.affine(isa, x, gamma, beta, mean, rstd, channel, z);
            T::silu_backward(isa, z, d_y, &mut d_z[..x.len()]);
            &d_z[..x.len()]
        } else {
            d_y
        };
        let (centre, rest) = channel.split_at_mut(c);
        let (r, rest) = rest.split_at_mut(c);
        let (sum, sum_xhat) = rest.split_at_mut(c);
        self.spread(mean, centre);
        self.spread(rstd, r);
        vectorised(
            isa,
            #[inline(always)]
            || {
                sum.fill(T::zero());
                sum_xhat.fill(T::zero());
                for (row, d_row) in x.chunks_exact(c).zip(d_z.chunks_exact(c)) {
                    for i in 0..c {
                        sum[i] += d_row[i];
                        sum_xhat[i] += d_row[i] * ((row[i] - centre[i]) * r[i]);
                    }
                }
            },
        );
        for i in 0..c {
            d_beta[i] += sum[i];
            d_gamma[i] += sum_xhat[i];
            sum[i] *= gamma[i];
            sum_xhat[i] *= gamma[i];
        }
        // dX = (gamma r) dZ + (-r r T / n) (x - mean) + (-r S / n), one factor and two terms per channel.
        let n = T::of((self.pixels * self.channels / self.groups) as f64);
        let per_group = c / self.groups;
        for g in 0..self.groups {
            let range = g * per_group..(g + 1) * per_group;
            let s: T = sum[range.clone()].iter().copied().sum();
            let t: T = sum_xhat[range.clone()].iter().copied().sum();
            sum[range.clone()].fill(-rstd[g] * s / n);
            sum_xhat[range].fill(-rstd[g] * rstd[g] * t / n);
        }
        for (r, gamma) in r.iter_mut().zip(gamma) {
            *r *= *gamma;
        }
        vectorised(
            isa,
            #[inline(always)]
            || {
                for ((d_x, x), d_z) in d_x.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(d_z.chunks_exact(c))
                {
                    for i in 0..c {
                        d_x[i] += r[i] * d_z[i] + (sum_xhat[i] * (x[i] - centre[i]) + sum[i]);
                    }
                }
            },
        );
    }

    /// z = gamma xhat + beta as one factor and one term per channel.
    fn affine<T: Element>(
        &self,
        isa: Isa,
        x: &[T],
        gamma: &[T],
        beta: &[T],
        mean: &[T],
        rstd: &[T],
        channel: &mut [T],
        z: &mut [T],
    ) {
        let c = self.channels;
        let (factor, rest) = channel.split_at_mut(c);
        let term = &mut rest[..c];
        let per_group = c / self.groups;
        for i in 0..c {
            factor[i] = gamma[i] * rstd[i / per_group];
            term[i] = beta[i] - factor[i] * mean[i / per_group];
        }
        vectorised(
            isa,
            #[inline(always)]
            || {
                for (z, x) in z.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                    for i in 0..c {
                        z[i] = factor[i] * x[i] + term[i];
                    }
                }
            },
        );
    }

    fn group_sums<T: Real>(&self, channels: &[T], mut each: impl FnMut(usize, T)) {
        for (g, group) in channels.chunks_exact(self.channels / self.groups).enumerate() {
            each(g, group.iter().copied().sum());
        }
    }

    /// A number per group to a number per channel.
    fn spread<T: Real>(&self, groups: &[T], channels: &mut [T]) {
        let per_group = self.channels / self.groups;
        for (group, x) in channels.chunks_exact_mut(per_group).zip(groups) {
            group.fill(*x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::gradient_check::{check_gradient, dot, normal};

    fn layer(silu: bool) -> GroupNorm {
        GroupNorm { pixels: 6, channels: 8, groups: 2, eps: 1e-3, silu }
    }

    fn forward(layer: &GroupNorm, x: &[f64], gamma: &[f64], beta: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (mut y, mut saved) = (vec![0.0; x.len()], vec![0.0; layer.saved_len()]);
        let mut work = vec![f64::NAN; layer.work_len()];
        layer.forward(Isa::Reference, x, gamma, beta, &mut y, &mut saved, &mut work);
        (y, saved)
    }

    /// Tolerance 1e-12: f64 rounding of sums over 24 elements.
    #[test]
    fn groups_have_zero_mean_and_their_variance_over_variance_plus_eps() {
        let x: Vec<f64> = normal(48, 1).iter().map(|x: &f64| 3.0 * x + 5.0).collect();
        let (y, _) = forward(&layer(false), &x, &[1.0; 8], &[0.0; 8]);
        for g in 0..2 {
            let of =
                |a: &[f64]| -> Vec<f64> { a.chunks(8).flat_map(|row| row[g * 4..][..4].to_vec()).collect() };
            let mean = |a: &[f64]| a.iter().sum::<f64>() / a.len() as f64;
            let variance = |a: &[f64]| a.iter().map(|x| (x - mean(a)).powi(2)).sum::<f64>() / a.len() as f64;
            let (x, y) = (of(&x), of(&y));
            assert!(mean(&y).abs() < 1e-12);
            assert!((variance(&y) - variance(&x) / (variance(&x) + 1e-3)).abs() < 1e-12);
        }
    }

    #[test]
    fn gradients_are_central_differences_and_add_up() {
        for silu in [false, true] {
            let layer = layer(silu);
            let (x, gamma, beta, d_y) = (normal(48, 1), normal(8, 2), normal(8, 3), normal(48, 4));
            let (_, saved) = forward(&layer, &x, &gamma, &beta);
            let (mut d_x, mut d_gamma, mut d_beta) = (vec![1.0; 48], vec![2.0; 8], vec![3.0; 8]);
            let mut work = vec![f64::NAN; layer.work_len()];
            layer.backward(
                Isa::Reference,
                &x,
                &gamma,
                &beta,
                &saved,
                &d_y,
                &mut d_x,
                &mut d_gamma,
                &mut d_beta,
                &mut work,
            );
            d_x.iter_mut().for_each(|d| *d -= 1.0);
            d_gamma.iter_mut().for_each(|d| *d -= 2.0);
            d_beta.iter_mut().for_each(|d| *d -= 3.0);
            check_gradient("d_x", &x, &d_x, |x| dot(&forward(&layer, x, &gamma, &beta).0, &d_y));
            check_gradient("d_gamma", &gamma, &d_gamma, |g| dot(&forward(&layer, &x, g, &beta).0, &d_y));
            check_gradient("d_beta", &beta, &d_beta, |b| dot(&forward(&layer, &x, &gamma, b).0, &d_y));
        }
    }
}
