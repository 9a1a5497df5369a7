//! The integration tests, in one program, because every program compiles the generic code again. Each module
//! is a topic: `cargo test --test suite golden_unet`. A test that needs a process of its own, for instance
//! for its allocator, is a program beside this folder.

mod attention_cost;
mod backends;
mod checkpoint_config;
mod checkpoint_golden;
mod checkpoint_model;
mod checkpoint_state;
mod classes;
mod cli_bench;
mod cli_errors;
mod cli_evaluate;
mod cli_onnx;
mod cli_output;
mod cli_resume;
mod compare;
mod data_embedded;
mod data_idx;
mod data_sources;
mod determinism;
mod diffusers_folder;
mod equations_index;
mod evaluate_features;
mod evaluate_nll;
mod examples;
mod export_file;
mod export_graphs;
mod floors;
mod golden2_objectives;
mod golden2_onnx;
mod golden2_pipelines;
mod golden2_unets;
mod golden_attention;
mod golden_frechet;
mod golden_schedulers;
mod golden_unet;
mod gradients;
mod hostile;
mod kernels_hostile;
mod objectives;
mod onnx_scripts;
mod peer_networks;
mod pipeline;
mod shipped_model;
mod support;
