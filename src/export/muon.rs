//! Muon's step of a matrix as ONNX operators: the products of the engine's (`train/muon.rs`).

use crate::config::MuonConfig;
use crate::equations::muon::{LEAST_SQUARE, NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, STEP_SIZE};
use crate::model::params::Param;
use performer_ddpm_onnx as onnx;
use performer_ddpm_onnx::builder::{Binary, GraphBuilder, Reduction, ReshapeDim, Unary, Value};

/// What a parameter of its shape in files moves by, \[c_out, ..\] like `direction`, its momentum.
pub(super) fn step(
    g: &mut GraphBuilder,
    param: &Param,
    config: MuonConfig,
    direction: Value,
    lr: Value,
) -> onnx::Result<Value> {
    let shape = param.kind.file_shape();
    let (rows, columns) = (shape[0], param.kind.len() / shape[0]);
    let u = g.reshape(direction, &[ReshapeDim::To(rows), ReshapeDim::To(columns)])?;
    let u_t = g.transpose(u, &[1, 0])?;
    let gram = if rows <= columns { g.matmul(u, u_t)? } else { g.matmul(u_t, u)? };
    let squares = g.mul(u, u)?;
    let sum = g.reduce(Reduction::Sum, squares, &[0, 1], true)?;
    let least = g.scalar(LEAST_SQUARE as f32)?;
    let norm_squared = g.add(sum, least)?;
    let [a, b, c] = NEWTON_SCHULZ.map(|x| g.scalar(x as f32));
    let (a, b, c) = (a?, b?, c?);
    let n = rows.min(columns);
    let mut identity = vec![0.0; n * n];
    identity.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
    let identity = g.constant_f32(&[n, n], &identity)?;
    let constant = g.mul(a, identity)?;

    let mut y = g.div(gram, norm_squared)?;
    let mut polynomial = None;
    for step in 0..NEWTON_SCHULZ_STEPS {
        let square = g.matmul(y, y)?;
        let (linear, quadratic) = (g.mul(b, y)?, g.mul(c, square)?);
        let factor = g.add(constant, linear)?;
        let factor = g.add(factor, quadratic)?;
        polynomial = Some(match polynomial {
            None => factor,
            Some(before) => g.matmul(factor, before)?,
        });
        if step + 1 < NEWTON_SCHULZ_STEPS {
            let once = g.matmul(factor, y)?;
            y = g.matmul(factor, once)?;
        }
    }
    let p = polynomial.expect("there are steps");
    let orthogonal = if rows <= columns { g.matmul(p, u)? } else { g.matmul(u, p)? };
    let longest = rows.max(columns) as f64;
    let size = g.scalar((config.rate * STEP_SIZE * longest.sqrt()) as f32)?;
    let norm = g.unary(Unary::Sqrt, norm_squared)?;
    let rate = g.mul(lr, size)?;
    let rate = g.binary(Binary::Div, rate, norm)?;
    let moved = g.mul(rate, orthogonal)?;
    g.reshape(moved, &shape.into_iter().map(ReshapeDim::To).collect::<Vec<_>>())
}
