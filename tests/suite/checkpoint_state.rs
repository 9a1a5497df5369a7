//! Training states: what is stored is loaded again bit for bit, damage is found, and the last two are kept.

use crate::support::models::{bits, favor_in_the_middle, random, softmax};
use performer_ddpm::checkpoint::model_folder::{self, load_unet_config};
use performer_ddpm::checkpoint::state::{TrainingState, load, newest, save};
use performer_ddpm::config::{Config, DiffusionConfig, Preset};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

/// A change to a state before it is stored.
type Change = fn(&mut TrainingState);

fn state(config: Config, step: u64) -> TrainingState {
    let numbers = [0, 1, 2, 3].map(|i| random(&config.unet, 10 * step + i));
    let projections = numbers[0].projections.clone();
    let [weights, ema, first_moment, second_moment] = numbers.map(|model| model.weights);
    let (images_seen, metrics_len) = (8 * step, 100 * step + 7);
    TrainingState {
        config,
        step,
        images_seen,
        metrics_len,
        weights,
        ema,
        first_moment,
        second_moment,
        projections,
    }
}

fn tiny(step: u64) -> TrainingState {
    state(Preset::Tiny.config(), step)
}

fn steps(run: &Path) -> Vec<String> {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn damage(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn states_come_back_bit_for_bit() {
    let run = tempfile::tempdir().unwrap();
    for (step, unet) in [(3, Preset::Tiny.config().unet), (4, softmax()), (5, favor_in_the_middle())] {
        let state = state(Config { unet, ..Preset::Tiny.config() }, step);
        let file = save(run.path(), &state).unwrap();
        assert_eq!(file, run.path().join(format!("checkpoints/step-0000000{step}.safetensors")));
        let loaded = load(&file).unwrap();
        for (loaded, stored) in [
            (&loaded.weights, &state.weights),
            (&loaded.ema, &state.ema),
            (&loaded.first_moment, &state.first_moment),
            (&loaded.second_moment, &state.second_moment),
        ] {
            assert_eq!(bits(loaded), bits(stored));
        }
        assert_eq!(loaded, state);
    }
}

#[test]
fn a_run_of_checkpoints_alone_has_its_networks_configuration() {
    let run = tempfile::tempdir().unwrap();
    assert!(load_unet_config(run.path()).is_err());
    let file = save(run.path(), &tiny(3)).unwrap();
    for path in [run.path(), &file] {
        assert_eq!(load_unet_config(path).unwrap(), tiny(3).config.unet);
    }
    damage(&file);
    let message = load_unet_config(run.path()).unwrap_err().to_string();
    assert!(message.contains("step-00000003.safetensors"), "{message}");
}

#[test]
fn the_last_two_are_kept_and_the_newest_is_found() {
    let run = tempfile::tempdir().unwrap();
    assert_eq!(newest(run.path()).unwrap(), None);
    for step in [8, 9, 10, 100_000_000] {
        save(run.path(), &tiny(step)).unwrap();
    }
    fs::write(run.path().join("checkpoints/.step-00000011.safetensors.tmp"), "cut by a kill").unwrap();
    fs::write(run.path().join("checkpoints/notes.txt"), "a user's").unwrap();
    assert_eq!(
        steps(run.path()),
        [
            ".step-00000011.safetensors.tmp",
            "notes.txt",
            "step-00000010.safetensors",
            "step-100000000.safetensors"
        ]
    );
    let found = newest(run.path()).unwrap().unwrap();
    assert_eq!(found.state, tiny(100_000_000));
    assert_eq!(found.file, run.path().join("checkpoints/step-100000000.safetensors"));
    assert_eq!(found.note, None);
}

#[test]
fn a_damaged_newest_is_passed_over_with_a_note_and_then_removed() {
    let run = tempfile::tempdir().unwrap();
    save(run.path(), &tiny(10)).unwrap();
    let damaged = save(run.path(), &tiny(20)).unwrap();
    damage(&damaged);
    let found = newest(run.path()).unwrap().unwrap();
    assert_eq!(found.state, tiny(10));
    let note = found.note.unwrap();
    assert!(note.contains("step-00000020") && note.contains("step-00000010.safetensors is used"), "{note}");

    save(run.path(), &tiny(15)).unwrap();
    assert_eq!(steps(run.path()), ["step-00000010.safetensors", "step-00000015.safetensors"]);
    assert_eq!(newest(run.path()).unwrap().unwrap().note, None);
}

#[test]
fn a_run_whose_checkpoints_are_all_damaged_is_an_error_that_names_the_newest() {
    let run = tempfile::tempdir().unwrap();
    for step in [1, 2] {
        damage(&save(run.path(), &tiny(step)).unwrap());
    }
    let message = newest(run.path()).unwrap_err().to_string();
    assert!(message.contains("step-00000002") && message.contains("checksum"), "{message}");
}

#[test]
fn a_state_that_was_cut_is_refused_and_named() {
    let run = tempfile::tempdir().unwrap();
    let file = save(run.path(), &tiny(1)).unwrap();
    let whole = fs::read(&file).unwrap();
    for cut in [0, 7, 8, 500, whole.len() / 2, whole.len() - 4, whole.len() - 1] {
        fs::write(&file, &whole[..cut]).unwrap();
        let error = load(&file).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("step-00000001.safetensors"), "{error}");
    }
}

/// The header is valid with either change, so only the checksum can find it.
#[test]
fn numbers_changed_in_the_header_are_found() {
    let run = tempfile::tempdir().unwrap();
    let file = save(run.path(), &tiny(1)).unwrap();
    let whole = fs::read(&file).unwrap();
    for (from, to) in [(r#"\"step\":1"#, r#"\"step\":2"#), ("batch = 8", "batch = 9")] {
        let place = whole.windows(from.len()).position(|bytes| bytes == from.as_bytes()).unwrap();
        let mut changed = whole.clone();
        changed[place..place + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&file, changed).unwrap();
        let message = load(&file).unwrap_err().to_string();
        assert!(message.contains("checksum") && message.contains("step-00000001"), "{message}");
    }
}

#[test]
fn files_that_are_no_states_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = random(&softmax(), 1);
    model_folder::save(folder.path(), &model, None, &DiffusionConfig::default()).unwrap();
    let file = folder.path().join("unet/diffusion_pytorch_model.safetensors");
    let message = load(&file).unwrap_err().to_string();
    assert!(message.contains("another safetensors file"), "{message}");
    assert!(load(&folder.path().join("missing.safetensors")).unwrap_err().to_string().contains("missing"));
}

#[test]
fn vectors_of_other_lengths_are_not_stored() {
    let changes: [(&str, Change); 4] = [
        ("ema", |s| s.ema.truncate(9)),
        ("second_moment", |s| s.second_moment.push(0.0)),
        ("projection", |s| s.projections[1].truncate(9)),
        ("projections", |s| s.projections.truncate(1)),
    ];
    for (part, change) in changes {
        let run = tempfile::tempdir().unwrap();
        let mut state = tiny(1);
        change(&mut state);
        let message = save(run.path(), &state).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
        assert!(!run.path().join("checkpoints").exists());
    }
}

#[test]
fn a_run_folder_is_the_model_of_its_newest_checkpoint() {
    let run = tempfile::tempdir().unwrap();
    let old = random(&Preset::Tiny.config().unet, 99);
    model_folder::save(run.path(), &old, None, &DiffusionConfig::default()).unwrap();
    assert_eq!(model_folder::load::<f32>(run.path()).unwrap().model, old);

    let check = |path: &Path, file: &PathBuf, state: &TrainingState, note: bool| {
        let loaded = model_folder::load::<f32>(path).unwrap();
        assert_eq!(bits(&loaded.model.weights), bits(&state.ema));
        assert_eq!(loaded.model.projections, state.projections);
        assert_eq!(loaded.model.config, state.config.unet);
        assert_eq!(loaded.diffusion, state.config.diffusion);
        assert_eq!((&loaded.file, loaded.step), (file, Some(state.step)));
        assert_eq!(loaded.note.is_some(), note);
    };
    let first = save(run.path(), &tiny(5)).unwrap();
    check(run.path(), &first, &tiny(5), false);
    let second = save(run.path(), &tiny(6)).unwrap();
    check(run.path(), &second, &tiny(6), false);
    check(&first, &first, &tiny(5), false);
    damage(&second);
    check(run.path(), &first, &tiny(5), true);
    let doubled = model_folder::load::<f64>(&first).unwrap().model;
    assert!(doubled.weights.iter().zip(&tiny(5).ema).all(|(wide, x)| *wide == f64::from(*x)));
}

proptest! {
    /// A flipped bit is found wherever it is, except in the blanks that pad the header.
    #[test]
    fn every_flipped_bit_is_found(place in 0usize..1 << 20, bit in 0u8..8, in_header in any::<bool>()) {
        static SAVED: std::sync::LazyLock<(TrainingState, Vec<u8>)> = std::sync::LazyLock::new(|| {
            let run = tempfile::tempdir().unwrap();
            let bytes = fs::read(save(run.path(), &tiny(2)).unwrap()).unwrap();
            (tiny(2), bytes)
        });
        let (state, whole) = &*SAVED;
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let place = place % if in_header { header } else { whole.len() };
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << bit;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("step-00000002.safetensors");
        fs::write(&file, bytes).unwrap();
        match load(&file) {
            Err(error) => prop_assert!(error.to_string().contains("step-00000002")),
            Ok(loaded) => {
                prop_assert_eq!(whole[place], b' ');
                prop_assert_eq!(&loaded, state);
            }
        }
    }
}
