//! The integration tests of the crate, in one program.

mod common;
mod files;
mod hostile;
mod operators;
mod peers;
mod runtimes;
