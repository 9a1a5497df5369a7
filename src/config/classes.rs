//! Networks that are told the class of an image.

use super::{Config, UnetConfig};
use crate::error::{Error, Result};

/// The classes that a network is told, as its configuration or its file has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassEmbedding<'a> {
    /// [`UnetConfig::num_class_embeds`].
    pub embeds: Option<usize>,
    /// [`UnetConfig::class_names`].
    pub names: &'a [String],
}

impl ClassEmbedding<'_> {
    /// The number of classes that an image can be of, the null class left out; 0 for a network without
    /// classes.
    pub fn classes(&self) -> usize {
        self.embeds.unwrap_or(0) - usize::from(self.null_class().is_some())
    }

    /// The class that stands for none of the others, by which guidance knows what an image is without its
    /// class (Ho & Salimans 2022): the last, where all but it have names.
    pub fn null_class(&self) -> Option<usize> {
        let named = self.names.len();
        (named > 0 && self.embeds == Some(named + 1)).then_some(named)
    }

    /// Whether these are the names of the classes that an image can be of: the same names, or as many where
    /// the classes have none.
    pub fn are(&self, names: &[String]) -> bool {
        if self.names.is_empty() { names.len() == self.classes() } else { names == self.names }
    }

    /// A class as people call it: by its name, else by its index.
    pub fn class_name(&self, class: usize) -> String {
        self.names.get(class).cloned().unwrap_or_else(|| class.to_string())
    }

    /// The class that a text names: by its name in letters of either case, by one of the names that commas
    /// separate in it ("tench, Tinca tinca"), or by its index. Where classes are called by numbers, a number
    /// is a name.
    ///
    /// # Errors
    /// [`Error::Invalid`], listing the classes, for a text that names none of them or several.
    pub fn find_class(&self, text: &str) -> Result<usize> {
        let wanted = text.trim().to_lowercase();
        let matching = |fits: &dyn Fn(&str) -> bool| -> Vec<usize> {
            let names = self.names.iter().enumerate();
            names.filter(|(_, name)| fits(&name.to_lowercase())).map(|(class, _)| class).collect()
        };
        let mut found = matching(&|name| name == wanted);
        if found.is_empty() {
            found = matching(&|name| name.split(',').any(|part| part.trim() == wanted));
        }
        let is_number = |name: &String| name.parse::<usize>().is_ok();
        if found.is_empty()
            && !self.names.iter().any(is_number)
            && let Some(index) = wanted.parse::<usize>().ok().filter(|index| *index < self.classes())
        {
            found = vec![index];
        }
        let expected = || match self.classes() {
            0 => "none: the network knows no classes".to_owned(),
            n if self.names.is_empty() => format!("an index from 0 to {}", n - 1),
            n => {
                let shown = self.names.iter().take(MOST_LISTED).cloned().collect::<Vec<_>>().join(", ");
                let rest =
                    if n > MOST_LISTED { format!(" and {} more", n - MOST_LISTED) } else { String::new() };
                format!("one of {shown}{rest}")
            }
        };
        match found[..] {
            [class] => Ok(class),
            [] => Err(Error::invalid("`SampleOptions::classes`", expected(), text, "")),
            _ => {
                let indices: Vec<String> = found.iter().map(usize::to_string).collect();
                let got = format!("{text}, the name of {}", indices.join(" and "));
                Err(Error::invalid(
                    "`SampleOptions::classes`",
                    "the name of one class",
                    got,
                    "give its index",
                ))
            }
        }
    }
}

impl UnetConfig {
    /// The classes, by their number and their names.
    pub fn class_embedding(&self) -> ClassEmbedding<'_> {
        ClassEmbedding { embeds: self.num_class_embeds, names: &self.class_names }
    }

    /// [`ClassEmbedding::classes`].
    pub fn classes(&self) -> usize {
        self.class_embedding().classes()
    }

    /// [`ClassEmbedding::null_class`].
    pub fn null_class(&self) -> Option<usize> {
        self.class_embedding().null_class()
    }

    /// [`ClassEmbedding::class_name`].
    pub fn class_name(&self, class: usize) -> String {
        self.class_embedding().class_name(class)
    }

    /// [`ClassEmbedding::find_class`].
    ///
    /// # Errors
    /// As there.
    pub fn find_class(&self, text: &str) -> Result<usize> {
        self.class_embedding().find_class(text)
    }

    /// Checks that every class has a name, or every class but the null class, or none.
    pub(super) fn validate_class_names(&self) -> Result<()> {
        let (named, embeds) = (self.class_names.len(), self.num_class_embeds.unwrap_or(0));
        if named == 0 || embeds == named || embeds == named + 1 {
            return Ok(());
        }
        Err(Error::invalid(
            "unet.class_names",
            format!(
                "{embeds} names, as many as num_class_embeds, or one fewer where the last is the null class"
            ),
            named.to_string(),
            "leave them out for a network without classes",
        ))
    }
}

