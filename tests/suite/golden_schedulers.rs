//! Samplers and attention against values computed by other people's libraries, in `tests/golden` or the
//! folder that `PERFORMER_DDPM_GOLDEN` names.

use ndarray::{ArrayView2, ArrayView3};
use performer_ddpm::config::{BetaSchedule, DiffusionConfig, VarianceKind};
use performer_ddpm::equations::attention::{eq22_attention, eq26_favor_attention};
use performer_ddpm::equations::ddim::{ClipX0, Ddim, ddim_step};
use performer_ddpm::equations::features::FeatureMap;
use performer_ddpm::equations::reverse::{Reverse, eq15_step};
use performer_ddpm::equations::{Schedule, Timestep};
use safetensors::{Dtype, SafeTensors};
use std::path::PathBuf;

fn read(name: &str) -> Vec<u8> {
    let own = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folder = std::env::var_os("PERFORMER_DDPM_GOLDEN").map_or_else(own, PathBuf::from);
    let path = folder.join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn values(file: &SafeTensors, name: &str) -> Vec<f64> {
    let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (words, []) = tensor.data().as_chunks::<8>() else { panic!("{name}: not 8 bytes an element") };
    match tensor.dtype() {
        Dtype::F64 => words.iter().map(|&word| f64::from_le_bytes(word)).collect(),
        Dtype::I64 => words.iter().map(|&word| i64::from_le_bytes(word) as f64).collect(),
        other => panic!("{name}: {other:?}"),
    }
}

/// max |got - want| over max(1, max |want|): relative for tensors larger than an image, absolute for the
/// others; NaN if there is one.
fn error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let size = want.iter().fold(1f64, |size, w| size.max(w.abs()));
    let errors = got.iter().zip(want).map(|(g, w)| (g - w).abs());
    errors.fold(0f64, |worst, error| if error.is_nan() || error > worst { error } else { worst }) / size
}

#[test]
fn an_error_that_is_no_number_is_seen_wherever_it_stands() {
    assert_eq!(error(&[1.0, 2.5, 3.0], &[1.0, 2.0, 2.0]), 0.5);
    for i in 0..3 {
        let mut got = [1.0; 3];
        got[i] = f64::NAN;
        assert!(error(&got, &[1.0; 3]).is_nan() && error(&[1.0; 3], &got).is_nan(), "{i}");
    }
}

fn schedule(name: &str, timesteps: usize) -> Schedule {
    let schedule = match name {
        "linear" => BetaSchedule::Linear { start: 1e-4, end: 0.02 },
        "squaredcos_cap_v2" => BetaSchedule::Cosine,
        other => panic!("schedule {other}"),
    };
    Schedule::from_config(&DiffusionConfig { timesteps, schedule, ..DiffusionConfig::default() }).unwrap()
}

