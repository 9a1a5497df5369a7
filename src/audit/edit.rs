//! Checks of the annex on given images, (U1)-(U4), and of DDIM run upwards, (S13).

use super::Check;
use super::measure::{absolute, draws, normals, worst};
use super::toy::{ho, walk};
use crate::config::Prediction;
use crate::equations::edit::{Move, Resampling, u01_slerp, u02_put_back, u03_jump, u04_repaint};
use crate::equations::solver::s13_ddim_up;

/// The bound of products of up to 1000 factors, 3e-12, times the 1/sqrt(abar_T) = 157 that divides.
const WALK: f64 = 1e-9;

/// (U1) by what an arc of a circle is: points of length 1 whose angle from its beginning grows evenly. 1e-12:
/// roundings of sums of 100 products and of an arc cosine away from its ends.
pub fn u01() -> Vec<Check> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut rng = draws(401);
    let [a, b] = [(); 2].map(|()| {
        let x = normals(&mut rng, 100);
        let length = dot(&x, &x).sqrt();
        x.into_iter().map(|x| x / length).collect::<Vec<f64>>()
    });
    let shares = [0.2, 0.5, 0.9];
    let points = shares.map(|share| {
        let mut point = vec![f64::NAN; 100];
        u01_slerp(&a, &b, share, &mut point);
        point
    });
    let theta = dot(&a, &b).acos();
    let lengths = points.iter().map(|point| absolute(dot(point, point).sqrt(), 1.0));
    let angles =
        points.iter().zip(shares).map(|(point, share)| absolute(dot(&a, point).acos(), share * theta));
    vec![
        Check::new("the length of a point", worst(lengths), 1e-12),
        Check::new("its angle from the beginning", worst(angles), 1e-12),
    ]
}

/// (U2) with the signal and the noise of (2) iterated.
pub fn u02() -> Vec<Check> {
    let (schedule, walk) = (ho(), walk(&ho()));
    let (x0, eps, painted) = ([0.3, -0.8], [1.1, 0.4], 0.25);
    let mut kept = Vec::new();
    let known = worst(schedule.levels().iter().zip(&walk[1..]).map(|(level, (signal, variance))| {
        let mut x = [painted; 2];
        u02_put_back(&x0, &[true, false], 1, &eps, level.alpha_bar, &mut x);
        kept.push(absolute(x[1], painted));
        absolute(x[0], signal * x0[0] + variance.sqrt() * eps[0])
    }));
    vec![
        Check::new("a known pixel is x_0 with the noise of t, t = 1..1000", known, WALK),
        Check::new("what is painted stays", worst(kept), 0.0),
    ]
}

/// (U3): x_s and a jump to t have the signal and the noise of x_t, by (2) iterated.
pub fn u03() -> Vec<Check> {
    let (schedule, walk) = (ho(), walk(&ho()));
    let levels = schedule.levels();
    let jumps: Vec<[f64; 2]> = (0..levels.len() - 10)
        .map(|s| {
            let jump = |x: f64, eps: f64| {
                let mut x_t = [f64::NAN];
                u03_jump(&[x], &[eps], [levels[s].alpha_bar, levels[s + 10].alpha_bar], &mut x_t);
                x_t[0]
            };
            let ((signal, variance), want) = (walk[s + 1], walk[s + 11]);
            let (kept, noise) = (jump(1.0, 0.0), jump(0.0, 1.0));
            let variance = kept * kept * variance + noise * noise;
            [absolute(kept * signal, want.0), absolute(variance, want.1)]
        })
        .collect();
    vec![
        Check::new("the signal after a jump of ten steps", worst(jumps.iter().map(|jump| jump[0])), WALK),
        Check::new("the noise after it", worst(jumps.iter().map(|jump| jump[1])), WALK),
    ]
}

/// (U4): the moves taken one by one, for every number of steps up to 60: how many end elsewhere than at x_0,
/// go beyond x_T, or call the network another number of times than is foretold.
pub fn u04() -> Vec<Check> {
    let (mut astray, mut beyond, mut otherwise) = (0, 0, 0);
    for (jump, times) in [(1, 1), (1, 3), (5, 5), (10, 2), (70, 4)] {
        let resampling = Resampling { jump, times };
        for steps in 1..=60 {
            let (mut left, mut calls) = (steps, 0);
            for step in u04_repaint(steps, resampling) {
                match step {
                    Move::Down => (left, calls) = (left - 1, calls + 1),
                    Move::Up(up) => left += up,
                }
                beyond += usize::from(left > steps);
            }
            astray += usize::from(left != 0);
            otherwise += usize::from(calls != resampling.calls(steps));
        }
    }
    vec![
        Check::new("walks that do not end at x_0", astray as f64, 0.0),
        Check::new("jumps beyond x_T", beyond as f64, 0.0),
        Check::new("walks with another number of calls than foretold", otherwise as f64, 0.0),
    ]
}

/// (S13): with the eps that x_0 was noised with, a step up leads along the signal and the noise of (2)
/// iterated.
pub fn s13() -> Vec<Check> {
    let (schedule, walk) = (ho(), walk(&ho()));
    let (x0, eps) = (0.7, -1.3);
    let x = |(signal, variance): (f64, f64)| signal * x0 + variance.sqrt() * eps;
    let levels = schedule.levels();
    let errors = (1..levels.len()).map(|i| {
        let step =
            s13_ddim_up(levels[i].t, [levels[i - 1].alpha_bar, levels[i].alpha_bar], Prediction::Epsilon);
        absolute(step.next.base * x(walk[i]) + step.next.output * eps, x(walk[i + 1]))
    });
    vec![Check::new("a step up meets x_t, t = 2..1000", worst(errors), WALK)]
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;

    #[test]
    fn u01_u02_u03_u04_s13_hold() {
        [super::u01(), super::u02(), super::u03(), super::u04(), super::s13()]
            .iter()
            .for_each(|checks| assert_all(checks));
    }
}
