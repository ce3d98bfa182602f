//! The parameters of each epoch, and the samples of each step in one.

use crate::stage::{Epochs, Position};

/// The parameters of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::stages) struct Rates {
    /// Samples of a batch.
    pub(in crate::stages) batch: usize,
    /// The decoder's learning rate; `None` if the decoder does not learn.
    pub(in crate::stages) lr: Option<f32>,
    /// The learning rate of the latents or of the posteriors' parameters.
    pub(in crate::stages) latent_lr: f32,
    /// The weight of the KL in the loss; 0 without a KL.
    pub(in crate::stages) kl_weight: f64,
    /// The scale of the noise around a posterior's mean: 1 samples the posterior, 0 always gives the mean.
    pub(in crate::stages) noise: f64,
}

/// The epochs of a training, with the parameters of each.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::stages) struct Schedule {
    /// The epochs as the runner sees them.
    pub(in crate::stages) epochs: Epochs,
    /// One for each of its segments.
    rates: Vec<Rates>,
}

impl Schedule {
    /// Takes what [`crate::stage::Params::segments`] returns.
    pub(in crate::stages) fn new((epochs, rates): (Epochs, Vec<Rates>)) -> Self {
        Self { epochs, rates }
    }

    /// The parameters of an epoch, counted from 0; `None` after the last epoch.
    pub(super) fn of(&self, epoch: u64) -> Option<Rates> {
        self.rates.get(self.epochs.segment_of(epoch)?).copied()
    }

    /// The largest batch of all epochs, in samples.
    pub(super) fn largest_batch(&self) -> usize {
        self.rates.iter().map(|rates| rates.batch).max().unwrap_or(0)
    }
}

/// One epoch: the samples of each step, and the parameters of all steps.
pub(super) struct Epoch<'a> {
    /// Its number, from 0.
    pub(super) number: u64,
    /// All samples, in the order in which the steps take them.
    pub(super) order: &'a [usize],
    /// Its parameters.
    pub(super) rates: Rates,
    /// The parameters of the epoch after it; `None` if it is the last.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only the GPU's engine draws noise ahead"))]
    pub(super) next: Option<Rates>,
}

impl Epoch<'_> {
    /// The number of steps.
    pub(super) fn steps(&self) -> usize {
        self.order.len().div_ceil(self.rates.batch)
    }

    /// The samples of a step. The last step may have fewer than the others.
    pub(super) fn rows(&self, step: usize) -> &[usize] {
        let begin = step * self.rates.batch;
        &self.order[begin..self.order.len().min(begin + self.rates.batch)]
    }

    /// The position on the chain after a step.
    pub(super) fn after(&self, step: usize) -> Position {
        if step + 1 == self.steps() {
            Position { epoch: self.number + 1, step: 0 }
        } else {
            Position { epoch: self.number, step: step as u64 + 1 }
        }
    }
}
