//! Where exponentials leave `f32`, and what is no number.

use super::*;

/// Queries so long that exp(w . q^) leaves f32: the largest |u| is `exponent`. Positive and hyperbolic
/// weights stay within the `f32_bound` where it says anything, that is, where it is below the 2 that two
/// means of the values differ by at most. At 1e5 it does not, as no digit of some exponents is right; the
/// output still is a mean of the values, up to the rounding of sums of L and 2 M terms, below 1e-4. No
/// denominator is below 1, and all derivatives are finite.
#[test]
fn long_queries_and_keys_do_not_overflow() {
    for map in [Positive, Hyperbolic] {
        for exponent in [88.0, 95.0, 110.0, 1000.0, 1e5] {
            for long_keys in [false, true] {
                let mut narrow = Case::<f32>::normal([70, 2, 8], (AttentionKind::Favor(map), 24), 0.7);
                let d4 = 8f64.powf(0.25);
                let us = narrow.q.chunks_exact(8).flat_map(|q| narrow.w.chunks_exact(8).map(|w| dot(w, q)));
                let factor = exponent * d4 / us.fold(0.0, |max, u| u.f64().abs().max(max));
                narrow.q = scaled(&narrow.q, factor);
                if long_keys {
                    narrow.k = scaled(&narrow.k, factor);
                }
                let case = narrow.wide();
                let want = case.results(Isa::Reference, Team::Solo);
                let (bound, farthest) = (f32_bound(&case), largest(&case.v));
                assert_eq!(bound < 2.0, exponent < 1e5, "{map:?} exponent {exponent}: {bound}");
                for isa in Isa::available() {
                    let what = format!("{isa} {map:?} exponent {exponent}, long keys: {long_keys}");
                    let got = narrow.results(isa, Team::Solo);
                    assert!(got.iter().flatten().all(|x| x.is_finite()), "{what}");
                    assert!(largest(&got[0]) <= (1.0 + 1e-4) * farthest, "{what}");
                    if bound < 2.0 {
                        assert_close(&got[0], &want[0], bound * farthest, &what);
                    }
                    let (_, saved) = narrow.forward(isa, Team::Solo);
                    // The 70 tokens are one share: for each head s and D of them all stand at the end.
                    for normalisers in saved[saved.len() - 2 * 2 * 70..].chunks_exact(2 * 70) {
                        assert!(normalisers[70..].iter().all(|d| *d >= 1.0), "{what}");
                    }
                }
                assert!(want.iter().flatten().all(|x| x.is_finite()));
            }
        }
    }
}

/// Scores beyond 88, the largest exponent of f32, and far beyond; the bound is `f32_bound`.
#[test]
fn large_scores_do_not_overflow() {
    for factor in [100.0, 1e4] {
        let mut narrow = Case::<f32>::normal([70, 2, 8], (AttentionKind::Softmax, 0), 1.0);
        narrow.q = scaled(&narrow.q, factor);
        let case = narrow.wide();
        let want = case.results(Isa::Reference, Team::Solo);
        let score = |l: usize| dot(&case.q[..8], &case.k[l * 16..][..8]) / 8f64.sqrt();
        assert!((0..70).any(|l| score(l) > 88.0));
        for isa in Isa::available() {
            let got = narrow.results(isa, Team::Solo);
            assert!(got.iter().flatten().all(|x| x.is_finite()), "{isa} {factor}");
            let bound = f32_bound(&case).min(1.0) * largest(&case.v);
            assert_close(&got[0], &want[0], bound, &format!("{isa} {factor}"));
        }
    }
}

#[test]
fn not_a_number_spreads_to_its_head_and_no_further() {
    for kind in kinds(6) {
        let case = Case::<f32>::normal([67, 2, 5], kind, 0.7);
        for isa in Isa::available() {
            let nan_at = |x: &[f32]| -> Vec<usize> { (0..x.len()).filter(|i| x[*i].is_nan()).collect() };
            let head: Vec<usize> = (0..670).filter(|i| i % 10 >= 5).collect();
            let mut of_query = case.clone();
            of_query.q[30 * 10 + 7] = f32::NAN;
            let [out, d_q, d_k, _] = of_query.results(isa, Team::Solo);
            let token: Vec<usize> = (305..310).collect();
            assert_eq!(nan_at(&out), token, "{isa} {kind:?}");
            assert_eq!(nan_at(&d_q), token, "{isa} {kind:?}");
            assert_eq!(nan_at(&d_k), head, "{isa} {kind:?}");
            let mut of_key = case.clone();
            of_key.k[30 * 10 + 7] = f32::NAN;
            for x in of_key.results(isa, Team::Solo) {
                assert_eq!(nan_at(&x), head, "{isa} {kind:?}");
            }
            let mut of_value = case.clone();
            of_value.v[30 * 10 + 7] = f32::NAN;
            let column: Vec<usize> = (0..67).map(|l| l * 10 + 7).collect();
            assert_eq!(nan_at(&of_value.forward(isa, Team::Solo).0), column, "{isa} {kind:?}");
        }
    }
}
