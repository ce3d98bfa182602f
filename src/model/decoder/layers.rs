//! The sizes of a decoder, its five convolutions, and the buffers and results of a step.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::artifact::{Tensor, TensorError};
use crate::ops::block::{Batch, Block, LANES, panels, zeroed};
use crate::ops::plan::Geometry;
use crate::ops::tail::{INPUT_SIDE, PIXELS, Tail};
use crate::ops::transposed::{Buffers, Convolution};
use crate::ops::winograd::{Minimal, Sizes};

/// The sizes of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderShape {
    /// Numbers in a latent.
    pub latent_dim: usize,
    /// Channels at 2×2, 4×4, 8×8 and 16×16 pixels.
    pub channels: [usize; 4],
}

impl DecoderShape {
    /// The multiply-adds of a forward pass over `batch` samples: those of the fully connected layer, and 16 taps for
    /// each input pixel of a transposed convolution (2 × 2, 4 × 4, 8 × 8, 16 × 16), including taps that fall outside
    /// the image.
    pub fn multiply_adds(&self, batch: usize) -> u64 {
        let [c0, c1, c2, c3] = self.channels.map(|c| c as u64);
        let convolutions = 64 * c0 * c1 + 256 * c1 * c2 + 1024 * c2 * c3 + 4096 * c3;
        (batch as u64).saturating_mul(4 * self.latent_dim as u64 * c0 + convolutions)
    }

    /// Roughly the bytes that training takes, with `images` in batches of `batch`: weights with their linear forms and
    /// both of Adam's moments, and the buffers of a step for full batches and for a smaller last one, all in blocks of
    /// 16 × 16 floats. Biases and batch norms are left out. The result saturates.
    ///
    /// Each layer's output is stored as it is, normalised if the layer has a norm, and as gradient. Its products also
    /// need the transposed sums, and signals and sums or copies of input and gradient; with minimal filtering also
    /// forms.
    pub fn training_bytes(&self, batch: usize, images: usize) -> u64 {
        let full = batch.min(images);
        let last = images.checked_rem(full).unwrap_or(0);
        let chunks = [full, last].map(|samples| Batch::new(samples).chunks as u64);
        // Batches with the same number of chunks share their buffers.
        let chunks = if chunks[0] == chunks[1] { chunks[0] } else { chunks[0].saturating_add(chunks[1]) };
        const BLOCK: u64 = size_of::<Block>() as u64;
        let panels = |channels: usize| panels(channels) as u64;
        let blocks = (0..LAYERS).zip(channels(*self)).map(|(l, (ci, co))| {
            let geometry = geometry(l);
            let (pixels, taps) = (geometry.outputs() as u64, geometry.taps() as u64);
            let copies = if (1..=NORMS).contains(&l) { 3 } else { 2 };
            let (forms, signals, sums) = match MINIMAL[l] {
                Some(Sizes { signals, forms, sums }) => (forms as u64, 2 * signals as u64, 2 * sums as u64),
                // The last layer multiplies its input in place; the others have a copy of input and gradient.
                None if l == LAYERS - 1 => (0, 0, pixels),
                None => (0, geometry.inputs() as u64, 2 * pixels),
            };
            let weights = panels(ci).saturating_mul(panels(co)).saturating_mul(3 * taps + forms);
            let activations = panels(co).saturating_mul(copies * pixels + sums);
            let of_chunk = activations.saturating_add(panels(ci).saturating_mul(signals));
            weights.saturating_add(of_chunk.saturating_mul(chunks))
        });
        blocks.fold(0, u64::saturating_add).saturating_mul(BLOCK)
    }
}

/// The results of a training step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step<'a> {
    /// `‖x − x̂‖_F / (number of pixels in the batch)`, before the update.
    pub loss: f64,
    /// The gradient of the loss with respect to z, row-major, batch × latent_dim.
    pub latent_gradient: &'a [f32],
    /// `‖x − x̂‖²_F` over all pixels of the batch, in grey levels squared.
    pub squared_error: f64,
}

/// Runs a step on a thread of the pool. A step has about forty parallel loops. Started from a thread of the pool they
/// cost little; started from another thread, each would be handed to the pool and waited for.
pub(super) fn on_the_pool<R: Send>(step: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| step())
}

