//! The bound's part of the loss where the variance is learned, (O6) in (O7), as ONNX operators.
//!
//! What is predicted enters by its error alone: with x_0 = a_x x_t + a_m target by (S1), the predicted x_0 is
//! off by a_m (prediction - target). So nothing is lost to rounding where both are nearly the same.

use super::tables::Tables;
use crate::equations::Level;
use crate::equations::bound::bits_per_dim;
use crate::equations::decoder::{HALF_BIN, LAST, PROBABILITY_FLOOR};
use crate::equations::objective::{LearnedRange, VARIANCE_SHARE};
use crate::equations::solver::s01_predict_x0;
use performer_ddpm_onnx as onnx;
use performer_ddpm_onnx::builder::{Binary, GraphBuilder, Reduction, Unary, Value};
use std::f32::consts::{FRAC_1_SQRT_2, TAU};

/// What the bound's term is computed from.
pub(super) struct Given {
    /// The images \[N, C, H, W\].
    pub(super) x_0: Value,
    /// The prediction less its target, alike.
    pub(super) off: Value,
    /// The network's second output, u of (O5), alike.
    pub(super) u: Value,
    /// The timesteps' indices \[N\].
    pub(super) t: Value,
}

/// Half a bin's width in standard deviations below which its mass is summed up, not a difference.
const NARROW: f32 = 0.1;
/// Gauss and Legendre's places in [-1, 1] and weights, of which those below 0 are the same.
const PLACES: [(f32, f32); 2] = [(0.861_136_3, 0.347_854_85), (0.339_981_05, 0.652_145_15)];
/// e^(z^2) erfc(z) = s e^p(s) with s = 1/(1 + z/2) and these coefficients of p, the highest first, to 1.2e-7
/// for all z >= 0 (Press et al., Numerical Recipes, "erfcc").
const ERFC: [f64; 10] = [
    0.170_872_77,
    -0.822_152_23,
    1.488_515_87,
    -1.135_203_98,
    0.278_868_07,
    -0.186_288_06,
    0.096_784_18,
    0.374_091_96,
    1.000_023_68,
    -1.265_512_23,
];

/// The mean over the batch of 0.001 T L_vb in bits per dimension, \[1\], and its gradient in u.
pub(super) fn bound(g: &mut GraphBuilder, tables: &Tables, given: Given) -> onnx::Result<(Value, Value)> {
    let Given { x_0, off, u, t } = given;
    let prediction = tables.diffusion.prediction;
    let miss = tables.at(g, t, |level| {
        let a_m = s01_predict_x0(prediction, level.alpha_bar.sqrt(), (1.0 - level.alpha_bar).sqrt())[1];
        -LearnedRange::new(level).posterior[1] * a_m
    })?;
    // The mean (11) at x_0 less that at the predicted x_0.
    let miss = g.mul(miss, off)?;
    let [small, large] =
        [0, 1].map(|i| move |level: &Level| LearnedRange::new(level).range[i]).map(|of| tables.at(g, t, of));
    let (ln_small, ln_large) = (small?, large?);

    let (zero, half, one) = (g.scalar(0.0)?, g.scalar(0.5)?, g.scalar(1.0)?);
    let ln_sigma2 = log_variance(g, u, [ln_small, ln_large])?;

    let wider = g.sub(ln_sigma2, ln_small)?;
    let ratio = exp_minus(g, wider)?;
    let squares = g.mul(miss, miss)?;
    let precision = exp_minus(g, ln_sigma2)?;
    let squares = g.mul(squares, precision)?;
    let both = g.add(ratio, squares)?;
    let divergence = g.add(wider, both)?;
    let divergence = g.sub(divergence, one)?;
    let divergence = g.mul(divergence, half)?;
    let of_divergence = g.sub(one, both)?;
    let of_divergence = g.mul(of_divergence, half)?;

    let minus_half = g.scalar(-0.5)?;
    let per_sigma = g.mul(ln_sigma2, minus_half)?;
    let per_sigma = g.unary(Unary::Exp, per_sigma)?;
    let (decoder, of_decoder) = decoder(g, x_0, miss, per_sigma)?;

    let is_first = tables.at(g, t, |level| f64::from(u8::from(level.is_first())))?;
    let is_first = g.binary(Binary::Less, zero, is_first)?;
    let nats = g.choose(is_first, decoder, divergence)?;
    let slope = g.choose(is_first, of_decoder, of_divergence)?;

    let share = VARIANCE_SHARE * tables.schedule.steps() as f64;
    let bits = g.scalar((share * bits_per_dim(1.0, tables.len)) as f32)?;
    let sums = g.reduce(Reduction::Sum, nats, &[1, 2, 3], true)?;
    let sums = g.mul(sums, bits)?;
    let loss = g.reduce(Reduction::Mean, sums, &[0, 2, 3], false)?;
    let range = g.sub(ln_large, ln_small)?;
    let range = g.mul(range, half)?;
    let scale = g.mul(range, bits)?;
    let images = tables.images(g, t)?;
    let scale = g.div(scale, images)?;
    Ok((loss, g.mul(slope, scale)?))
}

