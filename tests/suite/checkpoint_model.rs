//! Model folders: what is stored is loaded again bit for bit, and errors name what is wrong.

use crate::support::models::{bits, favor_in_the_middle, random, softmax};
use performer_ddpm::checkpoint::model_folder::{load, load_raw_unet, load_unet, save};
use performer_ddpm::config::{BetaSchedule, DiffusionConfig, Preset};
use performer_ddpm::model::Model;
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::fs;
use std::path::{Path, PathBuf};

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// A tensor of a file: name, type, shape, bytes.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

/// A change to a file's tensors.
type Change = fn(&mut Vec<Stored>);

fn saved(model: &Model<f32>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), model, None, &DiffusionConfig::default()).unwrap();
    folder
}

fn weights_file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("unet").join(WEIGHTS)
}

/// Writes the weights' file again, with tensors changed by `change`.
fn rewrite(folder: &tempfile::TempDir, change: impl FnOnce(&mut Vec<Stored>)) {
    let file = weights_file(folder);
    let bytes = fs::read(&file).unwrap();
    let mut tensors: Vec<Stored> = SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn find<'a>(tensors: &'a mut [Stored], name: &str) -> &'a mut Stored {
    tensors.iter_mut().find(|t| t.0 == name).unwrap()
}

fn refusal(path: &Path) -> String {
    let error = load::<f32>(path).unwrap_err();
    assert_eq!(error.exit_status(), 2);
    error.to_string()
}

#[test]
fn averaged_and_raw_weights_and_projections_come_back_bit_for_bit() {
    for config in
        [softmax(), favor_in_the_middle(), Preset::Tiny.config().unet, Preset::Fashion.config().unet]
    {
        let (average, raw) = (random(&config, 3), random(&config, 4));
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &average, Some(&raw.weights), &DiffusionConfig::default()).unwrap();
        let loaded = load::<f32>(folder.path()).unwrap();
        assert_eq!(bits(&loaded.model.weights), bits(&average.weights));
        assert_eq!(bits(&loaded.model.projections.concat()), bits(&average.projections.concat()));
        assert_eq!((loaded.step, loaded.note, loaded.file), (None, None, weights_file(&folder)));
        let loaded = load_raw_unet::<f32>(folder.path()).unwrap();
        assert_eq!(bits(&loaded.weights), bits(&raw.weights));
        assert_eq!(loaded.projections, average.projections);

        save(folder.path(), &raw, None, &DiffusionConfig::default()).unwrap();
        assert_eq!(load_unet::<f32>(folder.path()).unwrap().weights, raw.weights);
        assert!(load_raw_unet::<f32>(folder.path()).is_err(), "raw weights of another model are gone");
    }
}

#[test]
fn projections_are_rows_of_features_under_their_layers_names() {
    let model = random(&Preset::Tiny.config().unet, 5);
    let folder = saved(&model);
    let bytes = fs::read(weights_file(&folder)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor("down_blocks.1.attentions.0.projection").unwrap();
    assert_eq!(view.shape(), [16, 8]);
    assert_eq!(view.data()[4..8], model.projections[0][1].to_le_bytes());
    assert_eq!(file.len(), model.graph.params.iter().len() + 3);
}

#[test]
fn a_network_is_found_wherever_diffusers_puts_it() {
    let cosine =
        DiffusionConfig { schedule: BetaSchedule::Cosine, timesteps: 50, ..DiffusionConfig::default() };
    let model = random(&softmax(), 6);
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &model, None, &cosine).unwrap();
    let inner = load::<f32>(&folder.path().join("unet")).unwrap();
    assert_eq!((&inner.model, &inner.diffusion, inner.note), (&model, &cosine, None));

    // diffusers' first models have everything in one folder.
    let flat = tempfile::tempdir().unwrap();
    for file in [
        "unet/config.json",
        &format!("unet/{WEIGHTS}"),
        "scheduler/scheduler_config.json",
        "model_index.json",
    ] {
        let from = folder.path().join(file);
        fs::copy(&from, flat.path().join(from.file_name().unwrap())).unwrap();
    }
    let loaded = load::<f32>(flat.path()).unwrap();
    assert_eq!((&loaded.model, &loaded.diffusion, loaded.note), (&model, &cosine, None));

    fs::remove_file(flat.path().join("scheduler_config.json")).unwrap();
    let bare = load::<f32>(flat.path()).unwrap();
    assert_eq!(bare.diffusion, DiffusionConfig::default());
    assert!(bare.note.is_some_and(|n| n.contains("linear") && n.contains("T = 1000")));
}

