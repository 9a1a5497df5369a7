//! Matrix products and convolutions.

use super::{ROUNDING, SUMS, batch};
use crate::common::{check, close, f32s, floats, model, numbers, random};
use performer_ddpm_onnx::Tensor;
use performer_ddpm_onnx::builder::{ConvSpec, ConvTransposeSpec};

#[test]
fn matmul_broadcasts_its_batches() {
    let (a, b) = (random(10, &[2, 3, 4, 5]), random(11, &[3, 5, 6]));
    let graph = model("matmul", |g| {
        let a = batch(g, "a", &[3, 4, 5])?;
        let b = g.initializer_f32("b", &[3, 5, 6], floats(&b))?;
        Ok(vec![g.matmul(a, b)?])
    });
    let mut want = Vec::new();
    for n in 0..2 {
        for h in 0..3 {
            for i in 0..4 {
                for j in 0..6 {
                    let product = |k: usize| {
                        let left = floats(&a)[((n * 3 + h) * 4 + i) * 5 + k];
                        f64::from(left) * f64::from(floats(&b)[(h * 5 + k) * 6 + j])
                    };
                    want.push((0..5).map(product).sum::<f64>() as f32);
                }
            }
        }
    }
    check(graph, &[("a", a.clone())], vec![f32s(&[2, 3, 4, 6], want)], SUMS);
}

/// The convolution by its definition; x [N, C, H, W], kernel [M, C / groups, kh, kw].
fn convolved(x: &Tensor, kernel: &Tensor, bias: &[f32], spec: &ConvSpec) -> Tensor {
    let ([n, c, h, w], [m, _, kh, kw]) = (lengths(x), lengths(kernel));
    let (each_in, each_out) = (c / spec.groups, m / spec.groups);
    let size = |length: usize, taps: usize, i: usize| {
        (length + spec.pads[i] + spec.pads[i + 2] - spec.dilations[i] * (taps - 1) - 1) / spec.strides[i] + 1
    };
    let (oh, ow) = (size(h, kh, 0), size(w, kw, 1));
    let mut out = vec![0.0f32; n * m * oh * ow];
    for (index, value) in out.iter_mut().enumerate() {
        let (b, o, y, z) = (index / (m * oh * ow), index / (oh * ow) % m, index / ow % oh, index % ow);
        let mut sum = f64::from(bias[o]);
        for i in 0..each_in {
            for ky in 0..kh {
                for kz in 0..kw {
                    let row = (y * spec.strides[0] + ky * spec.dilations[0]).checked_sub(spec.pads[0]);
                    let column = (z * spec.strides[1] + kz * spec.dilations[1]).checked_sub(spec.pads[1]);
                    if let (Some(row), Some(column)) = (row, column)
                        && row < h
                        && column < w
                    {
                        let channel = o / each_out * each_in + i;
                        let pixel = floats(x)[((b * c + channel) * h + row) * w + column];
                        let tap = floats(kernel)[((o * each_in + i) * kh + ky) * kw + kz];
                        sum += f64::from(pixel) * f64::from(tap);
                    }
                }
            }
        }
        *value = sum as f32;
    }
    f32s(&[n, m, oh, ow], out)
}

fn lengths(x: &Tensor) -> [usize; 4] {
    x.shape().try_into().expect("four axes")
}

#[test]
fn convolutions_follow_their_definition() {
    let x = random(12, &[2, 4, 7, 6]);
    let cases = [
        (ConvSpec { pads: [1; 4], ..ConvSpec::default() }, [6, 4, 3, 3]),
        (ConvSpec { strides: [2, 2], pads: [0, 0, 1, 1], ..ConvSpec::default() }, [3, 4, 3, 3]),
        (ConvSpec { groups: 2, dilations: [2, 1], ..ConvSpec::default() }, [6, 2, 3, 2]),
        (ConvSpec::default(), [5, 4, 1, 1]),
    ];
    for (spec, shape) in cases {
        let (kernel, bias) = (random(13, &shape), numbers(14, shape[0]));
        let graph = model(&format!("conv {spec:?}"), |g| {
            let x = batch(g, "x", &[4, 7, 6])?;
            let w = g.initializer_f32("w", &shape, floats(&kernel))?;
            let b = g.initializer_f32("b", &[shape[0]], &bias)?;
            Ok(vec![g.conv(x, w, Some(b), &spec)?])
        });
        check(graph, &[("x", x.clone())], vec![convolved(&x, &kernel, &bias, &spec)], SUMS);
    }
}

