//! The two halves of a network's output.

/// What a network says of x_t.
#[derive(Debug)]
pub struct Outputs<'a, T> {
    /// eps, x_0 or v.
    pub prediction: &'a mut [T],
    /// The second output of a network that learned the variance; whatever it is for others.
    pub variance: &'a mut [T],
}

impl<T: Copy> Outputs<'_, T> {
    /// Takes the halves from an output of so many channels, which has of each pixel first the prediction's
    /// channels, then the variance's.
    pub fn split(&mut self, output: &[T], channels: usize) {
        let half = (channels / 2).max(1);
        let pixels = self.prediction.chunks_exact_mut(half).zip(self.variance.chunks_exact_mut(half));
        for ((prediction, variance), pixel) in pixels.zip(output.chunks_exact(2 * half)) {
            prediction.copy_from_slice(&pixel[..half]);
            variance.copy_from_slice(&pixel[half..]);
        }
    }

    /// Puts the halves together again.
    pub fn join(&self, output: &mut [T], channels: usize) {
        let half = (channels / 2).max(1);
        let pixels = self.prediction.chunks_exact(half).zip(self.variance.chunks_exact(half));
        for ((prediction, variance), pixel) in pixels.zip(output.chunks_exact_mut(2 * half)) {
            pixel[..half].copy_from_slice(prediction);
            pixel[half..].copy_from_slice(variance);
        }
    }
}