/// The number of matrix products: the fully connected layer, three transposed convolutions, and the products of the 16
/// taps.
pub(in crate::model) const LAYERS: usize = 5;
/// The number of batch norms, which follow the three transposed convolutions.
pub(in crate::model) const NORMS: usize = 3;
/// The number of taps of the transposed convolution to one channel.
pub(super) const LAST_TAPS: usize = 16;

/// PyTorch's name of each layer's weight.
pub(in crate::model) const WEIGHTS: [&str; LAYERS] =
    ["fc.weight", "net.0.weight", "net.3.weight", "net.6.weight", "net.9.weight"];
/// PyTorch's names of the batch norms.
pub(in crate::model) const NORM_NAMES: [&str; NORMS] = ["net.1", "net.4", "net.7"];

/// The input and output channels of each layer.
pub(in crate::model) fn channels(shape: DecoderShape) -> [(usize, usize); LAYERS] {
    let [c0, c1, c2, c3] = shape.channels;
    [(shape.latent_dim, c0), (c0, c1), (c1, c2), (c2, c3), (c3, LAST_TAPS)]
}

/// The sizes of each layer's convolution.
pub(in crate::model) fn geometry(layer: usize) -> Geometry {
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

/// The sizes of minimal filtering for each layer that uses it. Computed once, because planning needs them for each
/// training.
static MINIMAL: LazyLock<[Option<Sizes>; LAYERS]> =
    LazyLock::new(|| std::array::from_fn(|l| Minimal::sizes(geometry(l))));

/// The tensor of this name.
///
/// # Errors
/// If there is none.
pub(in crate::model) fn find<'a>(tensors: &'a BTreeMap<String, Tensor>, name: &str) -> Result<&'a Tensor, TensorError> {
    tensors.get(name).ok_or_else(|| TensorError::Unsupported(format!("the decoder's tensor `{name}` is missing")))
}

/// The batch of `z`.
///
/// # Panics
/// If the batch is empty, or `z` does not have this number of samples.
pub(super) fn batch(shape: DecoderShape, z: &[f32], samples: usize) -> Batch {
    assert!(samples > 0 && z.len() == samples * shape.latent_dim, "latents and images must make one non-empty batch");
    Batch::new(samples)
}

/// The batch of `z` and `images`.
///
/// # Panics
/// If the batch is empty, or `z` and `images` have different numbers of samples.
pub(super) fn batch_of_images(shape: DecoderShape, z: &[f32], images: &[u8]) -> Batch {
    assert!(images.len().is_multiple_of(PIXELS), "images must be whole");
    batch(shape, z, images.len() / PIXELS)
}

/// The buffers of a step. Those that only training needs are empty for a frozen decoder.
#[derive(Debug)]
pub(super) struct Work {
    /// z.
    pub(super) latents: Vec<Block>,
    /// The output of each layer, after bias, batch norm and ReLU.
    pub(super) activations: [Vec<Block>; LAYERS],
    /// x̂ of each batch norm.
    pub(super) normalised: [Vec<Block>; NORMS],
    /// The gradient of the loss with respect to each layer's product.
    pub(super) gradients: [Vec<Block>; LAYERS],
    /// Further buffers of each layer's product.
    pub(super) buffers: [Buffers; LAYERS],
    /// The gradient with respect to z.
    pub(super) latent_gradients: Vec<Block>,
    /// The same, row-major.
    pub(super) latent_gradient: Vec<f32>,
    /// The tail.
    pub(super) tail: Tail,
}

impl Work {
    /// The buffers of a frozen decoder.
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

    /// The buffers of training.
    pub(super) fn for_training(shape: DecoderShape, convolutions: &[Convolution; LAYERS], batch: Batch) -> Self {
        let mut work = Self::for_inference(shape, convolutions, batch);
        // `clone` would not use large pages.
        work.normalised = std::array::from_fn(|n| zeroed(work.activations[n + 1].len()));
        work.buffers = std::array::from_fn(|l| Buffers::new::<true>(&convolutions[l], batch.chunks));
        work
    }
}
