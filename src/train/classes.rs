//! The class that the network is told of each training image.

use crate::config::Config;
use crate::rng::{Stream, rng};
use rand::RngExt;

/// The class of one sample of a step: its image's `label` or, with probability p_uncond, the null class (Ho &
/// Salimans 2022, Algorithm 1). A function of (seed, `step`, `sample`) alone. `None` for a network without
/// classes.
pub(super) fn told_class(config: &Config, label: Option<u32>, step: u64, sample: u64) -> Option<usize> {
    let label = label.filter(|_| config.unet.num_class_embeds.is_some())?;
    let is_dropped =
        |p: f64| p > 0.0 && rng(config.train.seed, Stream::Label, step, sample).random::<f64>() < p;
    match config.unet.null_class() {
        Some(null) if is_dropped(config.train.drop_label) => Some(null),
        _ => Some(label as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    fn config(drop: f64) -> Config {
        Preset::Tiny.config().for_classes(&["a".to_owned(), "b".to_owned()], drop)
    }

    /// Of 4000 labels, within five standard deviations of a binomial count.
    #[test]
    fn labels_are_dropped_as_often_as_asked_and_by_seed_step_and_sample_alone() {
        let dropped = |config: &Config, step| -> Vec<bool> {
            (0..4000).map(|sample| told_class(config, Some(1), step, sample) == Some(2)).collect()
        };
        let (config, mut other) = (config(0.1), config(0.1));
        let first = dropped(&config, 7);
        let count = first.iter().filter(|dropped| **dropped).count() as f64;
        assert!((count - 400.0).abs() < 5.0 * (4000.0f64 * 0.1 * 0.9).sqrt(), "{count}");
        assert_eq!(first, dropped(&config, 7));
        assert_ne!(first, dropped(&config, 8));
        other.train.seed = 1;
        assert_ne!(first, dropped(&other, 7));
    }

    #[test]
    fn what_is_not_dropped_is_the_images_own_class() {
        assert_eq!(told_class(&config(0.0), Some(1), 1, 0), Some(1));
        assert!((0..50).all(|sample| matches!(told_class(&config(0.3), Some(0), 1, sample), Some(0 | 2))));
        assert_eq!(told_class(&Preset::Tiny.config(), Some(1), 1, 0), None);
        assert_eq!(told_class(&config(0.3), None, 1, 0), None);
    }
}
