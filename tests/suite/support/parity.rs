//! Computes an engine's results for a batch, and compares them with the right ones.

use performer_ddpm::kernels::{Element, Kernels};
use performer_ddpm::model::{Condition, Engine, Gradient, Model};

/// The output, from x \[n, h, w, c\] and the timesteps' indices or the samples' conditions.
pub fn output<T: Element, C: Copy + Into<Condition> + Sync>(
    model: &Model<T>,
    kernels: Kernels,
    threads: usize,
    x: &[f64],
    conditions: &[C],
) -> Vec<T> {
    let mut engine = Engine::new(model, threads, kernels).expect("an engine");
    let mut y = vec![T::zero(); conditions.len() * model.output_len()];
    engine.forward(model, &cast(x), conditions, &mut y).expect("lengths that fit");
    y
}

/// The loss for noise \[n, h, w, c\] and its gradients, the one in x too.
pub fn gradient<T: Element, C: Copy + Into<Condition> + Sync>(
    model: &Model<T>,
    kernels: Kernels,
    threads: usize,
    x: &[f64],
    eps: &[f64],
    conditions: &[C],
) -> Gradient<T> {
    let mut engine = Engine::with_input_gradient(model, threads, kernels, true).expect("an engine");
    let (x, eps) = (cast(x), cast(eps));
    let (len_in, len_out) = (model.input_len(), model.output_len());
    let example = |i: usize, x_t: &mut [T], e: &mut [T]| {
        x_t.copy_from_slice(&x[i * len_in..][..len_in]);
        e.copy_from_slice(&eps[i * len_out..][..len_out]);
        conditions[i]
    };
    let mut gradient = Gradient::default();
    engine.gradient(model, conditions.len(), &example, None, &mut gradient).expect("lengths that fit");
    gradient
}

fn cast<T: Element>(x: &[f64]) -> Vec<T> {
    x.iter().map(|x| T::of(*x)).collect()
}

/// |got - want| <= relative max|want| + floor for every element.
pub fn compare<T: Element>(what: &str, got: &[T], want: &[f64], relative: f64, floor: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let bound = relative * largest(want) + floor;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (got.f64() - want).abs();
        assert!(error <= bound, "{what}[{i}]: {got} for {want}, off by {error:e}, bound {bound:e}");
    }
}

/// The largest size of a number.
pub fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m: f64, x| m.max(x.abs()))
}
