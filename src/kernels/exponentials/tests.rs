use super::*;
use crate::numbers::normal;
use crate::{Element, Isa, Run};

/// Draws that are three times as wide.
fn wide_normal(len: usize, id: u64) -> Vec<f32> {
    normal(len, id).iter().map(|x| 3.0 * x).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn below_maxima<T: Element>(
    isa: Isa,
    x: &mut [T],
    (width, stride): (usize, usize),
    columns: Option<(&[T], &[T])>,
    maxima: &mut [T],
    sums: &mut [T],
) {
    let columns = columns.map(|(shifts, weights)| Columns { shifts, weights });
    Exp2BelowMaxima::run(isa, PowersBelowMaxima { x, width, stride, columns, maxima, sums });
}

/// Bound: an exponent of at most three terms, none above 20, is rounded twice, and its power of two by 2 ULP,
/// so that it errs by at most (2 * 40 + 2) eps of itself; in the gaps nothing changes.
#[test]
fn every_isa_agrees_with_f64_on_awkward_sizes() {
    for (rows, width, stride) in [(1, 1, 1), (3, 7, 9), (2, 16, 16), (5, 33, 40), (4, 70, 70), (1, 0, 3)] {
        let len = (rows - 1) * stride + width.max(1);
        let (x, by_row, by_column) = (wide_normal(len, 1), wide_normal(rows, 2), wide_normal(width, 3));
        let (wide_rows, wide_columns) = (wide(&by_row), wide(&by_column));
        let forms = [
            (Exponent::Rows(&by_row[..]), Exponent::Rows(&wide_rows[..])),
            (
                Exponent::RowsThenColumns(&by_row, &by_column),
                Exponent::RowsThenColumns(&wide_rows, &wide_columns),
            ),
            (
                Exponent::ColumnsThenRows(&by_column, &by_row),
                Exponent::ColumnsThenRows(&wide_columns, &wide_rows),
            ),
        ];
        for (narrow, exact) in forms {
            let mut want = wide(&x);
            Exp2::run(Isa::Reference, Powers { x: &mut want, width, stride, exponent: exact });
            for isa in Isa::available() {
                let mut got = x.clone();
                Exp2::run(isa, Powers { x: &mut got, width, stride, exponent: narrow });
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let bound = if i % stride < width { 82.0 * f64::from(f32::EPSILON) * want } else { 0.0 };
                    let error = (f64::from(*got) - want).abs();
                    assert!(error <= bound, "{isa} {narrow:?} {rows}x{width} [{i}]: {got} for {want}");
                }
            }
        }
    }
}

/// Bounds: maxima exact but for one rounding; exponentials as above; sums by as many eps more as they have
/// terms, of the sum of absolute terms.
#[test]
fn maxima_and_sums_agree_with_f64_on_every_isa() {
    for (rows, width, stride) in [(1, 1, 1), (3, 7, 9), (2, 16, 16), (5, 33, 40), (4, 70, 70)] {
        let len = (rows - 1) * stride + width;
        let (x, by_column, weights) = (wide_normal(len, 4), wide_normal(width, 5), wide_normal(width, 6));
        let (wide_columns, wide_weights) = (wide(&by_column), wide(&weights));
        let absolute: Vec<f64> = wide_weights.iter().map(|w| w.abs()).collect();
        for with_columns in [false, true] {
            let mut want = wide(&x);
            let (mut maxima, mut sums) = (vec![0.0; rows], vec![0.0; rows]);
            let columns = with_columns.then_some((&wide_columns[..], &wide_weights[..]));
            below_maxima(Isa::Reference, &mut want, (width, stride), columns, &mut maxima, &mut sums);
            let mut scales = vec![0.0; rows];
            let columns = with_columns.then_some((&wide_columns[..], &absolute[..]));
            below_maxima(
                Isa::Reference,
                &mut wide(&x),
                (width, stride),
                columns,
                &mut vec![0.0; rows],
                &mut scales,
            );
            for isa in Isa::available() {
                let mut got = x.clone();
                let (mut max, mut sum) = (vec![f32::NAN; rows], vec![f32::NAN; rows]);
                let columns = with_columns.then_some((&by_column[..], &weights[..]));
                below_maxima(isa, &mut got, (width, stride), columns, &mut max, &mut sum);
                let eps = f64::from(f32::EPSILON);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let bound = if i % stride < width { 82.0 * eps * want } else { 0.0 };
                    let error = (f64::from(*got) - want).abs();
                    assert!(error <= bound, "{isa} {rows}x{width} [{i}]: {got} for {want}");
                }
                for t in 0..rows {
                    assert!((f64::from(max[t]) - maxima[t]).abs() <= eps * 40.0, "{isa} {width}");
                    let bound = (82.0 + width as f64) * eps * scales[t];
                    assert!((f64::from(sum[t]) - sums[t]).abs() <= bound, "{isa} {width}");
                }
            }
        }
    }
}

