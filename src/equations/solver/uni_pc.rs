//! UniPC: a predictor in lambda, and a corrector that reuses the next call of the network.

use super::ladder::Ladder;
use super::step::Next;
use super::{Bh, UniPc};

/// What the predictor and the corrector from level `from` to the next have in common: with hh = -h, their
/// B(h), the places r_k of the x_0 before (in units of h, seen from `from`) and the right-hand side b.
struct Expansion {
    /// sigma_next / sigma.
    scale: f64,
    /// alpha_next (e^hh - 1).
    first: f64,
    /// alpha_next B(h).
    weight: f64,
    /// r_1 .. r_{order-1}.
    r: Vec<f64>,
    /// b_1 .. b_order.
    b: Vec<f64>,
}

impl Expansion {
    fn new(ladder: &Ladder, from: usize, order: usize, kind: Bh) -> Expansion {
        let (alpha, h) = (ladder.alpha(from + 1), ladder.h(from, from + 1));
        let hh = -h;
        let first = hh.exp_m1();
        let b_h = match kind {
            Bh::Bh1 => hh,
            Bh::Bh2 => first,
        };
        let mut b = Vec::with_capacity(order);
        let (mut phi, mut factorial) = (first / hh - 1.0, 1.0);
        for k in 1..=order {
            b.push(phi * factorial / b_h);
            factorial *= (k + 1) as f64;
            phi = phi / hh - 1.0 / factorial;
        }
        Expansion {
            scale: ladder.sigma(from + 1) / ladder.sigma(from),
            first: alpha * first,
            weight: alpha * b_h,
            r: (1..order).map(|k| ladder.h(from, from - k) / h).collect(),
            b,
        }
    }

    /// The solution a of sum_k r_k^(j-1) a_k = b_j, j = 1 .. n, for the given places.
    fn solve(&self, places: &[f64]) -> Vec<f64> {
        let n = places.len();
        let mut rows: Vec<Vec<f64>> =
            (0..n).map(|j| places.iter().map(|r| r.powi(j as i32)).chain([self.b[j]]).collect()).collect();
        for j in 0..n {
            let best = (j..n).max_by(|a, b| rows[*a][j].abs().total_cmp(&rows[*b][j].abs())).unwrap_or(j);
            rows.swap(j, best);
            for i in (0..n).filter(|i| *i != j) {
                let factor = rows[i][j] / rows[j][j];
                for k in j..=n {
                    rows[i][k] -= factor * rows[j][k];
                }
            }
        }
        (0..n).map(|j| rows[j][n] / rows[j][j]).collect()
    }
}

/// (S10) UniP-p, the predictor, from level `i` to the next with p = `order` x_0: b of (S4).
///
/// x_next = sigma_next/sigma x - alpha_next (e^-h - 1) x_0 - alpha_next B(h) sum_k a_k (x_0^(k) - x_0)/r_k
/// with x_0^(k) the x_0 of k steps before; at p = 2 their a_1 = 1/2.
///
/// Source: Zhao et al. (2023), section 3.3 and equation 3; the x_0 form: appendix A.
pub(super) fn s10_uni_p(ladder: &Ladder, i: usize, order: usize, unipc: &UniPc) -> Next {
    // Where the step leads to x_0, h is infinite, and only the first order has a limit: x_0 itself.
    if ladder.level(i + 1) == 0.0 {
        return Next { base: 0.0, output: 0.0, x0: [1.0, 0.0, 0.0] };
    }
    if ladder.level(i + 1) == ladder.level(i) {
        return Next { base: 1.0, ..Next::default() };
    }
    let expansion = Expansion::new(ladder, i, order, unipc.b);
    let a = match order {
        2 => vec![0.5],
        _ => expansion.solve(&expansion.r),
    };
    let mut x0 = [-expansion.first, 0.0, 0.0];
    for (k, (a, r)) in a.iter().zip(&expansion.r).enumerate() {
        let part = expansion.weight * a / r;
        x0[0] += part;
        x0[k + 1] -= part;
    }
    Next { base: expansion.scale, output: 0.0, x0 }
}

/// (S11) UniC-p, the corrector, which redoes the step from level `i - 1` to level `i` once the x_0 there is
/// known: c of (S3), p = `order` of the step that is redone.
///
/// base = sigma/sigma' base' - alpha (e^-h - 1) x_0' - alpha B(h) ( sum_k a_k (x_0^(k) - x_0')/r_k + a_p (x_0
/// - x_0') ); at p = 1 their a_1 = 1/2.
///
/// Source: Zhao et al. (2023), section 3.2 and equation 5; the x_0 form: appendix A.
pub(super) fn s11_uni_c(ladder: &Ladder, i: usize, order: usize, unipc: &UniPc) -> [f64; 5] {
    let expansion = Expansion::new(ladder, i - 1, order, unipc.b);
    let a = match order {
        1 => vec![0.5],
        _ => expansion.solve(&[expansion.r.as_slice(), &[1.0]].concat()),
    };
    let mut c = [expansion.scale, 0.0, -expansion.first, 0.0, 0.0];
    let newest = expansion.weight * a[order - 1];
    c[1] -= newest;
    c[2] += newest;
    for (k, (a, r)) in a.iter().zip(&expansion.r).enumerate() {
        let part = expansion.weight * a / r;
        c[2] += part;
        c[k + 3] -= part;
    }
    c
}

impl UniPc {
    /// p of step `i` of `steps`.
    pub(super) fn order_at(&self, i: usize, steps: usize) -> usize {
        let left = if self.lower_order_final { steps - i } else { self.order };
        self.order.min(i + 1).min(left)
    }

    /// Whether step `i` begins by correcting the one before it.
    pub(super) fn corrects(&self, i: usize) -> bool {
        i > 0 && !self.corrector_off.contains(i - 1)
    }
}
