//! The networks on which speed is measured: f32 with the measured kernels, against the reference in f64.

use crate::support::networks::{normal, randomised};
use crate::support::parity::{compare, gradient, largest, output};
use performer_ddpm::checkpoint::model_folder::load_unet_config;
use performer_ddpm::kernels::{ConvAlgorithm, Isa, Kernels};
use performer_ddpm::model::Model;
use std::path::Path;

/// Compares output, loss and gradients for one image. Bounds: 1e-4 of the largest value of output and loss;
/// for gradients 1e-4 of each one's largest value, 5e-4 with Winograd's algorithm, plus 1e-6 of the model's
/// largest, as some are zero in theory. The reasons are those of `golden_unet`.
fn check(name: &str, isas: &[Isa]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(format!("{name}.json"));
    let model = randomised(&load_unet_config(&file).expect("a configuration"), 1);
    assert!(model.weights.iter().all(|w| *w != 0.0));
    let numbers = |seed, len| normal(seed, len).into_iter().map(f64::from).collect::<Vec<_>>();
    let (x, eps) = (numbers(2, model.input_len()), numbers(3, model.output_len()));
    let indices = [417];

    let (y, exact) = {
        let (model, kernels): (Model<f64>, _) = (model.cast(), Isa::Reference.into());
        // In parallel, since the reference takes one thread and much time.
        std::thread::scope(|scope| {
            let y = scope.spawn(|| output(&model, kernels, 1, &x, &indices));
            let exact = gradient(&model, kernels, 1, &x, &eps, &indices);
            (y.join().expect("an output"), exact)
        })
    };
    let floor = 1e-6 * largest(&exact.weights);
    for (isa, conv) in isas.iter().flat_map(|isa| ConvAlgorithm::ALL.map(|conv| (*isa, conv))) {
        let (kernels, name) = (Kernels { isa, conv }, format!("{name} {isa} {conv}"));
        let relative = if conv == ConvAlgorithm::Winograd { 5e-4 } else { 1e-4 };
        compare(&format!("{name}: y"), &output(&model, kernels, 2, &x, &indices), &y, 1e-4, 0.0);
        let got = gradient(&model, kernels, 2, &x, &eps, &indices);
        compare(&format!("{name}: loss"), &[got.loss], &[exact.loss], 1e-4, 0.0);
        compare(&format!("{name}: d_x"), &got.input, &exact.input, relative, floor);
        for param in model.graph.params.iter() {
            let (got, want) = (&got.weights[param.range()], &exact.weights[param.range()]);
            compare(&format!("{name}: d.{}", param.name), got, want, relative, floor);
        }
    }
}

#[test]
fn the_small_network_agrees_with_f64_on_every_isa() {
    check("fashion_unet", &Isa::available());
}

/// Only on the best instruction set: the reference takes some ten seconds for the gradients of one image.
#[test]
fn ho_et_al_s_network_agrees_with_f64() {
    check("cifar10_unet", &[Isa::detect()]);
}
