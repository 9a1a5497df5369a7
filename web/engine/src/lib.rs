//! The engine of the page in `web/page`: models in memory, sampled and edited, each step told as it comes.
//!
//! A [`Session`](session::Session) takes requests as JSON and tells what happens as JSON with numbers beside
//! it. That is plain Rust, which the tests drive on any machine. `border`, of which there is something in
//! WebAssembly alone, is where JavaScript calls in and is called: four functions of whole numbers and one
//! buffer.
#![deny(unsafe_code)]

#[cfg(target_family = "wasm")]
mod border;
pub mod request;
pub mod session;
pub mod told;
