//! The settings of a training on a GPU.

use crate::model::posterior::Distribution;

/// The GPU to use, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The number of the GPU.
    pub ordinal: usize,
    /// Whether products may round their factors to TF32.
    pub tf32: bool,
    /// Whether a step is recorded as a CUDA graph and replayed.
    pub graph: bool,
}

/// The statistics of the batch norms, and whether the decoder learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// Those of the batch, and the decoder learns.
    Learning,
    /// Those of the batch, and the decoder does not change.
    Batch,
    /// None: they are folded into weights and β, and γ is 1. The decoder does not change.
    Folded,
}

/// The family of the posteriors, by the numbers in `kernels.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Family {
    Plain = 0,
    Gaussian = 1,
    Exponential = 2,
    Uniform = 3,
}

impl Family {
    pub(super) fn of(distribution: Option<Distribution>) -> Self {
        match distribution {
            None => Self::Plain,
            Some(Distribution::Gaussian) => Self::Gaussian,
            Some(Distribution::Exponential) => Self::Exponential,
            Some(Distribution::Uniform) => Self::Uniform,
        }
    }
}
