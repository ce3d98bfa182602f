//! The decoder, trainable and frozen, on the CPU, on a GPU and through candle's own operations; and the posteriors of
//! its latents.

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod decoder;
pub mod graph;
pub mod posterior;

pub use decoder::{Decoder, DecoderShape, Frozen, Step};
pub use graph::{GraphDecoder, GraphStep};

/// What a training step minimises, in parts, before the step's update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLoss {
    /// `‖x − x̂‖²_F` over all pixels of the batch, in grey levels squared.
    pub squared_error: f64,
    /// The KL averaged over the batch's samples and latent dimensions, in nats, not weighted; 0 for plain latents.
    pub kl: f64,
}

/// The decoded images of a split, compared with the originals.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// The squared error of each batch: ‖x − x̂‖_F².
    pub squared_errors: Vec<f64>,
    /// The first images, n × 784 grey levels.
    pub decoded: Vec<f32>,
}
