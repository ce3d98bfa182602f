//! The epochs of a training.

use crate::key::Segment;

/// The epochs of a training: see `key.rs` for what is hashed and what is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Epochs {
    /// Consecutive segments. The epochs of a segment have equal parameters.
    pub segments: Vec<Segment>,
    /// Epochs whose states stay in the store (`keep`, `keep_every`). Not hashed.
    pub keep: Vec<u64>,
}

impl Epochs {
    /// The total number of epochs.
    pub fn total(&self) -> u64 {
        self.segments.iter().map(|s| s.epochs).sum()
    }
}
