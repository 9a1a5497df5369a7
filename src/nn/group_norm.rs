//! Group normalisation (Wu & He 2018), with the SiLU that follows it in a residual block.

use super::operands::{Affine, AffineGradient, Context, Update, elements, expect_len};
use crate::error::{Error, Result};
use crate::kernels::{
    Affine as AffineMap, AffineBackward, Centred, ChannelAffine, ChannelAffineBackward, ChannelCentred,
    ChannelMoments, Channels, Element, Moments, Run,
};
use crate::real::Real;

/// y = SiLU(z) with z = gamma_c xhat + beta_c and xhat = (x - mean_g) / sqrt(var_g + eps), where mean and
/// variance are over the pixels and channels of group g of one sample. Without SiLU, y = z.
///
/// Let dZ = dY silu'(z), n the number of elements of a group, and r = 1 / sqrt(var_g + eps). Then dgamma_c =
/// sum of dZ xhat and dbeta_c = sum of dZ, over the pixels of channel c. With the sums over a group S = sum
/// of gamma_c dZ and T = sum of gamma_c dZ xhat, dX = r (gamma_c dZ - S / n - xhat T / n). The backward pass
/// computes z again from x, the means and r, so only the latter two are saved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    pixels: usize,
    channels: usize,
    groups: usize,
    eps: f64,
    silu: bool,
}

/// Where the gradients of a group normalisation go.
#[derive(Debug)]
pub struct GroupNormGradient<'a, T> {
    /// The gradient in x; where it is `None`, it takes the place of the gradient in y.
    pub d_x: Option<(&'a mut [T], Update)>,
    /// The gradients in gamma and beta.
    pub affine: AffineGradient<'a, T>,
}

impl GroupNorm {
    /// A normalisation of samples \[pixels, channels\] over groups of channels / groups neighbouring
    /// channels; `eps` is added to the variance, and `silu` says whether SiLU follows.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a size of 0, groups that do not divide the channels, and an `eps` that is not
    /// positive.
    pub fn new(pixels: usize, channels: usize, groups: usize, eps: f64, silu: bool) -> Result<GroupNorm> {
        elements("a normalisation's pixels x channels", &[pixels, channels])?;
        if groups == 0 || !channels.is_multiple_of(groups) {
            let expected = format!("a divisor of {channels} channels");
            return Err(Error::invalid("a normalisation's groups", expected, groups.to_string(), ""));
        }
        if !(eps > 0.0 && eps.is_finite()) {
            return Err(Error::invalid("a normalisation's eps", "a positive number", eps.to_string(), ""));
        }
        Ok(GroupNorm { pixels, channels, groups, eps, silu })
    }

    /// Elements saved for the backward pass: the means of the groups, then their 1 / sqrt(var + eps).
    pub fn saved_len(&self) -> usize {
        2 * self.groups
    }

    /// The length of the workspace that every method needs.
    pub fn work_len(&self) -> usize {
        5 * self.channels
    }

    fn check<T>(&self, x: &[T], affine: Affine<T>, y: &[T], saved: &[T]) -> Result<()> {
        expect_len("a normalisation's x", self.pixels * self.channels, x)?;
        expect_len("a normalisation's y", self.pixels * self.channels, y)?;
        expect_len("what a normalisation saves", self.saved_len(), saved)?;
        affine.check(self.channels, self.channels)
    }

    /// y \[pixels, channels\] from x \[pixels, channels\] and from gamma and beta \[channels\], the weight
    /// and the bias of `affine`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an operand of another length.
    pub fn forward<T: Element>(
        &self,
        context: &mut Context<T>,
        x: &[T],
        affine: Affine<T>,
        y: &mut [T],
        saved: &mut [T],
    ) -> Result<()> {
        self.check(x, affine, y, saved)?;
        let (isa, team) = (context.isa(), context.team);
        let [factor, term, centre, deviations, _] = self.per_channel(context.workspace(self.work_len())?);
        ChannelMoments::run(isa, Moments { x, mean: centre, deviations });
        // With m_c the means of a group's channels, its mean is the mean of m_c. The squared deviations from
        // it are those from m_c and, for every pixel, (m_c - mean)^2.
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
        self.coefficients(affine, saved, factor, term, centre);
        let channels = Channels { factor, term, centre };
        team.rows(y, self.channels, |pixel, y| {
            let x = &x[pixel * self.channels..][..y.len()];
            ChannelAffine::run(isa, AffineMap { x, channels, silu: self.silu, y });
        });
        Ok(())
    }

