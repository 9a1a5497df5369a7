//! One step of any sampler: what is computed between two calls of the network, as a row of numbers.
//!
//! ```text
//! x0     = limit( a_x x + a_m m )                                     (S1), (S2)
//! base   = c_0 base + c_1 x0 + c_2 x0' + c_3 x0'' + c_4 x0'''          (S3), or x where nothing is corrected
//! x_next = b_x base + b_m m + b_0 x0 + b_1 x0' + b_2 x0'' + sigma z    (S4)
//! ```
//!
//! with x what the network was given, m what it returned, x0', x0'', x0''' the x0 of one, two and three steps
//! before, and z fresh noise. Every sampler is a table of such rows, worked out in `f64`, and nothing but
//! the limit is not linear.

use super::limit::Limit;
use crate::equations::Timestep;
use crate::equations::objective::o05_log_variance;
use crate::real::Real;

/// The numbers of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The timestep that the network is told.
    pub t: Timestep,
    /// The timestep by which the step's noise is drawn: t, unless two steps share one.
    pub draw: Timestep,
    /// \[a_x, a_m\], (S1).
    pub x0: [f64; 2],
    /// (S2).
    pub limit: Limit,
    /// c_0 .. c_4, (S3); `None` where the step takes x as it is.
    pub correct: Option<[f64; 5]>,
    /// (S4) without the noise.
    pub next: Next,
    /// (S4), the noise.
    pub noise: NoiseScale,
}

impl Step {
    /// Whether the step needs more than x and the network's output: a sample or an x0 of the steps before.
    pub fn looks_back(&self) -> bool {
        self.correct.is_some() || self.next.x0[1..] != [0.0; 2]
    }

    /// The same step with all that is linear in x and m collected, where nothing limits x0 and nothing looks
    /// back: at large t, where x0 is a small difference of large terms, it is then never formed.
    pub(in crate::equations) fn collected(mut self) -> Self {
        if self.limit == Limit::Off && !self.looks_back() {
            let [a_x, a_m] = std::mem::take(&mut self.x0);
            let b_0 = std::mem::take(&mut self.next.x0[0]);
            self.next.base += b_0 * a_x;
            self.next.output += b_0 * a_m;
        }
        self
    }
}

/// b of (S4).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Next {
    /// b_x.
    pub base: f64,
    /// b_m.
    pub output: f64,
    /// b_0, b_1, b_2.
    pub x0: [f64; 3],
}

/// sigma of (S4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NoiseScale {
    /// No noise is added.
    None,
    /// The same for every value.
    Sigma(f64),
    /// (O5) at the network's second output: see [`o05_log_variance`].
    LearnedRange {
        /// ln of the variance at u = -1.
        ln_small: f64,
        /// ln of the variance at u = 1.
        ln_large: f64,
    },
    /// sigma^2 = u, the network's second output.
    Learned,
}

impl NoiseScale {
    /// Whether the step draws noise.
    pub fn is_some(self) -> bool {
        self != NoiseScale::None
    }

    /// Whether the network's second output is needed.
    pub fn is_learned(self) -> bool {
        matches!(self, NoiseScale::LearnedRange { .. } | NoiseScale::Learned)
    }

    /// sigma where the network's second output is `u`.
    fn sigma<T: Real>(self, u: T) -> T {
        match self {
            NoiseScale::None => T::zero(),
            NoiseScale::Sigma(sigma) => T::of(sigma),
            NoiseScale::LearnedRange { ln_small, ln_large } => {
                (o05_log_variance(u, [ln_small, ln_large]) / T::of(2.0)).exp()
            }
            NoiseScale::Learned => u.sqrt(),
        }
    }
}

/// What a sampler carries from step to step, for any number of images.
#[derive(Clone, Debug)]
pub struct State<T> {
    /// x, what the network is given next.
    pub x: Vec<T>,
    base: Vec<T>,
    /// x0, x0', x0'', x0''', each as long as x.
    x0: [Vec<T>; 4],
    image: usize,
}

impl<T: Real> State<T> {
    /// The state before the first step: x_T of images of `image` values each.
    pub fn new(x: Vec<T>, image: usize) -> Self {
        let zeros = || vec![T::zero(); x.len()];
        State { base: zeros(), x0: [zeros(), zeros(), zeros(), zeros()], x, image }
    }

    /// The state before a step in the middle of a run: with the base of the steps before and the x0 of one,
    /// two and three of them, each as long as x.
    pub fn with_history(x: Vec<T>, base: Vec<T>, [first, second, third]: [Vec<T>; 3], image: usize) -> Self {
        let oldest = vec![T::zero(); x.len()];
        State { base, x0: [first, second, third, oldest], x, image }
    }

    /// The base, (S3), of the last step.
    pub fn base(&self) -> &[T] {
        &self.base
    }

    /// The x0 of the last step and of those before it.
    pub fn x0(&self) -> &[Vec<T>; 4] {
        &self.x0
    }

    /// Takes one step. `output` is the network's for x, `learned` its second output where the step
    /// [needs it](NoiseScale::is_learned) (else it is not read), `z` fresh noise where the step
    /// [draws it](NoiseScale::is_some).
    ///
    /// # Panics
    /// If a length that is read is not x's.
    pub fn advance(&mut self, step: &Step, output: &[T], learned: &[T], z: &[T]) {
        let n = self.x.len();
        assert!(output.len() == n, "{} outputs for {n} values", output.len());
        self.x0.rotate_right(1);
        let [a_x, a_m] = step.x0.map(T::of);
        for ((x0, &x), &m) in self.x0[0].iter_mut().zip(&self.x).zip(output) {
            *x0 = a_x * x + a_m * m;
        }
        self.x0[0].chunks_mut(self.image.max(1)).for_each(|image| step.limit.s02_limit(image));
        match step.correct {
            Some(c) => {
                let [c_0, c_1, c_2, c_3, c_4] = c.map(T::of);
                let [now, before, second, third] = &self.x0;
                for (i, base) in self.base.iter_mut().enumerate() {
                    *base = c_0 * *base + c_1 * now[i] + c_2 * before[i] + c_3 * second[i] + c_4 * third[i];
                }
            }
            None => self.base.copy_from_slice(&self.x),
        }
        let (b_x, b_m, [b_0, b_1, b_2]) =
            (T::of(step.next.base), T::of(step.next.output), step.next.x0.map(T::of));
        let [now, before, second, _] = &self.x0;
        for (i, x) in self.x.iter_mut().enumerate() {
            *x = b_x * self.base[i] + b_m * output[i] + b_0 * now[i] + b_1 * before[i] + b_2 * second[i];
        }
        if step.noise.is_learned() {
            assert!(learned.len() == n && z.len() == n);
            for ((x, &u), &z) in self.x.iter_mut().zip(learned).zip(z) {
                *x += step.noise.sigma(u) * z;
            }
        } else if step.noise.is_some() {
            assert!(z.len() == n);
            let sigma = step.noise.sigma(T::zero());
            self.x.iter_mut().zip(z).for_each(|(x, &z)| *x += sigma * z);
        }
    }
}
