//! The decoder, and its training step with an explicit backward pass.
//!
//! ```text
//! z (latent_dim) ─ fully connected ─ c0×2×2 ─[ transposed conv k4 s2 p1, batch norm, ReLU ]×3 ─ c3×16×16
//!   ─ transposed conv k4 s2 p1 to one channel ─ 32×32 ─ 1×1 with padding 2 ─ 28×28 ─ 255 σ
//! ```
//! All five matrix products are [`Convolution`]s. The fully connected layer is one with kernel 2 on a 1 × 1 image. The
//! last layer is a 1 × 1 convolution whose 16 output channels are the taps (see [`crate::ops::tail`]).
//!
//! The backward pass goes from the last layer to the first. Each layer's weights are updated right after its input
//! gradient has been computed with the old ones. Without rates, the backward pass only computes the gradient with
//! respect to z, and parameters, moments and running statistics do not change.

#[cfg(feature = "cuda")]
mod export;
mod frozen;
pub(super) mod layers;
mod tensors;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::BTreeMap;

use crate::ops::adam::Rates;
use crate::ops::block::{Batch, Block, LANES, Row, pack, unpack};
use crate::ops::norm::{self, Forward, Statistics};
use crate::ops::tail::{PIXELS, Scalars};
use crate::ops::transposed::{BackwardInput, BlockMoments, Convolution};
use crate::rng::Streams;

pub use frozen::Frozen;
pub use layers::{DecoderShape, Step};
use layers::{LAYERS, NORMS, Work, on_the_pool};

/// Parameters other than those of the convolutions, with gradient and moments, in rows of 16.
#[derive(Clone, Debug)]
struct Small {
    w: Vec<Row>,
    gradient: Vec<Row>,
    m: Vec<Row>,
    v: Vec<Row>,
}

impl Small {
    fn filled(value: f32, rows: usize) -> Self {
        let zeros = vec![[0.0; LANES]; rows];
        Self { w: vec![[value; LANES]; rows], gradient: zeros.clone(), m: zeros.clone(), v: zeros }
    }

    fn update(&mut self, rates: Rates) {
        rates.rows(&mut self.w, &self.gradient, &mut self.m, &mut self.v);
    }
}

/// One batch norm.
#[derive(Clone, Debug)]
struct Norm {
    gamma: Small,
    beta: Small,
    statistics: Statistics,
}

/// A trainable decoder: parameters, running statistics, Adam's moments and number of steps, and buffers.
#[derive(Debug)]
pub struct Decoder {
    shape: DecoderShape,
    step: u64,
    convolutions: [Convolution; LAYERS],
    moments: [BlockMoments; LAYERS],
    /// The bias of the fully connected layer: a row for each panel and pixel of its output.
    bias: Small,
    norms: [Norm; NORMS],
    /// The parameters of the tail: one row of bias, scale and shift.
    tail: Small,
    /// Buffers by number of chunks: the last batch of an epoch may be smaller than the others.
    work: BTreeMap<usize, Work>,
}

impl Decoder {
    /// A decoder with PyTorch's default initialisation; see [`Decoder::initialise`].
    pub fn new(shape: DecoderShape, streams: &Streams) -> Self {
        let mut decoder = Self::blank(shape);
        decoder.initialise(streams);
        decoder
    }

    /// A decoder whose weights are all 0, for [`Decoder::initialise`] or [`Decoder::restore`].
    pub fn blank(shape: DecoderShape) -> Self {
        let convolutions = layers::convolutions(shape);
        let moments = std::array::from_fn(|l| BlockMoments::of(&convolutions[l]));
        let bias = Small::filled(0.0, convolutions[0].co * convolutions[0].geometry.outputs());
        let norms = std::array::from_fn(|n| {
            let panels = convolutions[n + 1].co;
            Norm {
                gamma: Small::filled(1.0, panels),
                beta: Small::filled(0.0, panels),
                statistics: Statistics::new(panels),
            }
        });
        let tail = Small::filled(0.0, 1);
        Self { shape, step: 0, convolutions, moments, bias, norms, tail, work: BTreeMap::new() }
    }

    /// The sizes.
    pub fn shape(&self) -> DecoderShape {
        self.shape
    }