/// The names of diffusers' first versions, with linear weights as matrices and as 1x1 convolutions.
#[test]
fn legacy_attention_tensors_are_read() {
    let model = random(&softmax(), 7);
    let folder = saved(&model);
    rewrite(&folder, |tensors| {
        let mut renamed = 0;
        for (name, _, shape, _) in tensors {
            for (new, old) in
                [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")]
            {
                if name.contains(new) {
                    *name = name.replace(new, old);
                    renamed += 1;
                    if name.contains("mid_block") && shape.len() == 2 {
                        shape.extend([1, 1]);
                    }
                }
            }
        }
        assert_eq!(renamed, 4 * 8);
    });
    assert_eq!(load::<f32>(folder.path()).unwrap().model, model);
}

#[test]
fn both_names_of_one_tensor_are_refused() {
    let folder = saved(&random(&softmax(), 7));
    rewrite(&folder, |tensors| {
        let mut twin = find(tensors, "mid_block.attentions.0.to_q.bias").clone();
        twin.0 = "mid_block.attentions.0.query.bias".into();
        tensors.push(twin);
    });
    assert!(refusal(folder.path()).contains("tensor mid_block.attentions.0.query.bias"));
}

/// Values that all four types hold exactly.
#[test]
fn other_floating_point_types_are_converted() {
    let mut model = random(&softmax(), 8);
    for x in &mut model.weights {
        *x = (*x * 16.0).round() / 16.0;
    }
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F64] {
        let folder = saved(&model);
        rewrite(&folder, |tensors| {
            for (_, stored, _, data) in tensors {
                *stored = dtype;
                let values = data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
                *data = match dtype {
                    Dtype::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
                    Dtype::BF16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
                    _ => values.flat_map(|x| f64::from(x).to_le_bytes()).collect(),
                };
            }
        });
        assert_eq!(load::<f32>(folder.path()).unwrap().model, model, "{dtype:?}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    const NAME: &str = "down_blocks.0.resnets.0.conv1.weight";
    let changes: [(&str, Change); 9] = [
        ("no such tensor", |all| all.retain(|t| t.0 != NAME)),
        ("[8, 8, 9]", |all| find(all, NAME).2 = vec![8, 8, 9]),
        ("[8, 8, 3, 3, 1, 1]", |all| find(all, NAME).2.extend([1, 1])),
        ("I32", |all| find(all, NAME).1 = Dtype::I32),
        ("NaN at element 2", |all| find(all, NAME).3[8..12].copy_from_slice(&f32::NAN.to_le_bytes())),
        ("inf at element 0", |all| find(all, NAME).3[..4].copy_from_slice(&f32::INFINITY.to_le_bytes())),
        ("inf at element 0", |all| {
            let tensor = find(all, NAME);
            tensor.1 = Dtype::F64;
            tensor.3 = vec![1e300f64; 8 * 8 * 9].iter().flat_map(|x| x.to_le_bytes()).collect();
        }),
        ("unexpected", |all| {
            let mut extra = find(all, NAME).clone();
            extra.0 = format!("{NAME}.copy");
            all.push(extra);
        }),
        ("no such tensor", |all| {
            let tensor = find(all, NAME);
            tensor.0 = tensor.0.replace("conv1", "convolution1");
        }),
    ];
    for (part, change) in changes {
        let folder = saved(&random(&softmax(), 9));
        rewrite(&folder, change);
        let message = refusal(folder.path());
        assert!(message.contains(part) && message.contains(NAME) && message.contains(WEIGHTS), "{message}");
    }
    // A convolution's weight must not be a matrix, even for a 1x1 kernel.
    let folder = saved(&random(&softmax(), 9));
    rewrite(&folder, |all| find(all, "down_blocks.1.resnets.0.conv_shortcut.weight").2.truncate(2));
    assert!(refusal(folder.path()).contains("conv_shortcut.weight"));
}

#[test]
fn projections_that_do_not_fit_are_named() {
    let changes: [Change; 2] = [
        |all| all.retain(|t| t.0 != "up_blocks.0.attentions.1.projection"),
        |all| find(all, "up_blocks.0.attentions.1.projection").2 = vec![8, 16],
    ];
    for change in changes {
        let folder = saved(&random(&Preset::Tiny.config().unet, 9));
        rewrite(&folder, change);
        assert!(refusal(folder.path()).contains("tensor up_blocks.0.attentions.1.projection"));
    }
}

#[test]
fn a_file_that_was_cut_is_refused_at_every_length() {
    let folder = saved(&random(&softmax(), 10));
    let file = weights_file(&folder);
    let whole = fs::read(&file).unwrap();
    for cut in [0, 4, 8, 100, whole.len() / 2, whole.len() - 4, whole.len() - 1] {
        fs::write(&file, &whole[..cut]).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains(WEIGHTS) && message.contains("whole safetensors file"), "{cut}: {message}");
    }
    fs::write(&file, [whole.as_slice(), b"x"].concat()).unwrap();
    assert!(refusal(folder.path()).contains("whole safetensors file"));
    let config = folder.path().join("unet/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, &text[..text.len() / 2]).unwrap();
    assert!(refusal(folder.path()).contains("config.json"));
}

#[test]
fn weights_of_other_kinds_are_refused_with_what_to_do() {
    for (other, part) in [
        ("diffusion_pytorch_model.bin", "safe_serialization=True"),
        ("diffusion_pytorch_model.safetensors.index.json", "max_shard_size"),
        ("something_else", "no such file"),
    ] {
        let folder = saved(&random(&softmax(), 11));
        let file = weights_file(&folder);
        fs::rename(&file, file.with_file_name(other)).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains(part) && message.contains(WEIGHTS), "{message}");
    }
}

#[test]
fn what_is_no_model_is_refused_with_what_was_found() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refusal(folder.path()).contains("neither unet/config.json nor config.json"));
    assert!(refusal(&folder.path().join("missing")).contains("nothing there"));
    let file = folder.path().join("image.png");
    fs::write(&file, "x").unwrap();
    assert!(refusal(&file).contains("a file that is no checkpoint"));
}

