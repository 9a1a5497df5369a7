//! The losses of other predictions, weights and a learned variance against PyTorch's automatic
//! differentiation: `objectives.safetensors` of `tests/golden2`, or of the folder that
//! `PERFORMER_DDPM_GOLDEN2` names.
//!
//! Everything is f64. Bound: 1e-9 of the largest value of a tensor. The file's decoder takes the probability
//! of a bin as the difference of two numbers up to 1, so it may be off by 2^-52, and its logarithm and what
//! follows from it by 2^-52 over the probability, which is allowed where t = 1.

use crate::support::golden::{channels_last, tensors};
use crate::support::parity::{compare, largest};
use performer_ddpm::config::{DiffusionConfig, LossWeight, Prediction};
use performer_ddpm::equations::bound::bits_per_dim;
use performer_ddpm::equations::decoder::eq17_pixel_probability;
use performer_ddpm::equations::forward::eq03_q_sample;
use performer_ddpm::equations::objective::{
    LearnedRange, Objective, Parameterisation, Shard, o01_target, o02_snr, o05_log_variance,
};
use performer_ddpm::equations::{Level, Schedule};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file's tensors, images as [n, h, w, c].
struct Golden {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    schedule: Schedule,
    indices: Vec<usize>,
}

impl Golden {
    fn open() -> Golden {
        let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden2");
        let folder = std::env::var_os("PERFORMER_DDPM_GOLDEN2").map_or_else(own, PathBuf::from);
        let tensors = tensors(&folder.join("objectives.safetensors"));
        let indices = tensors["t"].1.iter().map(|t| *t as usize).collect();
        let schedule = Schedule::from_config(&DiffusionConfig::default()).unwrap();
        Golden { tensors, schedule, indices }
    }

    fn get(&self, name: &str) -> Vec<f64> {
        let (shape, numbers) = &self.tensors[name];
        match shape[..].try_into() {
            Ok(shape) => channels_last(numbers, shape),
            Err(_) => numbers.clone(),
        }
    }

    fn channels(&self, name: &str) -> usize {
        self.tensors[name].0[1]
    }

    fn levels(&self) -> impl Iterator<Item = &Level> {
        self.indices.iter().map(|index| &self.schedule.levels()[*index])
    }

    /// The samples' losses, and the gradient of their mean in `output`.
    fn objective(&self, objective: &Objective, output: &str) -> (Vec<f64>, Vec<f64>) {
        let (x0, eps, x_t, channels) =
            (self.get("x0"), self.get("eps"), self.get("xt"), self.channels(output));
        let (output, n) = (self.get(output), self.indices.len());
        let (image, len) = (x0.len() / n, output.len() / n);
        let notes_len = objective.notes_len(len);
        let mut notes = vec![0.0; n * notes_len];
        for (i, (notes, level)) in notes.chunks_exact_mut(notes_len).zip(self.levels()).enumerate() {
            let of = |x: &[f64]| x[i * image..][..image].to_vec();
            notes[..image].copy_from_slice(&of(&eps));
            objective.prepare(level, &of(&x0), &of(&x_t), notes);
        }
        let mut d_output = vec![0.0; output.len()];
        let gradient = |indices: &[usize], notes: &mut [f64], output: &[f64], d_output: &mut [f64]| {
            objective.o07_gradient(Shard { indices, notes, output, channels, batch: n }, d_output)
        };
        let losses = (0..n).map(|i| {
            let mut notes = notes[i * notes_len..][..notes_len].to_vec();
            gradient(&self.indices[i..=i], &mut notes, &output[i * len..][..len], &mut vec![0.0; len])
        });
        let losses: Vec<f64> = losses.collect();
        gradient(&self.indices, &mut notes, &output, &mut d_output);
        (losses, d_output)
    }
}

