//! What a kernel is, and the one place that chooses between its reference and its fast version.

use super::{Isa, Team};
use crate::error::{Error, Result};
use crate::real::Real;

/// What a kernel runs on.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// The threads that share the work; only matrix products and convolutions use more than the calling one.
    pub team: Team<'a>,
}

impl From<Isa> for Context<'_> {
    /// The calling thread alone.
    fn from(isa: Isa) -> Self {
        Context { isa, team: Team::Solo }
    }
}

impl<'a> From<(Isa, Team<'a>)> for Context<'a> {
    fn from((isa, team): (Isa, Team<'a>)) -> Self {
        Context { isa, team }
    }
}

/// A computation on slices: its operands, what their sizes have to satisfy, its plain reference and its fast
/// version.
pub trait Kernel: Sized {
    /// What is read and written.
    type Operands<'a, T: Real>;

    /// Whether the operands' sizes fit each other. The memory safety of [`Kernel::fast`] rests on this, so
    /// sizes are multiplied with an eye to overflow.
    ///
    /// # Errors
    /// [`Error`] if they do not.
    fn check<T: Real>(operands: &Self::Operands<'_, T>) -> Result<()>;

    /// The computation as plain text.
    fn reference<T: Real>(operands: Checked<'_, Self, T>);

    /// The computation with vectors, to the same values but for rounding.
    fn fast(context: Context<'_>, operands: Checked<'_, Self, f32>);

    /// Checks the operands and computes.
    ///
    /// # Errors
    /// As for [`Kernel::check`]; then nothing was written.
    fn try_run<'c, T: Element>(
        context: impl Into<Context<'c>>,
        operands: Self::Operands<'_, T>,
    ) -> Result<()> {
        Self::check(&operands)?;
        T::compute::<Self>(context.into(), Checked(operands));
        Ok(())
    }
}

/// Operands whose sizes [`Kernel::check`] found to fit; only [`Kernel::try_run`] makes them.
#[expect(missing_debug_implementations, reason = "operands are not printed")]
pub struct Checked<'a, K: Kernel, T: Real>(pub(super) K::Operands<'a, T>);

/// How the layers run a kernel.
pub trait Run: Kernel {
    /// Computes.
    ///
    /// # Panics
    /// If the operands' sizes do not fit each other, with the message of [`Kernel::check`]: a layer's
    /// mistake.
    fn run<'c, T: Element>(context: impl Into<Context<'c>>, operands: Self::Operands<'_, T>) {
        if let Err(error) = Self::try_run(context, operands) {
            panic!("{error}");
        }
    }
}

impl<K: Kernel> Run for K {}

/// A [`Real`] with kernels: `f64` always runs the reference, `f32` what [`Isa`] names.
pub trait Element: Real {
    /// Whether `isa` names fast kernels for this type, and not the reference.
    fn has_fast_kernels(isa: Isa) -> bool;

    /// Runs a kernel's reference or its fast version.
    #[doc(hidden)]
    fn compute<K: Kernel>(context: Context<'_>, operands: Checked<'_, K, Self>);
}

impl Element for f64 {
    fn has_fast_kernels(_: Isa) -> bool {
        false
    }

    fn compute<K: Kernel>(_: Context<'_>, operands: Checked<'_, K, f64>) {
        K::reference(operands);
    }
}

impl Element for f32 {
    fn has_fast_kernels(isa: Isa) -> bool {
        isa != Isa::Reference
    }

    fn compute<K: Kernel>(context: Context<'_>, operands: Checked<'_, K, f32>) {
        if Self::has_fast_kernels(context.isa) {
            K::fast(context, operands);
        } else {
            K::reference(operands);
        }
    }
}

/// Refuses a kernel's operands unless `fits`; `expected` and `got` are only called for the message.
#[inline]
pub(super) fn ensure(
    fits: bool,
    what: &str,
    expected: impl FnOnce() -> String,
    got: impl FnOnce() -> String,
) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::invalid(what, expected(), got(), "")) }
}

/// Refuses an operand of another length.
#[inline]
pub(super) fn ensure_len(what: &str, got: usize, expected: usize) -> Result<()> {
    ensure(got == expected, what, || format!("{expected} elements"), || got.to_string())
}
