//! The settings of a training on a GPU.

use crate::model::posterior::Distribution;

/// The statistics of the batch norms, and whether the decoder learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// The batch's; the decoder learns.
    Learning,
    /// The batch's; the decoder does not change.
    Batch,
    /// None: they are folded into weights and β, and γ is 1; the decoder does not change.
    Folded,
}

/// The number of a posterior in the kernels.
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

/// The GPU and how to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its number.
    pub ordinal: usize,
    /// Whether products may round their factors to TF32.
    pub tf32: bool,
    /// Whether a step is recorded as a CUDA graph and replayed.
    pub graph: bool,
}
