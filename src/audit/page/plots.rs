//! Plots of the equations alone.

use crate::audit::measure::{draws, normals, pdf};
use crate::audit::toy::{Case, cases, ho, schedule};
use crate::config::{BetaSchedule, DiffusionConfig, Prediction, RowNorms};
use crate::equations::Schedule;
use crate::equations::features::{FeatureMap, eq24_features};
use crate::equations::kernel::eq23_kernel;
use crate::equations::objective::{o02_snr, o03_min_snr, o04_p2};
use crate::equations::posterior::{eq08_log_q_posterior, eq09_posterior_mean};
use crate::equations::projection::Projection;
use crate::error::Result;
use crate::output::html::chart;
use crate::output::{Chart, ChartAxis, Corner, Look, Scale, Series};
use ndarray::Array2;
use std::collections::BTreeMap;

/// Every plot, by its equation's id.
pub(super) fn all() -> Result<BTreeMap<&'static str, String>> {
    Ok(BTreeMap::from([
        ("eq03", schedules()?),
        ("eq08", posterior()?),
        ("eq09", means()?),
        ("eq23", estimates()?),
        ("eq24", errors()?),
        ("o04", weights()?),
    ]))
}

pub(super) fn series(name: impl Into<String>, colour: usize, look: Look, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.into(), points, colour, look }
}

pub(super) fn axes<'a>(x: &'a str, x_scale: Scale, y: &'a str, y_scale: Scale) -> [ChartAxis<'a>; 2] {
    [ChartAxis { label: x, scale: x_scale }, ChartAxis { label: y, scale: y_scale }]
}

/// Charts beside each other where there is room.
fn side_by_side(charts: &[String]) -> String {
    format!("<div class=\"figures\">\n{}</div>\n", charts.concat())
}

/// abar_t and beta_t of the schedules that a configuration can name.
fn schedules() -> Result<String> {
    let kinds = [
        ("linear (Ho et al. 2020)", BetaSchedule::Linear { start: 1e-4, end: 0.02 }),
        ("cosine (Nichol & Dhariwal 2021)", BetaSchedule::Cosine),
        ("scaled linear", BetaSchedule::ScaledLinear { start: 1e-4, end: 0.02 }),
        ("sigmoid", BetaSchedule::Sigmoid { start: 1e-4, end: 0.02 }),
    ];
    let lines = |of: fn(&Schedule) -> Vec<f64>| -> Vec<Series> {
        let kinds = kinds.iter().enumerate();
        kinds
            .map(|(colour, (name, kind))| {
                let config = DiffusionConfig { schedule: kind.clone(), ..DiffusionConfig::default() };
                let numbers = of(&schedule(Schedule::from_config(&config)));
                let points =
                    numbers.iter().enumerate().step_by(3).map(|(i, x)| ((i + 1) as f64, *x)).collect();
                series(*name, colour, Look::Line, points)
            })
            .collect()
    };
    let [x, y] = axes("t", Scale::Linear, "abar_t", Scale::Linear);
    let signal = Chart { x, y, series: lines(Schedule::alpha_bars), legend: Corner::UpperRight };
    let [x, y] = axes("t", Scale::Linear, "beta_t", Scale::Logarithmic);
    let noise = Chart { x, y, series: lines(Schedule::betas), legend: Corner::LowerRight };
    Ok(side_by_side(&[
        chart(&signal, "What is left of the image: abar_t, the share of x_t's variance that is signal.")?,
        chart(&noise, "What each step adds: beta_t.")?,
    ]))
}

/// A case of ten coarse steps, whose densities are wide enough to see.
fn case() -> Case {
    cases()[2]
}

/// (8) against Bayes' rule on a grid.
fn posterior() -> Result<String> {
    let case = case();
    let exact = case.bayes(case.x0);
    let spread = exact.variance.sqrt();
    let at = |i: i32, n: i32| exact.mean + 4.0 * spread * f64::from(i) / f64::from(n);
    let ours = |x: f64| eq08_log_q_posterior(&[x], &[case.x_t], &[case.x0], &case.level).exp();
    let bayes =
        |x: f64| case.likelihood(x) * pdf(x, case.signal_prev * case.x0, case.variance_prev) / exact.mass;
    let without = |x: f64| pdf(x, case.signal_prev * case.x0, case.variance_prev);
    let curve = |f: &dyn Fn(f64) -> f64, n: i32| (-n..=n).map(|i| (at(i, n), f(at(i, n)))).collect();
    let [x, y] = axes("x_{t-1}", Scale::Linear, "density", Scale::Linear);
    let chart_of = Chart {
        x,
        y,
        series: vec![
            series("without x_t: q(x_{t-1} | x_0)", 7, Look::Dashed, curve(&without, 60)),
            series("(8)", 1, Look::Line, curve(&ours, 60)),
            series("Bayes' rule on a grid", 2, Look::Points, curve(&bayes, 12)),
        ],
        legend: Corner::UpperRight,
    };
    let caption = format!(
        "q(x_(t-1) | x_t, x_0) of one pixel at t = {}, x_0 = {}, x_t = {:.2}: the closed form, and the \
         product of likelihood and prior divided by its integral.",
        case.level.t.get(),
        case.x0,
        case.x_t
    );
    chart(&chart_of, &caption)
}

