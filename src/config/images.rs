//! A configuration made to fit images.

use super::Config;

impl Config {
    /// The same with a network for images of this height, width and number of channels.
    ///
    /// Heights and widths that the network's levels cannot halve are refused where the configuration is
    /// used.
    pub fn for_images(mut self, [height, width, channels]: [usize; 3]) -> Config {
        self.unet.sample_size = [height, width];
        self.unet.in_channels = channels;
        self.unet.out_channels = channels * self.diffusion.outputs();
        self
    }
}
