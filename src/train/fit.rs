//! Whether a network and images go together.

use crate::config::Config;
use crate::data::Dataset;
use crate::error::{Error, Result};

/// Checks that a network can be trained on a dataset.
///
/// # Errors
/// [`Error::Invalid`] naming both sizes, or what the classes are and have to be.
pub fn check_fit(config: &Config, data: &Dataset) -> Result<()> {
    check_classes(config, data)?;
    let want = (config.unet.sample_size, config.unet.in_channels, config.unet.out_channels);
    let outputs = config.diffusion.outputs() * data.channels();
    let got = ([data.height(), data.width()], data.channels(), outputs);
    if want == got {
        return Ok(());
    }
    Err(Error::invalid(
        "the images",
        format!("{}x{} with {} channels, as the network takes", want.0[0], want.0[1], want.1),
        format!("{}x{} with {} channels", got.0[0], got.0[1], got.1),
        "resize them to its `size`, or change unet.sample_size, in_channels and out_channels",
    ))
}

/// Checks that the images have the classes that the network is told, if it is told any.
fn check_classes(config: &Config, data: &Dataset) -> Result<()> {
    let unet = &config.unet;
    if unet.num_class_embeds.is_none() {
        return Ok(());
    }
    let names = data.class_names();
    let fits =
        if unet.class_names.is_empty() { names.len() <= unet.classes() } else { names == unet.class_names };
    if fits && data.labels().is_some() {
        return Ok(());
    }
    let of = |names: &[String], count: usize| match names {
        [] => format!("{count} classes"),
        [first, ..] => format!("{count} classes, the first of them {first}"),
    };
    let got =
        if data.labels().is_some() { of(names, names.len()) } else { "images without labels".to_owned() };
    Err(Error::invalid(
        format!("{}, the images", data.name()),
        format!("{}, as the network knows them", of(&unet.class_names, unet.classes())),
        got,
        "give images with the classes that the network was made for",
    ))
}
