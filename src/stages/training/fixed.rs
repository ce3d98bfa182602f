//! A decoder that stays as it is, with one of the two statistics that its batch norms can use.

use crate::model::{Decoder, Frozen, Step};

/// A decoder that does not learn.
pub(in crate::stages) enum Fixed {
    /// On its running statistics: PyTorch's evaluation mode.
    Running(Box<Frozen>),
    /// On those of each batch: PyTorch's training mode, but that the running statistics stay.
    Batch(Box<Decoder>),
}

impl Fixed {
    /// The images of a batch that is not empty, B × 784 grey levels.
    pub(super) fn decode(&mut self, z: &[f32]) -> Vec<f32> {
        match self {
            Self::Running(frozen) => frozen.decode(z).to_vec(),
            Self::Batch(decoder) => decoder.decode_batch(z),
        }
    }

    /// The loss of a batch and its gradient by the latents.
    pub(super) fn loss_and_gradient(&mut self, z: &[f32], images: &[u8]) -> Step<'_> {
        match self {
            Self::Running(frozen) => frozen.loss_and_gradient(z, images),
            Self::Batch(decoder) => decoder.batch_loss_and_gradient(z, images),
        }
    }

    /// Which statistics, for a message.
    pub(super) fn statistics(&self) -> &'static str {
        match self {
            Self::Running(_) => "its running statistics",
            Self::Batch(_) => "each batch's statistics",
        }
    }
}
