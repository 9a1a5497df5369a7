//! Images of one size.

use super::contents::Contents;
use super::pixels::Pixels;
use super::{Labels, resize};
use crate::error::{Error, Result};
use crate::machine;
use crate::real::Real;
use ndarray::ArrayView4;
use std::borrow::Cow;

/// The largest height or width of an image.
const MAX_SIDE: usize = 4096;

/// The most channels of an image: as many as a network may take.
const MAX_CHANNELS: usize = 1 << 10;

/// Images of one size, with labels where the source has them: bytes in memory or, for the pictures of a
/// folder, as many of them as a bound on memory allows, the others decoded when they are asked for.
#[derive(Clone, PartialEq)]
pub struct Dataset {
    name: String,
    /// Height, width, channels (1 grey, 3 red-green-blue).
    shape: [usize; 3],
    pixels: Pixels,
    labels: Option<Labels>,
    /// Whether mirroring an image left to right gives another plausible image. It does for photographs; it
    /// does not for digits, letters or anything else that has one direction, as the shoes of Fashion-MNIST
    /// do.
    flip_makes_sense: bool,
}

impl std::fmt::Debug for Dataset {
    /// Everything but the pixels and labels, which would fill pages.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Dataset")
            .field("name", &self.name)
            .field("len", &self.len())
            .field("shape", &self.shape)
            .field("labelled", &self.labels.is_some())
            .field("flip_makes_sense", &self.flip_makes_sense)
            .finish_non_exhaustive()
    }
}

/// The images to train on, and those held out.
#[derive(Clone, Debug, PartialEq)]
pub struct Datasets {
    /// Training images.
    pub train: Dataset,
    /// Test images of the same shape, where the source has them.
    pub test: Option<Dataset>,
}

/// A pixel's byte as a number in [-1, 1]: 0 is -1 and 255 is 1.
pub fn unit_from_byte(byte: u8) -> f64 {
    f64::from(byte) / 127.5 - 1.0
}

/// Refuses a size, (height, width), that is 0 or too large. `what` names the images in messages.
pub(super) fn check_size(what: &str, (height, width): (usize, usize)) -> Result<()> {
    if (1..=MAX_SIDE).contains(&height) && (1..=MAX_SIDE).contains(&width) {
        return Ok(());
    }
    Err(Error::invalid(
        format!("{what}: the images' size"),
        format!("1x1 to {MAX_SIDE}x{MAX_SIDE}"),
        format!("{height}x{width}"),
        "give another `size` to resize them to",
    ))
}

impl Dataset {
    /// `pixels` is `[N, H, W, C]` with `shape` = [H, W, C]; `labels` has a class for each image. Pictures
    /// have 1 or 3 channels; other numbers train as well, but no grid of samples can show them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no images, a side of 0 or above 4096, other channels, pixels that are not a
    /// whole number of images, or a different number of labels.
    pub fn new(
        name: impl Into<String>,
        shape: [usize; 3],
        pixels: Vec<u8>,
        labels: Option<Labels>,
        flip_makes_sense: bool,
    ) -> Result<Self> {
        let name = name.into();
        let [height, width, channels] = shape;
        check_size(&name, (height, width))?;
        if !(1..=MAX_CHANNELS).contains(&channels) {
            return Err(Error::invalid(
                format!("{name}: the images' channels"),
                format!("1 to {MAX_CHANNELS}, such as 1 (grey) or 3 (colour)"),
                channels.to_string(),
                "",
            ));
        }
        let each = height * width * channels;
        if pixels.is_empty() || !pixels.len().is_multiple_of(each) {
            return Err(Error::invalid(
                format!("{name}: the images' bytes"),
                format!("a multiple of {each} (one image is {height}x{width}x{channels}), not 0"),
                pixels.len().to_string(),
                "",
            ));
        }
        Self::of(name, shape, Pixels::Memory(pixels), labels, flip_makes_sense)
    }

    /// The same of images that are at hand in some way, at least one, of a shape that can be.
    pub(super) fn of(
        name: impl Into<String>,
        shape: [usize; 3],
        pixels: Pixels,
        labels: Option<Labels>,
        flip_makes_sense: bool,
    ) -> Result<Self> {
        let dataset = Dataset { name: name.into(), shape, pixels, labels: None, flip_makes_sense };
        match labels {
            Some(labels) => dataset.with_labels(labels),
            None => Ok(dataset),
        }
    }

