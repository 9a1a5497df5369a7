//! Whether a network and images go together.

use crate::config::Config;
use crate::data::Dataset;
use crate::error::{Error, Result};

/// Checks that a network can be trained on a dataset.
///
/// # Errors
/// [`Error::Invalid`] naming both sizes.
pub fn check_fit(config: &Config, data: &Dataset) -> Result<()> {
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