/// (O5).
pub(super) fn log_variance(
    g: &mut GraphBuilder,
    u: Value,
    [ln_small, ln_large]: [Value; 2],
) -> onnx::Result<Value> {
    let (half, one) = (g.scalar(0.5)?, g.scalar(1.0)?);
    let w = g.add(u, one)?;
    let w = g.mul(w, half)?;
    let rest = g.sub(one, w)?;
    let (above, below) = (g.mul(ln_large, w)?, g.mul(ln_small, rest)?);
    g.add(above, below)
}

fn exp_minus(g: &mut GraphBuilder, x: Value) -> onnx::Result<Value> {
    let x = g.unary(Unary::Neg, x)?;
    g.unary(Unary::Exp, x)
}

/// -ln p(x_0 | x_1) of the discretised decoder (17) where the mean is off by `miss`, and its derivative in ln
/// sigma^2.
fn decoder(g: &mut GraphBuilder, x_0: Value, miss: Value, per_sigma: Value) -> onnx::Result<(Value, Value)> {
    let (zero, last, first) = (g.scalar(0.0)?, g.scalar(LAST as f32)?, g.scalar(-LAST as f32)?);
    let is_light = g.binary(Binary::Less, last, x_0)?;
    let is_dark = g.binary(Binary::Less, x_0, first)?;
    let (middle, bin) = (g.mul(miss, per_sigma)?, g.scalar(HALF_BIN as f32)?);
    let half = g.mul(per_sigma, bin)?;
    let (low, high) = (g.sub(middle, half)?, g.add(middle, half)?);

    let above = g.unary(Unary::Neg, low)?;
    let (up_to_high, from_low) = (normal_cdf(g, high)?, normal_cdf(g, above)?);
    let inside = bin_mass(g, middle, half)?;
    let mass = g.choose(is_light, from_low, inside)?;
    let mass = g.choose(is_dark, up_to_high, mass)?;
    let floor = g.scalar(PROBABILITY_FLOOR as f32)?;
    let mass = g.binary(Binary::Max, mass, floor)?;
    let nats = g.unary(Unary::Log, mass)?;
    let nats = g.unary(Unary::Neg, nats)?;

    let (at_low, at_high) = (moment(g, low)?, moment(g, high)?);
    let at_low = g.choose(is_dark, zero, at_low)?;
    let at_high = g.choose(is_light, zero, at_high)?;
    let difference = g.sub(at_high, at_low)?;
    let slope = g.div(difference, mass)?;
    let factor = g.scalar(0.5)?;
    let slope = g.mul(slope, factor)?;
    let is_above = g.binary(Binary::Less, floor, mass)?;
    Ok((nats, g.choose(is_above, slope, zero)?))
}

/// The standard normal distribution's mass within `half` of `middle`.
fn bin_mass(g: &mut GraphBuilder, middle: Value, half: Value) -> onnx::Result<Value> {
    let mut sum = None;
    for (place, weight) in PLACES {
        for place in [-place, place] {
            let (place, weight) = (g.scalar(place)?, g.scalar(weight / TAU.sqrt())?);
            let x = g.mul(half, place)?;
            let x = g.add(middle, x)?;
            let density = bell(g, x)?;
            let part = g.mul(density, weight)?;
            sum = Some(match sum {
                None => part,
                Some(sum) => g.add(sum, part)?,
            });
        }
    }
    let sum = sum.expect("four places");
    let narrow = g.mul(sum, half)?;
    // On the side of the mean where both ends have small masses, whose difference keeps its digits.
    let middle = g.unary(Unary::Abs, middle)?;
    let (low, high) = (g.add(middle, half)?, g.sub(half, middle)?);
    let low = g.unary(Unary::Neg, low)?;
    let (to_high, to_low) = (normal_cdf(g, high)?, normal_cdf(g, low)?);
    let wide = g.sub(to_high, to_low)?;
    let limit = g.scalar(NARROW)?;
    let is_narrow = g.binary(Binary::Less, half, limit)?;
    g.choose(is_narrow, narrow, wide)
}