/// (9) against Bayes' rule and as it is printed, over x_t.
fn means() -> Result<String> {
    let case = case();
    let at = |x_t: f64| Case { x_t, ..case };
    let ours = |x_t: f64| {
        let mut mean = [0.0];
        eq09_posterior_mean(&[x_t], &[case.x0], &case.level, &mut mean);
        mean[0]
    };
    let printed = |x_t: f64| {
        case.level.alpha.sqrt() / case.level.beta * x_t + case.signal_prev / case.variance_prev * case.x0
    };
    let line = |f: &dyn Fn(f64) -> f64, step: usize| {
        (-20..=20).step_by(step).map(|i| f64::from(i) / 10.0).map(|x| (x, f(x))).collect()
    };
    let [x, y] = axes("x_t", Scale::Linear, "mean of x_{t-1}", Scale::Linear);
    let chart_of = Chart {
        x,
        y,
        series: vec![
            series("as printed", 2, Look::Dashed, line(&printed, 1)),
            series("(9)", 1, Look::Line, line(&ours, 1)),
            series("Bayes' rule on a grid", 0, Look::Points, line(&|x| at(x).bayes(case.x0).mean, 4)),
        ],
        legend: Corner::UpperLeft,
    };
    chart(
        &chart_of,
        "The posterior's mean over x_t at t = 5 of ten coarse steps: without its factor the printed form \
         leaves the data's range.",
    )
}

/// The dimension of the kernels' plots: that of the shipped model's heads.
const DIM: usize = 16;

fn projections(m: usize, draw: u64) -> Result<Array2<f64>> {
    Projection::Orthogonal(RowNorms::Chi).draw(m, DIM, &mut draws(1000 + draw))
}

/// The kernel over the angle between two vectors, and one draw's estimates of it.
fn estimates() -> Result<String> {
    // |x| = |y| = 1.5, so that the kernel is between e^-2.25 and e^2.25.
    const LENGTH: f64 = 1.5;
    const ANGLES: usize = 61;
    let angles: Vec<f64> =
        (0..ANGLES).map(|i| std::f64::consts::PI * i as f64 / (ANGLES - 1) as f64).collect();
    let vector = |angle: f64| {
        let mut x = vec![0.0; DIM];
        (x[0], x[1]) = (LENGTH * angle.cos(), LENGTH * angle.sin());
        x
    };
    let rows: Vec<f64> = angles.iter().flat_map(|angle| vector(*angle)).collect();
    let rows = Array2::from_shape_fn((ANGLES, DIM), |(i, j)| rows[i * DIM + j]);
    let first = rows.row(0);
    let exact = rows.outer_iter().map(|y| eq23_kernel(FeatureMap::Positive, first, y));
    let mut lines =
        vec![series("K = exp(x^T y)", 0, Look::Line, angles.iter().copied().zip(exact).collect())];
    for (colour, map, m, name) in [
        (1, FeatureMap::Positive, 16, "positive, m = 16"),
        (3, FeatureMap::Positive, 256, "positive, m = 256"),
        (2, FeatureMap::Trigonometric, 256, "sin and cos, m = 256"),
    ] {
        let phi = eq24_features(map, rows.view(), projections(m, 0)?.view())?;
        let estimate = phi.outer_iter().map(|row| phi.row(0).dot(&row));
        lines.push(series(name, colour, Look::Dashed, angles.iter().copied().zip(estimate).collect()));
    }
    let [x, y] = axes("angle between x and y", Scale::Linear, "phi(x)^T phi(y)", Scale::Logarithmic);
    let chart_of = Chart { x, y, series: lines, legend: Corner::UpperRight };
    chart(
        &chart_of,
        "The kernel and estimates of it from one draw of projections, d = 16. Sines and cosines fail where \
         the kernel is small, and may be negative there, which a logarithmic axis leaves out; exponentials \
         do not: the reason that FAVOR+ exists.",
    )
}

