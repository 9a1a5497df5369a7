//! What the equations do to real garments, and in the trained model that the library carries.

use super::plots::{axes, series};
use crate::audit::measure::{draws, normals};
use crate::checkpoint::{SHIPPED, model_folder};
use crate::config::RowNorms;
use crate::config::VarianceKind::{FixedLarge, FixedSmall};
use crate::data::unit_from_byte;
use crate::equations::attention::{eq22_attention, eq26_favor_attention};
use crate::equations::bound::{bits_per_dim, eq17_decoder_term, eq17_middle_term, eq17_prior_term};
use crate::equations::features::FeatureMap;
use crate::equations::forward::eq03_q_sample;
use crate::equations::loss::eq21_l_simple;
use crate::equations::projection::Projection;
use crate::equations::reverse::Reverse;
use crate::equations::{Level, Schedule};
use crate::error::{Error, Result};
use crate::kernels::Isa;
use crate::machine;
use crate::model::graph::Op;
use crate::model::{Engine, Model};
use crate::output::html::{chart, picture};
use crate::output::{Chart, Corner, Look, Scale, grid};
use image::codecs::png::PngEncoder;
use ndarray::{Array2, Array4, ArrayView1};
use std::path::Path;
use std::sync::Arc;

/// The garments: a shoe, a pullover, trousers of the test images.
const GARMENTS: [usize; 4] = [0, 1, 2, 4];
/// The timesteps of pictures of x_t.
const SHOWN: [usize; 9] = [0, 50, 100, 200, 300, 400, 600, 800, 1000];

/// Every picture, by its equation's id.
pub(super) fn all() -> Result<Vec<(&'static str, String)>> {
    let loaded = model_folder::load::<f32>(Path::new(SHIPPED))?;
    let schedule = Schedule::from_config(&loaded.diffusion)?;
    let garments = garments()?;
    let (bound, loss) = bound(&loaded.model, &schedule, &garments)?;
    Ok(vec![
        ("eq03", forward(&schedule, &garments)?),
        ("eq17", bound),
        ("eq21", loss),
        ("eq26", maps(&loaded.model, &schedule, &garments[1])?),
    ])
}

/// Pixels of some test images, in [-1, 1].
fn garments() -> Result<Vec<Vec<f32>>> {
    let sets = crate::data::load(None, None)?;
    let test = sets.test.unwrap_or(sets.train);
    let pixels =
        |index: &usize| Ok(test.bytes(*index)?.iter().map(|byte| unit_from_byte(*byte) as f32).collect());
    GARMENTS.iter().map(pixels).collect()
}

/// Images \[n, h, w, c\] as a grid in the page.
fn figure(images: &Array4<f32>, columns: usize, alt: &str, caption: &str) -> Result<String> {
    let mut png = Vec::new();
    let canvas = grid(images.view(), Some(columns))?;
    canvas
        .write_with_encoder(PngEncoder::new(&mut png))
        .map_err(|e| Error::invalid("a picture of the page", "pixels", e.to_string(), ""))?;
    Ok(picture(&png, alt, caption).replacen("\"grid\"", "\"grid wide\"", 1))
}

/// x_t by (3), with the noise of one generator for all t.
fn x_t(x0: &[f32], level: Option<&Level>, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let eps: Vec<f32> = normals(&mut draws(seed), x0.len()).iter().map(|e| *e as f32).collect();
    let mut x_t = x0.to_vec();
    if let Some(level) = level {
        eq03_q_sample(x0, &eps, level.alpha_bar, &mut x_t);
    }
    (x_t, eps)
}

/// Garments on their way to noise, and what becomes of a bright and a dark pixel.
fn forward(schedule: &Schedule, garments: &[Vec<f32>]) -> Result<String> {
    let level = |t: usize| t.checked_sub(1).and_then(|index| schedule.levels().get(index));
    let strips = garments
        .iter()
        .enumerate()
        .flat_map(|(i, x0)| SHOWN.into_iter().flat_map(move |t| x_t(x0, level(t), 300 + i as u64).0));
    let side = 28;
    let pixels: Vec<f32> = strips.collect();
    let images = Array4::from_shape_vec((garments.len() * SHOWN.len(), side, side, 1), pixels)
        .map_err(|e| Error::invalid("the garments", "28x28 pixels", e.to_string(), ""))?;
    let times: Vec<String> = SHOWN.iter().map(usize::to_string).collect();
    let times = times.join(", ");
    let strip = figure(
        &images,
        SHOWN.len(),
        "Four garments that dissolve into noise from left to right",
        &format!("x_t of four garments at t = {times}, from one draw of noise for each garment."),
    )?;
    let band = |x0: f64, sigmas: f64| {
        let levels = schedule.levels().iter().step_by(10);
        let mean = |level: &Level| level.alpha_bar.sqrt() * x0 + sigmas * (1.0 - level.alpha_bar).sqrt();
        levels.map(|level| (level.t.get() as f64, mean(level))).collect()
    };
    let mut lines = Vec::new();
    for (name, x0, colour) in [("a white pixel", 1.0, 2), ("a black pixel", -1.0, 1)] {
        lines.push(series(format!("{name}: mean"), colour, Look::Line, band(x0, 0.0)));
        for (name, sigmas) in [("one standard deviation from it", 1.0), ("", -1.0)] {
            lines.push(series(name, colour, Look::Dashed, band(x0, sigmas)));
        }
    }
    let [x, y] = axes("t", Scale::Linear, "pixel", Scale::Linear);
    let bands = Chart { x, y, series: lines, legend: Corner::UpperRight };
    Ok(strip + &chart(&bands, "q(x_t | x_0) of a white and of a black pixel: both end as N(0, 1).")?)
}