#[test]
fn golden2_objectives_targets_and_ratios() {
    let golden = Golden::open();
    let (x0, eps) = (golden.get("x0"), golden.get("eps"));
    let image = x0.len() / golden.indices.len();
    let (mut x_t, mut v) = (vec![0.0; x0.len()], vec![0.0; x0.len()]);
    for (i, level) in golden.levels().enumerate() {
        let part = i * image..(i + 1) * image;
        eq03_q_sample(&x0[part.clone()], &eps[part.clone()], level.alpha_bar, &mut x_t[part.clone()]);
        let [from_x0, from_eps] = o01_target(Prediction::VPrediction, level.alpha_bar);
        part.for_each(|k| v[k] = from_x0 * x0[k] + from_eps * eps[k]);
    }
    let snr: Vec<f64> = golden.levels().map(|level| o02_snr(level.alpha_bar)).collect();
    for (name, got) in [("xt", &x_t), ("v", &v), ("snr", &snr)] {
        compare(name, got, &golden.get(name), 1e-9, 0.0);
    }
}

#[test]
fn golden2_objectives_losses_and_gradients() {
    let golden = Golden::open();
    for (name, prediction) in [
        ("epsilon", Prediction::Epsilon),
        ("v_prediction", Prediction::VPrediction),
        ("sample", Prediction::Sample),
    ] {
        let config = DiffusionConfig { prediction, ..DiffusionConfig::default() };
        for (weight, weighting) in [("", LossWeight::None), (".min_snr_5", LossWeight::MinSnr { gamma: 5.0 })]
        {
            let objective = Objective::new(&config, weighting, &golden.schedule);
            let (losses, d_out) = golden.objective(&objective, "out");
            let of = |what: &str| golden.get(&format!("{name}{weight}.{what}"));
            compare(&format!("{name}{weight}.per_sample"), &losses, &of("per_sample"), 1e-9, 0.0);
            compare(&format!("{name}{weight}.d_out"), &d_out, &of("d_out"), 1e-9, 0.0);
        }
    }
}

#[test]
fn golden2_objectives_learned_range() {
    let golden = Golden::open();
    let config = DiffusionConfig { learned_range: true, ..DiffusionConfig::default() };
    let says = Parameterisation::from(&config);
    let (x0, x_t, out) = (golden.get("x0"), golden.get("xt"), golden.get("out2"));
    let (n, c) = (golden.indices.len(), golden.channels("x0"));
    let image = x0.len() / n;
    // The terms of the bound, and how far the file's may be off where it takes differences near 1.
    let (mut bits, mut loose) = (Vec::new(), vec![0.0; n]);
    let mut loose_slopes = vec![0.0; out.len()];
    for (i, level) in golden.levels().enumerate() {
        let range = LearnedRange::new(level);
        let at = |k: usize| i * 2 * image + k / c * 2 * c + k % c;
        let eps: Vec<f64> = (0..image).map(|k| out[at(k)]).collect();
        let mut x0_hat = vec![0.0; image];
        says.x0(&x_t[i * image..][..image], &eps, level, false, &mut x0_hat);
        let mut nats = 0.0;
        for k in 0..image {
            let (x0, u) = (x0[i * image + k], out[at(k) + c]);
            let [term, slope] = range.o06_term(x0, x_t[i * image + k], x0_hat[k], u);
            nats += term;
            if level.is_first() {
                let log_range = [level.log_posterior_variance, level.beta.ln()];
                let sigma = (0.5 * o05_log_variance(u, log_range)).exp();
                let off = f64::EPSILON / eq17_pixel_probability(x0, x0_hat[k], sigma);
                loose[i] += bits_per_dim(off, image);
                let scale = 0.001 * golden.schedule.steps() as f64 * bits_per_dim(1.0, image) / n as f64;
                loose_slopes[at(k) + c] = scale * slope.abs() * off;
            }
        }
        bits.push(bits_per_dim(nats, image));
    }
    let check = |what: &str, got: &[f64], loose: &[f64]| {
        let want = golden.get(&format!("learned_range.{what}"));
        assert_eq!(got.len(), want.len(), "{what}");
        let bound = 1e-9 * largest(&want);
        for (i, ((got, want), loose)) in got.iter().zip(&want).zip(loose).enumerate() {
            let error = (got - want).abs();
            assert!(error <= bound + loose, "{what}[{i}]: {got} for {want}, off by {error:e}");
        }
    };
    check("vb_bits_per_dim", &bits, &loose);
    let objective = Objective::new(&config, LossWeight::None, &golden.schedule);
    let (losses, d_out) = golden.objective(&objective, "out2");
    check("hybrid.per_sample", &losses, &loose);
    check("hybrid.d_out", &d_out, &loose_slopes);
}