    /// Images of one's own: bytes \[N, H, W, C\], such as C = 1 for grey or 3 for red, green and blue. They
    /// are not mirrored in training unless [`with_flips`](Self::with_flips) says that they may be.
    ///
    /// ```
    /// use performer_ddpm::data::Dataset;
    ///
    /// let stripes = ndarray::Array4::from_shape_fn((100, 16, 16, 1), |(n, y, ..)| (n * y % 256) as u8);
    /// assert_eq!(Dataset::from_array("stripes", stripes.view())?.shape(), [16, 16, 1]);
    /// # Ok::<(), performer_ddpm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Dataset::new`].
    pub fn from_array(name: impl Into<String>, images: ArrayView4<u8>) -> Result<Self> {
        let (_, h, w, c) = images.dim();
        Self::new(name, [h, w, c], images.iter().copied().collect(), None, false)
    }

    /// The same images, each as good a training image when it is mirrored left to right.
    pub fn with_flips(self) -> Self {
        Dataset { flip_makes_sense: true, ..self }
    }

    /// The same images with a class for each.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another number of labels than of images.
    pub fn with_labels(self, labels: Labels) -> Result<Self> {
        let (count, got) = (self.len(), labels.classes().len());
        if got == count {
            return Ok(Dataset { labels: Some(labels), ..self });
        }
        Err(Error::invalid(
            format!("{}: labels", self.name),
            format!("{count}, one for each image"),
            got.to_string(),
            "the files of images and of labels do not belong together",
        ))
    }

    /// The name of these images, for messages and reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// N, the number of images; at least 1.
    pub fn len(&self) -> usize {
        self.pixels.len(self.image_len())
    }

    /// Never: a dataset holds at least one image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// H.
    pub fn height(&self) -> usize {
        self.shape[0]
    }

    /// W.
    pub fn width(&self) -> usize {
        self.shape[1]
    }

    /// C: 1 for grey, 3 for colour.
    pub fn channels(&self) -> usize {
        self.shape[2]
    }

    /// \[H, W, C\].
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// H W C, the numbers in one image.
    pub fn image_len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The images' classes, one per image, where the source has them.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_ref().map(Labels::classes)
    }

    /// The names of the classes, by their indices; none where the images have no labels.
    pub fn class_names(&self) -> &[String] {
        self.labels.as_ref().map_or(&[], Labels::names)
    }

    /// Whether mirroring an image left to right gives another plausible image: yes for CIFAR-10 and folders
    /// of images, no for IDX files (digits and letters, and Fashion-MNIST's shoes, which all point one way).
    pub fn flip_makes_sense(&self) -> bool {
        self.flip_makes_sense
    }

    /// The bytes `[H, W, C]` of one image.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `index` is not below [`len`](Self::len), and for a picture whose file can no
    /// longer be decoded.
    pub fn bytes(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        self.check_indices(&[index])?;
        self.pixels.image(index, self.image_len())
    }

    /// Writes one image, `[H, W, C]` in [-1, 1], into `out`; mirrored left to right where `flip` is set. The
    /// values are [`unit_from_byte`]'s, rounded once to `T`.
    ///
    /// # Errors
    /// Those of [`bytes`](Self::bytes).
    ///
    /// # Panics
    /// If `out` is not [`image_len`](Self::image_len) long.
    pub(crate) fn image_into<T: Real>(&self, index: usize, flip: bool, out: &mut [T]) -> Result<()> {
        let bytes = self.bytes(index)?;
        assert_eq!(out.len(), bytes.len(), "out must hold one image");
        let [_, width, channels] = self.shape;
        let row = width * channels;
        for (to, from) in out.chunks_exact_mut(row).zip(bytes.chunks_exact(row)) {
            for (x, pixel) in to.chunks_exact_mut(channels).enumerate() {
                let source = if flip { width - 1 - x } else { x };
                for (value, &byte) in pixel.iter_mut().zip(&from[source * channels..]) {
                    *value = T::of(unit_from_byte(byte));
                }
            }
        }
        Ok(())
    }

    /// The images of these indices, in this order.
    ///
    /// # Errors
    /// [`Error::Invalid`] for none, and for an index that is not below its length.
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        self.check_indices(indices)?;
        if indices.is_empty() {
            return Err(Error::invalid(
                format!("{}: the chosen images", self.name),
                "one at least",
                "none",
                "",
            ));
        }
        let pixels = self.pixels.select(indices, self.image_len());
        let labels = self.labels.as_ref().map(|labels| labels.select(indices));
        Dataset::of(self.name.clone(), self.shape, pixels, labels, self.flip_makes_sense)
    }

    /// What the images were made from, so that a change is noticed.
    pub fn contents(&self) -> Contents {
        Contents(self.pixels.contents(self.image_len(), self.labels().unwrap_or_default()))
    }

    /// Refuses an index that is none of its images'.
    pub(crate) fn check_indices(&self, indices: &[usize]) -> Result<()> {
        match indices.iter().find(|index| **index >= self.len()) {
            None => Ok(()),
            Some(index) => Err(Error::invalid(
                format!("{}: an image's index", self.name),
                format!("at most {}", self.len() - 1),
                index.to_string(),
                "",
            )),
        }
    }

    /// Every image cropped around its centre to the aspect ratio of (height, width), and resized.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a size that no data set here has, or that memory does not hold for so many
    /// images.
    pub fn resized(self, (height, width): (usize, usize)) -> Result<Self> {
        check_size(&self.name, (height, width))?;
        if (height, width) == (self.height(), self.width()) {
            return Ok(self);
        }
        let lengths = [self.len(), height, width, self.channels()];
        let mut pixels = machine::filled("`size`, of all images together", &lengths, 0)?;
        for (i, pixels) in pixels.chunks_exact_mut(height * width * self.channels()).enumerate() {
            pixels.copy_from_slice(&resize::fit_bytes(&self.bytes(i)?, self.shape, (height, width)));
        }
        Dataset::new(self.name, [height, width, self.shape[2]], pixels, self.labels, self.flip_makes_sense)
    }
}