/// Bound: 2 ULP where the result is normal, against f64; below, 2^-126, where it becomes 0.
#[test]
fn powers_of_two_are_within_two_ulp_everywhere() {
    let xs: Vec<f32> = (0..300_007).map(|i| -160.0 + 287.4 * i as f32 / 300_007.0).collect();
    for isa in Isa::available() {
        let mut y = xs.clone();
        Exp2::run(
            isa,
            Powers { x: &mut y, width: xs.len(), stride: xs.len(), exponent: Exponent::Rows(&[0.0]) },
        );
        for (x, y) in xs.iter().zip(&y) {
            let want = f64::from(*x).exp2();
            let ulp = 2f64.powi(want.log2().floor() as i32 - 23);
            let bound = (2.0 * ulp).max(if *x < -126.0 { f64::from(f32::MIN_POSITIVE) } else { 0.0 });
            assert!((f64::from(*y) - want).abs() <= bound, "{isa} 2^{x} = {y}");
        }
    }
}

#[test]
fn not_a_number_stays_in_its_place_and_infinity_is_nothing() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for isa in Isa::available() {
        for width in [3, 19] {
            let mut x = vec![2.0; 3 * width];
            (x[width - 1], x[width]) = (nan, -inf);
            let (mut maxima, mut sums) = ([0.0; 3], [0.0; 3]);
            below_maxima(isa, &mut x, (width, width), None, &mut maxima, &mut sums);
            let w = width as f32;
            assert_eq!(maxima, [2.0; 3], "{isa}");
            assert!(sums[0].is_nan() && sums[1..] == [w - 1.0, w], "{isa} {sums:?}");
            for (i, x) in x.iter().enumerate() {
                assert_eq!(x.is_nan(), i == width - 1, "{isa} {i}");
                assert!(x.is_nan() || *x == if i == width { 0.0 } else { 1.0 }, "{isa} {i}");
            }
            // Far below every column, where the exponential of nothing would be infinite.
            let mut x = vec![-300.0; width];
            let (columns, weights) = (vec![0.0; width], vec![1.0; width]);
            let mut sum = [0.0];
            let shifts = Some((&columns[..], &weights[..]));
            below_maxima(isa, &mut x, (width, width), shifts, &mut maxima[..1], &mut sum);
            assert_eq!((maxima[0], sum[0]), (-300.0, w), "{isa}");
            let mut x = vec![nan, -inf, inf, 127.0];
            Exp2::run(isa, Powers { x: &mut x, width: 4, stride: 4, exponent: Exponent::Rows(&[0.0]) });
            assert!(x[0].is_nan() && x[1..3] == [0.0, inf] && x[3].is_finite(), "{isa} {x:?}");
        }
    }
}

/// Too few columns and none, in every form and in both passes that read them.
#[cfg(panic = "unwind")]
#[test]
fn shifts_of_another_width_are_refused() {
    let (isa, four) = (Isa::detect(), [0.0; 4]);
    for columns in [&four[..3], &four[..0]] {
        for form in [Exponent::RowsThenColumns(&[0.0], columns), Exponent::ColumnsThenRows(columns, &[0.0])] {
            assert_refused(|| {
                Exp2::run(isa, Powers { x: &mut [0.0; 4], width: 4, stride: 4, exponent: form })
            });
        }
        for pair in [(columns, &four[..]), (&four[..], columns)] {
            assert_refused(|| {
                below_maxima(isa, &mut [0.0; 4], (4, 4), Some(pair), &mut [0.0], &mut [0.0]);
            });
        }
    }
}

#[cfg(panic = "unwind")]
#[track_caller]
fn assert_refused(f: impl FnOnce() + std::panic::UnwindSafe) {
    let refused = std::panic::catch_unwind(f).expect_err("shifts of another width");
    let message = refused.downcast_ref::<String>().expect("a message");
    assert!(message.contains("of the columns: expected 4 elements"), "{message}");
}
