//! All steps of one sampler as one Scan over the steps of a run, the network with its weights inside the
//! body.

use super::guidance::{self, Guidance};
use super::network::{Condition, Network, images};
use super::step;
use crate::equations::solver::{Step, StepForm};
use crate::error::Result;
use crate::model::graph::Shape;
use performer_ddpm_onnx::builder::{GraphBuilder, SliceRange, Unary, Value};
use performer_ddpm_onnx::{Dim, ElementType};

/// What a sampler graph computes.
pub(super) struct Chain<'a> {
    /// The network.
    pub network: Network<'a>,
    /// The size of its images.
    pub shape: Shape,
    /// The steps in the order of sampling.
    pub steps: &'a [Step],
    /// How many of them one run takes.
    pub per_run: usize,
    /// The class for none, where there is guidance.
    pub null_class: Option<usize>,
}

/// Writes the chain with its inputs and outputs.
pub(super) fn chain(g: &mut GraphBuilder, chain: &Chain) -> Result<()> {
    let &Chain { network, shape, steps, per_run, null_class } = chain;
    let form = StepForm::of(steps);
    let is_cut = per_run < steps.len();
    let names = form.carried();

    let start = g.input("x_T", ElementType::F32, images(shape))?;
    let mut dims = vec![Dim::from(per_run)];
    dims.extend(images(shape).0);
    let noise = g.input("noise", ElementType::F32, dims)?;
    let first = if is_cut { Some(g.input("first", ElementType::I64, [1])?) } else { None };
    let mut states = vec![start];
    for name in &names {
        states.push(if is_cut {
            g.input(name, ElementType::F32, images(shape))?
        } else {
            g.within("start", "nothing is carried to the first step", |g| {
                let zero = g.scalar(0.0)?;
                g.expand_like(zero, start)
            })?
        });
    }
    let y = network.classes(g)?;
    let numbers = match null_class {
        None => None,
        Some(_) => Some(g.input("guidance", ElementType::F32, [per_run, 2])?),
    };
    let is_noisy = steps.iter().any(|step| step.noise.is_some());

    let mut body = GraphBuilder::body("step");
    let x = body.input("step/x", ElementType::F32, images(shape))?;
    let mut carried = Vec::new();
    for name in &names {
        carried.push(body.input(&format!("step/{name}"), ElementType::F32, images(shape))?);
    }
    let y_of_step = y.map(|_| body.input("step/y", ElementType::I64, [Dim::from("N")])).transpose()?;
    let t = body.input("step/t", ElementType::I64, [Dim::from("N")])?;
    let row = body.input("step/coefficients", ElementType::F32, [form.names().len()])?;
    let z = if is_noisy { Some(body.input("step/z", ElementType::F32, images(shape))?) } else { None };
    let guidance = match null_class {
        None => None,
        Some(null) => Some(Guidance { null, numbers: body.input("step/guidance", ElementType::F32, [2])? }),
    };
    let condition = Condition { t, y: y_of_step };
    let output = guidance::write(&mut body, network, shape, x, condition, guidance)?;
    let inputs = step::Inputs { x, output, row, z, carried: &carried };
    let (next, kept) = step::write(&mut body, &form, shape, inputs)?;
    body.output("step/x_next", next)?;
    for (name, value) in names.iter().zip(kept) {
        body.output(&format!("step/{name}_next"), value)?;
    }
    // The classes are a state that no step changes: a body reads nothing of the graph around it.
    if let Some(y) = y_of_step {
        let same = body.unary(Unary::Identity, y)?;
        body.output("step/y_next", same)?;
    }

    let [timesteps, rows] = tables(g, chain, &form, start, first)?;
    let mut scanned = vec![timesteps, rows];
    scanned.extend(is_noisy.then_some(noise));
    scanned.extend(numbers);
    states.extend(y);
    let doc = "the reverse process: the network and the update, once per step";
    let outputs = g.within("chain", doc, |g| g.scan(body, &states, &scanned))?;
    g.output("images", outputs.states[0])?;
    if is_cut {
        for (name, value) in names.iter().zip(&outputs.states[1..]) {
            g.output(&format!("{name}_next"), *value)?;
        }
    }
    Ok(())
}

/// The timesteps \[K, N\] and the rows \[K, R\] of the steps of a run.
fn tables(
    g: &mut GraphBuilder,
    chain: &Chain,
    form: &StepForm,
    start: Value,
    first: Option<Value>,
) -> Result<[Value; 2]> {
    let &Chain { steps, per_run, .. } = chain;
    // All runs have the same number of steps: the last one is padded with steps that change nothing.
    let rows = steps.len().next_multiple_of(per_run);
    let mut padded = steps.to_vec();
    padded.resize(rows, Step::identity());
    let indices: Vec<i64> = padded.iter().map(|step| step.t.index() as i64).collect();
    let numbers: Vec<f32> = padded.iter().flat_map(|step| form.row_f32(step)).collect();
    let of_run = match first {
        None => None,
        Some(first) => {
            let after = g.constant_i64(&[per_run], &(0..per_run as i64).collect::<Vec<_>>())?;
            Some(g.within("run", "the run's steps among all", |g| g.add(first, after))?)
        }
    };
    let rows_of_run = |g: &mut GraphBuilder, table: Value| match of_run {
        Some(steps) => g.gather(table, 0, steps),
        None => Ok(table),
    };
    let timesteps = g.within("timesteps", "every step's t for every image: [K, N]", |g| {
        let indices = g.constant_i64(&[rows, 1], &indices)?;
        let indices = rows_of_run(g, indices)?;
        let first = [1, 2, 3].map(|axis| SliceRange { axis, start: 0, end: 1, step: 1 });
        let one_per_image = g.slice(start, &first)?;
        let one_per_image = g.squeeze(one_per_image, &[1, 2, 3])?;
        g.expand_like(indices, one_per_image)
    })?;
    let doc = "every step's numbers: [K, R]";
    let rows = g.within("coefficients", doc, |g| {
        let table = g.constant_f32(&[rows, form.names().len()], &numbers)?;
        rows_of_run(g, table)
    })?;
    Ok([timesteps, rows])
}
