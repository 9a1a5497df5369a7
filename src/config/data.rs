//! Where the images come from and what is made of them.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The images, and what is made of them. Everything here is part of a run's result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// A folder; the embedded images where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Height and width that every image is cut and resized to. Without it all must have one size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<[usize; 2]>,
    /// 1 for grey, 3 for colour; without it colour where any image has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// What transparent pictures are put on.
    #[serde(skip_serializing_if = "Background::is_white")]
    pub background: Background,
    /// The share of the training images that is held out, above 0 and below 1. Which ones is a function of
    /// the run's seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
}

impl DataConfig {
    /// Checks every number's range; the size is checked against the images when they are read.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first key out of range.
    pub fn validate(&self) -> Result<()> {
        if let Some(channels) = self.channels
            && !matches!(channels, 1 | 3)
        {
            let expected = "1 (grey) or 3 (colour)";
            return Err(Error::invalid("data.channels", expected, channels.to_string(), ""));
        }
        match self.held_out {
            Some(share) if !(share > 0.0 && share < 1.0) => {
                let expected = "a share of the images, above 0 and below 1";
                Err(Error::invalid("data.held_out", expected, share.to_string(), ""))
            }
            _ => Ok(()),
        }
    }
}

/// A colour to put transparent pictures on: red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Background(pub [u8; 3]);

/// Colours with names.
const NAMED: [(&str, [u8; 3]); 4] =
    [("white", [255; 3]), ("black", [0; 3]), ("grey", [128; 3]), ("gray", [128; 3])];

impl Background {
    /// Whether it is the default.
    fn is_white(&self) -> bool {
        *self == Background::default()
    }

    /// Whether it is no shade of grey.
    pub fn is_coloured(self) -> bool {
        let [r, g, b] = self.0;
        r != g || g != b
    }
}

impl Default for Background {
    /// White.
    fn default() -> Self {
        Background([255; 3])
    }
}

impl FromStr for Background {
    type Err = Error;

    /// `white`, `black`, `grey` or `#rrggbb`.
    fn from_str(text: &str) -> Result<Self> {
        if let Some((_, colour)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(Background(*colour));
        }
        let digits = text
            .strip_prefix('#')
            .filter(|hex| hex.len() == 6 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let number = digits.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        match number {
            Some(number) => {
                let [_, r, g, b] = number.to_be_bytes();
                Ok(Background([r, g, b]))
            }
            None => {
                let expected = "white, black, grey or a colour such as #8040ff";
                Err(Error::invalid("the background", expected, format!("{text:?}"), ""))
            }
        }
    }
}

impl fmt::Display for Background {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match NAMED.iter().find(|(_, colour)| *colour == self.0) {
            Some((name, _)) => f.write_str(name),
            None => {
                let [r, g, b] = self.0;
                write!(f, "#{r:02x}{g:02x}{b:02x}")
            }
        }
    }
}

impl From<Background> for String {
    fn from(background: Background) -> String {
        background.to_string()
    }
}

impl TryFrom<String> for Background {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_read_as_they_are_written() {
        for (text, colour) in
            [("white", [255; 3]), ("grey", [128; 3]), ("#8040ff", [128, 64, 255]), ("#010203", [1, 2, 3])]
        {
            let background: Background = text.parse().expect("a colour");
            assert_eq!((background.0, background.to_string()), (colour, text.to_owned()));
        }
        assert_eq!("#FFFFFF".parse::<Background>().expect("a colour").to_string(), "white");
        for text in ["", "pink", "#12345", "#12345g", "#+12345", "123456"] {
            let message = text.parse::<Background>().expect_err("no colour").to_string();
            assert!(message.contains("white, black, grey or a colour such as #8040ff"), "{message}");
        }
    }

    #[test]
    fn shares_and_channels_out_of_range_are_named() {
        let refused = |data: DataConfig| data.validate().expect_err("out of range").to_string();
        for share in [0.0, 1.0, -0.1, f64::NAN] {
            assert!(refused(DataConfig { held_out: Some(share), ..Default::default() }).contains("held_out"));
        }
        assert!(refused(DataConfig { channels: Some(2), ..Default::default() }).contains("data.channels"));
        let fine = DataConfig { held_out: Some(0.5), channels: Some(1), ..Default::default() };
        fine.validate().expect("fine");
    }
}
