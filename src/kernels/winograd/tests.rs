use super::*;
use crate::numbers::normal;
use crate::team::with_crew;
use crate::{Isa, Run, Team};

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn absolute(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(x.abs())).collect()
}

/// The reference with the given matrices, on `y` or `d_weight`.
fn forward_of(
    matrices: &Matrices,
    layer: &Winograd,
    (x, weight, bias): (&[f64], &[f64], Option<&[f64]>),
    accumulate: bool,
    y: &mut [f64],
) {
    forward_with(matrices, Convolution { layer, x, weight, bias, y, accumulate, work: &mut [] });
}

fn weight_gradient_of(matrices: &Matrices, layer: &Winograd, x: &[f64], d_y: &[f64], d_weight: &mut [f64]) {
    weight_gradient_with(matrices, ConvolutionGradient { layer, x, d_y, d_weight, work: &mut [] });
}

/// A layer, the number of samples, and numbers for all its operands.
struct Case {
    layer: Winograd,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    d_y: Vec<f32>,
}

fn case(h: usize, w: usize, c_in: usize, c_out: usize, samples: usize) -> Case {
    let layer = Winograd::new(h, w, c_in, c_out).expect("a layer");
    Case {
        layer,
        x: normal(samples * h * w * c_in, 1),
        weight: normal(9 * c_in * c_out, 2),
        bias: normal(c_out, 3),
        d_y: normal(samples * h * w * c_out, 4),
    }
}

/// Whole and partial tiles, vectors and blocks; several blocks of rows, of channels in and out.
fn cases() -> Vec<Case> {
    vec![
        case(4, 4, 16, 32, 1),
        case(1, 1, 3, 2, 2),
        case(2, 7, 9, 1, 1),
        case(7, 7, 20, 40, 3),
        case(5, 9, 64, 33, 2),
        case(8, 8, 130, 70, 2),
        case(28, 28, 8, 8, 4),
        case(18, 35, 17, 32, 1),
    ]
}

fn forward(isa: Isa, team: Team, case: &Case, bias: Option<&[f32]>, accumulate: bool) -> Vec<f32> {
    let mut y = case.d_y.clone();
    let mut work = vec![f32::NAN; case.layer.work_len()];
    let (layer, x, weight) = (&case.layer, &case.x, &case.weight);
    let operands = Convolution { layer, x, weight, bias, y: &mut y, accumulate, work: &mut work };
    WinogradForward::run((isa, team), operands);
    y
}

fn weight_gradient(isa: Isa, team: Team, case: &Case) -> Vec<f32> {
    let mut d_weight = case.weight.clone();
    let mut work = vec![f32::NAN; case.layer.work_len()];
    let (layer, x, d_y) = (&case.layer, &case.x, &case.d_y);
    let operands = ConvolutionGradient { layer, x, d_y, d_weight: &mut d_weight, work: &mut work };
    WinogradWeightGradient::run((isa, team), operands);
    d_weight
}

/// The convolution and its gradient in the weight as sums over pixels and taps; tolerance 1e-11 of the
/// largest value: f64 rounding through matrices whose entries reach 3.
#[test]
fn the_reference_is_the_convolution() {
    for case in cases().iter().filter(|case| case.x.len() < 5000) {
        let Winograd { h, w, c_in, c_out } = case.layer;
        let (x, weight, d_y) = (wide(&case.x), wide(&case.weight), wide(&case.d_y));
        let (mut want_y, mut want_d) = (vec![0.0; d_y.len()], vec![0.0; weight.len()]);
        for (s, i, j, u, v) in (0..x.len() / (h * w * c_in))
            .flat_map(|s| (0..h * w * 9).map(move |k| (s, k / 9 / w, k / 9 % w, k % 9 / 3, k % 3)))
        {
            if i + u == 0 || j + v == 0 || i + u > h || j + v > w {
                continue;
            }
            for (c, o) in (0..c_in).flat_map(|c| (0..c_out).map(move |o| (c, o))) {
                let x = x[((s * h + i + u - 1) * w + j + v - 1) * c_in + c];
                let (y, tap) = (((s * h + i) * w + j) * c_out + o, ((u * 3 + v) * c_in + c) * c_out + o);
                want_y[y] += x * weight[tap];
                want_d[tap] += x * d_y[y];
            }
        }
        let (mut y, mut d) = (vec![0.0; d_y.len()], vec![0.0; weight.len()]);
        forward_of(&matrices(), &case.layer, (&x, &weight, None), false, &mut y);
        weight_gradient_of(&matrices(), &case.layer, &x, &d_y, &mut d);
        for (got, want) in [(y, want_y), (d, want_d)] {
            let largest = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() <= 1e-11 * largest, "{:?}: {got} for {want}", case.layer);
            }
        }
    }
}

/// The matrices without their signs: what an operand's rounding errors are multiplied by.
fn magnitudes() -> Matrices {
    let Matrices { b_t, g, a } = matrices();
    Matrices {
        b_t: b_t.map(|row| row.map(f64::abs)),
        g: g.map(|row| row.map(f64::abs)),
        a: a.map(|row| row.map(f64::abs)),
    }
}