/// The bound's terms and the loss of the trained model over t.
fn bound(model: &Model<f32>, schedule: &Schedule, garments: &[Vec<f32>]) -> Result<(String, String)> {
    let mut engine = Engine::new(model, machine::threads().min(64), Isa::detect())?;
    let dims = model.input_len();
    let all = schedule.levels();
    // About evenly spaced in ln t.
    let mut times: Vec<usize> =
        (0..28).map(|i| (all.len() as f64).powf(f64::from(i) / 27.0) as usize).collect();
    times.dedup();
    let reverse = |variance| Reverse { variance, clip_x0: true };
    let bits = |nats: f64| bits_per_dim(nats, dims) / garments.len() as f64;
    let (mut small, mut large, mut decoder, mut loss) = (Vec::new(), Vec::new(), 0.0, Vec::new());
    for t in times {
        let level = &all[t - 1];
        let noisy: Vec<_> =
            garments.iter().enumerate().map(|(i, x0)| x_t(x0, Some(level), (1000 * i + t) as u64)).collect();
        let x: Vec<f32> = noisy.iter().flat_map(|(x_t, _)| x_t.iter().copied()).collect();
        let mut eps_theta = vec![0.0; x.len()];
        engine.forward(model, &x, &vec![level.t.index(); noisy.len()], &mut eps_theta)?;
        let cases = || garments.iter().zip(&noisy).zip(eps_theta.chunks(dims));
        let term = |variance| -> f64 {
            cases()
                .map(|((x0, (x_t, _)), eps)| match level.is_first() {
                    true => eq17_decoder_term(x0, x_t, eps, level, reverse(variance)),
                    false => eq17_middle_term(x0, x_t, eps, level, reverse(variance)),
                })
                .sum()
        };
        if level.is_first() {
            decoder = bits(term(FixedSmall));
        } else {
            small.push((t as f64, bits(term(FixedSmall))));
            large.push((t as f64, bits(term(FixedLarge))));
        }
        let errors = cases().map(|((_, (_, eps)), got)| eq21_l_simple(eps, got)).sum::<f64>();
        loss.push((t as f64, errors / garments.len() as f64));
    }
    let prior = bits(garments.iter().map(|x0| eq17_prior_term(x0, schedule.last())).sum());
    let [x, y] = axes("t", Scale::Logarithmic, "bits per dimension", Scale::Logarithmic);
    let last = all.len() as f64;
    let terms = Chart {
        x,
        y,
        series: vec![
            series("L_{t-1}, sigma_t^2 = beta~_t", 1, Look::Dots, small),
            series("L_{t-1}, sigma_t^2 = beta_t", 2, Look::Dots, large),
            series("L_0, at t = 1", 3, Look::Dots, vec![(1.0, decoder)]),
            series("L_T, at t = T", 4, Look::Dots, vec![(last, prior)]),
        ],
        legend: Corner::LowerLeft,
    };
    let what = "of the shipped model on four test garments, one draw of noise each";
    let terms = chart(
        &terms,
        &format!(
            "The bound's terms {what}: few steps near t = 1 carry most of it, which is why (21) weighs them \
             less."
        ),
    )?;
    let [x, y] = axes("t", Scale::Logarithmic, "mean of |eps - eps_theta|^2", Scale::Logarithmic);
    let loss = Chart { x, y, series: vec![series("(21)", 1, Look::Dots, loss)], legend: Corner::UpperRight };
    Ok((
        terms,
        chart(
            &loss,
            &format!("The loss {what}: noise is hard to tell from detail where there is little of it."),
        )?,
    ))
}

/// The queries and keys of an attention layer.
struct Layer {
    /// The layer's name.
    name: String,
    /// The image's side there.
    side: usize,
    /// \[pixels, d\] of the first head.
    q: Array2<f64>,
    k: Array2<f64>,
    /// Its projections, \[m, d\].
    w: Array2<f64>,
}