/// The golden tables are f32: half an ulp of the largest beta, 2^-24.
#[test]
fn golden_betas() {
    let bytes = read("schedulers.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut checked = 0;
    for name in file.names().into_iter().filter(|name| name.starts_with("betas.")) {
        let want = values(&file, name);
        let got = schedule(&name["betas.".len()..], want.len()).betas();
        let error = error(&got, &want);
        assert!(error <= 6e-8, "{name}: {error:e}");
        checked += 1;
    }
    assert!(checked > 0);
}

/// (15). The golden tables and their differences are f32: at most 1e-5, and 3e-4 at index 1, where 1 -
/// abar_{t-1} = 1e-4 keeps only three to four of its digits. An f32 abar of 2.4e-9 divides the unclipped x_0
/// at the cosine schedule's end, hence the scale of [`error`].
#[test]
fn golden_eq15_ancestral_steps() {
    let bytes = read("schedulers.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let [x, eps, z] = ["x", "eps", "z"].map(|name| values(&file, name));
    let mut checked = 0;
    for name in file.names() {
        let parts: Vec<&str> = name.split('.').collect();
        let ["ddpm", betas, variance, clip, index] = parts[..] else { continue };
        let schedule = schedule(betas, values(&file, &format!("betas.{betas}")).len());
        let reverse = Reverse {
            variance: match variance {
                "fixed_small" => VarianceKind::FixedSmall,
                "fixed_large" => VarianceKind::FixedLarge,
                other => panic!("variance {other}"),
            },
            clip_x0: clip == "clip",
        };
        let t = Timestep::from_index(index.parse().unwrap());
        let mut got = vec![0.0; x.len()];
        eq15_step(&x, &eps, &z, schedule.at(t).unwrap(), reverse, &mut got);
        let (error, bound) = (error(&got, &values(&file, name)), if t.index() == 1 { 3e-4 } else { 1e-5 });
        assert!(error <= bound, "{name}: {error:e} above {bound:e}");
        checked += 1;
    }
    assert!(checked > 0);
}

/// DDIM on the leading timesteps; 3e-6 for tables and differences in f32.
#[test]
fn golden_ddim_steps() {
    let bytes = read("schedulers.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let [x, eps, z] = ["x", "eps", "z"].map(|name| values(&file, name));
    let mut checked = 0;
    for name in file.names() {
        let Some((betas, rest)) = name.strip_prefix("ddim.").and_then(|rest| rest.split_once(".eta")) else {
            continue;
        };
        let (eta, index) = rest.rsplit_once('.').unwrap();
        let full = schedule(betas, values(&file, &format!("betas.{betas}")).len());
        let mut kept: Vec<_> = values(&file, &format!("ddim.{betas}.timesteps"))
            .into_iter()
            .map(|index| Timestep::from_index(index as usize))
            .collect();
        kept.sort();
        let short = full.respaced(&kept).unwrap();
        let ddim = Ddim { eta: eta.parse().unwrap(), clip_x0: ClipX0::Off };
        let level = short.at(Timestep::from_index(index.parse().unwrap())).unwrap();
        let mut got = vec![0.0; x.len()];
        ddim_step(&x, &eps, &z, level, ddim, &mut got);
        let error = error(&got, &values(&file, name));
        assert!(error <= 3e-6, "{name}: {error:e}");
        checked += 1;
    }
    assert!(checked > 0);
}

/// (22) and (26) in f64 against f64: 1e-10 leaves four digits for other orders of summation and for the
/// stabiliser in the golden values, which cancels in (26).
#[test]
fn golden_eq22_eq26_attention() {
    let bytes = read("favor.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut checked = 0;
    for name in file.names() {
        let Some((case, kind)) = name.strip_suffix(".out").and_then(|name| name.rsplit_once('.')) else {
            continue;
        };
        let sizes: Vec<usize> = case.split('x').map(|size| size.parse().unwrap()).collect();
        let [n, heads, l, d, m] = sizes[..] else { panic!("{name}: sizes") };
        let [q, k, v, w] = ["q", "k", "v", "w"].map(|tensor| values(&file, &format!("{case}.{tensor}")));
        let want = values(&file, name);
        let w = ArrayView2::from_shape((m, d), &w).unwrap();
        let cube = |values| ArrayView3::from_shape((n * heads, l, d), values).unwrap();
        let (q, k, v) = (cube(&q), cube(&k), cube(&v));
        let mut got = Vec::new();
        for ((q, k), v) in q.outer_iter().zip(k.outer_iter()).zip(v.outer_iter()) {
            let out = match kind {
                "exact" => eq22_attention(q, k, v),
                "softmax" => eq26_favor_attention(FeatureMap::Positive, q, k, v, w),
                "relu" => eq26_favor_attention(FeatureMap::Relu, q, k, v, w),
                other => panic!("kind {other}"),
            };
            got.extend(out.unwrap());
        }
        let error = error(&got, &want);
        assert!(error <= 1e-10, "{name}: {error:e}");
        checked += 1;
    }
    assert!(checked > 0);
}
