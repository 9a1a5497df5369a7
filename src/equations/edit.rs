//! An annex to the slides: what uses of a trained model on given images need beside the reverse process.
//!
//! | number | what | where |
//! |---|---|---|
//! | (U1) | spherical interpolation | [`u01_slerp`] |
//! | (U2) | known pixels put back, RePaint | [`u02_put_back`] |
//! | (U3) | a jump up from x_s to x_t | [`u03_jump`] |
//! | (U4) | the order of steps and jumps | [`u04_repaint`] |
//!
//! Encoding an image by DDIM run upwards is (S13), [`s13_ddim_up`](super::solver::s13_ddim_up), and noise for
//! variations is (3), [`eq03_q_sample`](super::forward::eq03_q_sample).

use super::{combine, forward};
use crate::error::{Error, Result};
use crate::real::Real;

/// (U1) The point at `share` of the way from `a` to `b` along the arc between them: sin((1 - s)
/// theta)/sin(theta) a + sin(s theta)/sin(theta) b, with theta the angle between the two. Draws from N(0, I)
/// stay of the length that such draws have, which on the straight way they do not.
///
/// Where the two point the same way or opposite ways there is no arc, and the way is straight. At the shares
/// 0 and 1 the result is `a` and `b` exactly.
///
/// Source: Shoemake (1985); Song, Meng & Ermon (2021), appendix D.5, equation 67.
///
/// # Panics
/// If the lengths differ.
pub fn u01_slerp<T: Real>(a: &[T], b: &[T], share: f64, out: &mut [T]) {
    let dot = |x: &[T], y: &[T]| x.iter().zip(y).map(|(x, y)| x.f64() * y.f64()).sum::<f64>();
    let (lengths, cosine) = (dot(a, a).sqrt() * dot(b, b).sqrt(), dot(a, b));
    let theta = (cosine / lengths).clamp(-1.0, 1.0).acos();
    // Below this an arc differs from a line by less than the rounding of the sines does. A NaN, from a point
    // at the origin, is no angle.
    const STRAIGHT: f64 = 1e-6;
    let [from_a, from_b] = if theta.sin() > STRAIGHT {
        [1.0 - share, share].map(|part| (part * theta).sin() / theta.sin())
    } else {
        [1.0 - share, share]
    };
    combine(from_a, a, from_b, b, out);
}

/// (U2) x with its known pixels, \[h w\] of `channels` values each, drawn from q(x_t | x_0) by (3); the
/// others stay. At abar_t = 1 the known pixels are those of `x0` exactly.
///
/// Source: Lugmayr et al. (2022), RePaint, equations 8a-8c.
///
/// # Panics
/// If the lengths differ.
pub fn u02_put_back<T: Real>(
    x0: &[T],
    known: &[bool],
    channels: usize,
    eps: &[T],
    alpha_bar_t: f64,
    x: &mut [T],
) {
    assert!(x0.len() == x.len() && eps.len() == x.len() && known.len() * channels == x.len());
    let pixels = x.chunks_exact_mut(channels).zip(x0.chunks_exact(channels)).zip(eps.chunks_exact(channels));
    for (((x, x0), eps), _) in pixels.zip(known).filter(|(_, known)| **known) {
        forward::eq03_q_sample(x0, eps, alpha_bar_t, x);
    }
}

/// (U3) x_t from x_s, s < t: (2) with the noise of all steps between the two, 1 - abar_t / abar_s, as beta.
///
/// Source: Lugmayr et al. (2022), RePaint, section 4.2 and Algorithm 1, line 9, for one step.
///
/// # Panics
/// If the lengths differ.
pub fn u03_jump<T: Real>(x_s: &[T], eps: &[T], [alpha_bar_s, alpha_bar_t]: [f64; 2], x_t: &mut [T]) {
    forward::eq02_q_step(x_s, eps, 1.0 - alpha_bar_t / alpha_bar_s, x_t);
}

