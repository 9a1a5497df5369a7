//! The whole network against PyTorch and diffusers: output, loss, input gradient and every parameter's
//! gradient, and ten training steps.

use crate::support::golden::{channels_last, folder, tensors};
use crate::support::parity::{compare, gradient, largest, output};
use performer_ddpm::checkpoint::model_folder::load_unet;
use performer_ddpm::config::Preset;
use performer_ddpm::kernels::{ConvAlgorithm, Element, Isa, Kernels};
use performer_ddpm::model::{Condition, Model};
use performer_ddpm::train::{Adam, Update, clip_factor, global_norm};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// The networks of a folder.
pub fn unet_folders(root: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("unet_")))
        .collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
}

fn dims(shape: &[usize]) -> [usize; 4] {
    shape.try_into().expect("an image tensor")
}

/// Compares the output, for the classes in the file where there are any, within `relative` of its largest
/// value, and gradients within `relative_d` of each tensor's largest value plus `floor` of the model's.
pub fn check<T: Element>(path: &Path, kernels: Kernels, (relative, relative_d): (f64, f64), floor: f64) {
    let model: Model<T> = load_unet(path).expect("the golden model loads");
    let golden: Tensors = tensors(&path.join("golden.safetensors"));
    let (shape, x) = &golden["x"];
    let (shape_y, y_want) = &golden["y"];
    let (shape, shape_y) = (dims(shape), dims(shape_y));
    let class = |i: usize| golden.get("class_labels").map(|labels| labels.1[i] as usize);
    let conditions: Vec<Condition> = (golden["t"].1.iter().enumerate())
        .map(|(i, t)| Condition { index: *t as usize, class: class(i) })
        .collect();
    let (x, eps) = (channels_last(x, shape), channels_last(&golden["eps"].1, shape_y));
    let y = output(&model, kernels, 2, &x, &conditions);
    let gradient = gradient(&model, kernels, 2, &x, &eps, &conditions);
    let name = format!("{} {} {} {}", path.display(), T::NAME, kernels.isa, kernels.conv);
    compare(&format!("{name}: y"), &y, &channels_last(y_want, shape_y), relative, 0.0);
    let loss = golden["loss"].1[0];
    assert!((gradient.loss - loss).abs() <= relative * loss, "{name}: loss {} for {loss}", gradient.loss);
    let gradients = golden.iter().filter(|(key, _)| key.starts_with("d."));
    let floor = floor * gradients.map(|(_, (_, d))| largest(d)).fold(0.0, f64::max);
    compare(
        &format!("{name}: d_x"),
        &gradient.input,
        &channels_last(&golden["d_x"].1, shape),
        relative_d,
        floor,
    );
    let mut compared = 0;
    for param in model.graph.params.iter() {
        let got = param.kind.to_file_layout(&gradient.weights[param.range()]);
        let want = &golden[&format!("d.{}", param.name)].1;
        compare(&format!("{name}: d.{}", param.name), &got, want, relative_d, floor);
        compared += 1;
    }
    assert_eq!(
        compared,
        golden.keys().filter(|key| key.starts_with("d.")).count(),
        "{name}: gradients compared"
    );
}

/// Tolerances: 1e-9 of a tensor's largest value is f64 rounding (1e-16) through some fifty layers and sums of
/// thousands of terms; some gradients are zero in theory, hence 1e-12 of the model's largest.
#[test]
fn golden_unets_in_f64() {
    for path in unet_folders(&folder()) {
        check::<f64>(&path, Isa::Reference.into(), (1e-9, 1e-9), 1e-12);
    }
}

/// Tolerances: 1e-4 and 1e-6, the same reasoning for f32 rounding (6e-8); Winograd's rounding errors are up
/// to ten times a direct sum's, and gradients gather them from twice as many layers: 5e-4.
#[test]
fn golden_unets_in_f32_on_every_isa() {
    for path in unet_folders(&folder()) {
        for isa in Isa::available() {
            for conv in ConvAlgorithm::ALL {
                let gradients = if conv == ConvAlgorithm::Winograd { 5e-4 } else { 1e-4 };
                check::<f32>(&path, Kernels { isa, conv }, (1e-4, gradients), 1e-6);
            }
        }
    }
}

/// Ten steps of Adam with clipping, in f64: losses and norms to 1e-9, final parameters to 1e-9 of their
/// largest.
#[test]
fn golden_training_steps() {
    let path = folder().join("training_tiny");
    let mut model: Model<f64> = load_unet(&path).expect("the golden model loads");
    let golden = tensors(&path.join("training.safetensors"));
    let mut config = Preset::Tiny.config().train;
    (config.beta1, config.beta2, config.adam_eps) = (0.9, 0.999, 1e-8);
    let schedule = performer_ddpm::equations::Schedule::from_config(&Default::default()).expect("a schedule");
    let mut adam = Adam::new(model.weights.len());
    let mut average = model.weights.clone();
    let close = |what: &str, step: usize, got: f64, want: f64| {
        assert!((got - want).abs() <= 1e-9 * want.abs(), "step {step}: {what} {got} for {want}");
    };
    for step in 0..10 {
        let (shape, x0) = &golden[&format!("x0.{step}")];
        let shape = dims(shape);
        let (x0, eps) = (channels_last(x0, shape), channels_last(&golden[&format!("eps.{step}")].1, shape));
        let indices: Vec<usize> = golden[&format!("t.{step}")].1.iter().map(|t| *t as usize).collect();
        let mut x_t = vec![0.0; x0.len()];
        let len = x0.len() / indices.len();
        for (i, index) in indices.iter().enumerate() {
            let level = &schedule.levels()[*index];
            let range = i * len..(i + 1) * len;
            let (x0, eps) = (&x0[range.clone()], &eps[range.clone()]);
            performer_ddpm::equations::forward::eq03_q_sample(x0, eps, level.alpha_bar, &mut x_t[range]);
        }
        let gradient = gradient(&model, Isa::Reference.into(), 2, &x_t, &eps, &indices);
        let norm = global_norm(&gradient.weights);
        close("loss", step, gradient.loss, golden["loss"].1[step]);
        close("gradient norm", step, norm, golden["grad_norm"].1[step]);
        let update =
            Update { lr: 2e-4, number: step as u64 + 1, clip: clip_factor(norm, 1.0), ema_decay: 0.0 };
        adam.update(Isa::Reference, &config, update, &gradient.weights, &mut model.weights, &mut average);
        close("parameter norm", step, global_norm(&model.weights), golden["param_norm"].1[step]);
    }
    for param in model.graph.params.iter() {
        let got = param.kind.to_file_layout(&model.weights[param.range()]);
        compare(&param.name, &got, &golden[&format!("final.{}", param.name)].1, 1e-9, 0.0);
    }
}
