//! Every numbered equation of the slides, one small pure function each; start at [`INDEX`].
//!
//! Functions carry the slides' number (`eq03_q_sample`, `alg2_sample`) and so do their tests, so that `cargo
//! test eq03` runs one equation. The diffusion half, (1)-(21) and both algorithms, is generic over [`Real`],
//! and training and sampling call it: there is no second copy. The attention half, (22)-(26), is `f64` on
//! `ndarray` views; the fast layers are tested against it.
//!
//! What the slides do not have is beside them: [`ddim`]; and under numbers of their own, in [`solver`] every
//! sampler that diffusers' scheduler files can name, in [`objective`] what else a network may be trained on,
//! in [`guidance`] how images are led to their classes, in [`edit`] what uses of a model on given images
//! need.
//!
//! Symbols: `t` runs from 1 to T; `beta_t` is the variance added at step t, `alpha_t = 1 - beta_t`,
//! `abar_t = alpha_1 .. alpha_t` with `abar_0 = 1`; `beta~_t` is the posterior variance (10).

pub mod algorithms;
mod annex;
pub mod attention;
pub mod bound;
pub mod ddim;
pub mod decoder;
pub mod edit;
pub mod features;
pub mod forward;
pub mod gaussian;
pub mod guidance;
mod index;
pub mod kernel;
mod level;
pub mod loss;
pub mod muon;
pub mod objective;
pub mod posterior;
pub mod projection;
pub mod reverse;
mod reverse_process;
pub mod schedule;
pub mod solver;
mod timestep;
pub mod update;

pub use annex::ANNEX;
pub use index::{Equation, INDEX, label};
pub use level::Level;
pub use schedule::{Schedule, Spacing};
pub use timestep::Timestep;

use crate::real::Real;

/// `out = a x + b y`, element by element: almost every equation of the diffusion half has this form.
///
/// The scalars are rounded to `T` once, so the loop runs in `T` and vectorises.
///
/// # Panics
/// If the lengths differ.
fn combine<T: Real>(a: f64, x: &[T], b: f64, y: &[T], out: &mut [T]) {
    assert!(x.len() == out.len() && y.len() == out.len(), "lengths {} {} {}", x.len(), y.len(), out.len());
    let (a, b) = (T::of(a), T::of(b));
    for ((out, &x), &y) in out.iter_mut().zip(x).zip(y) {
        *out = a * x + b * y;
    }
}
