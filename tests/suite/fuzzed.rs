//! Readers on damaged bytes: what fuzzing found (tests/fuzzed), and each seed cut, flipped and spliced in a few
//! hundred ways. `fuzz/README.md` says how to search for more.

use crate::support::readers::{NETWORK, READERS};
use performer_ddpm::checkpoint::state;
use performer_ddpm::config::Preset;
use performer_ddpm::data::{Dataset, idx};
use performer_ddpm::export::{self, Check, ExportOptions, GraphSpec, Source};
use performer_ddpm::output::{write_npy, write_png};
use performer_ddpm::train::{Limit, Run, RunOptions};
use rand::{RngExt, SeedableRng};
use std::path::{Path, PathBuf};

/// Mutations of each seed. `PERFORMER_DDPM_MUTATIONS=N` for more.
const MUTATIONS: usize = 60;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A good file for every reader.
fn seeds(folder: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let read = |path: PathBuf| std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let run = folder.join("run");
    let mut config = Preset::Tiny.config().for_images([4, 4, 1]);
    config.unet.block_out_channels = vec![4];
    config.unet.down_attention.truncate(1);
    config.unet.up_attention.truncate(1);
    config.unet.attention_head_dim = Some(4);
    config.train.batch = 2;
    let data = Dataset::new("made-up images", [4, 4, 1], (0..64).collect(), None, true).expect("images");
    let options = RunOptions { grids: false, ..RunOptions::from(Limit::Steps(2)) };
    let made = Run::create_new(&run, &config).expect("a run");
    made.train(&config, &data, options, || false, |_| {}).expect("training");
    let loaded = performer_ddpm::checkpoint::model_folder::load::<f32>(&run).expect("a model");
    let source = Source::new(&loaded.model, &loaded.diffusion);
    let graph = ExportOptions { graph: GraphSpec::Denoiser, check: Check::Nowhere, threads: Some(1) };
    export::write(&folder.join("a.onnx"), source, &graph, &mut |_| {}).expect("a file");
    let array = ndarray::Array4::<f32>::zeros((2, 1, 4, 4));
    write_npy(&folder.join("a.npy"), array.view()).expect("a file");
    write_png(&folder.join("a.png"), ndarray::Array4::<f32>::zeros((1, 6, 6, 1)).view(), None)
        .expect("a file");
    let plain = {
        let mut bytes = Vec::new();
        idx::write(&mut bytes, &[2, 3, 3], &[9; 18]).expect("bytes");
        bytes
    };
    let picture = read(folder.join("a.png"));
    let state = state::newest(&run).expect("readable").expect("a checkpoint");
    vec![
        ("idx", plain),
        ("idx-file", idx::pack(&[40], &[3; 40]).expect("bytes")),
        ("npy", read(folder.join("a.npy"))),
        ("picture", picture.clone()),
        ("pictures", picture),
        ("cifar", [[3; 1].as_slice(), &[100; 3072]].concat()),
        ("state", read(state.file)),
        ("config", read(run.join("config.toml"))),
        ("unet-json", read(run.join("unet/config.json"))),
        ("scheduler-json", read(run.join("scheduler/scheduler_config.json"))),
        ("safetensors", NETWORK.clone()),
        ("onnx", read(folder.join("a.onnx"))),
    ]
}

/// Cuts, flips, extreme numbers, and pieces of the file in other places.
fn mutate(seed: &[u8], rng: &mut chacha20::ChaCha8Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'-', b'9'][rng.random_range(0..8)],
            3 => {
                let end = (at + 8).min(bytes.len());
                bytes[at..end].fill(0xff);
            }
            4 => {
                let piece: Vec<u8> = bytes[at..].iter().take(16).copied().collect();
                let to = rng.random_range(0..bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                let end = (at + rng.random_range(1..20)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    bytes
}

#[test]
fn damaged_files_are_refused_and_never_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    let seeds = seeds(folder.path());
    assert_eq!(seeds.len(), READERS.len());
    let count =
        std::env::var("PERFORMER_DDPM_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(MUTATIONS);
    let mut tried = 0;
    for ((name, seed), (reader, read)) in seeds.iter().zip(READERS) {
        assert_eq!(*name, reader);
        assert!(read(seed), "{name}: a good file is not read, so that damage to it shows nothing");
        let mut rng = chacha20::ChaCha8Rng::seed_from_u64(17);
        for _ in 0..count {
            read(&mutate(seed, &mut rng));
            tried += 1;
        }
    }
    println!("{tried} mutated files");
}

/// The corpus: tests/fuzzed/READER/FILE.
#[test]
fn what_fuzzing_found_stays_mended() {
    for (name, read) in READERS {
        let Ok(files) = std::fs::read_dir(root().join("tests/fuzzed").join(name)) else { continue };
        for file in files {
            read(&std::fs::read(file.expect("an entry").path()).expect("a file"));
        }
    }
}

/// Where PERFORMER_DDPM_SEEDS names a folder, the seeds are written there for `cargo fuzz`: the reader's number
/// and the file's bytes.
#[test]
fn seeds_for_fuzzing_can_be_written() {
    let Some(to) = std::env::var_os("PERFORMER_DDPM_SEEDS").map(PathBuf::from) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(&to).expect("a folder");
    for (number, (name, seed)) in seeds(folder.path()).into_iter().enumerate() {
        let bytes = [&[number as u8], &seed[..]].concat();
        std::fs::write(to.join(name), bytes).expect("a file");
    }
}
