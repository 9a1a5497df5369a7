//! Softmax and FAVOR+ attention, with gradients, against values that other implementations computed in f64.
//!
//! `tests/golden/favor.safetensors`, or `favor.safetensors` in the folder that `PERFORMER_DDPM_GOLDEN` names,
//! holds for sizes n x heads x L x d x m the tensors `q`, `k`, `v`, `d_out` \[n, heads, L, d\], the
//! projection `w` \[m, d\], and for `softmax` (positive features), `relu` and `exact` (softmax attention)
//! `out`, `d_q`, `d_k`, `d_v`.

use performer_ddpm::config::{AttentionKind, FeatureMap};
use performer_ddpm::kernels::{Isa, Team};
use performer_ddpm::nn::{
    Attention, AttentionOutput, AttentionShape, Context, Projections, Qkv, QkvGradient,
};
use safetensors::{Dtype, SafeTensors};
use std::path::PathBuf;

/// Relative to each tensor's largest value: some thousand roundings of f64 on either side.
const TOLERANCE: f64 = 1e-10;

fn tensor(file: &SafeTensors, name: &str) -> Vec<f64> {
    let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(view.dtype(), Dtype::F64, "{name}");
    view.data().as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

/// \[heads, L, d\] to \[L, heads, d\].
fn by_token(x: &[f64], [heads, tokens, dim]: [usize; 3]) -> Vec<f64> {
    let rows = (0..tokens).flat_map(|token| (0..heads).map(move |head| head * tokens + token));
    rows.flat_map(|row| &x[row * dim..][..dim]).copied().collect()
}

#[test]
fn attention_agrees_with_the_golden_values() {
    let folder = std::env::var_os("PERFORMER_DDPM_GOLDEN")
        .map_or(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from);
    let path = folder.join("favor.safetensors");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let sizes: Vec<&str> = file.names().into_iter().filter_map(|name| name.strip_suffix(".w")).collect();
    assert!(!sizes.is_empty());
    for size in sizes {
        let numbers: Vec<usize> = size.split('x').map(|n| n.parse().expect("a size")).collect();
        let [n, heads, tokens, dim, features] = numbers[..] else { panic!("{size}") };
        let w = tensor(&file, &format!("{size}.w"));
        let w_t: Vec<f64> = (0..dim).flat_map(|j| w[j..].iter().step_by(dim)).copied().collect();
        for (name, kind) in [
            ("softmax", AttentionKind::FAVOR),
            ("relu", AttentionKind::Favor(FeatureMap::Relu)),
            ("exact", AttentionKind::Softmax),
        ] {
            let shape = AttentionShape { tokens, heads, dim, features };
            let attention = Attention::new(kind, shape).expect("a layer");
            let len = heads * tokens * dim;
            for sample in 0..n {
                let read = |name: &str| {
                    let all = tensor(&file, &format!("{size}.{name}"));
                    by_token(&all[sample * len..][..len], [heads, tokens, dim])
                };
                let (q, k, v, d_out) = (read("q"), read("k"), read("v"), read("d_out"));
                let [mut out, mut d_q, mut d_k, mut d_v] = [(); 4].map(|()| vec![0.0; len]);
                let mut saved = vec![0.0; attention.saved_len()];
                let projections = Projections { w: &w, w_t: &w_t };
                let mut work = vec![0.0; attention.forward_work_len().max(attention.backward_work_len())];
                let context =
                    &mut Context { kernels: Isa::Reference.into(), team: Team::Solo, workspace: &mut work };
                let qkv = Qkv { q: &q, k: &k, v: &v };
                attention.forward(context, projections, qkv, &mut out, &mut saved).expect("lengths that fit");
                let output = AttentionOutput { out: &out, saved: &saved };
                let gradient = QkvGradient { d_q: &mut d_q, d_k: &mut d_k, d_v: &mut d_v };
                attention
                    .backward(context, projections, qkv, output, &d_out, gradient)
                    .expect("lengths that fit");
                for (tensor, got) in [("out", out), ("d_q", d_q), ("d_k", d_k), ("d_v", d_v)] {
                    let want = read(&format!("{name}.{tensor}"));
                    let largest = want.iter().fold(0.0f64, |max, x| max.max(x.abs()));
                    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                        assert!(
                            (got - want).abs() <= TOLERANCE * largest,
                            "{size} sample {sample} {name}.{tensor} [{i}]: {got} for {want}"
                        );
                    }
                }
            }
        }
    }
}
