//! What several modules of tests share.

pub mod binary;
pub mod feature_nets;
pub mod foreign;
pub mod golden;
pub mod models;
pub mod networks;
pub mod parity;
#[path = "../../../onnx/tests/suite/peers.rs"]
pub mod peers;
pub mod pictures;
pub mod python;
pub mod readers;
pub mod runtimes;
