//! The loss that a network is trained on, and its gradient in the network's output, (O7).

use super::learned::LearnedRange;
use super::target::{Parameterisation, into_target};
use super::weight::{o02_snr, weight};
use crate::config::{DiffusionConfig, LossWeight};
use crate::equations::bound::bits_per_dim;
use crate::equations::loss::{eq21_gradient, eq21_l_simple};
use crate::equations::solver::{Outputs, s01_predict_x0};
use crate::equations::{Level, Schedule};
use crate::error::{Error, Result};
use crate::real::Real;

/// What L_vb counts where the variance is learned, beside (21) and for each of the T timesteps: lambda.
pub const VARIANCE_SHARE: f64 = 0.001;

/// What a network is trained on.
///
/// The loss of a sample is (21) with the target (O1), times the timestep's weight (O3) or (O4). Where the
/// variance is learned, 0.001 T L_vb is added: L_vb is (O6) in bits per dimension, and of it only the
/// variance learns, since its gradient in the mean is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objective {
    says: Parameterisation,
    /// The weights of t = 1..T; none where all are 1.
    weights: Vec<f64>,
    /// Where the variance is learned.
    schedule: Option<Schedule>,
}

/// A part of a batch after the network's forward pass.
#[derive(Debug)]
pub struct Shard<'a, T> {
    /// Each sample's t - 1.
    pub indices: &'a [usize],
    /// Each sample's notes, as [`Objective::prepare`] leaves them; they are used up.
    pub notes: &'a mut [T],
    /// The network's output, [samples, pixels, channels].
    pub output: &'a [T],
    /// The output's channels.
    pub channels: usize,
    /// The samples of the whole batch, over which the loss is averaged.
    pub batch: usize,
}

/// Images in the notes of a sample where the variance is learned: the target, x_0, x_t, and room for the two
/// halves of the output and the gradient in the first.
const PARTS: usize = 6;

impl Objective {
    /// The objective of a process with this schedule.
    pub fn new(diffusion: &DiffusionConfig, weighting: LossWeight, schedule: &Schedule) -> Objective {
        let says = Parameterisation::from(diffusion);
        let of = |level: &Level| weight(weighting, says.prediction, o02_snr(level.alpha_bar));
        Objective {
            weights: match weighting {
                LossWeight::None => Vec::new(),
                _ => schedule.levels().iter().map(of).collect(),
            },
            schedule: says.learned_range.then(|| schedule.clone()),
            says,
        }
    }

    /// What the network is trained to say.
    pub fn says(&self) -> Parameterisation {
        self.says
    }

    /// How much the error of the prediction counts at a timestep's index.
    pub fn weight(&self, index: usize) -> f64 {
        self.weights.get(index).copied().unwrap_or(1.0)
    }

    /// Numbers that a sample's loss needs to know beside the network's output of `output` numbers.
    pub fn notes_len(&self, output: usize) -> usize {
        if self.says.learned_range { PARTS * (output / 2) } else { output }
    }

    /// Checks a timestep's index.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that the schedule has not.
    pub fn check(&self, index: usize) -> Result<()> {
        let timesteps = match (&self.schedule, self.weights.len()) {
            (Some(schedule), _) => schedule.steps(),
            (None, 0) => return Ok(()),
            (None, weights) => weights,
        };
        if index < timesteps {
            return Ok(());
        }
        let expected = format!("a number below {timesteps}, as the objective's schedule has");
        Err(Error::invalid("a timestep's index", expected, index.to_string(), ""))
    }

    /// Makes a sample's notes of x_0 and x_t; `notes` begins with the noise of x_t.
    ///
    /// # Panics
    /// If `notes` is not of [`Objective::notes_len`], or x_0 and x_t are of different lengths.
    pub fn prepare<T: Real>(&self, level: &Level, x0: &[T], x_t: &[T], notes: &mut [T]) {
        let (noise, rest) = notes.split_at_mut(x0.len());
        if !self.says.prediction.is_epsilon() {
            into_target(self.says.prediction, level.alpha_bar, x0, noise);
        }
        if self.says.learned_range {
            rest[..x0.len()].copy_from_slice(x0);
            rest[x0.len()..2 * x0.len()].copy_from_slice(x_t);
        }
    }

