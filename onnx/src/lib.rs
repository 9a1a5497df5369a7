//! ONNX files from Rust: write, read, check and run them.
#![forbid(unsafe_code)]
