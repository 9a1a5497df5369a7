//! What a network is told of a sample beside x_t.

use crate::error::{Error, Result};

/// Timesteps' indices are below this; larger ones would lose digits in the time embedding.
const MOST_TIMESTEPS: usize = 1 << 24;

/// A sample's timestep, and its class where the network takes classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The timestep's index t - 1.
    pub index: usize,
    /// The class, from 0 to [`UnetConfig::num_class_embeds`](crate::config::UnetConfig::num_class_embeds)
    /// - 1; `None` for a network without classes.
    pub class: Option<usize>,
}

impl From<usize> for Condition {
    /// A timestep's index and no class.
    fn from(index: usize) -> Condition {
        Condition { index, class: None }
    }
}

impl Condition {
    /// Refuses a timestep's index that no process has, and a class that is not one of the network's
    /// `classes`.
    pub(super) fn check(self, classes: Option<usize>) -> Result<()> {
        let Condition { index, class } = self;
        if index >= MOST_TIMESTEPS {
            let expected = format!("a number below {MOST_TIMESTEPS}");
            return Err(Error::invalid("a timestep's index", expected, index.to_string(), ""));
        }
        let (expected, help) = match classes {
            None if class.is_none() => return Ok(()),
            None => ("none: the network takes no classes".to_owned(), ""),
            Some(classes) if class.is_some_and(|class| class < classes) => return Ok(()),
            Some(classes) => {
                let last = classes - 1;
                (format!("a number from 0 to {last}: the network takes a class for each image"), "give one")
            }
        };
        let got = class.map_or("none".to_owned(), |class| class.to_string());
        Err(Error::invalid("the class of an image", expected, got, help))
    }

    /// One that [`Condition::check`] takes.
    pub(super) fn any(classes: Option<usize>) -> Condition {
        Condition { index: 0, class: classes.map(|_| 0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_needed_where_the_network_takes_them_and_nowhere_else() {
        let check = |class, classes| Condition { index: 3, class }.check(classes);
        assert!(check(None, None).is_ok() && check(Some(10), Some(11)).is_ok());
        for (class, classes, expected) in [
            (None, Some(11), "0 to 10"),
            (Some(11), Some(11), "0 to 10"),
            (Some(0), None, "takes no classes"),
        ] {
            let message = check(class, classes).expect_err(expected).to_string();
            assert!(message.contains("the class of an image") && message.contains(expected), "{message}");
        }
        for classes in [None, Some(4)] {
            assert!(Condition::any(classes).check(classes).is_ok());
        }
        assert!(Condition::from(1 << 24).check(None).is_err());
    }
}
