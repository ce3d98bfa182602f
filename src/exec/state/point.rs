//! The states of a point.

use std::collections::BTreeMap;

use crate::id::PointId;
use crate::key::{Digest, Key, StateChain};
use crate::plan::ResolvedInputs;
use crate::spec::PointInput;

/// Which points read which. Indexed by [`PointId`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Dependencies {
    /// The inputs of each point.
    pub roles: Vec<Vec<RoleInput>>,
    /// The wanted points in plan order: every point after its inputs.
    pub order: Vec<PointId>,
}

/// An input of a point.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoleInput {
    /// The points that it reads.
    pub members: Vec<PointId>,
    /// Whether it leaves out members that failed or were skipped.
    pub skips_missing: bool,
}

impl RoleInput {
    /// An input as the pipeline gives it.
    pub(crate) fn of(input: &PointInput) -> Self {
        Self { members: input.points().to_vec(), skips_missing: input.skips_missing() }
    }
}

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
    /// The digests of the inputs, and those that are left out.
    pub resolved: ResolvedInputs,
    /// How often each input had been repaired.
    pub repairs: BTreeMap<PointId, u32>,
}

/// What a point is to the points that read it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Resolution {
    /// Not known yet.
    Unknown,
    /// It has a result with this digest.
    Output(Digest),
    /// It is pruned. All lists leave it out.
    Pruned,
    /// It failed, or was skipped because another point failed. Lists with `missing = "skip"` leave it out.
    Missing,
}

impl Resolution {
    /// Whether a point that reads it can start, as far as this input is concerned. `skips_missing`: it can do without.
    pub(crate) fn is_enough(self, skips_missing: bool) -> bool {
        match self {
            Self::Unknown => false,
            Self::Output(_) | Self::Pruned => true,
            Self::Missing => skips_missing,
        }
    }
}

impl PointState {
    /// What this point is to the points that read it.
    pub(crate) fn resolution(&self) -> Resolution {
        match self {
            Self::Done(done) => Resolution::Output(done.output),
            Self::Pruned(_) => Resolution::Pruned,
            Self::Failed | Self::Refused | Self::Skipped(Some(_)) => Resolution::Missing,
            _ => Resolution::Unknown,
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
