//! Networks that diffusers wrote: the folders of `tests/golden`, or of the folder that
//! `PERFORMER_DDPM_GOLDEN` names.

use performer_ddpm::checkpoint::model_folder::{load, load_unet, save};
use performer_ddpm::model::params::ParamKind;
use performer_ddpm::real::Real;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

fn folders() -> Vec<PathBuf> {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let golden = std::env::var_os("PERFORMER_DDPM_GOLDEN").map_or_else(own, PathBuf::from);
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|folder| folder.join("config.json").is_file());
    found.sort();
    assert!(!found.is_empty());
    found
}

/// Where an element of the engine's layout lies in PyTorch's, from the definition of both.
fn place_in_file(kind: ParamKind, inside: usize) -> usize {
    match kind {
        ParamKind::Conv { kernel: k, c_in, c_out } => {
            let (o, i) = (inside % c_out, inside / c_out % c_in);
            let (x, y) = (inside / (c_out * c_in) % k, inside / (c_out * c_in * k));
            o * c_in * k * k + i * k * k + y * k + x
        }
        ParamKind::Linear { c_in, c_out } => inside % c_out * c_in + inside / c_out,
        ParamKind::Embedding { .. } | ParamKind::Bias { .. } | ParamKind::Scale { .. } => inside,
    }
}

fn every_element_is_where_diffusers_has_it<T: Real>(folder: &Path) {
    let model = load_unet::<T>(folder).unwrap();
    let bytes = std::fs::read(folder.join("diffusion_pytorch_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), model.graph.params.iter().len());
    for param in model.graph.params.iter() {
        let view = file.tensor(&param.name).unwrap();
        assert_eq!(view.shape(), param.kind.file_shape(), "{}", param.name);
        let values: Vec<f32> =
            view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        for (inside, x) in model.weights[param.range()].iter().enumerate() {
            let expected = values[place_in_file(param.kind, inside)];
            assert_eq!(x.f64(), f64::from(expected), "{} at {inside}", param.name);
        }
    }
}

#[test]
fn golden_weights_load_in_both_precisions() {
    for folder in folders() {
        every_element_is_where_diffusers_has_it::<f32>(&folder);
        every_element_is_where_diffusers_has_it::<f64>(&folder);
    }
}

#[test]
fn golden_networks_survive_being_saved() {
    for folder in folders() {
        let ours = tempfile::tempdir().unwrap();
        let loaded = load::<f32>(&folder).unwrap();
        assert!(loaded.note.as_deref().is_some_and(|n| n.contains("T = 1000")), "{:?}", loaded.note);
        save(ours.path(), &loaded.model, None, &loaded.diffusion).unwrap();
        let again = load::<f32>(ours.path()).unwrap();
        assert_eq!(again.model, loaded.model);
        assert_eq!(again.note, None);
    }
}
