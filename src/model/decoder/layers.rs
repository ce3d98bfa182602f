//! The decoder's five convolutions and the buffers of a step.

use std::sync::LazyLock;

use crate::ops::block::{Batch, Block, LANES, panels, zeroed};
use crate::ops::plan::Geometry;
use crate::ops::tail::{INPUT_SIDE, PIXELS, Tail};
use crate::ops::transposed::{Buffers, Convolution};
use crate::ops::winograd::{Minimal, Sizes};

/// Matrix products: the fully connected layer, three transposed convolutions, the one to the 16 taps.
pub(super) const LAYERS: usize = 5;
/// Batch norms, behind the three transposed convolutions.
pub(super) const NORMS: usize = 3;
/// Taps of the transposed convolution to one channel.
pub(super) const LAST_TAPS: usize = 16;

/// The sizes of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderShape {
    /// Numbers in a latent.
    pub latent_dim: usize,
    /// Channels at 2×2, 4×4, 8×8 and 16×16 pixels.
    pub channels: [usize; 4],
}

impl DecoderShape {
    /// Multiply-adds of a forward pass over a batch: the fully connected layer, and 16 taps for each pixel that goes
    /// into a transposed convolution (2 × 2, 4 × 4, 8 × 8, 16 × 16), those that fall outside the image among them.
    pub fn multiply_adds(&self, batch: usize) -> u64 {
        let [c0, c1, c2, c3] = self.channels.map(|c| c as u64);
        let convolutions = 64 * c0 * c1 + 256 * c1 * c2 + 1024 * c2 * c3 + 4096 * c3;
        (batch as u64).saturating_mul(4 * self.latent_dim as u64 * c0 + convolutions)
    }

    /// Roughly the bytes that training it on so many images in batches of this many takes: weights with their linear
    /// forms and both of Adam's moments, and the buffers of a step for whole batches and for a last, short one, all in
    /// blocks of 16 × 16 floats. Biases and batch norms are left out, and what does not fit into 64 bits is as much as
    /// that.
    pub fn training_bytes(&self, batch: usize, images: usize) -> u64 {
        let whole = batch.min(images);
        let last = images.checked_rem(whole).unwrap_or(0);
        training_bytes(*self, [Batch::new(whole), Batch::new(last)])
    }
}

/// Input and output channels of each layer.
pub(super) fn channels(shape: DecoderShape) -> [(usize, usize); LAYERS] {
    let [c0, c1, c2, c3] = shape.channels;
    [(shape.latent_dim, c0), (c0, c1), (c1, c2), (c2, c3), (c3, LAST_TAPS)]
}

fn geometry(layer: usize) -> Geometry {
    match layer {
        0 => Geometry { input: 1, kernel: 2, stride: 1, padding: 0 },
        4 => Geometry { input: INPUT_SIDE, kernel: 1, stride: 1, padding: 0 },
        _ => Geometry { input: 1 << layer, kernel: 4, stride: 2, padding: 1 },
    }
}

/// The layers, with zero weights.
pub(super) fn convolutions(shape: DecoderShape) -> [Convolution; LAYERS] {
    let channels = channels(shape);
    std::array::from_fn(|l| Convolution::new(geometry(l), channels[l].0, channels[l].1))
}

/// Each layer's sizes by minimal filtering, where it is used: asked for at every training that is planned.
static MINIMAL: LazyLock<[Option<Sizes>; LAYERS]> =
    LazyLock::new(|| std::array::from_fn(|l| Minimal::sizes(geometry(l))));

