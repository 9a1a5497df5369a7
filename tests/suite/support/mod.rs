//! What several modules of tests share.

pub mod feature_nets;
pub mod foreign;
pub mod golden;
pub mod models;
pub mod networks;
pub mod parity;
pub mod peers;
pub mod python;
pub mod runners;
pub mod runtimes;