    /// (O7) The sum of the losses of a shard's samples; and the gradient of the batch's mean loss in the
    /// shard's output, written to `d_output`. A timestep that [`Objective::check`] refuses counts with weight
    /// 1 and learns no variance.
    ///
    /// Source: Ho et al. (2020), equation 14; Nichol & Dhariwal (2021), section 3.1, equation 16, with their
    /// code's lambda = 0.001 and L_vb in bits per dimension times T.
    ///
    /// # Panics
    /// If lengths do not fit each other.
    pub fn o07_gradient<T: Real>(&self, shard: Shard<T>, d_output: &mut [T]) -> f64 {
        let Shard { indices, notes, output, channels, batch } = shard;
        let samples = indices.len();
        assert!(output.len() == d_output.len() && output.len().is_multiple_of(samples.max(1)));
        let len = output.len() / samples.max(1);
        let notes_len = self.notes_len(len);
        assert_eq!(notes.len(), samples * notes_len);
        if len == 0 {
            return 0.0;
        }
        let mut loss = 0.0;
        if self.weights.is_empty() && !self.says.learned_range {
            for (target, output) in notes.chunks_exact(len).zip(output.chunks_exact(len)) {
                loss += eq21_l_simple(target, output);
            }
            eq21_gradient(notes, output, samples as f64 / batch as f64, d_output);
            return loss;
        }
        let samples = output.chunks_exact(len).zip(d_output.chunks_exact_mut(len));
        for ((&index, notes), (output, d_output)) in
            indices.iter().zip(notes.chunks_exact_mut(notes_len)).zip(samples)
        {
            let weight = self.weight(index);
            if self.says.learned_range {
                loss += self.hybrid(index, notes, (output, channels), (weight, batch), d_output);
            } else {
                loss += weight * eq21_l_simple(notes, output);
                eq21_gradient(notes, output, weight / batch as f64, d_output);
            }
        }
        loss
    }

    /// A sample's loss and gradient where the variance is learned.
    fn hybrid<T: Real>(
        &self,
        index: usize,
        notes: &mut [T],
        (output, channels): (&[T], usize),
        (weight, batch): (f64, usize),
        d_output: &mut [T],
    ) -> f64 {
        let image = output.len() / 2;
        let (target, rest) = notes.split_at_mut(image);
        let (x0, rest) = rest.split_at_mut(image);
        let (x_t, rest) = rest.split_at_mut(image);
        let (prediction, rest) = rest.split_at_mut(image);
        let (variance, d_prediction) = rest.split_at_mut(image);
        let mut halves = Outputs { prediction, variance };
        halves.split(output, channels);

        let schedule = self.schedule.as_ref();
        let mut bits = 0.0;
        match schedule.and_then(|schedule| Some((schedule.steps(), schedule.levels().get(index)?))) {
            Some((timesteps, level)) => {
                let range = LearnedRange::new(level);
                let (alpha, sigma) = (level.alpha_bar.sqrt(), (1.0 - level.alpha_bar).sqrt());
                let [from_x_t, from_output] = s01_predict_x0(self.says.prediction, alpha, sigma);
                let lambda = VARIANCE_SHARE * timesteps as f64;
                let slope_scale = lambda * bits_per_dim(1.0, image) / batch as f64;
                let mut nats = 0.0;
                let said = halves.prediction.iter().zip(halves.variance.iter_mut());
                for ((&x0, &x_t), (&m, u)) in x0.iter().zip(x_t.iter()).zip(said) {
                    let x0_hat = from_x_t * x_t.f64() + from_output * m.f64();
                    let [term, slope] = range.o06_term(x0.f64(), x_t.f64(), x0_hat, u.f64());
                    nats += term;
                    // The gradient takes the place of what it was taken at.
                    *u = T::of(slope_scale * slope);
                }
                bits = lambda * bits_per_dim(nats, image);
            }
            None => halves.variance.fill(T::zero()),
        }
        eq21_gradient(target, halves.prediction, weight / batch as f64, d_prediction);
        let simple = weight * eq21_l_simple(target, halves.prediction);
        Outputs { prediction: d_prediction, variance: halves.variance }.join(d_output, channels);
        simple + bits
    }
}
