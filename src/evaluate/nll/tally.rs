//! Adds up the evaluations of a bound, in the order of the images.

use super::{Found, KINDS, NllConfig, VARIANCES, bits};
use crate::config::VarianceKind;
use crate::equations::Schedule;
use crate::equations::bound::eq18_constant;
use crate::equations::solver::Variance;
use crate::evaluate::Estimate;
use crate::evaluate::estimate::Moments;
use serde::{Deserialize, Serialize};

/// Half of the range of a pixel's bytes: distances in [-1, 1] times this are in [0, 255].
const HALF_RANGE: f64 = 127.5;

/// The bound on a set of images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    /// Images.
    pub images: usize,
    /// Evaluations of each.
    pub draws: usize,
    /// T.
    pub timesteps: usize,
    /// The number of timesteps at which a draw evaluates an image: T, or the number of strata plus one.
    pub evaluated: usize,
    /// Whether the predicted x_0 was clipped.
    pub clip_x0: bool,
    /// The bound with sigma_t^2 = beta~_t and with sigma_t^2 = beta_t, from the same predictions.
    pub bounds: [Bound; 2],
    /// The bound with the variance that the network has learned, where it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<Bound>,
}

impl Likelihood {
    /// The bounds, that with a learned variance last.
    pub fn all(&self) -> impl Iterator<Item = &Bound> {
        self.bounds.iter().chain(&self.learned)
    }

    /// The bound with this reverse variance.
    pub fn of(&self, variance: VarianceKind) -> &Bound {
        let [small, large] = &self.bounds;
        if variance == VarianceKind::FixedSmall { small } else { large }
    }
}

/// The bound (17) with one reverse variance, in bits per dimension; errors include images, draws and
/// timesteps that were not evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// sigma_t^2, (7) or (O5).
    pub variance: Variance,
    /// L = L_T + sum over t = 2..T of L_{t-1} + L_0.
    pub bits_per_dim: Estimate,
    /// The part of its error that comes from noise and timesteps alone, and that more draws would remove;
    /// known from two draws on.
    pub draws_error: Option<f64>,
    /// L_T.
    pub l_t: Estimate,
    /// The sum over t = 2..T of L_{t-1}: the rate of Ho et al. (2020), section 4.3, without L_T.
    pub middle: Estimate,
    /// L_0, by the discretised decoder: the distortion of Ho et al., section 4.3, in bits.
    pub l_0: Estimate,
    /// L_0 and then the strata, ascending in t.
    pub terms: Vec<Term>,
    /// The rate-distortion curve, ascending in rate: from t = T to t = 1.
    pub rate_distortion: Vec<RatePoint>,
}

/// The terms L_{t-1} of the timesteps `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// The lowest t.
    pub first: usize,
    /// The highest t.
    pub last: usize,
    /// The sum of their terms, in bits per dimension.
    pub bits: Estimate,
    /// The sum of the constants C_t of (18) in it, which training does not change; 0 for L_0 and for a
    /// variance that is learned.
    pub constant: f64,
    /// |eps - eps_theta|^2 as a mean over pixels and the timesteps, (21).
    pub mse: Estimate,
    /// The root mean squared error of the predicted x_0, pixels in [0, 255].
    pub rmse: Estimate,
}

impl Term {
    /// The number of timesteps.
    pub fn width(&self) -> usize {
        self.last - self.first + 1
    }
}

/// What a receiver has after some bits, Ho et al. (2020), section 4.3.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RatePoint {
    /// t of the x_t that the receiver has; for a stratum, its middle.
    pub t: f64,
    /// The bits per dimension that gave it x_t: L_T and the terms L_{s-1} of s > t; for a stratum, their mean
    /// over its t.
    pub rate: f64,
    /// The root mean squared error of the x_0 predicted from x_t (and over the t of a stratum), pixels in [0,
    /// 255].
    pub rmse: Estimate,
}

/// Sums over a slot: L_0 or a stratum.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    nats: [Moments; KINDS.len()],
    received: [Moments; KINDS.len()],
    eps_mse: Moments,
    x0_mse: Moments,
}

/// The sums so far.
pub(super) struct Tally<'a> {
    schedule: &'a Schedule,
    strata: &'a [(usize, usize)],
    config: &'a NllConfig,
    dims: usize,
    is_learned: bool,
    slots: Vec<Slot>,
    prior: Moments,
    middle: [Moments; KINDS.len()],
    whole: [Moments; KINDS.len()],
    /// The variance between the draws of each image.
    between_draws: [Moments; KINDS.len()],
    /// The current image: the sum over its draws for each slot, the sum over slots for each draw, the number
    /// of evaluations.
    current: Vec<Found>,
    by_draw: Vec<[f64; KINDS.len()]>,
    evaluations: usize,
}