/// Names that a message lists.
const MOST_LISTED: usize = 20;

impl Config {
    /// The same with a network that is told the images' classes, which have these names. Training drops the
    /// class of an image with probability `drop_label`: where that is not 0, the network has one class more,
    /// the null class, and can be guided.
    pub fn for_classes(mut self, names: &[String], drop_label: f64) -> Config {
        self.unet.class_names = names.to_vec();
        self.unet.num_class_embeds = Some(names.len() + usize::from(drop_label > 0.0));
        self.train.drop_label = drop_label;
        self
    }

    /// Checks that labels are dropped where, and only where, there is a null class for it.
    pub(super) fn validate_dropped_labels(&self) -> Result<()> {
        let drop = self.train.drop_label;
        if !(0.0..1.0).contains(&drop) {
            let help = "the share of images that the network is not told the class of";
            return Err(Error::invalid("train.drop_label", "at least 0 and below 1", drop.to_string(), help));
        }
        if drop > 0.0 && self.unet.null_class().is_none() {
            return Err(Error::invalid(
                "train.drop_label",
                "0 for a network without a null class",
                drop.to_string(),
                "give unet.num_class_embeds one class more than unet.class_names",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Preset};

    fn with(names: &[&str], drop_label: f64) -> Config {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Preset::Tiny.config().for_classes(&names, drop_label)
    }

    #[test]
    fn the_null_class_is_the_one_without_a_name() {
        let unet = |drop| with(&["cat", "dog"], drop).unet;
        assert_eq!((unet(0.1).classes(), unet(0.1).null_class()), (2, Some(2)));
        assert_eq!((unet(0.0).classes(), unet(0.0).null_class()), (2, None));
        let mut unnamed = unet(0.1);
        unnamed.class_names.clear();
        assert_eq!((unnamed.classes(), unnamed.null_class()), (3, None));
        assert_eq!((unet(0.1).class_name(1), unnamed.class_name(1)), ("dog".to_owned(), "1".to_owned()));
        assert_eq!(Preset::Tiny.config().unet.classes(), 0);
    }

    #[test]
    fn a_text_names_one_class() {
        let find = |names: &[&str], text: &str| with(names, 0.1).unet.find_class(text);
        let pets = ["cat", "dog, hound", "T-shirt/top", "dog"];
        for (text, class) in
            [("CAT", 0), (" hound", 1), ("dog", 3), ("dog, hound", 1), ("t-shirt/top", 2), ("2", 2)]
        {
            assert_eq!(find(&pets, text).expect(text), class, "{text}");
        }
        // Numbers as names: index 2 is called 10.
        assert_eq!(find(&["1", "2", "10"], "2").expect("a name"), 1);
        assert!(find(&["1", "2", "10"], "0").is_err());
        for text in ["4", "mouse", "", "-1"] {
            let message = find(&pets, text).expect_err(text).to_string();
            assert!(message.contains("one of cat, dog, hound"), "{message}");
        }
        let message = find(&["a, x", "b, x"], "x").expect_err("two").to_string();
        assert!(message.contains("0 and 1") && message.contains("index"), "{message}");
        let message = Preset::Tiny.config().unet.find_class("0").expect_err("no classes").to_string();
        assert!(message.contains("knows no classes"), "{message}");
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_its_key() {
        let refused = |config: Config| config.validate().expect_err("refused").to_string();
        assert!(with(&["a", "b"], 0.2).validate().is_ok() && with(&["a", "b"], 0.0).validate().is_ok());
        for drop in [-0.1, 1.0, f64::NAN] {
            assert!(refused(with(&["a", "b"], drop)).contains("train.drop_label"));
        }
        let mut config = with(&["a", "b"], 0.2);
        config.unet.num_class_embeds = Some(2);
        assert!(refused(config.clone()).contains("null class"));
        config.unet.num_class_embeds = Some(5);
        assert!(refused(config.clone()).contains("unet.class_names"));
        config.unet.num_class_embeds = None;
        assert!(refused(config).contains("unet.class_names"));
        let config = with(&["a", "b"], 0.2);
        assert_eq!(Config::from_toml(&config.to_toml(), "x").expect("round trip"), config);
        assert!(!Preset::Tiny.config().to_toml().contains("drop_label"));
    }
}
