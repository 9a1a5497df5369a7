//! Every reader of a file of others, as a function of bytes: what fuzzing feeds. Whatever the bytes are, a
//! reader returns a value or an error; it neither panics nor takes memory that the bytes do not account for.

use performer_ddpm::checkpoint::{model_folder, state};
use performer_ddpm::config::Config;
use performer_ddpm::data::{self, Picture, idx};
use performer_ddpm::export::Metadata;
use performer_ddpm::output::read_npy;
use performer_ddpm_onnx::Model;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A reader by name.
pub type Reader = (&'static str, fn(&[u8]));

/// All of them. The order is part of the corpus: new ones go to the end.
pub const READERS: [Reader; 12] = [
    ("idx", |bytes| drop(idx::read::<3>("bytes", bytes))),
    ("idx-file", |bytes| in_file("a", bytes, |path| drop(idx::read_file::<1>(path)))),
    ("npy", |bytes| in_file("a.npy", bytes, |path| drop(read_npy::<ndarray::Ix4>(path)))),
    ("picture", |bytes| in_file("a.png", bytes, |path| drop(Picture::open(path)))),
    ("pictures", |bytes| {
        in_file("a.png", bytes, |path| drop(data::load(path.parent(), Some((8, 8)))));
    }),
    ("cifar", |bytes| {
        in_file("data_batch_1.bin", bytes, |path| drop(data::load(path.parent(), None)));
    }),
    ("state", |bytes| in_file("a.safetensors", bytes, |path| drop(state::load(path)))),
    ("config", |bytes| drop(Config::from_toml(&String::from_utf8_lossy(bytes), "bytes"))),
    ("unet-json", |bytes| {
        in_file("config.json", bytes, |path| drop(model_folder::load_unet_config(folder(path))))
    }),
    ("scheduler-json", |bytes| with_scheduler(bytes)),
    ("safetensors", |bytes| with_weights(bytes)),
    ("onnx", |bytes| {
        if let Ok(model) = Model::from_bytes("bytes", bytes) {
            let _ = (model.summary().is_ok(), Metadata::read(&model).is_ok());
            let _ = model.check_numbers(f64::INFINITY);
        }
    }),
];

fn folder(path: &Path) -> &Path {
    path.parent().expect("a folder")
}

/// Writes the bytes to a file of this name in a folder of its own.
fn in_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    let (_folder, path) = file(name, bytes);
    read(&path);
}

fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a file");
    (folder, path)
}

/// The smallest network that there is, as diffusers describes it.
const UNET: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 4, "in_channels": 1, "out_channels": 1,
    "block_out_channels": [4], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1, "norm_num_groups": 2, "attention_head_dim": 4}"#;

fn with_scheduler(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in [
        ("unet/config.json", UNET.as_bytes()),
        ("unet/diffusion_pytorch_model.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
        ("scheduler/scheduler_config.json", bytes),
    ] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }
    drop(model_folder::load::<f32>(folder.path()));
}

fn with_weights(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.json"), UNET).expect("a file");
    std::fs::write(folder.path().join("diffusion_pytorch_model.safetensors"), bytes).expect("a file");
    drop(model_folder::load::<f32>(folder.path()));
}