/// How often RePaint goes back and forth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resampling {
    /// The steps that a jump goes up, and that are then taken again; at least 1.
    pub jump: usize,
    /// How often each stretch is gone down; at least 1, which is without jumps.
    pub times: usize,
}

impl Default for Resampling {
    /// Each stretch of five steps five times: about four times the calls of the sampler alone.
    fn default() -> Self {
        Resampling { jump: 5, times: 5 }
    }
}

/// One move of RePaint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The next step of the sampler.
    Down,
    /// A jump up, over so many of its steps.
    Up(usize),
}

impl Resampling {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a 0.
    pub fn validate(&self) -> Result<()> {
        for (field, number) in [("jump", self.jump), ("times", self.times)] {
            if number == 0 {
                return Err(Error::invalid(format!("`Resampling::{field}`"), "at least 1", "0", ""));
            }
        }
        Ok(())
    }

    /// How many of the moves of a sampler of `steps` steps are steps, which call the network.
    pub fn calls(&self, steps: usize) -> usize {
        let stretches = steps.saturating_sub(1) / self.jump.max(1);
        let again = self.times.saturating_sub(1).saturating_mul(stretches).saturating_mul(self.jump);
        steps.saturating_add(again)
    }
}

/// (U4) The moves of RePaint for a sampler of `steps` steps. After the step to the lowest noisy level, and at
/// every `jump`-th level above it from which a jump does not lead beyond the first, it jumps up `times` - 1
/// times before it goes on.
///
/// Source: Lugmayr et al. (2022), RePaint, appendix B, the schedule of their code.
pub fn u04_repaint(steps: usize, resampling: Resampling) -> impl Iterator<Item = Move> {
    let (jump, again) = (resampling.jump.max(1), resampling.times.saturating_sub(1));
    let jumps_from = |left: usize| left >= 1 && left % jump == 1 % jump && steps - left >= jump;
    // Jumps that are still to come, by the number of steps that are left.
    let mut to_come: Vec<usize> = (0..=steps).map(|left| if jumps_from(left) { again } else { 0 }).collect();
    let mut left = steps;
    std::iter::from_fn(move || {
        if to_come[left] > 0 {
            to_come[left] -= 1;
            left += jump;
            return Some(Move::Up(jump));
        }
        left = left.checked_sub(1)?;
        Some(Move::Down)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, fill_normal, rng};

    fn normal(seed: u64, len: usize) -> Vec<f64> {
        let mut x = vec![0.0; len];
        fill_normal(&mut rng(seed, Stream::Check, 3, 0), &mut x);
        x
    }

    fn slerp(a: &[f64], b: &[f64], share: f64) -> Vec<f64> {
        let mut out = vec![0.0; a.len()];
        u01_slerp(a, b, share, &mut out);
        out
    }

    fn length(x: &[f64]) -> f64 {
        x.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// Exact at the ends; the angle in proportion to the share, and the length kept, to rounding.
    #[test]
    fn u01_goes_along_the_arc_from_end_to_end() {
        let (a, b) = ([3.0, 0.0], [0.0, 3.0]);
        assert_eq!((slerp(&a, &b, 0.0), slerp(&a, &b, 1.0)), (a.to_vec(), b.to_vec()));
        for share in [0.1, 0.5, 0.8] {
            let point = slerp(&a, &b, share);
            let angle = point[1].atan2(point[0]);
            assert!((angle - share * std::f64::consts::FRAC_PI_2).abs() < 1e-14, "{angle}");
            assert!((length(&point) - 3.0).abs() < 1e-14);
        }
        let (a, b) = (normal(1, 784), normal(2, 784));
        assert_eq!((slerp(&a, &b, 0.0), slerp(&a, &b, 1.0)), (a.clone(), b.clone()));
        // Draws are nearly of one length and orthogonal; half way along the line it would be 0.71 of that.
        let middle = length(&slerp(&a, &b, 0.5)) / length(&a);
        assert!((middle - 1.0).abs() < 0.05, "{middle}");
    }

    #[test]
    fn u01_is_straight_where_there_is_no_arc() {
        assert_eq!(slerp(&[1.0, 0.0], &[3.0, 0.0], 0.5), [2.0, 0.0]);
        assert_eq!(slerp(&[1.0, 0.0], &[-1.0, 0.0], 0.25), [0.5, 0.0]);
        assert_eq!(slerp(&[0.0, 0.0], &[2.0, 0.0], 0.5), [1.0, 0.0]);
    }

    #[test]
    fn u02_keeps_what_is_painted_and_puts_back_what_is_known() {
        let (x0, eps) = ([0.3f32, -0.7, 0.9, 0.1], [9.0, 9.0, 1.0, -1.0]);
        let mut x = [5.0; 4];
        u02_put_back(&x0, &[true, false], 2, &eps, 1.0, &mut x);
        assert_eq!(x, [0.3, -0.7, 5.0, 5.0]);
        u02_put_back(&x0, &[false, true], 2, &eps, 0.64, &mut x);
        assert_eq!(x[..2], [0.3, -0.7]);
        // 0.8 x_0 + 0.6 eps, to the rounding of f32.
        assert!((x[2] - 1.32).abs() < 1e-6 && (x[3] + 0.52).abs() < 1e-6, "{x:?}");
    }

    /// (3) to s and then a jump to t has the moments of (3) to t: the coefficients of x_0 and the variances
    /// are equal, to rounding.
    #[test]
    fn u03_continues_what_the_forward_process_began() {
        let (s, t) = (0.7, 0.2);
        let part = |x0: f64, eps_s: f64, eps_t: f64| {
            let (mut x_s, mut x_t) = ([0.0], [0.0]);
            forward::eq03_q_sample(&[x0], &[eps_s], s, &mut x_s);
            u03_jump(&x_s, &[eps_t], [s, t], &mut x_t);
            x_t[0]
        };
        let (signal, first, second) = (part(1.0, 0.0, 0.0), part(0.0, 1.0, 0.0), part(0.0, 0.0, 1.0));
        assert!((signal - t.sqrt()).abs() < 1e-15);
        assert!((first * first + second * second - (1.0 - t)).abs() < 1e-15);
    }

    /// The levels that a walk visits, counted in steps that are left.
    fn walk(steps: usize, jump: usize, times: usize) -> Vec<usize> {
        let resampling = Resampling { jump, times };
        let mut left = steps;
        let moves: Vec<usize> = u04_repaint(steps, resampling)
            .map(|step| {
                left = match step {
                    Move::Down => left - 1,
                    Move::Up(jump) => left + jump,
                };
                left
            })
            .collect();
        let downs = u04_repaint(steps, resampling).filter(|step| *step == Move::Down).count();
        assert_eq!(downs, resampling.calls(steps), "{steps} {jump} {times}");
        moves
    }

    /// What the authors' `get_schedule_jump(t_T, jump_length, jump_n_sample)` returns for these numbers, with
    /// x_0 as 0 (there it is -1), without where it starts, and with a jump as one move.
    #[test]
    fn u04_is_the_authors_walk() {
        assert_eq!(walk(4, 1, 1), [3, 2, 1, 0]);
        let want = [6, 5, 7, 6, 5, 7, 6, 5, 4, 3, 5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 3, 2, 1, 0];
        assert_eq!(walk(7, 2, 3), want);
        assert_eq!(walk(3, 1, 2), [2, 3, 2, 1, 2, 1, 0]);
        assert_eq!(walk(2, 5, 4), [1, 0]);
        assert_eq!(walk(1, 1, 3), [0]);
    }

    #[test]
    fn resampling_of_nothing_is_refused() {
        for resampling in [Resampling { jump: 0, times: 2 }, Resampling { jump: 2, times: 0 }] {
            assert!(resampling.validate().is_err());
        }
        assert!(Resampling { jump: 1, times: 1 }.validate().is_ok());
    }
}
