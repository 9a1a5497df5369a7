//! DPM-Solver++: multistep solvers of the diffusion ODE and SDE in lambda, for the predicted x_0.

use super::ladder::Ladder;
use super::step::{Next, NoiseScale};
use super::{DpmSolver, SecondOrder};

/// (S7)-(S9) A step from level `i` of the ladder to the next with `order` x_0, the current one and those
/// before it: b of (S4), and the noise.
///
/// With h the step in lambda, E = e^-h - 1 (for the SDE e^-2h - 1 and 2h for h in what follows), D_0 = x_0,
/// D_1 and D_2 the divided differences of the x_0 in lambda:
///
/// (S7) x_next = sigma_next/sigma x - alpha_next E D_0;
/// (S8) with - alpha_next E D_1 / 2 (midpoint), or + alpha_next (E/h + 1) D_1 (heun), added;
/// (S9) with + alpha_next (E/h + 1) D_1 - alpha_next ((E + h)/h^2 - 1/2) D_2 added.
///
/// The SDE has x scaled by e^-h once more and sigma_next sqrt(1 - e^-2h) z added. In its (S9), diffusers
/// writes the D_2 term as alpha_next ((1 - e^-2h - 2h)/(2h)^2 - 1/2), where the integral has + 1/2; and in
/// both its D_2 is half of the second derivative that it is weighed as, so that the measured order of (S9) is
/// two, with a smaller error than (S8). Images are to be the same as there, so both are kept.
///
/// Source: Lu et al. (2022b), DPM-Solver++, algorithm 2 and equations 11-14 (its appendix for the SDE and the
/// third order); heun: Lu et al. (2022a).
pub(super) fn s07_s08_s09_dpm_solver(
    ladder: &Ladder,
    i: usize,
    order: usize,
    solver: &DpmSolver,
) -> (Next, NoiseScale) {
    // Karras' lowest level is the schedule's: a run to it ends with a step to where it is.
    if ladder.level(i + 1) == ladder.level(i) {
        return (Next { base: 1.0, ..Next::default() }, NoiseScale::None);
    }
    let (alpha, sigma) = (ladder.alpha(i + 1), ladder.sigma(i + 1));
    // e^-h as a quotient of levels, which is 0 where the last step leads to x_0 and h is infinite.
    let shrink = ladder.level(i + 1) / ladder.level(i);
    let h = ladder.h(i, i + 1);
    let (e, h_or_2h, base) = if solver.sde {
        ((-2.0 * h).exp_m1(), 2.0 * h, sigma / ladder.sigma(i) * shrink)
    } else {
        ((-h).exp_m1(), h, sigma / ladder.sigma(i))
    };
    let mut x0 = [-alpha * e, 0.0, 0.0];
    let heun = |x: f64| alpha * (e / x + 1.0);
    if order == 2 {
        let r_0 = ladder.h(i - 1, i) / h;
        let d_1 = match solver.second_order {
            SecondOrder::Midpoint => -0.5 * alpha * e,
            SecondOrder::Heun => heun(h_or_2h),
        };
        x0[0] += d_1 / r_0;
        x0[1] -= d_1 / r_0;
    } else if order == 3 {
        let (r_0, r_1) = (ladder.h(i - 1, i) / h, ladder.h(i - 2, i - 1) / h);
        let d_1 = heun(h_or_2h);
        let d_2 = if solver.sde {
            alpha * ((-e - h_or_2h) / (h_or_2h * h_or_2h) - 0.5)
        } else {
            -alpha * ((e + h_or_2h) / (h_or_2h * h_or_2h) - 0.5)
        };
        // D_1 = D_10 + r_0/(r_0 + r_1) (D_10 - D_11), D_2 = (D_10 - D_11)/(r_0 + r_1) with D_10 = (x0 -
        // x0')/r_0 and D_11 = (x0' - x0'')/r_1.
        let difference = (d_1 * r_0 + d_2) / (r_0 + r_1);
        let (d_10, d_11) = (d_1 + difference, -difference);
        x0[0] += d_10 / r_0;
        x0[1] += d_11 / r_1 - d_10 / r_0;
        x0[2] -= d_11 / r_1;
    }
    let added = sigma * (-e).sqrt();
    let noise = if solver.sde && added > 0.0 { NoiseScale::Sigma(added) } else { NoiseScale::None };
    (Next { base, output: 0.0, x0 }, noise)
}

impl DpmSolver {
    /// How many x_0 step `i` of `steps` uses: fewer while there are fewer, and at the end, where a short run
    /// is steadier so.
    pub(super) fn order_at(&self, i: usize, steps: usize) -> usize {
        let is_short = self.lower_order_final && steps < 15;
        let lowered = if i + 1 == steps && (self.euler_at_final || is_short || self.final_sigma_zero) {
            1
        } else if i + 2 == steps && is_short {
            2
        } else {
            3
        };
        self.order.min(i + 1).min(lowered)
    }
}
