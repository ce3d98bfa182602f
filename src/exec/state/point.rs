//! The states of a point.

use std::collections::BTreeMap;

use crate::id::PointId;
use crate::key::{Digest, Key, StateChain};
use crate::plan::ResolvedInputs;

/// The state of a point in a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PointState {
    /// An input is not resolved yet.
    Waiting,
    /// All inputs are resolved. It is looked up as soon as resources are free.
    Ready,
    /// The driver looks for its result in the cache.
    LookingUp(Snapshot),
    /// It must not start yet because of another point of this run.
    Blocked(Blocker),
    /// The driver takes the lease of its key.
    Claiming(Attempt),
    /// Another process holds the lease of this key.
    Held(Key),
    /// Its job runs.
    Running(Attempt),
    /// Its job made a result with this many bytes, which is being stored.
    Committing(Attempt, usize),
    /// Its result is in the cache.
    Done(Done),
    /// It is pruned and has no result. Contains the key that its result would have, if known.
    Pruned(Option<Key>),
    /// It failed.
    Failed,
    /// Another process computes it, and the run must not wait.
    Refused,
    /// It did not run because this point failed. `None` if the run was stopped.
    Skipped(Option<PointId>),
}

/// Why a point must not start yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Blocker {
    /// That point computes the same key, or epochs that this point needs.
    Job(PointId),
    /// Values that it is compared with are unknown.
    Comparison,
}

/// A result in the cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Done {
    pub key: Key,
    pub output: Digest,
    /// Whether this run made it.
    pub executed: bool,
}

/// A job that is being started, running, or being stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attempt {
    pub key: Key,
    /// The states of a training.
    pub chain: StateChain,
    /// The epoch at which it stops for a comparison. `None` to train to the end.
    pub rung: Option<u64>,
    /// Whether stored states are ignored.
    pub fresh: bool,
    /// The inputs at its start.
    pub inputs: Snapshot,
}

/// The inputs of a point when it starts. They may be replaced while it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    /// The digests of the inputs, and the pruned ones.
    pub resolved: ResolvedInputs,
    /// How often each input had been repaired.
    pub repairs: BTreeMap<PointId, u32>,
}

impl PointState {
    /// The digest of its result. `Some(None)` if it is pruned. `None` if that is not known yet.
    pub(crate) fn resolution(&self) -> Option<Option<Digest>> {
        match self {
            Self::Done(done) => Some(Some(done.output)),
            Self::Pruned(_) => Some(None),
            _ => None,
        }
    }

    /// The current attempt, if there is one.
    pub(crate) fn attempt(&self) -> Option<&Attempt> {
        match self {
            Self::Claiming(attempt) | Self::Running(attempt) | Self::Committing(attempt, _) => Some(attempt),
            _ => None,
        }
    }

    /// Whether it occupies the resources of a running stage.
    pub(crate) fn occupies_resources(&self) -> bool {
        matches!(self, Self::LookingUp(_) | Self::Claiming(_) | Self::Running(_))
    }

    /// Whether it may still start.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(
            self,
            Self::Waiting | Self::Ready | Self::LookingUp(_) | Self::Blocked(_) | Self::Claiming(_) | Self::Held(_)
        )
    }
}
