//! The epochs of a training.

use crate::key::Segment;

/// The epochs of a training: see `key.rs` for what is hashed and what is not.
#[derive(Clone, Debug, PartialEq)]
pub struct Epochs {
    /// Consecutive segments. The epochs of a segment have equal parameters.
    pub segments: Vec<Segment>,
    /// Epochs whose states stay in the store (`keep`, `keep_every`). Not hashed.
    pub keep: Vec<u64>,
    /// There are states only after multiples of this many epochs, and after the last epoch. A training can continue
    /// from the multiples.
    pub every: u64,
    /// Whether one process of a program trains to the end, instead of one for each multiple.
    pub warm: bool,
}

impl Default for Epochs {
    fn default() -> Self {
        Self { segments: vec![], keep: vec![], every: 1, warm: false }
    }
}

impl Epochs {
    /// The total number of epochs.
    pub fn total(&self) -> u64 {
        self.segments.iter().map(|s| s.epochs).sum()
    }

    /// The index of the segment of an epoch, counted from 0; `None` after the last epoch.
    pub fn segment_of(&self, epoch: u64) -> Option<usize> {
        let mut end = 0;
        self.segments.iter().position(|segment| {
            end += segment.epochs;
            epoch < end
        })
    }
}