    /// The gradients in x, gamma and beta, given the input, what the forward pass saved, and d_y, the
    /// gradient in y, which is overwritten.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an operand of another length.
    pub fn backward<T: Element>(
        &self,
        context: &mut Context<T>,
        x: &[T],
        affine: Affine<T>,
        saved: &[T],
        d_y: &mut [T],
        gradient: GroupNormGradient<T>,
    ) -> Result<()> {
        self.check(x, affine, d_y, saved)?;
        gradient.affine.check(self.channels, self.channels)?;
        let (d_x, add) = match gradient.d_x {
            Some((d_x, update)) => (Some(d_x), update.adds()),
            None => (None, false),
        };
        if let Some(d_x) = &d_x {
            expect_len("the gradient in a normalisation's x", x.len(), d_x)?;
        }
        let AffineGradient { weight: d_gamma, bias: d_beta } = gradient.affine;
        let isa = context.isa();
        let [factor, term, centre, sum, slope] = self.per_channel(context.workspace(self.work_len())?);
        self.coefficients(affine, saved, factor, term, centre);
        let channels = Channels { factor, term, centre };
        let operands = AffineBackward { x, channels, silu: self.silu, d: d_y, sum, sum_x: slope };
        ChannelAffineBackward::run(isa, operands);
        // As a function of x, dX = (gamma r) dZ + (-r r T / n) (x - mean) + (-r S / n). `slope` holds the
        // sums of dZ (x - mean) and becomes the factor of x - mean.
        let rstd = &saved[self.groups..];
        let (per_group, n) = (self.channels / self.groups, self.group_len::<T>());
        for g in 0..self.groups {
            let (mut s, mut t, r) = (T::zero(), T::zero(), rstd[g]);
            for i in g * per_group..(g + 1) * per_group {
                let of_xhat = r * slope[i];
                d_beta[i] += sum[i];
                d_gamma[i] += of_xhat;
                s += affine.weight[i] * sum[i];
                t += affine.weight[i] * of_xhat;
            }
            term[g * per_group..(g + 1) * per_group].fill(-r * s / n);
            slope[g * per_group..(g + 1) * per_group].fill(-r * r * t / n);
        }
        let channels = Channels { factor, term, centre };
        ChannelCentred::run(isa, Centred { x, channels, slope, d: d_y, d_x, accumulate: add });
        Ok(())
    }

    /// Writes z = gamma xhat + beta as factor x + term for every channel, and the channels' means to
    /// `centre`.
    fn coefficients<T: Real>(
        &self,
        affine: Affine<T>,
        saved: &[T],
        factor: &mut [T],
        term: &mut [T],
        centre: &mut [T],
    ) {
        let (mean, rstd) = saved.split_at(self.groups);
        let per_group = self.channels / self.groups;
        for i in 0..self.channels {
            let g = i / per_group;
            factor[i] = affine.weight[i] * rstd[g];
            term[i] = affine.bias[i] - factor[i] * mean[g];
            centre[i] = mean[g];
        }
    }

    /// Pixels times channels of a group.
    fn group_len<T: Real>(&self) -> T {
        T::of((self.pixels * self.channels / self.groups) as f64)
    }

