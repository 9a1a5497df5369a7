//! Disks that fail and processes that are killed, at every call on a file in turn: training, resuming and
//! what is written beside it. `cargo test --test suite faults -- --nocapture` prints how many were tried.

use crate::compare::timeless;
use performer_ddpm::checkpoint::foreign::{self, Untold};
use performer_ddpm::checkpoint::model_folder;
use performer_ddpm::compare::{Budget, Comparison, Findings, Part, Plan};
use performer_ddpm::config::{AttentionKind, Config, Preset};
use performer_ddpm::data::{self, Dataset, Datasets, idx};
use performer_ddpm::disk::faults::{self, Fault};
use performer_ddpm::export::{self, Check, ExportOptions, Source};
use performer_ddpm::kernels::Kernels;
use performer_ddpm::model::Model;
use performer_ddpm::output::{read_npy, write_gif, write_loss_curve, write_npy, write_png};
use performer_ddpm::train::{Limit, Outcome, Run, RunOptions};
use performer_ddpm::{Error, Result, checkpoint};
use std::path::Path;
use std::time::Duration;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const ALL: [Fault; 6] = [
    Fault::Errno(ENOSPC),
    Fault::Errno(EIO),
    Fault::Interrupted,
    Fault::Short,
    Fault::Killed,
    Fault::KilledWithin,
];

/// A folder in memory where there is one: nothing here depends on the disk, and syncs take most of the time.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder")
}

/// A network of a few hundred parameters on 4x4 images: one life takes milliseconds.
fn config() -> Config {
    let mut config = Preset::Tiny.config().for_images([4, 4, 1]);
    config.unet.block_out_channels = vec![4];
    config.unet.down_attention.truncate(1);
    config.unet.up_attention.truncate(1);
    config.unet.layers_per_block = 1;
    config.unet.attention_head_dim = Some(4);
    config.diffusion.timesteps = 3;
    config.train.batch = 2;
    config.train.steps = Some(5);
    config.train.checkpoint_every = 2;
    config
}

fn images() -> Dataset {
    let pixels = (0..6 * 16).map(|i| (i * 37 % 256) as u8).collect();
    Dataset::new("made-up images", [4, 4, 1], pixels, None, true).expect("images")
}

/// Begins a run or goes on with it, to its end.
fn live(folder: &Path, images: &Dataset, grids: bool) -> Result<Outcome> {
    let (run, config) = match folder.join("config.toml").exists() {
        true => Run::open(folder)?,
        false => (Run::create_new(folder, &config())?, config()),
    };
    let options = RunOptions {
        limit: Limit::Configured,
        threads: 1,
        kernels: Kernels::default(),
        grids,
        library: None,
        tensorboard: false,
    };
    run.train(&config, images, options, || false, |_| {})
}

/// A step, its loss and its rate.
type Numbers = (u64, f64, f64);

