//! Operators that move, cut and join elements.

use super::{EXACT, batch};
use crate::common::{check, f32s, floats, i64s, model, random};
use performer_ddpm_onnx::builder::{PadMode, ReshapeDim, SliceRange};
use performer_ddpm_onnx::{Dim, ElementType};

#[test]
fn layout_operators_move_numbers() {
    let x = random(6, &[2, 3, 4]);
    let at = |n: usize, i: usize, j: usize| floats(&x)[(n * 3 + i) * 4 + j];
    let collect = |shape: [usize; 3], f: &dyn Fn(usize, usize, usize) -> f32| {
        let mut data = Vec::new();
        for n in 0..shape[0] {
            for i in 0..shape[1] {
                for j in 0..shape[2] {
                    data.push(f(n, i, j));
                }
            }
        }
        f32s(&shape, data)
    };
    let graph = model("layout", |g| {
        let x = batch(g, "x", &[3, 4])?;
        let flat = g.reshape(x, &[ReshapeDim::Infer, ReshapeDim::To(4)])?;
        let turned = g.transpose(x, &[0, 2, 1])?;
        let doubled = g.concat(1, &[x, x])?;
        let cut = g.slice(
            x,
            &[
                SliceRange { axis: 2, start: 1, end: 4, step: 2 },
                SliceRange { axis: 1, start: 1, end: 3, step: 1 },
            ],
        )?;
        let pieces = g.split(x, 2, &[1, 3])?;
        let lifted = g.unsqueeze(x, &[1, 4])?;
        let dropped = g.squeeze(lifted, &[4, 1])?;
        Ok(vec![flat, turned, doubled, cut, pieces[0], pieces[1], lifted, dropped])
    });
    let want = vec![
        f32s(&[6, 4], floats(&x).to_vec()),
        collect([2, 4, 3], &|n, j, i| at(n, i, j)),
        collect([2, 6, 4], &|n, i, j| at(n, i % 3, j)),
        collect([2, 2, 2], &|n, i, j| at(n, i + 1, 2 * j + 1)),
        collect([2, 3, 1], &|n, i, _| at(n, i, 0)),
        collect([2, 3, 3], &|n, i, j| at(n, i, j + 1)),
        f32s(&[2, 1, 3, 4, 1], floats(&x).to_vec()),
        x.clone(),
    ];
    check(graph, &[("x", x.clone())], want, EXACT);
}

#[test]
fn reshape_copies_and_infers() {
    let x = random(7, &[3, 4, 5]);
    let graph = model("reshape", |g| {
        let x = batch(g, "x", &[4, 5])?;
        let y = g.reshape(x, &[ReshapeDim::Copy, ReshapeDim::To(2), ReshapeDim::Infer])?;
        let merged = g.reshape(y, &[ReshapeDim::Infer, ReshapeDim::To(10)])?;
        assert_eq!(g.shape(y)?.to_string(), "[N, 2, 10]");
        assert_eq!(g.shape(merged)?.to_string(), "[2*N, 10]");
        let parted = g.reshape(merged, &[ReshapeDim::To(2), ReshapeDim::Infer, ReshapeDim::To(10)])?;
        assert_eq!(g.shape(parted)?.to_string(), "[2, N, 10]");
        let odd = [ReshapeDim::To(4), ReshapeDim::Infer, ReshapeDim::To(10)];
        assert!(g.reshape(merged, &odd).is_err(), "2 N need not be a multiple of 4");
        Ok(vec![y, merged, parted])
    });
    let want = [&[3, 2, 10][..], &[6, 10], &[2, 3, 10]].map(|shape| f32s(shape, floats(&x).to_vec()));
    let want = want.to_vec();
    check(graph, &[("x", x.clone())], want, EXACT);
}

#[test]
fn pad_fills_in_each_mode() {
    let x = f32s(&[1, 1, 1, 3], vec![1.0, 2.0, 3.0]);
    let graph = model("pad", |g| {
        let x = batch(g, "x", &[1, 1, 3])?;
        let amounts = [(0, 0), (0, 0), (0, 0), (1, 2)];
        Ok(vec![
            g.pad(x, &amounts, PadMode::Constant(-7.0))?,
            g.pad(x, &amounts, PadMode::Edge)?,
            g.pad(x, &amounts, PadMode::Reflect)?,
        ])
    });
    let row = |data: [f32; 6]| f32s(&[1, 1, 1, 6], data.to_vec());
    let want = vec![
        row([-7.0, 1.0, 2.0, 3.0, -7.0, -7.0]),
        row([1.0, 1.0, 2.0, 3.0, 3.0, 3.0]),
        row([2.0, 1.0, 2.0, 3.0, 2.0, 1.0]),
    ];
    check(graph, &[("x", x)], want, EXACT);
}

#[test]
fn shapes_gather_and_expand() {
    let (x, table) = (random(8, &[2, 3]), random(9, &[5, 4]));
    let graph = model("gather", |g| {
        let x = batch(g, "x", &[3])?;
        let t = g.input("t", ElementType::I64, [Dim::from("N")])?;
        let table = g.initializer_f32("table", &[5, 4], floats(&table))?;
        let row = g.initializer_f32("row", &[3], &[1.0, 2.0, 3.0])?;
        let columns = g.constant_i64(&[2], &[3, 0])?;
        Ok(vec![g.shape_of(x)?, g.gather(table, 0, t)?, g.gather(table, 1, columns)?, g.expand_like(row, x)?])
    });
    let cells = floats(&table);
    let want = vec![
        i64s(&[2], vec![2, 3]),
        f32s(&[2, 4], [&cells[16..20], &cells[4..8]].concat()),
        f32s(&[5, 2], (0..5).flat_map(|i| [cells[4 * i + 3], cells[4 * i]]).collect()),
        f32s(&[2, 3], vec![1.0, 2.0, 3.0, 1.0, 2.0, 3.0]),
    ];
    check(graph, &[("x", x), ("t", i64s(&[2], vec![4, 1]))], want, EXACT);
}

#[test]
fn upsampling_repeats_pixels() {
    let x = random(17, &[2, 2, 2, 3]);
    let graph = model("upsample", |g| {
        let x = batch(g, "x", &[2, 2, 3])?;
        Ok(vec![g.upsample_nearest(x, 2)?])
    });
    let want = (0..2 * 2 * 4 * 6).map(|i| floats(&x)[(i / 24 * 2 + i / 6 % 4 / 2) * 3 + i % 6 / 2]).collect();
    check(graph, &[("x", x.clone())], vec![f32s(&[2, 2, 4, 6], want)], EXACT);
}