impl Dataset {
    /// Grey images as colour or colour ones as grey (Rec. 709's luma), in memory.
    ///
    /// # Errors
    /// [`Error::Invalid`] for images that are neither grey nor coloured.
    pub(super) fn with_channels(self, channels: usize) -> Result<Self> {
        let from = self.channels();
        if from == channels {
            return Ok(self);
        }
        if !matches!(from, 1 | 3) {
            let expected = "grey or coloured images";
            return Err(Error::invalid("`channels`", expected, format!("{from} channels"), ""));
        }
        let mut pixels = Vec::new();
        for i in 0..self.len() {
            pixels.extend(resize::with_channels(&self.bytes(i)?, from, channels));
        }
        let [h, w, _] = self.shape;
        Dataset::new(self.name, [h, w, channels], pixels, self.labels, self.flip_makes_sense)
    }
}

impl Datasets {
    /// Both parts. The test images' classes become those of the training images, by their names; where one
    /// of them is no class of the training images, the test images have no labels.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the test images have another shape than the training images.
    pub fn new(train: Dataset, mut test: Option<Dataset>) -> Result<Self> {
        if let Some(test) = &test
            && test.shape != train.shape
        {
            let shape = |[h, w, c]: [usize; 3]| format!("{h}x{w} with {c} channel(s)");
            return Err(Error::invalid(
                format!("{}: the test images", train.name),
                format!("{}, like the training images", shape(train.shape)),
                shape(test.shape),
                "give one `size` for all, and all grey or all colour",
            ));
        }
        if let Some(test) = &mut test {
            test.labels = test.labels.take().and_then(|labels| labels.renamed(train.class_names()));
        }
        Ok(Datasets { train, test })
    }

