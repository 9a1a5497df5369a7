//! How images are read.

/// How images are read. Nothing here changes an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Whether files that are no pictures are refused, and not passed over.
    pub strict: bool,
    /// Bytes of memory for decoded pictures; those that do not fit are decoded whenever they are needed.
    /// `None` for half of the memory that is free, or 4 GiB where the system does not say how much that is.
    pub cache: Option<u64>,
}

/// What reading is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Finding the pictures and reading their headers.
    Listing,
    /// Decoding those that are kept in memory.
    Decoding,
}

/// Is told what is done, how many files it is done with, and of how many.
pub type Watch<'a> = dyn FnMut(Phase, usize, usize) + 'a;

/// The files that are handled between two looks at how far the work is: enough for all threads.
pub(super) fn a_piece() -> usize {
    8 * rayon::current_num_threads()
}
