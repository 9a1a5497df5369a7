//! Converts images to the size, channels and range that a features network takes.

use super::FeatureOptions;
use crate::error::{Error, Result};
use crate::machine;
use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma};
use performer_ddpm_onnx::{Dim, Tensor};
use rayon::prelude::*;

/// The range of pixels that a features network expects; ours are in [-1, 1].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelRange {
    /// [-1, 1].
    Symmetric,
    /// [0, 1].
    Unit,
    /// [0, 255].
    Bytes,
    /// [0, 1] minus the mean, divided by the standard deviation of ImageNet's red, green and blue, as
    /// torchvision's networks expect.
    ImageNet,
}

/// ImageNet's means and standard deviations in [0, 1].
const IMAGENET: [(f32, f32); 3] = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];

impl PixelRange {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            PixelRange::Symmetric => "-1..1",
            PixelRange::Unit => "0..1",
            PixelRange::Bytes => "0..255",
            PixelRange::ImageNet => "imagenet",
        }
    }

    /// A channel's value from one in [0, 1].
    fn of_unit(self, channel: usize, unit: f32) -> f32 {
        match self {
            PixelRange::Symmetric => 2.0 * unit - 1.0,
            PixelRange::Unit => unit,
            PixelRange::Bytes => 255.0 * unit,
            PixelRange::ImageNet => {
                let (mean, deviation) = IMAGENET[channel % IMAGENET.len()];
                (unit - mean) / deviation
            }
        }
    }
}

/// The conversion of images of one shape into a network's input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    from: [usize; 3],
    to: [usize; 3],
    range: PixelRange,
}

impl Entry {
    /// For images [c, h, w] and a network whose input has these four dimensions.
    ///
    /// # Errors
    /// [`Error::Invalid`] for images that the network does not take, resized as the options say.
    pub(super) fn new(
        origin: &str,
        port: &[Dim],
        from: [usize; 3],
        options: &FeatureOptions,
    ) -> Result<Self> {
        let [c, h, w] = from;
        let [height, width] = options.size.unwrap_or([h, w]);
        let known = |axis: usize| port.get(axis).and_then(Dim::known);
        let channels = if c == 1 { known(1).unwrap_or(c) } else { c };
        let to = [channels, height, width];
        let takes = [1, 2, 3].map(known);
        let fits = takes.iter().zip(to).all(|(known, length)| known.is_none_or(|known| known == length));
        let grey_or_colour = channels == 1 || channels == 3;
        if fits && grey_or_colour && to.iter().chain(&from).all(|length| *length > 0) {
            return Ok(Entry { from, to, range: options.range });
        }
        let shown = |lengths: [Option<usize>; 3]| {
            lengths.map(|l| l.map_or_else(|| "?".to_owned(), |l| l.to_string())).join(" x ")
        };
        // Height, width, channels, as TensorFlow has them.
        let channels_last = matches!(takes, [first, _, Some(1 | 3)] if !matches!(first, Some(1 | 3)));
        Err(Error::invalid(
            format!("{origin}, images"),
            format!("{} (channels, height, width), as the network takes them", shown(takes)),
            shown(to.map(Some)),
            if channels_last {
                "the network takes [N, H, W, C]: export it with channels first, or with a Transpose in front"
            } else {
                "`FeatureOptions::size` resizes images, and grey ones fill three channels"
            },
        ))
    }

    /// The network's input for images [n, c, h, w] in [-1, 1], padded with zeros to a whole batch.
    pub(super) fn tensor(&self, images: &[f32], batch: usize) -> Result<Tensor> {
        let [c, h, w] = self.from;
        let [channels, height, width] = self.to;
        let mut out = machine::filled("`FeatureOptions::size`", &[batch, channels, height, width], 0.0)?;
        images.par_chunks(c * h * w).zip(out.par_chunks_mut(channels * height * width)).for_each(
            |(image, out)| {
                for (channel, plane) in out.chunks_exact_mut(height * width).enumerate() {
                    self.plane(channel, &image[channel % c * h * w..][..h * w], plane);
                }
            },
        );
        Ok(Tensor::f32([batch, channels, height, width], out)?)
    }

    /// One channel in the network's size and range. Enlarging is bilinear between pixels' centres, as in the
    /// usual code of the FID; shrinking widens the filter against aliasing.
    fn plane(&self, channel: usize, from: &[f32], to: &mut [f32]) {
        let unit = from.iter().map(|x| (x.clamp(-1.0, 1.0) + 1.0) / 2.0);
        let [_, h, w] = self.from;
        let [_, height, width] = self.to;
        if (h, w) == (height, width) {
            to.iter_mut().zip(unit).for_each(|(to, unit)| *to = self.range.of_unit(channel, unit));
            return;
        }
        let plane: ImageBuffer<Luma<f32>, Vec<f32>> =
            ImageBuffer::from_raw(w as u32, h as u32, unit.collect()).expect("a whole plane");
        let resized = resize(&plane, width as u32, height as u32, FilterType::Triangle);
        to.iter_mut().zip(resized.iter()).for_each(|(to, unit)| *to = self.range.of_unit(channel, *unit));
    }
}
