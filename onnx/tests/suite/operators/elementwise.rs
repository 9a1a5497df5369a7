//! Operators that work element by element.

use super::{EXACT, ROUNDING, batch, map};
use crate::common::{check, f32s, floats, i64s, model, numbers, random};
use performer_ddpm_onnx::builder::{Binary, Unary};
use performer_ddpm_onnx::{Dim, ElementType};

/// tract's error function is Abramowitz and Stegun's (7.1.28), 1 - 1/p(x)^16: 3e-7 by itself, and in f32 up
/// to half an epsilon of p and of each of four squarings, 16, 8, 4, 2 and 1 times: 1.9e-6.
const ERF: f32 = 2.2e-6;

#[test]
fn unary_operators() {
    let x = f32s(&[3, 5], numbers(1, 15).into_iter().map(|x| 6.0 * x).collect());
    let positive = map(&x, |x| x.abs() + 0.1);
    type Case = (Unary, fn(f64) -> f64, bool);
    let cases: [Case; 12] = [
        (Unary::Abs, f64::abs, false),
        (Unary::Cos, f64::cos, false),
        (Unary::Erf, libm::erf, false),
        (Unary::Exp, f64::exp, false),
        (Unary::Identity, |x| x, false),
        (Unary::Log, f64::ln, true),
        (Unary::Neg, |x| -x, false),
        (Unary::Relu, |x| x.max(0.0), false),
        (Unary::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), false),
        (Unary::Sign, f64::signum, false),
        (Unary::Sin, f64::sin, false),
        (Unary::Sqrt, f64::sqrt, true),
    ];
    for (op, f, on_positive) in cases {
        let graph = model(&format!("{op:?}"), |g| {
            let x = batch(g, "x", &[5])?;
            Ok(vec![g.unary(op, x)?])
        });
        let x = if on_positive { &positive } else { &x };
        let bound = if matches!(op, Unary::Erf) { ERF } else { ROUNDING };
        check(graph, &[("x", x.clone())], vec![map(x, f)], bound);
    }
}

#[test]
fn silu_is_x_times_its_sigmoid() {
    let x = random(2, &[2, 7]);
    let graph = model("silu", |g| {
        let x = batch(g, "x", &[7])?;
        Ok(vec![g.silu(x)?])
    });
    check(graph, &[("x", x.clone())], vec![map(&x, |x| x / (1.0 + (-x).exp()))], ROUNDING);
}

#[test]
fn binary_operators_broadcast() {
    let (a, b) = (random(3, &[2, 3, 4]), random(4, &[3, 1]));
    type Case = (Binary, fn(f64, f64) -> f64);
    let cases: [Case; 6] = [
        (Binary::Add, |a, b| a + b),
        (Binary::Div, |a, b| a / b),
        (Binary::Max, f64::max),
        (Binary::Min, f64::min),
        (Binary::Mul, |a, b| a * b),
        (Binary::Sub, |a, b| a - b),
    ];
    for (op, f) in cases {
        let graph = model(&format!("{op:?}"), |g| {
            let a = batch(g, "a", &[3, 4])?;
            let b = g.input("b", ElementType::F32, [3, 1])?;
            Ok(vec![g.binary(op, a, b)?])
        });
        let want = floats(&a)
            .iter()
            .enumerate()
            .map(|(i, &x)| f(f64::from(x), f64::from(floats(&b)[i / 4 % 3])) as f32)
            .collect();
        check(graph, &[("a", a.clone()), ("b", b.clone())], vec![f32s(&[2, 3, 4], want)], ROUNDING);
    }
}

#[test]
fn comparisons_choose_between_branches() {
    let a = f32s(&[4], vec![-1.0, 0.5, 2.0, 2.0]);
    let b = f32s(&[4], vec![0.0, 0.5, 1.0, 3.0]);
    let graph = model("choice", |g| {
        let (a, b) = (g.input("a", ElementType::F32, [4])?, g.input("b", ElementType::F32, [4])?);
        let (less, equal) = (g.binary(Binary::Less, a, b)?, g.binary(Binary::Equal, a, b)?);
        let (yes, no) = (g.scalar(10.0)?, g.scalar(20.0)?);
        Ok(vec![g.choose(less, a, no)?, g.choose(equal, yes, b)?])
    });
    let want = vec![f32s(&[4], vec![-1.0, 20.0, 20.0, 2.0]), f32s(&[4], vec![0.0, 10.0, 1.0, 3.0])];
    check(graph, &[("a", a), ("b", b)], want, EXACT);
}

#[test]
fn clip_cuts_at_the_bounds_it_has() {
    let x = random(5, &[9]);
    let graph = model("clip", |g| {
        let x = batch(g, "x", &[])?;
        Ok(vec![
            g.clip(x, Some(-0.25), Some(0.5))?,
            g.clip(x, Some(-0.25), None)?,
            g.clip(x, None, Some(0.5))?,
        ])
    });
    let want = vec![map(&x, |x| x.clamp(-0.25, 0.5)), map(&x, |x| x.max(-0.25)), map(&x, |x| x.min(0.5))];
    check(graph, &[("x", x)], want, EXACT);
}

#[test]
fn cast_goes_both_ways() {
    let graph = model("cast", |g| {
        let t = g.input("t", ElementType::I64, [Dim::from("N")])?;
        let float = g.cast(t, ElementType::F32)?;
        let half = g.scalar(0.5)?;
        let half = g.mul(float, half)?;
        Ok(vec![half, g.cast(half, ElementType::I64)?])
    });
    let want = vec![f32s(&[3], vec![0.0, 3.5, 499.5]), i64s(&[3], vec![0, 3, 499])];
    check(graph, &[("t", i64s(&[3], vec![0, 7, 999]))], want, EXACT);
}
