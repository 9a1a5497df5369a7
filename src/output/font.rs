//! The font of every plot, which comes with the program: a machine that trains may have no fonts at all.

use crate::error::{Error, Result};
use plotters::prelude::{FontStyle, IntoFont};
use plotters::style::{FontDesc, register_font};

/// The name of the font here and in SVG files.
const FAMILY: &str = "sans-serif";

/// Registers the font; may be called any number of times.
///
/// # Errors
/// [`Error::Invalid`] if it is no font.
pub(super) fn register() -> Result<()> {
    register_font(FAMILY, FontStyle::Normal, ttf_noto_sans::REGULAR)
        .map_err(|_| Error::invalid("the font of plots", "a TrueType font", "something else", ""))
}

/// The font at so many pixels.
pub(super) fn font(size: i32) -> FontDesc<'static> {
    (FAMILY, size).into_font()
}