/// What a run ended with, but for the columns of its metrics that the clock decides.
fn end(folder: &Path) -> (Vec<Vec<u8>>, Vec<Numbers>) {
    let read = |file: &str| std::fs::read(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let files = ["unet/diffusion_pytorch_model.safetensors", "unet/raw_weights.safetensors", "config.toml"];
    let metrics = Run::open(folder).expect("a run").0.metrics().expect("metrics");
    let columns = metrics.iter().map(|m| (m.step, m.loss, m.lr)).collect();
    (files.into_iter().map(read).collect(), columns)
}

/// No half file has a real name: whatever is there can be read.
fn check_whole(folder: &Path, what: &str) {
    if !folder.join("config.toml").exists() {
        return;
    }
    Run::open(folder).unwrap_or_else(|e| panic!("{what}: {e}"));
    let newest = checkpoint::state::newest(folder).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(newest.is_none_or(|newest| newest.note.is_none()), "{what}: a damaged checkpoint");
    for png in std::fs::read_dir(folder.join("samples")).into_iter().flatten().flatten() {
        if !png.file_name().to_string_lossy().starts_with('.') {
            let file = std::fs::read(png.path()).unwrap_or_else(|e| panic!("{what}: {e}"));
            image::load_from_memory(&file).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }
}

/// Lets every call of a life fail in every way, every `stride`-th of them; after each, the run goes on to the
/// same bits. Returns how many were tried.
fn sweep(grids: bool, kinds: &[Fault], stride: usize) -> u64 {
    let images = images();
    let straight = folder();
    faults::arm(0, Fault::Killed);
    live(straight.path(), &images, grids).expect("a run");
    let calls = faults::disarm();
    assert!(calls > 100, "only {calls} calls are counted");
    let want = end(straight.path());
    let mut tried = 0;
    for kind in kinds {
        for at in (1..=calls).step_by(stride) {
            let what = format!("{kind:?} at call {at} of {calls}");
            let folder = folder();
            let run = folder.path().join("run");
            faults::arm(at, *kind);
            let outcome = live(&run, &images, grids);
            faults::disarm();
            if let Err(error) = outcome {
                let message = error.to_string();
                assert!(!message.is_empty() && !message.contains('\n'), "{what}: {message}");
                assert!(!matches!(kind, Fault::Interrupted | Fault::Short), "{what}: {message}");
            }
            check_whole(&run, &what);
            live(&run, &images, grids).unwrap_or_else(|error| panic!("{what}, gone on with: {error}"));
            assert!(end(&run) == want, "{what}: other bits");
            let left = std::fs::read_dir(run.join("checkpoints")).expect("checkpoints").flatten();
            let left = left.filter(|file| !file.file_name().to_string_lossy().starts_with('.')).count();
            assert!(left <= 2, "{what}: {left} checkpoints");
            tried += 1;
        }
    }
    tried
}

#[test]
fn a_run_goes_on_to_the_same_bits_after_any_fault() {
    let tried = sweep(false, &ALL, 1) + sweep(true, &[Fault::Killed, Fault::Errno(ENOSPC)], 7);
    println!("{tried} lives with one fault each ended or went on to the same bits");
    assert!(tried > 500, "{tried}");
}

/// Begins a comparison of one variant or goes on with it; what it has found at its end.
fn compare(folder: &Path) -> Result<Findings> {
    let mut plan =
        Plan::new("small", &config(), &[AttentionKind::FAVOR], Budget::Steps(2), 1, Kernels::default())?;
    let measuring = &mut plan.measuring;
    (measuring.images, measuring.timesteps, measuring.steps) = (2, 2, 2);
    (measuring.samples, measuring.grid) = (10, 2);
    let data = Datasets::new(images(), None)?;
    let mut comparison = Comparison::open(folder, plan, &data)?;
    let finished = comparison.run(&[Part::Runs], &data, None, &|_, _| None, || false, |_| {})?;
    assert!(finished, "nobody asked to stop");
    Ok(comparison.findings().clone())
}

#[test]
fn a_comparison_goes_on_to_the_same_findings_after_any_fault() {
    let straight = folder();
    faults::arm(0, Fault::Killed);
    let want = timeless(&compare(straight.path()).expect("a comparison"));
    let calls = faults::disarm();
    assert!(calls > 50, "only {calls} calls are counted");
    // A third of all, such that each call fails in two ways.
    let some = |(i, kind)| (1 + i as u64 % 3..=calls).step_by(3).map(move |at| (kind, at));
    let mut tried = 0;
    for (kind, at) in ALL.into_iter().enumerate().flat_map(some) {
        let what = format!("{kind:?} at call {at} of {calls}");
        let folder = folder();
        let there = folder.path().join("comparison");
        faults::arm(at, kind);
        let outcome = compare(&there);
        faults::disarm();
        if let Err(error) = outcome {
            let message = error.to_string();
            assert!(!message.is_empty() && !message.contains('\n'), "{what}: {message}");
            assert!(!matches!(kind, Fault::Interrupted | Fault::Short), "{what}: {message}");
        }
        Findings::load(&there).unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = compare(&there).unwrap_or_else(|error| panic!("{what}, gone on with: {error}"));
        assert_eq!(timeless(&found), want, "{what}");
        tried += 1;
    }
    println!("{tried} comparisons with one fault each");
}

/// Kills on kills: each life is killed a few calls further than the one before, until one ends.
#[test]
fn a_run_that_is_killed_again_and_again_ends_with_the_same_bits() {
    let images = images();
    let straight = folder();
    live(straight.path(), &images, false).expect("a run");
    for step in [3, 7] {
        let folder = folder();
        let run = folder.path().join("run");
        let mut kills = 0;
        loop {
            faults::arm(10 + step * kills, Fault::KilledWithin);
            let outcome = live(&run, &images, false);
            faults::disarm();
            match outcome {
                Ok(_) => break,
                Err(_) => kills += 1,
            }
            assert!(kills < 500, "it does not get on");
        }
        assert!(end(&run) == end(straight.path()), "{kills} kills");
        println!("{kills} kills in one run");
    }
}

/// Every output is what was there, or whole: the writers of arrays, pictures, animations and model folders.
#[test]
fn an_output_is_the_old_one_or_the_new_one() {
    let folder = folder();
    let folder = folder.path();
    let images =
        ndarray::Array4::<f32>::from_shape_fn((3, 9, 9, 1), |(n, h, w, _)| (n + h * w) as f32 / 90.0);
    let other = images.mapv(|x| -x);
    type Write<'a> = &'a dyn Fn(&Path, &ndarray::Array4<f32>) -> Result<()>;
    let quarter = Duration::from_millis(250);
    // Two networks, of which the images choose one.
    let networks = [1, 2].map(|seed| Model::<f32>::new(&config().unet, seed).expect("a network"));
    let diffusion = config().diffusion;
    let unchecked = ExportOptions { check: Check::Nowhere, ..ExportOptions::default() };
    let points = |images: &ndarray::Array4<f32>| [(1, 2.0 + f64::from(images.sum().signum())), (2, 0.5)];
    let writers: [(&str, Write); 5] = [
        ("a.npy", &|path, images| write_npy(path, images.view())),
        ("a.png", &|path, images| write_png(path, images.view(), None)),
        ("a.gif", &|path, images| {
            write_gif(path, &[images.view(), images.view()], None, quarter, 2 * quarter)
        }),
        ("a.svg", &|path, images| write_loss_curve(path, &points(images))),
        ("a.onnx", &|path, images| {
            let source = Source::new(&networks[usize::from(images.sum() > 0.0)], &diffusion);
            export::write(path, source, &unchecked, &mut |_| {}).map(drop)
        }),
    ];
    let mut tried = 0;
    for (name, write) in writers {
        let path = folder.join(name);
        faults::arm(0, Fault::Killed);
        write(&path, &other).expect("a file");
        let calls = faults::disarm();
        let new = std::fs::read(&path).expect("a file");
        assert!(calls > 3, "only {calls} calls are counted for {name}");
        write(&path, &images).expect("a file");
        let old = std::fs::read(&path).expect("a file");
        assert!(old != new, "{name}");
        for (kind, at) in ALL.into_iter().flat_map(|kind| (1..=calls).map(move |at| (kind, at))) {
            std::fs::write(&path, &old).expect("a file");
            faults::arm(at, kind);
            let outcome = write(&path, &other);
            faults::disarm();
            let there = std::fs::read(&path).expect("a file");
            let is_new = match outcome {
                Ok(()) | Err(Error::NotDurable { .. }) => there == new,
                Err(_) => there == old || (there == new && kind == Fault::Killed),
            };
            assert!(is_new, "{kind:?} at {at} of {name}: neither the old file nor the new one");
            tried += 1;
        }
    }
    println!("{tried} outputs with one fault each");
}

/// A model of diffusers' is read and written as one of ours; what a fault left is written over by the next
/// try.
#[test]
fn an_import_is_whole_or_is_made_again() {
    let folder = folder();
    let source = folder.path().join("source");
    let model = Model::<f32>::new(&config().unet, 1).expect("a network");
    model_folder::save(&source, &model, None, &config().diffusion).expect("a model folder");
    let import = |out: &Path| foreign::load(&source, Untold::default(), None)?.save(out);
    faults::arm(0, Fault::Killed);
    import(&folder.path().join("straight")).expect("a model folder");
    let calls = faults::disarm();
    assert!(calls > 20, "only {calls} calls are counted");
    let mut tried = 0;
    for (kind, at) in ALL.into_iter().flat_map(|kind| (1..=calls).map(move |at| (kind, at))) {
        let what = format!("{kind:?} at call {at} of {calls}");
        let out = folder.path().join("out");
        faults::arm(at, kind);
        let outcome = import(&out);
        faults::disarm();
        if let Err(error) = outcome {
            let message = error.to_string();
            assert!(!message.is_empty() && !message.contains('\n'), "{what}: {message}");
            assert!(!matches!(kind, Fault::Interrupted | Fault::Short), "{what}: {message}");
            import(&out).unwrap_or_else(|error| panic!("{what}, tried again: {error}"));
        }
        let found = model_folder::load::<f32>(&out).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(found.model == model, "{what}");
        for name in ["", "unet", "scheduler"] {
            let names = std::fs::read_dir(out.join(name)).expect("a folder").flatten();
            let temporary = |name: std::ffi::OsString| name.to_string_lossy().starts_with('.');
            assert!(!names.map(|entry| entry.file_name()).any(temporary), "{what}: left in {name:?}");
        }
        std::fs::remove_dir_all(&out).expect("a folder");
        tried += 1;
    }
    println!("{tried} imports with one fault each");
}

/// A reader says that a read failed, or gives what is in the file, or of a run what is in its older
/// checkpoint; never something else.
#[test]
fn an_input_is_read_whole_or_refused() {
    let folder = folder();
    let folder = folder.path();
    let array = ndarray::Array4::<f32>::from_shape_fn((2, 1, 4, 4), |(n, _, h, w)| (n * h + w) as f32);
    write_npy(&folder.join("a.npy"), array.view()).expect("a file");
    let packed = idx::pack(&[2, 4, 4], &[7; 32]).expect("bytes");
    std::fs::write(folder.join("a.idx.gz"), packed).expect("a file");
    std::fs::create_dir(folder.join("pictures")).expect("a folder");
    for i in 0..2u8 {
        let picture = image::GrayImage::from_fn(8, 8, |x, y| image::Luma([(x * y) as u8 + i]));
        picture.save(folder.join(format!("pictures/{i}.png"))).expect("a picture");
    }
    live(&folder.join("run"), &images(), false).expect("a run");
    let checkpoints = std::fs::read_dir(folder.join("run/checkpoints")).expect("checkpoints");
    let saved = checkpoints.map(|entry| checkpoint::state::load(&entry.expect("an entry").path()));
    let saved: Vec<Vec<f32>> = saved.map(|state| state.expect("it is whole").ema).collect();
    type Read<'a> = &'a dyn Fn() -> Result<Vec<f32>>;
    let readers: [(&str, Read); 4] = [
        ("npy", &|| Ok(read_npy::<ndarray::Ix4>(&folder.join("a.npy"))?.into_iter().collect())),
        ("idx", &|| {
            let (_, bytes) = idx::read_file::<3>(&folder.join("a.idx.gz"))?;
            Ok(bytes.into_iter().map(f32::from).collect())
        }),
        ("checkpoint", &|| {
            Ok(checkpoint::state::newest(&folder.join("run"))?.map_or(Vec::new(), |n| n.state.ema))
        }),
        ("model", &|| Ok(checkpoint::model_folder::load::<f32>(&folder.join("run"))?.model.weights)),
    ];
    let mut tried = 0;
    for (name, read) in readers {
        faults::arm(0, Fault::Killed);
        let want = read().expect("it is whole");
        let calls = faults::disarm();
        assert!(calls > 1 && !want.is_empty(), "{name}: {calls} calls");
        // Of a run, an older checkpoint stands in for one that cannot be read, with a note.
        let has_older = matches!(name, "checkpoint" | "model");
        let may_be = |got: &Vec<f32>| *got == want || has_older && saved.contains(got);
        for (kind, at) in ALL.into_iter().flat_map(|kind| (1..=calls).map(move |at| (kind, at))) {
            faults::arm(at, kind);
            let got = read();
            faults::disarm();
            match got {
                Ok(got) => assert!(may_be(&got), "{name}, {kind:?} at {at}: other numbers"),
                Err(error) => assert_eq!(error.exit_status(), 2, "{name}, {kind:?} at {at}: {error}"),
            }
            tried += 1;
        }
    }
    let data = data::load(Some(&folder.join("pictures")), None).expect("pictures");
    assert_eq!(data.train.len(), 2);
    println!("{tried} reads with one fault each");
}
