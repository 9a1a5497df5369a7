//! The gradients of the activations. `kernels/activation.rs` derives the derivatives.

use crate::config::Activation;
use crate::export::network::{GeluGate, MishGate, gelu_gate, mish_gate};
use performer_ddpm_onnx::Result;
use performer_ddpm_onnx::builder::{Binary, GraphBuilder, Unary, Value};

/// SiLU's gradient from gate = sigmoid(x) and y = x gate: d_y (gate + y (1 - gate)).
pub(super) fn silu(g: &mut GraphBuilder, gate: Value, y: Value, d_y: Value) -> Result<Value> {
    let one = g.scalar(1.0)?;
    let rest = g.sub(one, gate)?;
    let bend = g.mul(y, rest)?;
    let slope = g.add(gate, bend)?;
    g.mul(d_y, slope)
}

/// d_y f'(x).
pub(super) fn backward(g: &mut GraphBuilder, function: Activation, x: Value, d_y: Value) -> Result<Value> {
    match function {
        Activation::Silu => {
            let gate = g.unary(Unary::Sigmoid, x)?;
            let y = g.mul(x, gate)?;
            silu(g, gate, y, d_y)
        }
        Activation::Relu => {
            let zero = g.scalar(0.0)?;
            let positive = g.binary(Binary::Less, zero, x)?;
            g.choose(positive, d_y, zero)
        }
        Activation::Mish => {
            // With e = exp(x), n = e (e + 2): n / (n + 2) + x (4 e / (n + 2)) ((1 + e) / (n + 2)).
            let MishGate { e, rest, value } = mish_gate(g, x)?;
            let (one, four) = (g.scalar(1.0)?, g.scalar(4.0)?);
            let share = g.div(e, rest)?;
            let share = g.mul(share, four)?;
            let more = g.add(e, one)?;
            let more = g.div(more, rest)?;
            let square = g.mul(share, more)?;
            let bend = g.mul(x, square)?;
            let slope = g.add(value, bend)?;
            g.mul(d_y, slope)
        }
        Activation::Gelu => {
            // Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi).
            let GeluGate { z, phi } = gelu_gate(g, x)?;
            let square = g.mul(z, z)?;
            let minus = g.unary(Unary::Neg, square)?;
            let bell = g.unary(Unary::Exp, minus)?;
            let factor = g.scalar((1.0 / std::f64::consts::TAU.sqrt()) as f32)?;
            let density = g.mul(bell, factor)?;
            let bend = g.mul(x, density)?;
            let slope = g.add(phi, bend)?;
            g.mul(d_y, slope)
        }
    }
}
