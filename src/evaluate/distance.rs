//! Euclidean distances between rows.

use crate::real::Real;
use ndarray::ArrayView2;
use rayon::prelude::*;

/// The number of partial sums: four vectors of four `f64`.
const PARTIAL_SUMS: usize = 16;
/// Rows that are compared with all others at a time, so that the others are read from memory once for all of
/// them.
const TILE: usize = 16;

/// || a - b ||^2, computed from the differences, so that it is exactly 0 where the rows are equal.
pub(super) fn squared_distance<T: Real>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |a: T, b: T| {
        let difference = a.f64() - b.f64();
        difference * difference
    };
    let (a_parts, a_rest) = a.as_chunks::<PARTIAL_SUMS>();
    let (b_parts, b_rest) = b.as_chunks::<PARTIAL_SUMS>();
    let mut sums = [0.0; PARTIAL_SUMS];
    for (a, b) in a_parts.iter().zip(b_parts) {
        for i in 0..PARTIAL_SUMS {
            sums[i] += square(a[i], b[i]);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| square(a, b)).sum();
    sums.iter().sum::<f64>() + rest
}

/// Calls `work` with each tile of `TILE` rows of `a`: the first row's index and the tile's squared distances
/// to all rows of `b`, a list for each row. The results are in the tiles' order.
pub(super) fn by_tiles<R: Send>(
    a: ArrayView2<f64>,
    b: ArrayView2<f64>,
    work: impl Fn(usize, Vec<Vec<f64>>) -> R + Sync,
) -> Vec<R> {
    let (width, b_rows) = (a.ncols().max(1), b.nrows());
    let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
    let (a, b) = (a.as_slice().unwrap_or_default(), b.as_slice().unwrap_or_default());
    a.par_chunks(TILE * width)
        .enumerate()
        .map(|(tile, rows)| {
            let mut distances = vec![Vec::with_capacity(b_rows); rows.len() / width];
            for b in b.chunks_exact(width) {
                for (a, distances) in rows.chunks_exact(width).zip(&mut distances) {
                    distances.push(squared_distance(a, b));
                }
            }
            work(tile * TILE, distances)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    /// Lengths around the number of partial sums and rows around the tile's, against plain sums. Bound:
    /// rounding.
    #[test]
    fn distances_are_those_of_every_pair() {
        for (rows, width) in
            [(1, 1), (TILE, PARTIAL_SUMS), (TILE + 1, PARTIAL_SUMS + 1), (3 * TILE - 1, 2 * PARTIAL_SUMS + 5)]
        {
            let a = Array2::from_shape_fn((rows, width), |(i, j)| ((i * 7 + j * 3) % 11) as f64);
            let b = Array2::from_shape_fn((rows + 2, width), |(i, j)| ((i * 5 + j) % 13) as f64);
            let tiles = by_tiles(a.view(), b.view(), |first, distances| (first, distances));
            let all: Vec<_> = tiles.iter().flat_map(|(_, distances)| distances).collect();
            assert_eq!(all.len(), rows);
            for (i, distances) in all.iter().enumerate() {
                for (j, distance) in distances.iter().enumerate() {
                    let want: f64 = (&a.row(i) - &b.row(j)).mapv(|x| x * x).sum();
                    assert!((distance - want).abs() <= 1e-12 * want, "{i} {j}: {distance} {want}");
                }
                assert_eq!(distances.len(), rows + 2);
            }
            assert!(tiles.iter().enumerate().all(|(t, (first, _))| *first == t * TILE));
        }
    }
}
