//! Reductions and normalisations.

use super::{EXACT, ROUNDING, SUMS, batch, map};
use crate::common::{check, f32s, floats, model, numbers, random};
use performer_ddpm_onnx::builder::Reduction;

#[test]
fn reductions_keep_or_drop_their_axes() {
    let x = random(18, &[2, 3, 4]);
    let cells = |n: usize, i: usize| &floats(&x)[(n * 3 + i) * 4..][..4];
    for (reduction, f) in [
        (Reduction::Max, (|row| row.iter().copied().fold(f64::MIN, f64::max)) as fn(&[f64]) -> f64),
        (Reduction::Mean, |row| row.iter().sum::<f64>() / row.len() as f64),
        (Reduction::Sum, |row| row.iter().sum()),
    ] {
        let graph = model(&format!("{reduction:?}"), |g| {
            let x = batch(g, "x", &[3, 4])?;
            Ok(vec![g.reduce(reduction, x, &[2], true)?, g.reduce(reduction, x, &[1, 2], false)?])
        });
        let row = |n: usize, i: usize| -> Vec<f64> { cells(n, i).iter().map(|&x| f64::from(x)).collect() };
        let rows = (0..6).map(|i| f(&row(i / 3, i % 3)) as f32).collect();
        let all = (0..2).map(|n| f(&(0..3).flat_map(|i| row(n, i)).collect::<Vec<f64>>()) as f32).collect();
        check(graph, &[("x", x.clone())], vec![f32s(&[2, 3, 1], rows), f32s(&[2], all)], ROUNDING);
    }
}

#[test]
fn softmax_adds_up_to_one_along_its_axis() {
    let x = map(&random(19, &[2, 3, 4]), |x| 20.0 * x);
    let graph = model("softmax", |g| {
        let x = batch(g, "x", &[3, 4])?;
        Ok(vec![g.softmax(x, 2)?, g.softmax(x, 1)?])
    });
    let along = |axis_length: usize, stride: usize| {
        let data = floats(&x);
        let weight = |i: usize| f64::from(data[i]).exp();
        let start = |i: usize| i - i / stride % axis_length * stride;
        let total = |i: usize| (0..axis_length).map(|k| weight(start(i) + k * stride)).sum::<f64>();
        f32s(&[2, 3, 4], (0..24).map(|i| (weight(i) / total(i)) as f32).collect())
    };
    check(graph, &[("x", x.clone())], vec![along(4, 1), along(3, 4)], ROUNDING);
}

/// Rows of `each` numbers brought to mean 0 and variance 1.
fn standardised(x: &[f32], each: usize, epsilon: f64) -> Vec<f64> {
    x.chunks(each)
        .flat_map(|row| {
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / each as f64;
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / each as f64;
            row.iter().map(move |&x| (f64::from(x) - mean) / (variance + epsilon).sqrt())
        })
        .collect()
}

#[test]
fn layer_norm_standardises_the_last_axes() {
    let (x, scale, shift) = (random(20, &[3, 4, 5]), numbers(21, 5), numbers(22, 5));
    let graph = model("layer_norm", |g| {
        let x = batch(g, "x", &[4, 5])?;
        let scale = g.initializer_f32("scale", &[5], &scale)?;
        let shift = g.initializer_f32("shift", &[5], &shift)?;
        Ok(vec![g.layer_norm(x, 2, scale, Some(shift), 1e-3)?, g.layer_norm(x, 2, scale, None, 1e-5)?])
    });
    let scaled = |epsilon: f64, shifted: f64| {
        let normal = standardised(floats(&x), 5, epsilon);
        let y = normal.iter().enumerate();
        let y = y.map(|(i, y)| (y * f64::from(scale[i % 5]) + shifted * f64::from(shift[i % 5])) as f32);
        f32s(&[3, 4, 5], y.collect())
    };
    check(graph, &[("x", x.clone())], vec![scaled(1e-3, 1.0), scaled(1e-5, 0.0)], SUMS);
}

#[test]
fn group_norm_standardises_runs_of_channels() {
    // The offset reveals a variance computed with cancellation: E[x^2] - E[x]^2 would lose two digits here.
    let x = map(&random(23, &[2, 6, 3, 3]), |x| x + 10.0);
    let (scale, shift) = (numbers(24, 6), numbers(25, 6));
    for groups in [1, 2, 3, 6] {
        let graph = model(&format!("group_norm {groups}"), |g| {
            let x = batch(g, "x", &[6, 3, 3])?;
            let scale = g.initializer_f32("scale", &[6], &scale)?;
            let shift = g.initializer_f32("shift", &[6], &shift)?;
            Ok(vec![g.group_norm(x, groups, scale, shift, 1e-5)?])
        });
        let normal = standardised(floats(&x), 54 / groups, 1e-5);
        let y = normal.iter().enumerate();
        let y = y.map(|(i, y)| (y * f64::from(scale[i / 9 % 6]) + f64::from(shift[i / 9 % 6])) as f32);
        check(graph, &[("x", x.clone())], vec![f32s(&[2, 6, 3, 3], y.collect())], SUMS);
    }
}

/// The parts are those of the whole: y is the normalised x, scaled and shifted.
#[test]
fn group_norm_gives_its_parts() {
    let x = map(&random(26, &[2, 6, 2, 3]), |x| 3.0 * x + 1.0);
    let (scale, shift) = (numbers(27, 6), numbers(28, 6));
    let graph = model("parts", |g| {
        let x = batch(g, "x", &[6, 2, 3])?;
        let scale = g.initializer_f32("scale", &[6], &scale)?;
        let shift = g.initializer_f32("shift", &[6], &shift)?;
        let parts = g.group_norm_in_parts(x, 3, scale, shift, 1e-3)?;
        Ok(vec![parts.y, parts.normal, parts.inverse_deviation])
    });
    let normal = standardised(floats(&x), 12, 1e-3);
    let y = normal.iter().enumerate();
    let y = y.map(|(i, y)| (y * f64::from(scale[i / 6 % 6]) + f64::from(shift[i / 6 % 6])) as f32).collect();
    let inverse = floats(&x).chunks(12).map(|group| {
        let mean = group.iter().map(|x| f64::from(*x)).sum::<f64>() / 12.0;
        let variance = group.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / 12.0;
        (1.0 / (variance + 1e-3).sqrt()) as f32
    });
    let want = vec![
        f32s(&[2, 6, 2, 3], y),
        f32s(&[2, 6, 2, 3], normal.iter().map(|x| *x as f32).collect()),
        f32s(&[2, 3, 1], inverse.collect()),
    ];
    check(graph, &[("x", x.clone())], want, SUMS);
}

#[test]
fn the_largest_come_in_their_order() {
    let x = f32s(&[2, 5], vec![0.5, -3.0, 2.0, 2.0, 1.0, 7.0, 8.0, -9.0, 0.0, 6.0]);
    let graph = model("largest", |g| {
        let x = batch(g, "x", &[5])?;
        assert!(g.largest(x, 1, 6).is_err());
        Ok(vec![g.largest(x, 1, 3)?, g.largest(x, 1, 5)?])
    });
    let three = f32s(&[2, 3], vec![2.0, 2.0, 1.0, 8.0, 7.0, 6.0]);
    let all = f32s(&[2, 5], vec![2.0, 2.0, 1.0, 0.5, -3.0, 8.0, 7.0, 6.0, 0.0, -9.0]);
    check(graph, &[("x", x)], vec![three, all], EXACT);
}
