//! The projections w of (24): i.i.d. Gaussian, or orthogonal in blocks of d.

pub use crate::config::RowNorms;
use crate::config::{FavorConfig, ProjectionKind};
use crate::error::{Error, Result};
use crate::rng::{ChaCha8Rng, fill_normal};
use ndarray::{Array1, Array2, s};

/// How projections are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// Every entry from N(0, 1), independently.
    Iid,
    /// Orthogonal within each block of d rows, blocks independent.
    Orthogonal(RowNorms),
}

impl From<&FavorConfig> for Projection {
    fn from(config: &FavorConfig) -> Self {
        match config.projection {
            ProjectionKind::Iid => Projection::Iid,
            ProjectionKind::Orthogonal => Projection::Orthogonal(config.norms),
        }
    }
}

impl Projection {
    /// m projections of dimension d, drawn from `rng`: [m, d].
    ///
    /// # Errors
    /// [`Error::Invalid`] if m or d is 0.
    pub fn draw(self, m: usize, d: usize, rng: &mut ChaCha8Rng) -> Result<Array2<f64>> {
        if m == 0 || d == 0 {
            return Err(Error::invalid("projections", "m >= 1 and d >= 1", format!("m = {m}, d = {d}"), ""));
        }
        Ok(match self {
            Projection::Iid => gaussian(m, d, rng),
            Projection::Orthogonal(norms) => eq24_orthogonal_projections(m, d, norms, rng),
        })
    }
}

/// (24)'s orthogonal w_1 .. w_m: blocks of d rows of an orthogonal matrix, each drawn afresh from the Haar
/// measure, the last one cut when d does not divide m; then each row is given its length. Returns [m, d].
///
/// Source: Choromanski et al. (2021), section 2.4; m and d at least 1.
fn eq24_orthogonal_projections(m: usize, d: usize, norms: RowNorms, rng: &mut ChaCha8Rng) -> Array2<f64> {
    let mut w = Array2::zeros((m, d));
    for start in (0..m).step_by(d) {
        let rows = d.min(m - start);
        w.slice_mut(s![start..start + rows, ..]).assign(&haar_orthogonal(d, rng).slice(s![..rows, ..]));
    }
    for mut row in w.outer_iter_mut() {
        row *= match norms {
            RowNorms::Chi => gaussian(1, d, rng).iter().map(|z| z * z).sum::<f64>().sqrt(),
            RowNorms::Fixed => (d as f64).sqrt(),
        };
    }
    w
}

/// A d x d orthogonal matrix from the Haar measure: the Q of a Gaussian matrix's QR decomposition by
/// Householder reflections, its columns multiplied by the signs of R's diagonal. Without the signs, Q's first
/// row and column are biased towards one sign, and so are estimates from it (Mezzadri 2007).
fn haar_orthogonal(d: usize, rng: &mut ChaCha8Rng) -> Array2<f64> {
    let mut r = gaussian(d, d, rng);
    let mut q = Array2::eye(d);
    for j in 0..d.saturating_sub(1) {
        let mut v: Array1<f64> = r.slice(s![j.., j]).to_owned();
        // The reflection goes away from the column, so that nothing cancels: R_jj gets the opposite sign of
        // the entry.
        v[0] += v.dot(&v).sqrt().copysign(v[0]);
        v /= v.dot(&v).sqrt();
        let mut rows = r.slice_mut(s![j.., ..]);
        for mut column in rows.columns_mut() {
            let twice = 2.0 * v.dot(&column);
            column.scaled_add(-twice, &v);
        }
        for mut row in q.slice_mut(s![.., j..]).rows_mut() {
            let twice = 2.0 * v.dot(&row);
            row.scaled_add(-twice, &v);
        }
    }
    for (j, mut column) in q.columns_mut().into_iter().enumerate() {
        column *= r[[j, j]].signum();
    }
    q
}

fn gaussian(rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> Array2<f64> {
    let mut entries = vec![0.0; rows * columns];
    fill_normal(rng, &mut entries);
    Array2::from_shape_fn((rows, columns), |(i, j)| entries[i * columns + j])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, rng};

    const KINDS: [Projection; 3] =
        [Projection::Iid, Projection::Orthogonal(RowNorms::Chi), Projection::Orthogonal(RowNorms::Fixed)];

    #[test]
    fn eq24_projections_have_their_shape_for_every_m_and_d() {
        for kind in KINDS {
            for (m, d) in [(1, 1), (5, 1), (1, 5), (5, 5), (12, 5), (3, 8)] {
                let w = kind.draw(m, d, &mut rng(1, Stream::Check, 0, 0)).unwrap();
                assert_eq!(w.dim(), (m, d));
                assert!(w.iter().all(|x| x.is_finite() && *x != 0.0));
            }
            assert!(kind.draw(0, 3, &mut rng(1, Stream::Check, 0, 0)).is_err());
            assert!(kind.draw(3, 0, &mut rng(1, Stream::Check, 0, 0)).is_err());
        }
    }

    /// The Haar measure is symmetric: every entry of the orthogonal matrix has mean 0 and mean square 1/d.
    /// Five standard errors of 4000 draws (the variance of a square is at most 2/d^2).
    #[test]
    fn eq24_directions_lean_to_no_side() {
        let (d, n) = (4, 4000);
        let mut rng = rng(2, Stream::Check, 0, 0);
        let (mut mean, mut square) = (Array2::<f64>::zeros((d, d)), Array2::<f64>::zeros((d, d)));
        for _ in 0..n {
            let q = haar_orthogonal(d, &mut rng);
            mean += &q;
            square += &q.mapv(|x| x * x);
        }
        let n = n as f64;
        for (mean, square) in mean.iter().zip(&square) {
            assert!((mean / n).abs() < 5.0 * (0.25 / n).sqrt(), "{mean}");
            assert!((square / n - 0.25).abs() < 5.0 * (2.0 / 16.0 / n).sqrt(), "{square}");
        }
    }

    /// One dimension: the sign alone is random, and both occur.
    #[test]
    fn eq24_one_dimensional_directions_have_both_signs() {
        let mut rng = rng(3, Stream::Check, 0, 0);
        let w = Projection::Orthogonal(RowNorms::Fixed).draw(100, 1, &mut rng).unwrap();
        assert!(w.iter().any(|x| *x == 1.0) && w.iter().any(|x| *x == -1.0));
    }
}
