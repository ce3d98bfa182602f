//! A trained decoder that does not change: it decodes latents, and computes gradients with respect to them.
//!
//! The running statistics of its batch norms are folded into weights and biases:
//! `γ (W x − mean) / √(var + ε) + β = (γ / √(var + ε)) W x + (β − γ mean / √(var + ε))`

use std::collections::BTreeMap;

use crate::ops::block::{Row, pack, unpack};
use crate::ops::norm;
use crate::ops::tail::{PIXELS, Scalars};
use crate::ops::transposed::Convolution;

use super::layers::{self, DecoderShape, LAYERS, NORMS, Step, Work, on_the_pool};

/// The number of samples that are decoded at once. Each needs about 800 KiB of buffers.
const DECODED_AT_ONCE: usize = 64;

/// A trained decoder with running statistics, for decoding and for fitting latents.
#[derive(Debug)]
pub struct Frozen {
    pub(super) shape: DecoderShape,
    pub(super) convolutions: [Convolution; LAYERS],
    /// The bias of the fully connected layer: a row for each panel and pixel of its output.
    pub(super) bias: Vec<Row>,
    /// The folded bias of each transposed convolution: a row for each panel.
    pub(super) folded: [Vec<Row>; NORMS],
    pub(super) scalars: Scalars,
    pub(super) work: BTreeMap<usize, Work>,
    pub(super) decoded: Vec<f32>,
}

impl Frozen {
    /// The decoder's sizes.
    pub fn shape(&self) -> DecoderShape {
        self.shape
    }

    /// The images of n latents. `z` is n × latent_dim; n may be 0. Returns n × 784 grey levels 0…255, row-major. The
    /// bits of an image depend only on its own latent.
    pub fn decode(&mut self, z: &[f32]) -> &[f32] {
        let dim = self.shape.latent_dim;
        let mut decoded = std::mem::take(&mut self.decoded);
        decoded.resize(z.len() / dim * PIXELS, 0.0);
        for (z, images) in z.chunks(DECODED_AT_ONCE * dim).zip(decoded.chunks_mut(DECODED_AT_ONCE * PIXELS)) {
            let chunks = self.forward(z, z.len() / dim);
            if let Some(work) = self.work.get(&chunks) {
                work.tail.images(images);
            }
        }
        self.decoded = decoded;
        &self.decoded
    }

    /// The loss of a batch and its gradient with respect to the latents. Arguments as for
    /// [`super::Decoder::train_step`].
    ///
    /// # Panics
    /// If the batch is empty, or `z` and `images` have different numbers of samples.
    pub fn loss_and_gradient(&mut self, z: &[f32], images: &[u8]) -> Step<'_> {
        on_the_pool(|| self.pass(z, images))
    }

    fn pass(&mut self, z: &[f32], images: &[u8]) -> Step<'_> {
        let batch = layers::batch_of_images(self.shape, z, images);
        self.forward(z, batch.samples);
        let Self { shape, convolutions, scalars, work, .. } = self;
        let work = work.entry(batch.chunks).or_insert_with(|| Work::for_inference(*shape, convolutions, batch));
        let loss = work.tail.loss(images);
        work.tail.backward(loss, *scalars, &mut work.gradients[LAYERS - 1]);
        for l in (0..LAYERS).rev() {
            let (below, above) = work.gradients.split_at_mut(l);
            if (1..=NORMS).contains(&l) {
                norm::clip_backward(&mut above[0], &work.activations[l]);
            }
            let dx = below.last_mut().unwrap_or(&mut work.latent_gradients);
            convolutions[l].input_gradient(&above[0], dx, &mut work.buffers[l], batch.chunks);
        }
        let gradient = &mut work.latent_gradient[..z.len()];
        unpack(&work.latent_gradients, shape.latent_dim, batch, gradient);
        Step { loss: loss.loss, latent_gradient: gradient, squared_error: loss.squared_error }
    }

    /// Runs the layers. Returns the number of chunks, which is the key of the buffers in `work`.
    fn forward(&mut self, z: &[f32], samples: usize) -> usize {
        let batch = layers::batch(self.shape, z, samples);
        let Self { shape, convolutions, bias, folded, scalars, work, .. } = self;
        let work = work.entry(batch.chunks).or_insert_with(|| Work::for_inference(*shape, convolutions, batch));
        pack(z, shape.latent_dim, batch, &mut work.latents);
        for (l, convolution) in convolutions.iter().enumerate() {
            let (below, above) = work.activations.split_at_mut(l);
            let x = below.last().unwrap_or(&work.latents);
            convolution.forward(x, &mut above[0], &mut work.buffers[l], batch.chunks);
            match l {
                0 => norm::add_bias::<false>(&mut above[0], bias, batch),
                1..=NORMS => norm::add_bias::<true>(&mut above[0], &folded[l - 1], batch),
                _ => {}
            }
        }
        work.tail.forward(&work.activations[LAYERS - 1], *scalars, batch);
        batch.chunks
    }
}