#[test]
fn a_folder_that_cannot_be_made_is_a_failed_write() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "old").unwrap();
    let error = save(&file, &random(&softmax(), 12), None, &DiffusionConfig::default()).unwrap_err();
    assert_eq!(error.exit_status(), 1);
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");
}

proptest! {
    /// Arbitrary bytes after a valid header length and opening brace test more of the reader than arbitrary
    /// bytes alone.
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), header in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), r#"{"_class_name": "UNet2DModel", "sample_size": 8,
            "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [32]}"#).unwrap();
        let length = (bytes.len() as u64).to_le_bytes();
        let bytes = if header { [&length, bytes.as_slice()].concat() } else { bytes };
        fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
        prop_assert!(load_unet::<f32>(folder.path()).is_err());
    }

    /// A damaged header is refused; damaged numbers become other numbers, never a panic.
    #[test]
    fn no_flipped_bit_makes_the_reader_panic(place in 0usize..6000, bit in 0u8..8) {
        static SAVED: std::sync::LazyLock<(tempfile::TempDir, Vec<u8>)> = std::sync::LazyLock::new(|| {
            let folder = saved(&random(&Preset::Tiny.config().unet, 13));
            let bytes = fs::read(weights_file(&folder)).unwrap();
            (folder, bytes)
        });
        let (folder, whole) = &*SAVED;
        let damaged = tempfile::tempdir().unwrap();
        fs::copy(folder.path().join("unet/config.json"), damaged.path().join("config.json")).unwrap();
        let mut bytes = whole.clone();
        let place = place % bytes.len();
        bytes[place] ^= 1 << bit;
        fs::write(damaged.path().join(WEIGHTS), bytes).unwrap();
        if let Ok(model) = load_unet::<f32>(damaged.path()) {
            prop_assert_eq!(model.weights.len(), model.graph.params.total());
        }
    }
}
