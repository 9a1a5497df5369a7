//! What every layer is called with: its kernels, thread team and workspace, its parameters and their
//! gradients; and the checks of sizes and lengths.

use crate::error::{Error, Result};
use crate::kernels::{Isa, Kernels, Team};

/// What a layer computes with.
#[derive(Debug)]
pub struct Context<'a, T> {
    /// The instruction set and the algorithm of convolutions.
    pub kernels: Kernels,
    /// The thread team that shares the work; no result depends on it.
    pub team: Team<'a>,
    /// Memory that the caller lends for the call, of any content and at least as long as the layer asks for.
    pub workspace: &'a mut [T],
}

impl<T> Context<'_, T> {
    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.kernels.isa
    }

    /// The first `len` elements of the workspace.
    pub(super) fn workspace(&mut self, len: usize) -> Result<&mut [T]> {
        let got = self.workspace.len();
        match self.workspace.get_mut(..len) {
            Some(workspace) => Ok(workspace),
            None => {
                Err(Error::invalid("a layer's workspace", format!("{len} elements"), got.to_string(), ""))
            }
        }
    }
}

/// What becomes of the numbers that stand where a gradient goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// The gradient replaces them: it is the first to be written there.
    Set,
    /// The gradient is added to them.
    Add,
}

impl Update {
    /// Whether the gradient is added.
    pub(crate) fn adds(self) -> bool {
        self == Update::Add
    }
}

/// A layer's weight and bias; those of a normalisation are its scale gamma and its shift beta.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a, T> {
    /// The weight.
    pub weight: &'a [T],
    /// The bias, one number per output channel.
    pub bias: &'a [T],
}

impl<T> Affine<'_, T> {
    pub(super) fn check(&self, weight: usize, bias: usize) -> Result<()> {
        expect_len("a layer's weight", weight, self.weight)?;
        expect_len("a layer's bias", bias, self.bias)
    }
}

/// The loss's gradients in a layer's weight and bias, to which a backward pass adds.
#[derive(Debug)]
pub struct AffineGradient<'a, T> {
    /// The gradient in the weight.
    pub weight: &'a mut [T],
    /// The gradient in the bias.
    pub bias: &'a mut [T],
}

impl<T> AffineGradient<'_, T> {
    pub(super) fn check(&self, weight: usize, bias: usize) -> Result<()> {
        expect_len("the gradient in a layer's weight", weight, self.weight)?;
        expect_len("the gradient in a layer's bias", bias, self.bias)
    }
}

/// The most elements that a layer's tensor may have. Whatever a layer computes from its sizes, such as the
/// length of its workspace, then fits a number of the machine's addresses with room to spare.
const MOST_ELEMENTS: usize = 1 << if usize::BITS == 64 { 40 } else { 24 };

/// The number of elements of a tensor with these sides.
///
/// # Errors
/// [`Error::Invalid`] if a side is 0, or the product is more than [`MOST_ELEMENTS`].
pub(super) fn elements(what: &str, sides: &[usize]) -> Result<usize> {
    let product = sides.iter().try_fold(1usize, |product, side| product.checked_mul(*side));
    match product {
        Some(1..=MOST_ELEMENTS) => Ok(product.unwrap_or_default()),
        _ => Err(Error::invalid(
            what,
            format!("sides of at least 1 and at most {MOST_ELEMENTS} elements"),
            sides.iter().map(usize::to_string).collect::<Vec<_>>().join(" x "),
            "",
        )),
    }
}

/// Refuses a slice that has not `expected` elements.
pub(super) fn expect_len<T>(what: &str, expected: usize, slice: &[T]) -> Result<()> {
    if slice.len() == expected {
        return Ok(());
    }
    Err(Error::invalid(what, format!("{expected} elements"), slice.len().to_string(), ""))
}

/// The number of samples in a slice of samples of `each` elements.
///
/// # Errors
/// [`Error::Invalid`] if the slice does not end with a sample.
pub(super) fn samples_in<T>(what: &str, each: usize, slice: &[T]) -> Result<usize> {
    if slice.len().is_multiple_of(each) {
        return Ok(slice.len() / each);
    }
    Err(Error::invalid(what, format!("samples of {each} elements each"), slice.len().to_string(), ""))
}

/// Cuts the next `len` elements off a workspace.
pub(super) fn take<'w, T>(workspace: &mut &'w mut [T], len: usize) -> &'w mut [T] {
    let (taken, rest) = std::mem::take(workspace).split_at_mut(len);
    *workspace = rest;
    taken
}
