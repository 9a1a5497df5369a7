//! Every reader of a file of others, as a function of bytes: what fuzzing feeds. Whatever the bytes are, a
//! reader returns a value or an error; it neither panics nor takes memory that the bytes do not account for.

use performer_ddpm::checkpoint::{model_folder, state};
use performer_ddpm::config::{Config, DiffusionConfig};
use performer_ddpm::data::{self, Picture, idx};
use performer_ddpm::export::Metadata;
use performer_ddpm::model::Model as Network;
use performer_ddpm::output::read_npy;
use performer_ddpm_onnx::Model;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;

/// A reader by name; whether it could read the bytes.
pub type Reader = (&'static str, fn(&[u8]) -> bool);

/// All of them. The order is part of the corpus: new ones go to the end.
pub const READERS: [Reader; 12] = [
    ("idx", |bytes| idx::read::<3>("bytes", bytes).is_ok()),
    ("idx-file", |bytes| in_file("a", bytes, |path| idx::read_file::<1>(path).is_ok())),
    ("npy", |bytes| in_file("a.npy", bytes, |path| read_npy::<ndarray::Ix4>(path).is_ok())),
    ("picture", |bytes| in_file("a.png", bytes, |path| Picture::open(path).is_ok())),
    ("pictures", |bytes| in_file("a.png", bytes, |path| data::load(path.parent(), Some((8, 8))).is_ok())),
    ("cifar", as_cifar),
    ("state", |bytes| in_file("a.safetensors", bytes, |path| state::load(path).is_ok())),
    ("config", |bytes| Config::from_toml(&String::from_utf8_lossy(bytes), "bytes").is_ok()),
    ("unet-json", |bytes| {
        in_file("config.json", bytes, |path| model_folder::load_unet_config(folder(path)).is_ok())
    }),
    ("scheduler-json", |bytes| in_model("scheduler/scheduler_config.json", bytes)),
    ("safetensors", |bytes| in_model(WEIGHTS, bytes)),
    ("onnx", |bytes| {
        Model::from_bytes("bytes", bytes).is_ok_and(|model| {
            let numbers = model.check_numbers(f64::INFINITY).is_ok();
            [model.summary().is_ok(), Metadata::read(&model).is_ok(), numbers] == [true; 3]
        })
    }),
];

fn folder(path: &Path) -> &Path {
    path.parent().expect("a folder")
}

/// Writes the bytes to a file of this name in a folder of its own.
fn in_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> bool) -> bool {
    let (_folder, path) = file(name, bytes);
    read(&path)
}

/// CIFAR-10's six files, all with these bytes.
fn as_cifar(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let names = (1..=5).map(|i| format!("data_batch_{i}.bin")).chain(["test_batch.bin".to_owned()]);
    names.for_each(|name| std::fs::write(folder.path().join(name), bytes).expect("a file"));
    data::load(Some(folder.path()), None).is_ok()
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

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

/// The weights of such a network, as a file has them.
pub static NETWORK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let (folder, _) = file("config.json", UNET.as_bytes());
    let config = model_folder::load_unet_config(folder.path()).expect("a configuration");
    let model = Network::<f32>::new(&config, 0).expect("a network");
    model_folder::save(folder.path(), &model, None, &DiffusionConfig::default()).expect("a folder");
    std::fs::read(folder.path().join(WEIGHTS)).expect("weights")
});

/// Reads a whole model of which one file has these bytes.
fn in_model(name: &str, bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in [("unet/config.json", UNET.as_bytes()), (WEIGHTS, &NETWORK), (name, bytes)] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }
    model_folder::load::<f32>(folder.path()).is_ok()
}
