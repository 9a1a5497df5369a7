//! What the images are of: a class for each, and the classes' names.

use crate::error::{Error, Result};

/// The class of every image of a dataset, and the classes' names.
#[derive(Clone, PartialEq)]
pub struct Labels {
    classes: Vec<u32>,
    names: Vec<String>,
}

impl std::fmt::Debug for Labels {
    /// The names; the labels would fill pages.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Labels").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Labels {
    /// The classes of the images in their order, each the index of its name in `names`. A name may be of no
    /// image.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a class without a name, and for two classes of one name.
    pub fn new(classes: Vec<u32>, names: Vec<String>) -> Result<Labels> {
        if let Some((i, class)) =
            classes.iter().enumerate().find(|(_, class)| **class as usize >= names.len())
        {
            let expected = format!("below {}, the number of names", names.len());
            return Err(Error::invalid(format!("the class of image {i}"), expected, class.to_string(), ""));
        }
        let twice = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name));
        match twice {
            None => Ok(Labels { classes, names }),
            Some((_, name)) => Err(Error::invalid(
                "the names of the classes",
                "a name for each",
                format!("{name} twice"),
                "",
            )),
        }
    }

    /// Labels that are numbers in their file: by `names` where these name all of them, else a class for each
    /// number that occurs, in ascending order and named by the number.
    pub(super) fn numbered(numbers: &[u8], names: &[&str]) -> Labels {
        if numbers.iter().all(|number| usize::from(*number) < names.len()) {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            return Labels { classes: numbers.iter().map(|number| u32::from(*number)).collect(), names };
        }
        let mut index = [None; 256];
        numbers.iter().for_each(|number| index[usize::from(*number)] = Some(0));
        let mut names = Vec::new();
        for (number, index) in index.iter_mut().enumerate().filter(|(_, index)| index.is_some()) {
            *index = Some(names.len() as u32);
            names.push(number.to_string());
        }
        let classes = numbers.iter().filter_map(|number| index[usize::from(*number)]).collect();
        Labels { classes, names }
    }

    /// Labels of images that are sorted by class: each class's name and number of images.
    pub(super) fn sorted(classes: impl IntoIterator<Item = (String, usize)>) -> Labels {
        let mut labels = Labels { classes: Vec::new(), names: Vec::new() };
        for (name, count) in classes {
            labels.classes.extend(std::iter::repeat_n(labels.names.len() as u32, count));
            labels.names.push(name);
        }
        labels
    }

    /// The classes, one per image.
    pub fn classes(&self) -> &[u32] {
        &self.classes
    }

    /// The classes' names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The labels of some of the images.
    pub(super) fn select(&self, indices: &[usize]) -> Labels {
        let classes = indices.iter().map(|i| self.classes[*i]).collect();
        Labels { classes, names: self.names.clone() }
    }

    /// The same classes by their indices in other names; `None` where one that occurs has no name there.
    pub(super) fn renamed(&self, names: &[String]) -> Option<Labels> {
        let index = |name: &String| names.iter().position(|other| other == name);
        let indices: Vec<Option<usize>> = self.names.iter().map(index).collect();
        let classes = self.classes.iter().map(|class| indices[*class as usize].map(|i| i as u32));
        Some(Labels { classes: classes.collect::<Option<_>>()?, names: names.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn numbers_are_named_or_become_names() {
        let named = Labels::numbered(&[1, 0, 1], &["a", "b", "c"]);
        assert_eq!((named.classes(), named.names()), (&[1, 0, 1][..], &owned(&["a", "b", "c"])[..]));
        // As in EMNIST's letters, which count from 1: no class without images.
        let numbered = Labels::numbered(&[26, 1, 9, 1], &["a", "b"]);
        assert_eq!(
            (numbered.classes(), numbered.names()),
            (&[2, 0, 1, 0][..], &owned(&["1", "9", "26"])[..])
        );
    }

    #[test]
    fn other_names_order_the_classes_anew_or_lack_one() {
        let labels = Labels::sorted([("cat".to_owned(), 2), ("dog".to_owned(), 1)]);
        assert_eq!(labels.classes(), [0, 0, 1]);
        let renamed = labels.renamed(&owned(&["ant", "dog", "cat"])).expect("both names are there");
        assert_eq!(renamed.classes(), [2, 2, 1]);
        assert!(labels.renamed(&owned(&["ant", "dog"])).is_none());
        assert!(labels.select(&[2]).renamed(&owned(&["ant", "dog"])).is_some(), "no cat occurs");
    }

    #[test]
    fn classes_without_a_name_of_their_own_are_refused() {
        let message = |classes: &[u32], names: &[&str]| {
            let made = Labels::new(classes.to_vec(), owned(names));
            made.map(|_| ()).expect_err("labels that cannot be").to_string()
        };
        assert!(message(&[0, 2], &["a", "b"]).contains("the class of image 1: expected below 2"));
        assert!(message(&[0], &["a", "b", "a"]).contains("a twice"));
        assert!(Labels::new(vec![1], owned(&["a", "b"])).is_ok());
    }
}
