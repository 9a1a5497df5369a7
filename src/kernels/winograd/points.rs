//! The points of evaluation and the matrices that follow from them.

const P64: f64 = 0.625;
const Q64: f64 = 1.5;

/// p.
pub(super) const P: f32 = P64 as f32;
/// q.
pub(super) const Q: f32 = Q64 as f32;
/// 1 / N of the point 0.
pub(super) const SHARE_0: f32 = (1.0 / (P64 * P64 * Q64 * Q64)) as f32;
/// 1 / N of the points p and -p.
pub(super) const SHARE_P: f32 = (1.0 / (2.0 * P64 * P64 * (P64 * P64 - Q64 * Q64))) as f32;
/// 1 / N of the points q and -q.
pub(super) const SHARE_Q: f32 = (1.0 / (2.0 * Q64 * Q64 * (Q64 * Q64 - P64 * P64))) as f32;

/// The matrices as the text of [`super`] defines them.
pub(super) struct Matrices {
    pub b_t: [[f64; 6]; 6],
    pub g: [[f64; 3]; 6],
    pub a: [[f64; 4]; 6],
}

/// The matrices of these points.
pub(super) fn matrices() -> Matrices {
    const FINITE: [f64; 5] = [0.0, P64, -P64, Q64, -Q64];
    let (mut b_t, mut g, mut a) = ([[0.0; 6]; 6], [[0.0; 3]; 6], [[0.0; 4]; 6]);
    for (i, point) in FINITE.iter().enumerate() {
        let others = FINITE.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, other)| *other);
        let n: f64 = others.clone().map(|other| point - other).product();
        b_t[i] = with_roots(others);
        g[i] = std::array::from_fn(|k| point.powi(k as i32) / n);
        a[i] = std::array::from_fn(|k| point.powi(k as i32));
    }
    b_t[5] = with_roots(FINITE.into_iter());
    g[5][2] = 1.0;
    a[5][3] = 1.0;
    Matrices { b_t, g, a }
}

/// The coefficients of the product of (t - root), lowest first.
fn with_roots(roots: impl Iterator<Item = f64>) -> [f64; 6] {
    let mut polynomial = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    for root in roots {
        let before = polynomial;
        for k in 0..6 {
            polynomial[k] = if k > 0 { before[k - 1] } else { 0.0 } - root * before[k];
        }
    }
    polynomial
}