/// See [`DecoderShape::training_bytes`]. Each layer's output is held as it is, normalised or not, and with its
/// gradient, and what its products need besides: sums transposed, and by minimal filtering forms, signals and sums.
pub(super) fn training_bytes(shape: DecoderShape, batches: [Batch; 2]) -> u64 {
    let chunks = batches.map(|batch| batch.chunks as u64);
    // Batches of one number of chunks share their buffers.
    let chunks = if chunks[0] == chunks[1] { chunks[0] } else { chunks[0].saturating_add(chunks[1]) };
    const BLOCK: u64 = size_of::<Block>() as u64;
    let panels = |channels: usize| panels(channels) as u64;
    let blocks = (0..LAYERS).zip(channels(shape)).map(|(l, (ci, co))| {
        let geometry = geometry(l);
        let (pixels, taps) = (geometry.outputs() as u64, geometry.taps() as u64);
        let copies = if (1..=NORMS).contains(&l) { 3 } else { 2 };
        let (forms, signals, sums) = match MINIMAL[l] {
            Some(Sizes { signals, forms, sums }) => (forms as u64, 2 * signals as u64, 2 * sums as u64),
            None => (0, 0, pixels),
        };
        let weights = panels(ci).saturating_mul(panels(co)).saturating_mul(3 * taps + forms);
        let activations = panels(co).saturating_mul(copies * pixels + sums);
        let of_chunk = activations.saturating_add(panels(ci).saturating_mul(signals));
        weights.saturating_add(of_chunk.saturating_mul(chunks))
    });
    blocks.fold(0, u64::saturating_add).saturating_mul(BLOCK)
}

/// The batch that `z` holds, which must be `samples` long.
pub(super) fn batch(shape: DecoderShape, z: &[f32], samples: usize) -> Batch {
    assert!(samples > 0 && z.len() == samples * shape.latent_dim, "latents and images must make one non-empty batch");
    Batch::new(samples)
}

/// The batch that `z` and `images` make.
pub(super) fn batch_of_images(shape: DecoderShape, z: &[f32], images: &[u8]) -> Batch {
    assert!(images.len().is_multiple_of(PIXELS), "images must be whole");
    batch(shape, z, images.len() / PIXELS)
}

/// The buffers of a step. What a frozen decoder doesn't need is empty.
#[derive(Debug)]
pub(super) struct Work {
    /// z.
    pub(super) latents: Vec<Block>,
    /// What each layer gives to the next, after bias, batch norm and ReLU.
    pub(super) activations: [Vec<Block>; LAYERS],
    /// x̂ of each batch norm.
    pub(super) normalised: [Vec<Block>; NORMS],
    /// The loss's gradient by each layer's product.
    pub(super) gradients: [Vec<Block>; LAYERS],
    /// What each layer's product needs besides.
    pub(super) buffers: [Buffers; LAYERS],
    /// The gradient by z.
    pub(super) latent_gradients: Vec<Block>,
    /// The same, row-major.
    pub(super) latent_gradient: Vec<f32>,
    /// The tail.
    pub(super) tail: Tail,
}

impl Work {
    /// Without what only training needs.
    pub(super) fn for_inference(shape: DecoderShape, convolutions: &[Convolution; LAYERS], batch: Batch) -> Self {
        let layer = |l: usize| {
            let c: &Convolution = &convolutions[l];
            zeroed(c.co * c.geometry.outputs() * batch.chunks)
        };
        let latents = zeroed(convolutions[0].ci * batch.chunks);
        Self {
            latent_gradient: vec![0.0; batch.chunks * LANES * shape.latent_dim],
            latent_gradients: latents.clone(),
            latents,
            activations: std::array::from_fn(layer),
            normalised: std::array::from_fn(|_| Vec::new()),
            gradients: std::array::from_fn(layer),
            buffers: std::array::from_fn(|l| Buffers::new::<false>(&convolutions[l], batch.chunks)),
            tail: Tail::new(batch),
        }
    }

    /// All of it.
    pub(super) fn for_training(shape: DecoderShape, convolutions: &[Convolution; LAYERS], batch: Batch) -> Self {
        let mut work = Self::for_inference(shape, convolutions, batch);
        // Not clones: these are to lie on large pages, too.
        work.normalised = std::array::from_fn(|n| zeroed(work.activations[n + 1].len()));
        work.buffers = std::array::from_fn(|l| Buffers::new::<true>(&convolutions[l], batch.chunks));
        work
    }
}