/// e^(-x^2/2).
fn bell(g: &mut GraphBuilder, x: Value) -> onnx::Result<Value> {
    let (x2, factor) = (g.mul(x, x)?, g.scalar(-0.5)?);
    let power = g.mul(x2, factor)?;
    g.unary(Unary::Exp, power)
}

/// x times the standard normal density at x.
fn moment(g: &mut GraphBuilder, x: Value) -> onnx::Result<Value> {
    let (density, factor) = (bell(g, x)?, g.scalar(1.0 / TAU.sqrt())?);
    let scaled = g.mul(x, factor)?;
    g.mul(scaled, density)
}

/// The standard normal distribution function, to single precision's digits however small it is.
fn normal_cdf(g: &mut GraphBuilder, x: Value) -> onnx::Result<Value> {
    let (zero, half, one) = (g.scalar(0.0)?, g.scalar(0.5)?, g.scalar(1.0)?);
    let z = g.unary(Unary::Abs, x)?;
    let root = g.scalar(FRAC_1_SQRT_2)?;
    let z = g.mul(z, root)?;
    let s = g.mul(z, half)?;
    let s = g.add(s, one)?;
    let s = g.div(one, s)?;
    let mut p = g.scalar(ERFC[0] as f32)?;
    for coefficient in &ERFC[1..] {
        let coefficient = g.scalar(*coefficient as f32)?;
        p = g.mul(p, s)?;
        p = g.add(p, coefficient)?;
    }
    let z2 = g.mul(z, z)?;
    let power = g.sub(p, z2)?;
    let tail = g.unary(Unary::Exp, power)?;
    let tail = g.mul(tail, s)?;
    let tail = g.mul(tail, half)?;
    let rest = g.sub(one, tail)?;
    let is_below = g.binary(Binary::Less, x, zero)?;
    g.choose(is_below, tail, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::equations::decoder::{eq17_pixel_probability, eq17_pixel_slope, pixel};
    use crate::export::testing::runners;
    use performer_ddpm_onnx::builder::ModelInfo;
    use performer_ddpm_onnx::{Dim, ElementType, Tensor};

    /// Means on and off the pixel's value, near ones and such as leave no more than the floor, for deviations
    /// from a tenth of a bin to a hundred bins. Bounds: 1e-6 of a mass that is computed as a sum or a tail,
    /// and as much again for each power of e in it, of which there are at most 27.
    #[test]
    fn the_decoder_is_that_of_17() {
        let mut cases = Vec::new();
        for byte in [0u8, 1, 96, 254, 255] {
            for sigma in [4e-4f64, 3e-3, 7e-3, 8.4e-3, 0.03, 0.5] {
                for deviations in [-9.0, -6.5, -2.0, -0.4, 0.0, 0.1, 1.0, 3.0, 7.3] {
                    cases.push((pixel(byte), deviations * sigma, sigma));
                }
            }
        }
        let mut g = GraphBuilder::new("decoder");
        let [x_0, miss, per_sigma] = ["x_0", "miss", "per_sigma"]
            .map(|name| g.input(name, ElementType::F32, [Dim::from("N")]).unwrap());
        let (nats, slope) = decoder(&mut g, x_0, miss, per_sigma).unwrap();
        g.output("nats", nats).unwrap();
        g.output("slope", slope).unwrap();
        let model = g.into_model(ModelInfo::default()).unwrap();
        let tensor = |of: &dyn Fn(&(f64, f64, f64)) -> f64| {
            Tensor::f32([cases.len()], cases.iter().map(|case| of(case) as f32).collect::<Vec<_>>()).unwrap()
        };
        let inputs = [tensor(&|case| case.0), tensor(&|case| case.1), tensor(&|case| 1.0 / case.2)];
        for mut runner in runners(&model) {
            let named = [("x_0", &inputs[0]), ("miss", &inputs[1]), ("per_sigma", &inputs[2])];
            let outputs = runner.run(&named).unwrap();
            let [nats, slopes] = [0, 1].map(|i| outputs[i].1.as_f32().unwrap());
            for (i, (x_0, miss, sigma)) in cases.iter().enumerate() {
                let mass = eq17_pixel_probability(*x_0, x_0 - miss, *sigma);
                let want = eq17_pixel_slope(*x_0, x_0 - miss, *sigma);
                let (got, slope) = (f64::from(nats[i]), -f64::from(slopes[i]));
                let bound = 1e-6 * (1.0 - mass.ln());
                assert!(
                    (got + mass.ln()).abs() < bound.max(2e-6),
                    "{:?}: {got} for {}",
                    cases[i],
                    -mass.ln()
                );
                let error = (slope - want).abs();
                assert!(error < 2e-5 * (1.0 + want.abs()), "{:?}: slope {slope} for {want}", cases[i]);
            }
        }
    }
}
