//! A part of the images that is never trained on.

use super::Datasets;
use crate::error::{Error, Result};
use crate::rng::{Stream, rng};
use rand::seq::SliceRandom;

/// Splits `share` of the images off, at least one and never all: which ones is a function of the seed and of
/// their number.
///
/// # Errors
/// [`Error::Invalid`] for a single image, and where there are test images already.
pub(super) fn split(sets: Datasets, share: f64, seed: u64) -> Result<Datasets> {
    let Datasets { train, test } = sets;
    if let Some(test) = test {
        return Err(Error::invalid(
            "`held_out`",
            "images without a part of their own for tests",
            format!("{}, which has {} test images", train.name(), test.len()),
            "leave it out: those are never trained on",
        ));
    }
    let count = train.len();
    if count < 2 {
        let expected = "two images or more, one of them to train on";
        return Err(Error::invalid("`held_out`", expected, count.to_string(), ""));
    }
    let wanted = (share * count as f64).round() as usize;
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut rng(seed, Stream::HeldOut, 0, 0));
    let (held_out, kept) = order.split_at_mut(wanted.clamp(1, count - 1));
    held_out.sort_unstable();
    kept.sort_unstable();
    Datasets::new(train.select(kept)?, Some(train.select(held_out)?))
}

#[cfg(test)]
mod tests {
    use super::super::{Dataset, Labels};
    use super::*;

    fn images(count: u8) -> Datasets {
        Datasets { train: numbered(count), test: None }
    }

    fn numbered(count: u8) -> Dataset {
        let labels = Labels::numbered(&(0..count).collect::<Vec<u8>>(), &[]);
        Dataset::new("numbered", [1, 1, 1], (0..count).collect(), Some(labels), false).unwrap()
    }

    fn bytes(data: &Dataset) -> Vec<u8> {
        (0..data.len()).map(|i| data.bytes(i).unwrap()[0]).collect()
    }

    #[test]
    fn the_parts_are_a_function_of_the_seed_and_share_no_image() {
        let part = |seed, share| {
            let sets = split(images(50), share, seed).unwrap();
            let test = sets.test.unwrap();
            let labels = sets.train.labels().unwrap();
            assert!(bytes(&sets.train).iter().zip(labels).all(|(byte, label)| u32::from(*byte) == *label));
            (bytes(&sets.train), bytes(&test))
        };
        let (train, test) = part(3, 0.1);
        assert_eq!((train.len(), test.len()), (45, 5));
        let mut all = [train.clone(), test.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<u8>>());
        assert_eq!(part(3, 0.1), (train, test.clone()));
        assert_ne!(part(4, 0.1).1, test);
        assert_eq!((part(3, 0.001).1.len(), part(3, 0.999).1.len()), (1, 49));
    }

    #[test]
    fn one_image_and_images_with_a_test_part_are_refused() {
        let message = split(images(1), 0.5, 0).unwrap_err().to_string();
        assert!(message.contains("two images or more"), "{message}");
        let with_test = Datasets { test: Some(numbered(3)), ..images(5) };
        let message = split(with_test, 0.5, 0).unwrap_err().to_string();
        assert!(message.contains("3 test images") && message.contains("leave it out"), "{message}");
    }
}
