//! Converts images between the engine's \[n, h, w, c\] and a graph's \[n, c, h, w\].

use crate::error::{Error, Result};
use performer_ddpm_onnx::Tensor;

/// The size of a graph's images, and of its batch where that is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Height, width and channels.
    pub(super) image: [usize; 3],
    /// The batch size that the graph is fixed to, if it is; smaller batches are padded with zeros.
    pub(super) batch: Option<usize>,
}

impl Frame {
    /// Numbers of an image.
    pub(super) fn len(self) -> usize {
        self.image.iter().product()
    }

    /// The number of images that the graph gets for `n`, with padding.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the graph's batch is fixed to fewer.
    pub(super) fn graph_batch(self, n: usize) -> Result<usize> {
        match self.batch {
            None => Ok(n),
            Some(fixed) if n <= fixed => Ok(fixed),
            Some(fixed) => Err(Error::invalid(
                "`SampleOptions::batch`",
                format!("at most {fixed}, to which the graph is fixed"),
                n.to_string(),
                "",
            )),
        }
    }

    /// \[n, c, h, w\] from \[n, h, w, c\], padded.
    ///
    /// # Errors
    /// As [`Frame::graph_batch`].
    pub(super) fn enter(self, x: &[f32]) -> Result<Tensor> {
        let [h, w, c] = self.image;
        let n = self.graph_batch(x.len() / self.len())?;
        let mut out = vec![0.0; n * self.len()];
        self.channels_first(x, &mut out);
        Ok(Tensor::f32([n, c, h, w], out)?)
    }

    /// The images of \[n, c, h, w\] as \[n, h, w, c\], without the padding.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tensor of another shape.
    pub(super) fn leave(self, from: &str, tensor: &Tensor, out: &mut [f32]) -> Result<()> {
        let [h, w, c] = self.image;
        let n = self.graph_batch(out.len() / self.len())?;
        match tensor.as_f32() {
            Some(x) if tensor.shape() == [n, c, h, w] => self.channels_last(x, out),
            _ => {
                return Err(Error::invalid(
                    format!("the graph's output {from}"),
                    format!("f32 [{n}, {c}, {h}, {w}]"),
                    format!("{} {:?}", tensor.element_type(), tensor.shape()),
                    "",
                ));
            }
        }
        Ok(())
    }

    /// The images of \[n, 2 c, h, w\] in two halves \[n, h, w, c\], without the padding.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tensor of another shape.
    pub(super) fn leave_both(self, from: &str, tensor: &Tensor, out: [&mut [f32]; 2]) -> Result<()> {
        let [h, w, c] = self.image;
        let both = Frame { image: [h, w, 2 * c], ..self };
        let [first, second] = out;
        let mut pixels = vec![0.0; 2 * first.len()];
        both.leave(from, tensor, &mut pixels)?;
        let parts = first.chunks_exact_mut(c).zip(second.chunks_exact_mut(c));
        for ((first, second), pixel) in parts.zip(pixels.chunks_exact(2 * c)) {
            first.copy_from_slice(&pixel[..c]);
            second.copy_from_slice(&pixel[c..]);
        }
        Ok(())
    }

    /// As many images as `x` has.
    pub(super) fn channels_first(self, x: &[f32], out: &mut [f32]) {
        let [h, w, c] = self.image;
        for (x, out) in x.chunks_exact(self.len()).zip(out.chunks_exact_mut(self.len())) {
            for (k, plane) in out.chunks_exact_mut(h * w).enumerate() {
                plane.iter_mut().zip(x[k..].iter().step_by(c)).for_each(|(out, x)| *out = *x);
            }
        }
    }

    /// As many images as `out` has.
    fn channels_last(self, x: &[f32], out: &mut [f32]) {
        let [h, w, c] = self.image;
        for (x, out) in x.chunks_exact(self.len()).zip(out.chunks_exact_mut(self.len())) {
            for (k, plane) in x.chunks_exact(h * w).enumerate() {
                out[k..].iter_mut().step_by(c).zip(plane).for_each(|(out, x)| *out = *x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_go_to_the_front_and_back() {
        let frame = Frame { image: [2, 3, 2], batch: None };
        let last: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let tensor = frame.enter(&last).unwrap();
        assert_eq!(tensor.shape(), [2, 2, 2, 3]);
        let first = tensor.as_f32().unwrap();
        assert_eq!(first[..12], [0., 2., 4., 6., 8., 10., 1., 3., 5., 7., 9., 11.]);
        assert_eq!(first[12..].iter().map(|x| x - 12.0).collect::<Vec<_>>(), first[..12]);
        let mut back = vec![0.0; 24];
        frame.leave("y", &tensor, &mut back).unwrap();
        assert_eq!(back, last);
    }

    #[test]
    fn two_halves_of_the_channels_part() {
        let frame = Frame { image: [1, 2, 1], batch: None };
        let tensor = Tensor::f32([2, 2, 1, 2], [1., 2., 3., 4., 5., 6., 7., 8.]).unwrap();
        let mut halves = [[0.0; 4]; 2];
        let [first, second] = &mut halves;
        frame.leave_both("y", &tensor, [first, second]).unwrap();
        assert_eq!(halves, [[1., 2., 5., 6.], [3., 4., 7., 8.]]);
    }

    #[test]
    fn a_fixed_batch_is_filled_up_and_not_exceeded() {
        let frame = Frame { image: [1, 2, 1], batch: Some(3) };
        let tensor = frame.enter(&[1.0, 2.0]).unwrap();
        assert_eq!(tensor, Tensor::f32([3, 1, 1, 2], [1., 2., 0., 0., 0., 0.]).unwrap());
        let mut back = [0.0; 2];
        frame.leave("y", &tensor, &mut back).unwrap();
        assert_eq!(back, [1.0, 2.0]);
        assert!(frame.enter(&[0.0; 8]).unwrap_err().to_string().contains("at most 3"));
        assert!(frame.leave("y", &Tensor::f32([1, 1, 1, 2], [1., 2.]).unwrap(), &mut back).is_err());
    }
}