impl<'a> Tally<'a> {
    pub(super) fn new(
        schedule: &'a Schedule,
        strata: &'a [(usize, usize)],
        config: &'a NllConfig,
        dims: usize,
        is_learned: bool,
    ) -> Self {
        let slots = strata.len() + 1;
        Tally {
            schedule,
            strata,
            config,
            dims,
            is_learned,
            slots: vec![Slot::default(); slots],
            prior: Moments::default(),
            middle: Default::default(),
            whole: Default::default(),
            between_draws: Default::default(),
            current: vec![Found::default(); slots],
            by_draw: vec![[0.0; KINDS.len()]; config.draws],
            evaluations: 0,
        }
    }

    /// Adds the next evaluation of the current image.
    pub(super) fn add(&mut self, slot: usize, found: Found) {
        let draw = &mut self.by_draw[self.evaluations / self.slots.len()];
        let sum = &mut self.current[slot];
        for v in 0..KINDS.len() {
            draw[v] += found.nats[v];
            sum.nats[v] += found.nats[v];
            sum.received[v] += found.received[v];
        }
        sum.eps_mse += found.eps_mse;
        sum.x0_mse += found.x0_mse;
        self.evaluations += 1;
    }

    /// Whether every slot of every draw was evaluated.
    pub(super) fn image_is_complete(&self) -> bool {
        self.evaluations == self.slots.len() * self.by_draw.len()
    }

    /// Adds the current image, whose L_T is `prior` nats.
    pub(super) fn finish_image(&mut self, prior: f64) {
        let draws = self.by_draw.len() as f64;
        self.prior.add(prior);
        for v in 0..KINDS.len() {
            let mut spread = Moments::default();
            self.by_draw.iter().for_each(|sum| spread.add(sum[v]));
            self.between_draws[v].add(spread.variance());
            self.whole[v].add(prior + spread.mean());
            self.middle[v].add(spread.mean() - self.current[0].nats[v] / draws);
        }
        for (slot, sum) in self.slots.iter_mut().zip(&mut self.current) {
            for v in 0..KINDS.len() {
                slot.nats[v].add(sum.nats[v] / draws);
                slot.received[v].add(sum.received[v] / draws);
            }
            slot.eps_mse.add(sum.eps_mse / draws);
            slot.x0_mse.add(sum.x0_mse / draws);
            *sum = Found::default();
        }
        self.by_draw.fill([0.0; KINDS.len()]);
        self.evaluations = 0;
    }

    /// The bound on all `images`.
    pub(super) fn finish(self, images: usize) -> Likelihood {
        Likelihood {
            images,
            draws: self.config.draws,
            timesteps: self.schedule.steps(),
            evaluated: self.slots.len(),
            clip_x0: self.config.clip_x0,
            bounds: [0, 1].map(|v| self.bound(v, images)),
            learned: self.is_learned.then(|| self.bound(2, images)),
        }
    }

    fn bound(&self, v: usize, images: usize) -> Bound {
        let scale = bits(self.dims);
        let terms: Vec<Term> = self.terms(v, scale);
        let noise = (self.between_draws[v].mean() / (self.config.draws * images) as f64).sqrt();
        let l_t = self.prior.estimate().scaled(scale);
        Bound {
            variance: KINDS[v],
            bits_per_dim: self.whole[v].estimate().scaled(scale),
            draws_error: (self.config.draws > 1).then_some(scale * noise),
            l_t,
            middle: self.middle[v].estimate().scaled(scale),
            l_0: terms[0].bits,
            rate_distortion: self.rate_distortion(v, scale, &terms),
            terms,
        }
    }

    fn terms(&self, v: usize, scale: f64) -> Vec<Term> {
        let ranges = std::iter::once(&(1, 1)).chain(self.strata);
        let term = |(&(first, last), slot): (&(usize, usize), &Slot)| {
            let levels = &self.schedule.levels()[first - 1..last];
            let constants = levels.iter().filter(|level| !level.is_first());
            let of = |kind: &VarianceKind| -> f64 {
                constants.map(|level| eq18_constant(level, *kind, self.dims)).sum()
            };
            let constant = VARIANCES.get(v).map_or(0.0, of);
            Term {
                first,
                last,
                bits: slot.nats[v].estimate().scaled(scale),
                constant: scale * constant,
                mse: slot.eps_mse.estimate(),
                rmse: slot.x0_mse.estimate().sqrt().scaled(HALF_RANGE),
            }
        };
        ranges.zip(&self.slots).map(term).collect()
    }

    /// The curve of terms ascending in t.
    fn rate_distortion(&self, v: usize, scale: f64, terms: &[Term]) -> Vec<RatePoint> {
        let mut above = scale * self.prior.mean();
        let point = |(term, slot): (&Term, &Slot)| {
            let rate = above + scale * slot.received[v].mean();
            above += term.bits.mean;
            RatePoint { t: 0.5 * (term.first + term.last) as f64, rate, rmse: term.rmse }
        };
        terms.iter().zip(&self.slots).rev().map(point).collect()
    }
}
