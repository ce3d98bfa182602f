//! The network of a training: a decoder that learns, or one that stays as it is.

#[cfg(feature = "cuda")]
use crate::model::DecoderShape;
use crate::model::{Decoder, Frozen, Step};

/// The network of a training.
pub(in crate::stages) enum Net<'a> {
    /// Learns together with the latents. Its batch norms use the statistics of each batch.
    Learning(&'a mut Decoder),
    /// Does not learn.
    Fixed(&'a mut Fixed),
}

impl Net<'_> {
    /// The decoder's sizes.
    #[cfg(feature = "cuda")]
    pub(super) fn shape(&self) -> DecoderShape {
        match self {
            Self::Learning(decoder) => decoder.shape(),
            Self::Fixed(fixed) => fixed.shape(),
        }
    }

    /// The loss of a batch and its gradient with respect to `z` (B × latent_dim). A learning decoder is updated with
    /// `lr`. `images` are B × 784 grey levels; B is not 0.
    pub(super) fn step(&mut self, z: &[f32], images: &[u8], lr: f32) -> Step<'_> {
        match self {
            Self::Learning(decoder) => decoder.train_step(z, images, lr),
            Self::Fixed(Fixed::Running(frozen)) => frozen.loss_and_gradient(z, images),
            Self::Fixed(Fixed::Batch(decoder)) => decoder.batch_loss_and_gradient(z, images),
        }
    }
}

/// A decoder that does not learn, with one of the two statistics that its batch norms can use.
pub(in crate::stages) enum Fixed {
    /// The running statistics: PyTorch's evaluation mode.
    Running(Box<Frozen>),
    /// The statistics of each batch, as in PyTorch's training mode. The running statistics do not change.
    Batch(Box<Decoder>),
}

impl Fixed {
    /// The decoder's sizes.
    #[cfg(feature = "cuda")]
    pub(super) fn shape(&self) -> DecoderShape {
        match self {
            Self::Running(frozen) => frozen.shape(),
            Self::Batch(decoder) => decoder.shape(),
        }
    }

    /// The images of `z` (B × latent_dim, B is not 0): B × 784 grey levels.
    pub(super) fn decode(&mut self, z: &[f32]) -> Vec<f32> {
        match self {
            Self::Running(frozen) => frozen.decode(z).to_vec(),
            Self::Batch(decoder) => decoder.decode_batch(z),
        }
    }

    /// Names the statistics in a message.
    pub(super) fn statistics(&self) -> &'static str {
        match self {
            Self::Running(_) => "its running statistics",
            Self::Batch(_) => "each batch's statistics",
        }
    }
}