#[test]
fn transposed_convolution_scatters_what_convolution_gathers() {
    let (x, kernel, bias) = (random(15, &[2, 3, 4, 5]), random(16, &[3, 2, 3, 3]), [0.25f32, -0.5]);
    let spec = ConvTransposeSpec {
        strides: [2, 2],
        pads: [1; 4],
        output_padding: [1, 1],
        ..ConvTransposeSpec::default()
    };
    let graph = model("conv_transpose", |g| {
        let x = batch(g, "x", &[3, 4, 5])?;
        let w = g.initializer_f32("w", &[3, 2, 3, 3], floats(&kernel))?;
        let b = g.initializer_f32("b", &[2], &bias)?;
        Ok(vec![g.conv_transpose(x, w, Some(b), &spec)?])
    });
    let (height, width) = (8usize, 10usize);
    let mut want = vec![0.0f64; 2 * 2 * height * width];
    for (i, value) in want.iter_mut().enumerate() {
        *value = f64::from(bias[i / (height * width) % 2]);
    }
    for (i, &pixel) in floats(&x).iter().enumerate() {
        let (n, c, y, z) = (i / 60, i / 20 % 3, i / 5 % 4, i % 5);
        for (j, &tap) in floats(&kernel)[c * 18..(c + 1) * 18].iter().enumerate() {
            let (o, row, column) =
                (j / 9, (2 * y + j / 3 % 3).checked_sub(1), (2 * z + j % 3).checked_sub(1));
            if let (Some(row), Some(column)) = (row, column)
                && row < height
                && column < width
            {
                want[((n * 2 + o) * height + row) * width + column] += f64::from(pixel) * f64::from(tap);
            }
        }
    }
    let want = f32s(&[2, 2, height, width], want.into_iter().map(|x| x as f32).collect());
    check(graph, &[("x", x.clone())], vec![want], SUMS);
}

/// A kernel of N channels over images of N channels: what the gradient of a convolution's weight is.
#[test]
fn a_convolution_may_go_over_the_batch() {
    let (x, kernel) = (random(17, &[3, 2, 5, 4]), random(18, &[3, 6, 4, 3]));
    let graph = model("over the batch", |g| {
        let (x, kernel) = (batch(g, "x", &[2, 5, 4])?, batch(g, "kernel", &[6, 4, 3])?);
        let (x, kernel) = (g.transpose(x, &[1, 0, 2, 3])?, g.transpose(kernel, &[1, 0, 2, 3])?);
        assert!(g.conv(x, kernel, None, &ConvSpec { groups: 2, ..ConvSpec::default() }).is_err());
        Ok(vec![g.conv(x, kernel, None, &ConvSpec { pads: [1; 4], ..ConvSpec::default() })?])
    });
    let swapped = |x: &Tensor| {
        let [n, c, h, w] = lengths(x);
        let at = |i: usize| ((i / (h * w)) % n * c + i / (n * h * w)) * h * w + i % (h * w);
        f32s(&[c, n, h, w], (0..n * c * h * w).map(|i| floats(x)[at(i)]).collect())
    };
    let spec = ConvSpec { pads: [1; 4], ..ConvSpec::default() };
    let want = convolved(&swapped(&x), &swapped(&kernel), &[0.0; 6], &spec);
    // tract takes kernels of a known size only.
    check(graph.with_length("N", 3), &[("x", x.clone()), ("kernel", kernel.clone())], vec![want], SUMS);
}

#[test]
fn average_pooling_takes_the_means_of_squares() {
    let x = random(19, &[2, 3, 4, 6]);
    let graph = model("average_pool", |g| {
        let x = batch(g, "x", &[3, 4, 6])?;
        assert!(g.average_pool(x, 0).is_err() && g.average_pool(x, 4).is_err(), "4 does not divide 6");
        Ok(vec![g.average_pool(x, 2)?])
    });
    let mean = |i: usize| {
        let (image, y, z) = (i / 6, i / 3 % 2, i % 3);
        let at = |v: usize, u: usize| f64::from(floats(&x)[image * 24 + (2 * y + v) * 6 + 2 * z + u]);
        (0.25 * (at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1))) as f32
    };
    check(graph, &[("x", x.clone())], vec![f32s(&[2, 3, 2, 3], (0..36).map(mean).collect())], ROUNDING);
}

#[test]
fn one_load_serves_every_batch_size() {
    let kernel = random(29, &[4, 2, 3, 3]);
    let spec = ConvSpec { pads: [1; 4], ..ConvSpec::default() };
    let graph = model("batches", |g| {
        let x = batch(g, "x", &[2, 5, 5])?;
        let w = g.initializer_f32("w", &[4, 2, 3, 3], floats(&kernel))?;
        Ok(vec![g.conv(x, w, None, &spec)?])
    });
    crate::peers::in_time(move || {
        for mut runner in crate::common::load_all(&graph) {
            for n in [1, 3, 17, 2] {
                let x = random(30, &[n, 2, 5, 5]);
                let got = runner.run(&[("x", &x)]).unwrap_or_else(|error| panic!("{error}"));
                let want = convolved(&x, &kernel, &[0.0; 4], &spec);
                close(&format!("{} with {n}", runner.describe()), &got[0].1, &want, SUMS);
            }
        }
    });
}