/// Bound: `terms` machine epsilons of the same computation on absolute values, matrices included (Higham
/// 2002, sections 3.1 and 3.5), where `terms` counts the summands of a product, 30 roundings in the
/// transforms and the two last sums.
fn compare(what: &str, got: &[f32], want: &[f64], scale: &[f64], terms: usize) {
    for (i, ((got, want), scale)) in got.iter().zip(want).zip(scale).enumerate() {
        let bound = (terms + 32) as f64 * f64::from(f32::EPSILON) * scale;
        assert!((f64::from(*got) - want).abs() <= bound, "{what} [{i}]: {got} for {want}, bound {bound}");
    }
}

#[test]
fn every_isa_agrees_with_f64_on_awkward_sizes() {
    for case in cases() {
        let (layer, samples) = (case.layer, case.x.len() / (case.layer.h * case.layer.w * case.layer.c_in));
        for (bias, add) in [(None, false), (Some(&case.bias[..]), true)] {
            let (mut want, mut scale) = (wide(&case.d_y), absolute(&case.d_y));
            let (exact, sizes) = (bias.map(wide), bias.map(absolute));
            let (x, weight) = (wide(&case.x), wide(&case.weight));
            forward_of(&matrices(), &layer, (&x, &weight, exact.as_deref()), add, &mut want);
            let (x, weight) = (absolute(&case.x), absolute(&case.weight));
            forward_of(&magnitudes(), &layer, (&x, &weight, sizes.as_deref()), add, &mut scale);
            for isa in Isa::available() {
                let got = forward(isa, Team::Solo, &case, bias, add);
                compare(&format!("{isa} {layer:?}"), &got, &want, &scale, layer.c_in);
            }
        }
        let (mut want, mut scale) = (wide(&case.weight), absolute(&case.weight));
        weight_gradient_of(&matrices(), &layer, &wide(&case.x), &wide(&case.d_y), &mut want);
        weight_gradient_of(&magnitudes(), &layer, &absolute(&case.x), &absolute(&case.d_y), &mut scale);
        for isa in Isa::available() {
            let got = weight_gradient(isa, Team::Solo, &case);
            let tiles = samples * layer.h.div_ceil(4) * layer.w.div_ceil(4);
            compare(&format!("{isa} {layer:?}: weight"), &got, &want, &scale, tiles);
        }
    }
}

#[test]
fn a_team_gives_the_same_bits_and_a_sample_does_not_depend_on_the_others() {
    for case in cases() {
        for isa in Isa::available() {
            let all = forward(isa, Team::Solo, &case, Some(&case.bias), false);
            let gradient = weight_gradient(isa, Team::Solo, &case);
            with_crew(2, |team| {
                let together = forward(isa, team, &case, Some(&case.bias), false);
                assert_eq!(all, together, "{isa} {:?}", case.layer);
                assert_eq!(gradient, weight_gradient(isa, team, &case), "{isa} {:?}", case.layer);
            });
            let (x, y) = (
                case.layer.h * case.layer.w * case.layer.c_in,
                case.layer.h * case.layer.w * case.layer.c_out,
            );
            let last = Case {
                layer: case.layer,
                x: case.x[case.x.len() - x..].to_vec(),
                weight: case.weight.clone(),
                bias: case.bias.clone(),
                d_y: case.d_y[..y].to_vec(),
            };
            let one = forward(isa, Team::Solo, &last, Some(&case.bias), false);
            assert_eq!(one, all[all.len() - y..], "{isa} {:?}", case.layer);
        }
    }
}

/// What is not a number or infinite reaches every output that its pixel reaches, and none whose tile it does
/// not touch.
#[test]
fn not_a_number_and_infinity_spread_over_their_tiles_and_no_further() {
    for isa in Isa::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut case = case(12, 12, 9, 5, 2);
            case.x[(12 * 12 + 5 * 12 + 6) * 9 + 8] = bad;
            let y = forward(isa, Team::Solo, &case, None, false);
            for (pixel, y) in y.chunks_exact(5).enumerate() {
                let (s, i, j) = (pixel / 144, pixel / 12 % 12, pixel % 12);
                let reached = s == 1 && i.abs_diff(5) <= 1 && j.abs_diff(6) <= 1;
                let tile = s == 1 && i / 4 == 1 && j / 4 == 1;
                for y in y {
                    assert!(!reached || !y.is_finite(), "{isa} {bad} ({s}, {i}, {j}): {y}");
                    assert!(tile || y.is_finite(), "{isa} {bad} ({s}, {i}, {j}): {y}");
                }
            }
            let d = weight_gradient(isa, Team::Solo, &case);
            for (i, d) in d.iter().enumerate() {
                assert_eq!(d.is_finite(), i / 5 % 9 != 8, "{isa} {bad} [{i}]: {d}");
            }
        }
    }
}
