//! What a plan consists of: decisions about points.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::bracket::Bracket;
use super::reason::Reason;
use crate::id::PointId;
use crate::key::{Components, Digest, Key};
use crate::spec::{Point, PointInput};

/// Whether a point will run, as far as the plan can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its result is in the cache.
    Hit,
    /// It will run.
    Miss,
    /// It runs unless its inputs come out unchanged, or unless pruning stops it.
    Maybe,
    /// It has no result, because it or all points of one of its inputs are pruned.
    Pruned,
}

/// How much of a training is in the cache already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CachedEpochs {
    /// Epochs that are not trained again.
    pub cached: u64,
    /// All epochs.
    pub total: u64,
}

/// The plan for one point.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The point.
    pub point: PointId,
    /// Whether it will run.
    pub state: State,
    /// The components of its key. `None` while an input is unknown.
    pub components: Option<Components>,
    /// Its key. `None` while an input is unknown.
    pub key: Option<Key>,
    /// The digest of its result, if that is in the cache. The point may still be pruned, or made again with inputs that
    /// are missing now.
    pub output: Option<Digest>,
    /// Why it is not a hit.
    pub reason: Option<Reason>,
    /// How much of it is in the cache, if it is a training and a miss.
    pub epochs: Option<CachedEpochs>,
    /// Whether the shared store has its result, and the cache does not.
    pub in_store: bool,
}

impl Decision {
    /// A miss about which nothing else is known.
    pub(super) fn miss(point: PointId, reason: Option<Reason>) -> Self {
        Self {
            point,
            state: State::Miss,
            components: None,
            key: None,
            output: None,
            reason,
            epochs: None,
            in_store: false,
        }
    }
}

/// The decisions about all requested points.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One decision for each requested point, in plan order.
    pub decisions: Vec<Decision>,
    /// The comparison of the points of the pruned stage, if the pipeline prunes a sweep.
    pub bracket: Option<Bracket>,
}

impl Plan {
    /// The decisions about points that would run, or may.
    pub fn open(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().filter(|decision| matches!(decision.state, State::Miss | State::Maybe))
    }

    /// Whether nothing has to run.
    pub fn is_complete(&self) -> bool {
        self.open().next().is_none()
    }

    /// The points that are known to be pruned.
    pub fn pruned(&self) -> BTreeSet<PointId> {
        self.decisions.iter().filter(|d| d.state == State::Pruned).map(|d| d.point).collect()
    }
}

/// The points that are known to have a result, or to have none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResolvedInputs {
    /// The digests of the results in the cache.
    pub outputs: BTreeMap<PointId, Digest>,
    /// The points that have no result. Lists of inputs leave them out: points that are pruned and, for a list with
    /// `missing = "skip"`, points that failed or were skipped.
    pub left_out: BTreeSet<PointId>,
}

impl ResolvedInputs {
    /// Whether an input has a result or is left out.
    pub fn is_settled(&self, input: PointId) -> bool {
        self.outputs.contains_key(&input) || self.left_out.contains(&input)
    }

    /// Whether all points of one of this point's inputs are left out. In a plan, they are pruned.
    pub fn leaves_an_input_empty(&self, point: &Point) -> bool {
        let is_empty = |input: &PointInput| all_of(input.points(), |p| self.left_out.contains(&p));
        !self.left_out.is_empty() && point.inputs.values().any(is_empty)
    }

    /// Adds what a decision makes known.
    pub(super) fn add(&mut self, decision: &Decision) {
        let hit = decision.output.filter(|_| decision.state == State::Hit);
        self.outputs.extend(hit.map(|output| (decision.point, output)));
        self.left_out.extend((decision.state == State::Pruned).then_some(decision.point));
    }

    /// Adds what a decision makes known, and a result of an undecided point.
    pub(super) fn add_stored(&mut self, decision: &Decision) {
        self.add(decision);
        self.outputs.extend(decision.output.map(|output| (decision.point, output)));
    }
}

/// Whether an input has points and this holds for all of them. A point has no result if all points of an input are
/// pruned.
pub(crate) fn all_of(members: &[PointId], holds: impl Fn(PointId) -> bool) -> bool {
    !members.is_empty() && members.iter().all(|p| holds(*p))
}