/// The estimates' relative error over m.
fn errors() -> Result<String> {
    const PAIRS: usize = 24;
    const DRAWS: u64 = 40;
    let sizes = [4, 8, 16, 32, 64, 128, 256, 512];
    let mut numbers = draws(24);
    let mut vectors = || {
        let rows = normals(&mut numbers, PAIRS * DIM);
        // Attention's kernel at q and k of variance 1: the vectors are divided by d^(1/4).
        Array2::from_shape_fn((PAIRS, DIM), |(i, j)| 0.5 * rows[i * DIM + j] / (DIM as f64).powf(0.25))
    };
    let (x, y) = (vectors(), vectors());
    let kernel = |map| Array2::from_shape_fn((PAIRS, PAIRS), |(i, j)| eq23_kernel(map, x.row(i), y.row(j)));
    let error = |map, w: Array2<f64>| -> Result<f64> {
        let [phi_x, phi_y] = [&x, &y].map(|rows| eq24_features(map, rows.view(), w.view()));
        let (estimate, kernel) = (phi_x?.dot(&phi_y?.t()), kernel(map));
        let squares = estimate.iter().zip(&kernel).map(|(got, want)| ((got - want) / want).powi(2));
        Ok(squares.sum::<f64>() / (PAIRS * PAIRS) as f64)
    };
    let mut lines = Vec::new();
    let kinds = [
        (2, FeatureMap::Trigonometric, "sin and cos, orthogonal"),
        (1, FeatureMap::Positive, "positive, orthogonal"),
        (3, FeatureMap::Hyperbolic, "hyperbolic, orthogonal"),
        (4, FeatureMap::Relu, "ReLU, orthogonal"),
    ];
    for (colour, map, name) in kinds {
        let mut points = Vec::new();
        for m in sizes {
            let mut sum = 0.0;
            for draw in 0..DRAWS {
                sum += error(map, projections(m, draw)?)?;
            }
            points.push((m as f64, (sum / DRAWS as f64).sqrt()));
        }
        lines.push(series(name, colour, Look::Dots, points));
    }
    // Lemma 2 of Choromanski et al. for positive features and i.i.d. projections.
    let pairs = (0..PAIRS).flat_map(|i| (0..PAIRS).map(move |j| (i, j)));
    let variance = pairs.map(|(i, j)| {
        let z = &x.row(i) + &y.row(j);
        z.dot(&z).exp_m1()
    });
    let variance = variance.sum::<f64>() / (PAIRS * PAIRS) as f64;
    let theory = sizes.map(|m| (m as f64, (variance / m as f64).sqrt()));
    lines.push(series("positive, i.i.d., by Lemma 2", 0, Look::Dashed, theory.into()));
    let [x, y] = axes("m", Scale::Doublings, "relative error", Scale::Logarithmic);
    let chart_of = Chart { x, y, series: lines, legend: Corner::LowerLeft };
    chart(
        &chart_of,
        "The kernel's relative error (the root of the mean square over 576 pairs and 40 draws) over m, \
         d = 16, entries of q and k with standard deviation 1/2. Every error falls as 1/sqrt(m); ReLU \
         features have a kernel of their own.",
    )
}

/// The loss's weights over t.
fn weights() -> Result<String> {
    let levels = ho();
    let line = |weight: &dyn Fn(f64) -> f64| {
        let levels = levels.levels().iter().step_by(5);
        levels.map(|level| (level.t.get() as f64, weight(o02_snr(level.alpha_bar)))).collect()
    };
    let [x, y] = axes("t", Scale::Linear, "weight on |eps - eps^|^2", Scale::Logarithmic);
    let eps = Prediction::Epsilon;
    let chart_of = Chart {
        x,
        y,
        series: vec![
            series("none, (21)", 0, Look::Line, line(&|_| 1.0)),
            series("min-SNR, gamma = 5, (O3)", 1, Look::Line, line(&|snr| o03_min_snr(eps, snr, 5.0))),
            series("P2, k = 1, gamma = 1, (O4)", 2, Look::Line, line(&|snr| o04_p2(eps, snr, 1.0, 1.0))),
        ],
        legend: Corner::LowerRight,
    };
    chart(&chart_of, "The weights of the loss on Ho et al.'s schedule.")
}
