//! The networks that diffusers' `UNet2DModel` can be beyond the first set: classes, scale and shift, residual
//! resampling, learned variances, other activations. Every `unet_*` folder of `tests/golden2`, or of the
//! folder that `PERFORMER_DDPM_GOLDEN2` names, with the bounds of `golden_unet`.

use crate::golden_unet::{check, unet_folders};
use performer_ddpm::kernels::{ConvAlgorithm, Isa, Kernels};
use std::path::{Path, PathBuf};

fn folders() -> Vec<PathBuf> {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden2");
    unet_folders(&std::env::var_os("PERFORMER_DDPM_GOLDEN2").map_or_else(own, PathBuf::from))
}

#[test]
fn golden2_unets_in_f64() {
    for path in folders() {
        check::<f64>(&path, Isa::Reference.into(), (1e-9, 1e-9), 1e-12);
    }
}

#[test]
fn golden2_unets_in_f32_on_every_isa() {
    for path in folders() {
        for isa in Isa::available() {
            for conv in ConvAlgorithm::ALL {
                let gradients = if conv == ConvAlgorithm::Winograd { 5e-4 } else { 1e-4 };
                check::<f32>(&path, Kernels { isa, conv }, (1e-4, gradients), 1e-6);
            }
        }
    }
}