/// What the last attention layer of a network is given: the network cut off before it, and its queries and
/// keys as the output.
fn layer(model: &Model<f32>, x: &[f32], level: &Level) -> Result<Layer> {
    let none = || Error::invalid("the shipped model", "FAVOR+ attention", "none", "");
    let mut cut: Model<f64> = model.cast();
    let mut graph = (*model.graph).clone();
    let (at, heads, projection) = graph
        .nodes
        .iter()
        .enumerate()
        .rev()
        .find_map(|(at, node)| match node.op {
            Op::Attention { heads, projection: Some(projection), .. } => Some((at, heads, projection)),
            _ => None,
        })
        .ok_or_else(none)?;
    let node = graph.nodes[at].clone();
    graph.nodes.truncate(at);
    graph.values.truncate(node.output.0);
    let shape = graph.shape(node.inputs[0]);
    graph.push("queries and keys", Op::Concat, &node.inputs[..2])?;
    cut.graph = Arc::new(graph);
    let mut out = vec![0.0; cut.output_len()];
    let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    Engine::new(&cut, 1, Isa::Portable)?.forward(&cut, &x, &[level.t.index()], &mut out)?;
    let d = shape.c / heads;
    let part = |from: usize| {
        Array2::from_shape_fn((shape.pixels(), d), |(pixel, i)| out[2 * shape.c * pixel + from + i])
    };
    let numbers = &cut.projections[projection.0];
    let w = Array2::from_shape_fn((numbers.len() / d, d), |(i, j)| numbers[i * d + j]);
    Ok(Layer { name: node.name, side: shape.w, q: part(0), k: part(shape.c), w })
}

/// Where each of some pixels looks, by softmax and by FAVOR+, in the trained model.
fn maps(model: &Model<f32>, schedule: &Schedule, garment: &[f32]) -> Result<String> {
    const T: usize = 200;
    let level = &schedule.levels()[T - 1];
    let (x_t, _) = x_t(garment, Some(level), 301);
    let Layer { name, side, q, k, w } = layer(model, &x_t, level)?;
    let pixels = q.nrows();
    // With the identity for values, attention's output is its weights.
    let values = Array2::eye(pixels);
    let favor = |w: &Array2<f64>| {
        eq26_favor_attention(FeatureMap::Positive, q.view(), k.view(), values.view(), w.view())
    };
    let more = Projection::Orthogonal(RowNorms::Chi).draw(1024, q.ncols(), &mut draws(26))?;
    let exact = eq22_attention(q.view(), k.view(), values.view())?;
    let estimates = [favor(&w)?, favor(&more)?];
    let distance = |got: &Array2<f64>| {
        let differences = got.iter().zip(&exact).map(|(got, want)| (got - want).abs());
        0.5 * differences.sum::<f64>() / pixels as f64
    };
    let [own, many] = [&estimates[0], &estimates[1]].map(distance);
    // A third and two thirds of the way, and the middle.
    let queries = [(side / 3, side / 3), (side / 2, side / 2), (2 * side / 3, side / 2)];
    let scale = 28 / side;
    let mut images = Array4::from_elem((4 * queries.len(), 28, 28, 3), -1.0f32);
    for (row, (y, x)) in queries.into_iter().enumerate() {
        let mut draw = |column: usize, pixel: &dyn Fn(usize, usize) -> [f32; 3]| {
            for (y, x) in (0..28).flat_map(|y| (0..28).map(move |x| (y, x))) {
                for (c, value) in pixel(y, x).into_iter().enumerate() {
                    images[[4 * row + column, y, x, c]] = value;
                }
            }
        };
        draw(0, &|at_y, at_x| match (at_y / scale, at_x / scale) == (y, x) {
            true => [1.0, -0.2, -1.0],
            false => [x_t[28 * at_y + at_x].clamp(-1.0, 1.0); 3],
        });
        let query = side * y + x;
        for (column, weights) in [&exact, &estimates[0], &estimates[1]].into_iter().enumerate() {
            let weights: ArrayView1<f64> = weights.row(query);
            // The same scale in a row, so that the maps can be compared.
            let most = exact.row(query).iter().copied().fold(0.0, f64::max);
            draw(column + 1, &|at_y, at_x| {
                let share = weights[side * (at_y / scale) + at_x / scale] / most;
                [(2.0 * share.sqrt() - 1.0).clamp(-1.0, 1.0) as f32; 3]
            });
        }
    }
    figure(
        &images,
        4,
        "Three rows of four pictures: a noisy garment with one pixel marked, and three maps of where it \
         looks",
        &format!(
            "The weights (22) and (26) of three pixels (orange) at t = {T} in {name}, first head, d = {}. \
             From the left: x_t; softmax; FAVOR+ with the m = {} projections that the model was trained \
             with; FAVOR+ with m = {}. Bright is where the pixel looks; the brightness is the root of the \
             weight. Half the mean sum of |difference| from softmax is {own:.2} and {many:.2}: the model was \
             trained with few projections, and uses the kernel that they make.",
            q.ncols(),
            w.nrows(),
            more.nrows(),
        ),
    )
}