    /// The workspace as five vectors of one number per channel.
    fn per_channel<'a, T>(&self, work: &'a mut [T]) -> [&'a mut [T]; 5] {
        let mut parts = work.chunks_exact_mut(self.channels);
        std::array::from_fn(|_| parts.next().expect("work_len's elements"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::with_crew;
    use crate::kernels::{Isa, Team};
    use crate::nn::gradient_check::{check_gradient, dot, normal};

    fn layer(silu: bool) -> GroupNorm {
        GroupNorm::new(6, 8, 2, 1e-3, silu).expect("a layer")
    }

    fn context(workspace: &mut [f64]) -> Context<'_, f64> {
        Context { kernels: Isa::Reference.into(), team: Team::Solo, workspace }
    }

    fn forward(layer: &GroupNorm, x: &[f64], gamma: &[f64], beta: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (mut y, mut saved) = (vec![0.0; x.len()], vec![0.0; layer.saved_len()]);
        let mut work = vec![f64::NAN; layer.work_len()];
        let affine = Affine { weight: gamma, bias: beta };
        layer.forward(&mut context(&mut work), x, affine, &mut y, &mut saved).expect("lengths that fit");
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
            let context = &mut context(&mut work);
            let affine = Affine { weight: &gamma, bias: &beta };
            let gradient = GroupNormGradient {
                d_x: Some((&mut d_x, Update::Add)),
                affine: AffineGradient { weight: &mut d_gamma, bias: &mut d_beta },
            };
            layer
                .backward(context, &x, affine, &saved, &mut d_y.clone(), gradient)
                .expect("lengths that fit");
            d_x.iter_mut().for_each(|d| *d -= 1.0);
            let mut in_place = |d_x: Option<&mut [f64]>| {
                let (mut d, mut d_gamma, mut d_beta) = (d_y.clone(), [0.0; 8], [0.0; 8]);
                let gradient = GroupNormGradient {
                    d_x: d_x.map(|d_x| (d_x, Update::Set)),
                    affine: AffineGradient { weight: &mut d_gamma, bias: &mut d_beta },
                };
                layer.backward(context, &x, affine, &saved, &mut d, gradient).expect("lengths that fit");
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
        let layer = GroupNorm::new(800, 36, 4, 1e-6, true).expect("a layer");
        let (gamma, beta) = (normal::<f32>(36, 2), normal::<f32>(36, 3));
        let x: Vec<f32> = normal(800 * 36, 1);
        let run = |team: Team| {
            let (mut y, mut saved) = (vec![0.0; x.len()], vec![0.0; layer.saved_len()]);
            let mut work = vec![f32::NAN; layer.work_len()];
            let affine = Affine { weight: &gamma, bias: &beta };
            let context = &mut Context { kernels: Isa::detect().into(), team, workspace: &mut work };
            layer.forward(context, &x, affine, &mut y, &mut saved).expect("lengths that fit");
            y
        };
        assert_eq!(run(Team::Solo), with_crew(2, run));
    }

    #[test]
    fn sizes_and_lengths_that_do_not_fit_are_refused() {
        for (pixels, channels, groups, eps) in [
            (0, 8, 2, 1e-3),
            (6, 0, 2, 1e-3),
            (6, 8, 0, 1e-3),
            (6, 8, 3, 1e-3),
            (6, 8, 2, 0.0),
            (6, 8, 2, f64::NAN),
            (usize::MAX, 8, 2, 1e-3),
        ] {
            let made = GroupNorm::new(pixels, channels, groups, eps, true);
            assert!(made.is_err(), "{made:?}");
        }
        let layer = layer(true);
        let run = |x: usize, gamma: usize, y: usize, saved: usize, work: usize| {
            let [x, gamma, mut y, mut saved, mut work] = [x, gamma, y, saved, work].map(|n| vec![0.0; n]);
            let affine = Affine { weight: &gamma, bias: &[0.0; 8] };
            layer.forward(&mut context(&mut work), &x, affine, &mut y, &mut saved).is_ok()
        };
        assert!(run(48, 8, 48, 4, 40));
        for (x, gamma, y, saved, work) in [
            (47, 8, 48, 4, 40),
            (48, 7, 48, 4, 40),
            (48, 8, 49, 4, 40),
            (48, 8, 48, 3, 40),
            (48, 8, 48, 4, 39),
        ] {
            assert!(!run(x, gamma, y, saved, work), "{x} {gamma} {y} {saved} {work}");
        }
    }
}
