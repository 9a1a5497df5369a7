//! The share of each class's images that a classifier takes for theirs.

use crate::error::{Error, Result};
use ndarray::ArrayView2;

/// For each of the classifier's classes, the share of the images of that class whose largest number is the
/// class's; `None` for a class without images. `logits` are \[n, classes\], and of two equal ones the first
/// counts.
///
/// # Errors
/// [`Error::Invalid`] for another number of `classes`, one for each image, than of rows, and for a class that
/// has no column.
pub fn recognised(logits: ArrayView2<f64>, classes: &[usize]) -> Result<Vec<Option<f64>>> {
    let (n, known) = logits.dim();
    if classes.len() != n {
        let expected = format!("{n}, one for each image");
        return Err(Error::invalid("the classes", expected, classes.len().to_string(), ""));
    }
    if let Some(class) = classes.iter().find(|class| **class >= known) {
        let expected = format!("numbers below {known}, as the classifier has classes");
        return Err(Error::invalid("the classes", expected, class.to_string(), ""));
    }
    let mut seen = vec![(0usize, 0usize); known];
    for (logits, &class) in logits.rows().into_iter().zip(classes) {
        let largest =
            logits.iter().enumerate().fold(0, |best, (i, x)| if *x > logits[best] { i } else { best });
        seen[class].0 += 1;
        seen[class].1 += usize::from(largest == class);
    }
    Ok(seen.into_iter().map(|(all, right)| (all > 0).then(|| right as f64 / all as f64)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn the_largest_number_is_what_an_image_is_taken_for() {
        let logits = array![[3.0, 1.0, -2.0], [0.0, 1.0, 5.0], [2.0, 2.5, 2.4], [-1.0, -1.0, -3.0]];
        let shares = |classes: &[usize]| recognised(logits.view(), classes).unwrap();
        assert_eq!(shares(&[0, 2, 1, 0]), [Some(1.0), Some(1.0), Some(1.0)]);
        // Of the last image's equal numbers the first counts.
        assert_eq!(shares(&[0, 0, 0, 1]), [Some(1.0 / 3.0), Some(0.0), None]);
    }

    #[test]
    fn classes_that_do_not_fit_are_refused() {
        let logits = array![[3.0, 1.0], [0.0, 1.0]];
        for (classes, words) in [(&[0][..], "2, one for each image"), (&[0, 2], "numbers below 2")] {
            let message = recognised(logits.view(), classes).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