    /// The same with both parts changed in one way.
    pub(super) fn map(self, mut change: impl FnMut(Dataset) -> Result<Dataset>) -> Result<Self> {
        Ok(Datasets { train: change(self.train)?, test: self.test.map(change).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two images, 2x3, of the given channels, the bytes counting up.
    fn counting(channels: usize) -> Dataset {
        let bytes = (0..12 * channels as u8).collect();
        Dataset::new("counting", [2, 3, channels], bytes, Some(Labels::numbered(&[5, 4], &[])), true).unwrap()
    }

    #[test]
    fn an_image_is_its_bytes_scaled_and_the_flip_mirrors_columns_not_channels() {
        let data = counting(3);
        assert_eq!((data.len(), data.height(), data.width(), data.channels()), (2, 2, 3, 3));
        assert!(!data.is_empty());
        let mut out = [0f64; 18];
        data.image_into(1, false, &mut out).unwrap();
        let straight: Vec<u8> = (18..36).collect();
        assert_eq!(out.to_vec(), straight.iter().map(|&b| unit_from_byte(b)).collect::<Vec<_>>());
        data.image_into(1, true, &mut out).unwrap();
        let mirrored: [u8; 18] = [24, 25, 26, 21, 22, 23, 18, 19, 20, 33, 34, 35, 30, 31, 32, 27, 28, 29];
        assert_eq!(out, mirrored.map(unit_from_byte));
    }

    /// Exact: the ends are representable, and f32 is the f64 value rounded once.
    #[test]
    fn pixels_span_minus_one_to_one_and_both_types_agree() {
        let data = Dataset::new("all", [16, 16, 1], (0..=255).collect(), None, false).unwrap();
        let (mut a, mut b) = (vec![0f64; 256], vec![0f32; 256]);
        data.image_into(0, false, &mut a).unwrap();
        data.image_into(0, false, &mut b).unwrap();
        assert_eq!((a[0], a[51], a[255]), (-1.0, -0.6, 1.0));
        assert!(a.windows(2).all(|w| w[0] < w[1]));
        assert!(a.iter().zip(&b).all(|(a, b)| *a as f32 == *b));
    }

    #[test]
    fn shapes_counts_and_channels_that_do_not_fit_are_refused() {
        let new = |shape, bytes: usize, labels: Option<usize>| {
            let labels = labels.map(|n| Labels::numbered(&vec![0; n], &[]));
            Dataset::new("x", shape, vec![0; bytes], labels, false).map(|d| d.len())
        };
        assert_eq!(new([2, 2, 1], 8, Some(2)).unwrap(), 2);
        assert_eq!(new([4096, 1, 3], 4096 * 3, None).unwrap(), 1);
        let says = |r: Result<usize>, text: &str| {
            let message = r.unwrap_err().to_string();
            assert!(message.contains(text), "{message}");
        };
        says(new([2, 2, 1], 8, Some(3)), "x: labels: expected 2, one for each image, got 3");
        says(new([2, 2, 1], 0, None), "not 0, got 0");
        says(new([2, 2, 1], 7, None), "a multiple of 4");
        assert_eq!(new([2, 2, 4], 32, None).unwrap(), 2);
        says(new([2, 2, 0], 8, None), "1 to 1024, such as 1 (grey) or 3 (colour), got 0");
        says(new([1, 1, 1025], 1025, None), "got 1025");
        says(new([0, 2, 1], 8, None), "got 0x2");
        says(new([2, 0, 1], 8, None), "got 2x0");
        says(new([4097, 1, 1], 4097, None), "got 4097x1");
        says(new([1, 4097, 1], 4097, None), "got 1x4097");
    }

    #[test]
    fn selected_images_keep_their_bytes_and_labels() {
        let data = counting(1);
        let one = data.select(&[0]).unwrap();
        assert_eq!(one.class_names(), ["4", "5"]);
        assert_eq!(
            (one.len(), &*one.bytes(0).unwrap(), one.labels()),
            (1, &*data.bytes(0).unwrap(), Some(&[1][..]))
        );
        let all: Vec<usize> = (0..data.len()).collect();
        assert_eq!(data.select(&all).unwrap(), data);
        let turned: Vec<usize> = all.into_iter().rev().collect();
        let turned = data.select(&turned).unwrap();
        assert_ne!(turned, data);
        assert_eq!(turned.select(&[data.len() - 1]).unwrap(), one);
        assert!(data.select(&[]).is_err());
        let wide = data.resized((4, 6)).unwrap();
        assert_eq!((wide.len(), wide.height(), wide.width()), (2, 4, 6));
    }

    #[test]
    fn test_images_of_another_shape_are_refused() {
        let error = Datasets::new(counting(1), Some(counting(3))).unwrap_err().to_string();
        assert!(
            error.contains("expected 2x3 with 1 channel(s)") && error.contains("got 2x3 with 3"),
            "{error}"
        );
        assert!(Datasets::new(counting(3), Some(counting(3))).is_ok());
    }
}
