//! Group normalisation (Wu & He 2018), with the SiLU that follows it in a residual block.

use crate::kernels::{
    Affine, AffineBackward, Centred, ChannelAffine, ChannelAffineBackward, ChannelCentred, ChannelMoments,
    Channels, Element, Isa, Moments, Run, Team,
};
use crate::real::Real;

/// y = SiLU(z), z = gamma_c xhat + beta_c, xhat = (x - mean_g) / sqrt(var_g + eps), over the pixels and
/// channels of group g of one sample; without the SiLU if `silu` is false.
///
/// With dZ = dY silu'(z), n the size of a group and sums over it, dgamma_c = sum of dZ xhat and dbeta_c = sum
/// of dZ over the pixels of channel c, and dX = r (gamma_c dZ - S / n - xhat T / n), r = 1 / sqrt(var_g +
/// eps), S = sum of gamma_c dZ, T = sum of gamma_c dZ xhat. z is recomputed from x, the mean and r, which are
/// all that is saved.
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
        5 * self.channels
    }

    /// y \[pixels, channels\] from x \[pixels, channels\], gamma and beta \[channels\].
    pub fn forward<T: Element>(
        &self,
        isa: Isa,
        team: Team,
        x: &[T],
        gamma: &[T],
        beta: &[T],
        y: &mut [T],
        saved: &mut [T],
        work: &mut [T],
    ) {
        let [factor, term, centre, deviations, _] = self.per_channel(work);
        ChannelMoments::run(isa, Moments { x, mean: centre, deviations });
        // Over the channels of a group, with m_c their means: mean = the mean of m_c, and the squared
        // deviations from it are those from m_c and, for every pixel, (m_c - mean)^2.
        let (mean, rstd) = saved.split_at_mut(self.groups);
        let per_group = self.channels / self.groups;
        let (pixels, n) = (T::of(self.pixels as f64), self.group_len::<T>());
        for g in 0..self.groups {
            let range = g * per_group..(g + 1) * per_group;
            let (centre, deviations) = (&centre[range.clone()], &deviations[range]);
            mean[g] = centre.iter().copied().sum::<T>() / T::of(per_group as f64);
            let between: T = centre.iter().map(|c| (*c - mean[g]) * (*c - mean[g])).sum();
            let within: T = deviations.iter().copied().sum();
            rstd[g] = T::one() / ((within + pixels * between) / n + T::of(self.eps)).sqrt();
        }
        self.coefficients(gamma, beta, saved, factor, term, centre);
        let channels = Channels { factor, term, centre };
        team.rows(y, self.channels, |pixel, y| {
            let x = &x[pixel * self.channels..][..y.len()];
            ChannelAffine::run(isa, Affine { x, channels, silu: self.silu, y });
        });
    }

    /// d_x = or, if `add`, += the gradient in x, and d_gamma += and d_beta += theirs; d_y is overwritten, and
    /// takes the gradient in x where d_x is `None`.
    pub fn backward<T: Element>(
        &self,
        isa: Isa,
        x: &[T],
        gamma: &[T],
        beta: &[T],
        saved: &[T],
        d_y: &mut [T],
        d_x: Option<&mut [T]>,
        add: bool,
        d_gamma: &mut [T],
        d_beta: &mut [T],
        work: &mut [T],
    ) {
        let [factor, term, centre, sum, slope] = self.per_channel(work);
        self.coefficients(gamma, beta, saved, factor, term, centre);
        let channels = Channels { factor, term, centre };
        let operands = AffineBackward { x, channels, silu: self.silu, d: d_y, sum, sum_x: slope };
        ChannelAffineBackward::run(isa, operands);
        // dX = (gamma r) dZ + (-r r T / n) (x - mean) + (-r S / n), with T's sum of dZ xhat = r times that of
        // dZ (x - mean).
        let rstd = &saved[self.groups..];
        let (per_group, n) = (self.channels / self.groups, self.group_len::<T>());
        for g in 0..self.groups {
            let (mut s, mut t, r) = (T::zero(), T::zero(), rstd[g]);
            for i in g * per_group..(g + 1) * per_group {
                let of_xhat = r * slope[i];
                d_beta[i] += sum[i];
                d_gamma[i] += of_xhat;
                s += gamma[i] * sum[i];
                t += gamma[i] * of_xhat;
            }
            term[g * per_group..(g + 1) * per_group].fill(-r * s / n);
            slope[g * per_group..(g + 1) * per_group].fill(-r * r * t / n);
        }
        let channels = Channels { factor, term, centre };
        ChannelCentred::run(isa, Centred { x, channels, slope, d: d_y, d_x, accumulate: add });
    }

    /// z = gamma xhat + beta as one factor and one term per channel, and the means per channel.
    fn coefficients<T: Real>(
        &self,
        gamma: &[T],
        beta: &[T],
        saved: &[T],
        factor: &mut [T],
        term: &mut [T],
        centre: &mut [T],
    ) {
        let (mean, rstd) = saved.split_at(self.groups);
        let per_group = self.channels / self.groups;
        for i in 0..self.channels {
            let g = i / per_group;
            factor[i] = gamma[i] * rstd[g];
            term[i] = beta[i] - factor[i] * mean[g];
            centre[i] = mean[g];
        }
    }

    /// Pixels times channels of a group.
    fn group_len<T: Real>(&self) -> T {
        T::of((self.pixels * self.channels / self.groups) as f64)
    }

    fn per_channel<'a, T>(&self, work: &'a mut [T]) -> [&'a mut [T]; 5] {
        let mut parts = work.chunks_exact_mut(self.channels);
        std::array::from_fn(|_| parts.next().expect("work_len's elements"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::team::with_crew;
    use crate::nn::gradient_check::{check_gradient, dot, normal};

    fn layer(silu: bool) -> GroupNorm {
        GroupNorm { pixels: 6, channels: 8, groups: 2, eps: 1e-3, silu }
    }

    fn forward(layer: &GroupNorm, x: &[f64], gamma: &[f64], beta: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (mut y, mut saved) = (vec![0.0; x.len()], vec![0.0; layer.saved_len()]);
        let mut work = vec![f64::NAN; layer.work_len()];
        layer.forward(Isa::Reference, Team::Solo, x, gamma, beta, &mut y, &mut saved, &mut work);
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
                &mut d_y.clone(),
                Some(&mut d_x),
                true,
                &mut d_gamma,
                &mut d_beta,
                &mut work,
            );
            d_x.iter_mut().for_each(|d| *d -= 1.0);
            let mut in_place = |d_x: Option<&mut [f64]>| {
                let (mut d, mut d_gamma, mut d_beta) = (d_y.clone(), [0.0; 8], [0.0; 8]);
                let isa = Isa::Reference;
                let sums = (&mut d_gamma, &mut d_beta);
                layer.backward(isa, &x, &gamma, &beta, &saved, &mut d, d_x, false, sums.0, sums.1, &mut work);
                d
            };
            let mut set = vec![9.0; 48];
            in_place(Some(&mut set));
            assert_eq!(in_place(None), set);
            d_gamma.iter_mut().for_each(|d| *d -= 2.0);
            d_beta.iter_mut().for_each(|d| *d -= 3.0);
            check_gradient("d_x", &x, &d_x, |x| dot(&forward(&layer, x, &gamma, &beta).0, &d_y));
            check_gradient("d_gamma", &gamma, &d_gamma, |g| dot(&forward(&layer, &x, g, &beta).0, &d_y));
            check_gradient("d_beta", &beta, &d_beta, |b| dot(&forward(&layer, &x, &gamma, b).0, &d_y));
        }
    }

    #[test]
    fn a_team_gives_the_same_bits() {
        let layer = GroupNorm { pixels: 800, channels: 36, groups: 4, eps: 1e-6, silu: true };
        let (gamma, beta) = (normal::<f32>(36, 2), normal::<f32>(36, 3));
        let x: Vec<f32> = normal(800 * 36, 1);
        let run = |team: Team| {
            let (mut y, mut saved) = (vec![0.0; x.len()], vec![0.0; layer.saved_len()]);
            let mut work = vec![f32::NAN; layer.work_len()];
            layer.forward(Isa::detect(), team, &x, &gamma, &beta, &mut y, &mut saved, &mut work);
            y
        };
        assert_eq!(run(Team::Solo), with_crew(2, run));
    }
}
