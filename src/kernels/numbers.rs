//! Numbers for the tests.

use chacha20::ChaCha8Rng;
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// `len` draws from N(0, 1), other ones for every `id`.
pub fn normal(len: usize, id: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(id);
    (0..len).map(|_| StandardNormal.sample(&mut rng)).collect()
}
