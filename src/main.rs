//! The command line of `performer-ddpm`.
#![forbid(unsafe_code)]
fn main() {}
