//! Stateless random numbers: one stream for each (seed, purpose, epoch, step).
//!
//! No generator is kept from step to step. A training that resumes in mid-epoch therefore draws the same numbers as an
//! uninterrupted one, and the numbers do not depend on threads or devices. The mapping from bits to normal numbers is
//! implemented here, so that updating a library does not change results.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::key::Hash;
use crate::value::Value;

/// The streams of one seed.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    seed: i64,
}

/// One stream of random numbers.
pub struct Stream(ChaCha8Rng);

impl Streams {
    /// The streams of this seed.
    pub fn new(seed: i64) -> Self {
        Self { seed }
    }

    /// The seed.
    pub fn seed(&self) -> i64 {
        self.seed
    }

    /// The stream for a purpose ("shuffle", "noise", "init latents", …), independent of all others.
    pub fn stream(&self, purpose: &str, epoch: u64, step: u64) -> Stream {
        let key = Hash::new("stream").value(&Value::Int(self.seed)).text(purpose).finish();
        let mut rng = ChaCha8Rng::from_seed(key.0);
        rng.set_stream((epoch << 32) | step);
        Stream(rng)
    }
}

impl Stream {
    /// Uniform in (0, 1]: never 0, so its logarithm is finite. 24 bits.
    pub fn uniform(&mut self) -> f32 {
        ((self.0.next_u32() >> 8) + 1) as f32 / (1u32 << 24) as f32
    }

    /// A uniform integer below `n` (n > 0), without bias.
    pub fn below(&mut self, n: u64) -> u64 {
        let zone = u64::MAX - u64::MAX % n;
        loop {
            let v = self.0.next_u64();
            if v < zone {
                return v % n;
            }
        }
    }

    /// Fills `out` with standard normal numbers (Box–Muller).
    pub fn normals(&mut self, out: &mut [f32]) {
        for pair in out.chunks_mut(2) {
            let radius = (-2.0 * libm::log(f64::from(self.uniform()))).sqrt();
            let angle = std::f64::consts::TAU * f64::from(self.uniform());
            let (sin, cos) = libm::sincos(angle);
            pair[0] = (radius * cos) as f32;
            if let Some(second) = pair.get_mut(1) {
                *second = (radius * sin) as f32;
            }
        }
    }

    /// Fills `out` with uniform numbers in (0, 1].
    pub fn uniforms(&mut self, out: &mut [f32]) {
        out.iter_mut().for_each(|v| *v = self.uniform());
    }

    /// Shuffles in place (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}