    /// One training step: forward pass with batch statistics, loss, backward pass, and Adam on the decoder with
    /// learning rate `lr`. It also updates the running statistics. `z` is batch × latent_dim, `images` batch × 784 grey
    /// levels, both row-major.
    ///
    /// # Panics
    /// If the batch is empty, or `z` and `images` have different numbers of samples.
    pub fn train_step(&mut self, z: &[f32], images: &[u8], lr: f32) -> Step<'_> {
        self.step += 1;
        let rates = Rates::new(self.step, lr);
        on_the_pool(|| self.pass(z, images, Some(rates)))
    }

    /// The loss of a batch and its gradient with respect to the latents, with batch statistics. The results have the
    /// same bits as those of [`Decoder::train_step`], but parameters, moments and running statistics do not change.
    /// Arguments are the same.
    ///
    /// # Panics
    /// As [`Decoder::train_step`].
    pub fn batch_loss_and_gradient(&mut self, z: &[f32], images: &[u8]) -> Step<'_> {
        on_the_pool(|| self.pass(z, images, None))
    }

    /// The images of a batch of latents, with batch statistics, so that an image depends on the whole batch. `z` is
    /// batch × latent_dim. Returns batch × 784 grey levels 0…255, row-major. Parameters and running statistics do not
    /// change.
    ///
    /// # Panics
    /// If `z` is empty, or its length is not a multiple of latent_dim.
    pub fn decode_batch(&mut self, z: &[f32]) -> Vec<f32> {
        let batch = layers::batch(self.shape, z, z.len() / self.shape.latent_dim);
        let mut images = vec![0.0; batch.samples * PIXELS];
        self.forward::<false>(z, batch).tail.images(&mut images);
        images
    }

    /// Forward pass, loss and backward pass. With `update`, also updates parameters and running statistics.
    fn pass(&mut self, z: &[f32], images: &[u8], update: Option<Rates>) -> Step<'_> {
        let batch = layers::batch_of_images(self.shape, z, images);
        match update {
            Some(_) => self.forward::<true>(z, batch),
            None => self.forward::<false>(z, batch),
        };
        let Self { shape, convolutions, moments, bias, norms, tail, work, .. } = self;
        let work = work.entry(batch.chunks).or_insert_with(|| Work::for_training(*shape, convolutions, batch));
        let loss = work.tail.loss(images);
        let by_scalars = work.tail.backward(loss, scalars(&tail.w), &mut work.gradients[LAYERS - 1]);
        if let Some(rates) = update {
            tail.gradient[0][..3].copy_from_slice(&[by_scalars.bias, by_scalars.scale, by_scalars.shift]);
            tail.update(rates);
        }
        backward(convolutions, moments, bias, norms, work, batch, update);
        unpack(&work.latent_gradients, shape.latent_dim, batch, &mut work.latent_gradient[..z.len()]);
        Step { loss: loss.loss, latent_gradient: &work.latent_gradient[..z.len()], squared_error: loss.squared_error }
    }

    /// Runs the layers with batch statistics. Updates the running statistics if `TRACK`.
    fn forward<const TRACK: bool>(&mut self, z: &[f32], batch: Batch) -> &mut Work {
        let Self { shape, convolutions, bias, norms, tail, work, .. } = self;
        let work = work.entry(batch.chunks).or_insert_with(|| Work::for_training(*shape, convolutions, batch));
        pack(z, shape.latent_dim, batch, &mut work.latents);
        let chunks = batch.chunks;
        convolutions[0].forward(&work.latents, &mut work.activations[0], &mut work.buffers[0], chunks);
        norm::add_bias::<false>(&mut work.activations[0], &bias.w, batch);
        for (n, norm) in norms.iter_mut().enumerate() {
            let (below, above) = work.activations.split_at_mut(n + 1);
            let x = &mut work.normalised[n];
            convolutions[n + 1].forward(&below[n], x, &mut work.buffers[n + 1], chunks);
            norm.statistics.forward::<TRACK>(&norm.gamma.w, &norm.beta.w, x, &mut above[0], batch);
        }
        let (below, above) = work.activations.split_at_mut(LAYERS - 1);
        let buffers = &mut work.buffers[LAYERS - 1];
        convolutions[LAYERS - 1].forward(&below[LAYERS - 2], &mut above[0], buffers, chunks);
        work.tail.forward(&work.activations[LAYERS - 1], scalars(&tail.w), batch);
        work
    }
}

/// The tail's parameters, from their row.
fn scalars(row: &[Row]) -> Scalars {
    Scalars { bias: row[0][0], scale: row[0][1], shift: row[0][2] }
}

/// The backward pass, from the last layer to the first. With `update`, each layer's parameters are updated after their
/// last use.
fn backward(
    convolutions: &mut [Convolution; LAYERS],
    moments: &mut [BlockMoments; LAYERS],
    bias: &mut Small,
    norms: &mut [Norm; NORMS],
    work: &mut Work,
    batch: Batch,
    update: Option<Rates>,
) {
    for l in (0..LAYERS).rev() {
        let (below, above) = work.gradients.split_at_mut(l);
        let gradient: &mut Vec<Block> = &mut above[0];
        if (1..=NORMS).contains(&l) {
            let Norm { gamma, beta, statistics } = &mut norms[l - 1];
            let forward = Forward { normalised: &work.normalised[l - 1], output: &work.activations[l], batch };
            statistics.backward(&gamma.w, forward, gradient, &mut gamma.gradient, &mut beta.gradient);
            if let Some(rates) = update {
                gamma.update(rates);
                beta.update(rates);
            }
        } else if let (0, Some(rates)) = (l, update) {
            norm::bias_backward(gradient, &mut bias.gradient);
            bias.update(rates);
        }
        let x = if l == 0 { &work.latents } else { &work.activations[l - 1] };
        let dx = below.last_mut().unwrap_or(&mut work.latent_gradients);
        let buffers = &mut work.buffers[l];
        match update {
            Some(rates) => {
                let input = BackwardInput { x, dy: gradient };
                convolutions[l].backward_and_update(&mut moments[l], input, dx, buffers, batch.chunks, rates);
            }
            None => convolutions[l].input_gradient(gradient, dx, buffers, batch.chunks),
        }
    }
}
