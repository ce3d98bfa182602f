//! The states of all points, and the sets derived from them.
//!
//! [`PointTable::set`] is the only way to change a state. It updates the resources in use, the points that are ready,
//! and the number of unresolved inputs of every dependent, so these can't disagree with the states. The cost of an
//! update is linear in the number of dependents.

use std::collections::{BTreeMap, BTreeSet};

use super::point::{Attempt, Blocker, Dependencies, PointState, Resolution, RoleInput, Snapshot};
use crate::exec::resources::{Demand, ResourcePool};
use crate::id::PointId;
use crate::key::{Digest, Key};
use crate::plan::{ResolvedInputs, all_of};

struct Entry {
    state: PointState,
    demand: Demand,
    /// The distinct points that it reads.
    inputs: Vec<PointId>,
    /// Those that it must have. The others may be missing.
    required: BTreeSet<PointId>,
    /// The wanted points that read it.
    dependents: Vec<PointId>,
    /// The number of inputs that are not resolved.
    unresolved: usize,
    /// The position in [`PointTable::starts`].
    rank: usize,
    /// How often it ran again because its stored result was lost.
    repairs: u32,
    /// How often the worker that ran it was lost.
    losses: u32,
    /// The last epoch at which it stopped for a comparison, and how often it stopped there.
    rung: (u64, u32),
    /// The digest of its withdrawn result.
    previous: Option<Digest>,
}

/// The states of all points of a run.
pub(crate) struct PointTable {
    entries: Vec<Entry>,
    roles: Vec<Vec<RoleInput>>,
    order: Vec<PointId>,
    pool: ResourcePool,
    /// The wanted points in the order in which they start when they are ready.
    starts: Vec<PointId>,
    /// The ranks of the ready points, by their demands.
    ready: BTreeMap<Demand, BTreeSet<usize>>,
    /// Points with an attempt.
    active: BTreeSet<PointId>,
    /// The keys of the attempts.
    computing: BTreeMap<Key, PointId>,
    blocked: BTreeMap<PointId, BTreeSet<PointId>>,
    undecided: BTreeSet<PointId>,
    held: BTreeSet<PointId>,
    looking_up: usize,
    pruned: usize,
}

impl PointTable {
    /// A table in which all points are waiting. `demands` is indexed by [`PointId`].
    pub(crate) fn new(dependencies: Dependencies, demands: &[Demand], pool: ResourcePool) -> Self {
        let Dependencies { roles, order } = dependencies;
        let mut entries: Vec<Entry> = roles
            .iter()
            .zip(demands)
            .map(|(roles, demand)| {
                let inputs: BTreeSet<PointId> = roles.iter().flat_map(|role| &role.members).copied().collect();
                let required = roles.iter().filter(|role| !role.skips_missing).flat_map(|role| &role.members);
                Entry {
                    state: PointState::Waiting,
                    demand: *demand,
                    unresolved: inputs.len(),
                    inputs: inputs.into_iter().collect(),
                    required: required.copied().collect(),
                    dependents: Vec::new(),
                    rank: 0,
                    repairs: 0,
                    losses: 0,
                    rung: (0, 0),
                    previous: None,
                }
            })
            .collect();
        for (rank, point) in order.iter().enumerate() {
            entries[point.index()].rank = rank;
            for input in entries[point.index()].inputs.clone() {
                entries[input.index()].dependents.push(*point);
            }
        }
        Self {
            entries,
            roles,
            starts: order.clone(),
            order,
            pool,
            ready: BTreeMap::new(),
            active: BTreeSet::new(),
            computing: BTreeMap::new(),
            blocked: BTreeMap::new(),
            undecided: BTreeSet::new(),
            held: BTreeSet::new(),
            looking_up: 0,
            pruned: 0,
        }
    }

    /// Sets the order in which points start when they are ready. Without it, that is plan order.
    pub(crate) fn start_in_order(&mut self, points: Vec<PointId>) {
        points.iter().enumerate().for_each(|(rank, point)| self.entries[point.index()].rank = rank);
        self.starts = points;
    }

    /// The wanted points in plan order.
    pub(crate) fn order(&self) -> &[PointId] {
        &self.order
    }

    /// The state of a point.
    pub(crate) fn state(&self, point: PointId) -> &PointState {
        &self.entries[point.index()].state
    }

    /// Changes the state of a point and returns the one before.
    pub(crate) fn set(&mut self, point: PointId, state: PointState) -> PointState {
        self.forget(point);
        let before = std::mem::replace(&mut self.entries[point.index()].state, state);
        self.register(point);
        let (was, is) = (before.resolution(), self.resolution(point));
        if was != is {
            self.resolution_changed(point, was, is);
        }
        before
    }

    /// Takes a point out of the derived sets.
    fn forget(&mut self, point: PointId) {
        let Entry { state, demand, rank, .. } = &self.entries[point.index()];
        match state {
            PointState::Ready => drop(self.ready.get_mut(demand).map(|ranks| ranks.remove(rank))),
            PointState::LookingUp(_) => self.looking_up -= 1,
            PointState::Blocked(Blocker::Comparison) => drop(self.undecided.remove(&point)),
            PointState::Blocked(Blocker::Job(other)) => {
                self.blocked.get_mut(other).map(|points| points.remove(&point));
            }
            PointState::Held(_) => drop(self.held.remove(&point)),
            PointState::Committing(_, bytes) => self.pool.dequeue(*bytes),
            PointState::Pruned(_) => self.pruned -= 1,
            _ => {}
        }
        if state.occupies_resources() {
            self.pool.release(point);
        }
        if let Some(attempt) = state.attempt() {
            self.active.remove(&point);
            self.computing.remove(&attempt.key);
        }
    }

    /// Puts a point into the derived sets.
    fn register(&mut self, point: PointId) {
        let Entry { state, demand, rank, .. } = &self.entries[point.index()];
        match state {
            PointState::Ready => drop(self.ready.entry(*demand).or_default().insert(*rank)),
            PointState::LookingUp(_) => self.looking_up += 1,
            PointState::Blocked(Blocker::Comparison) => drop(self.undecided.insert(point)),
            PointState::Blocked(Blocker::Job(other)) => drop(self.blocked.entry(*other).or_default().insert(point)),
            PointState::Held(_) => drop(self.held.insert(point)),
            PointState::Committing(_, bytes) => self.pool.enqueue(*bytes),
            PointState::Pruned(_) => self.pruned += 1,
            _ => {}
        }
        if state.occupies_resources() {
            self.pool.acquire(point, *demand);
        }
        if let Some(attempt) = state.attempt() {
            self.active.insert(point);
            self.computing.insert(attempt.key, point);
        }
    }

    /// Updates the number of unresolved inputs of the dependents. A dependent that was ready for the old input waits
    /// again. A dependent that has started compares its [`Snapshot`] when the driver answers.
    fn resolution_changed(&mut self, point: PointId, was: Resolution, is: Resolution) {
        for dependent in self.entries[point.index()].dependents.clone() {
            let entry = &mut self.entries[dependent.index()];
            let skips_missing = !entry.required.contains(&point);
            let (was_resolved, is_resolved) = (was.is_enough(skips_missing), is.is_enough(skips_missing));
            match (was_resolved, is_resolved) {
                (false, true) => entry.unresolved -= 1,
                (true, false) => entry.unresolved += 1,
                _ => {}
            }
            let is_ready = matches!(entry.state, PointState::Ready | PointState::Blocked(_) | PointState::Held(_));
            if was_resolved && is_ready {
                self.set(dependent, PointState::Waiting);
            }
        }
    }

    /// The first ready point for which resources are free.
    pub(crate) fn next_ready(&self) -> Option<PointId> {
        if self.pool.is_full() {
            return None;
        }
        let fitting = self.ready.iter().filter(|(demand, ranks)| !ranks.is_empty() && self.pool.fits(**demand));
        fitting.filter_map(|(_, ranks)| ranks.first()).min().map(|rank| self.starts[*rank])
    }

    /// Whether a point is the only one that is ready or occupies resources.
    pub(crate) fn is_alone(&self, point: PointId) -> bool {
        let others_run =
            self.looking_up > 0 || self.active.iter().any(|p| *p != point && self.state(*p).occupies_resources());
        !others_run && self.ready.values().all(BTreeSet::is_empty)
    }

    /// The indices of the GPUs that a running point has for itself.
    pub(crate) fn gpus(&self, point: PointId) -> &[usize] {
        self.pool.gpus(point)
    }

    /// The threads that a point gets for itself.
    pub(crate) fn own_threads(&self, point: PointId) -> Option<usize> {
        self.pool.own_threads(self.entries[point.index()].demand, self.is_alone(point))
    }

    /// Whether an answer of the driver or the executor is outstanding.
    pub(crate) fn is_busy(&self) -> bool {
        self.looking_up > 0 || !self.active.is_empty()
    }

    /// The point that computes a key now.
    pub(crate) fn computes(&self, key: &Key) -> Option<PointId> {
        self.computing.get(key).copied()
    }

    /// All current attempts.
    pub(crate) fn attempts(&self) -> impl Iterator<Item = (PointId, &Attempt)> {
        self.active.iter().filter_map(|point| Some((*point, self.state(*point).attempt()?)))
    }

    /// The points that another point blocks.
    pub(crate) fn blocked_by(&self, point: PointId) -> Vec<PointId> {
        self.blocked.get(&point).map(|points| points.iter().copied().collect()).unwrap_or_default()
    }

    /// The points that wait for a comparison.
    pub(crate) fn undecided(&self) -> Vec<PointId> {
        self.undecided.iter().copied().collect()
    }

    /// The points whose key another process holds.
    pub(crate) fn held(&self) -> impl Iterator<Item = (PointId, Key)> {
        self.held.iter().filter_map(|point| match self.state(*point) {
            PointState::Held(key) => Some((*point, *key)),
            _ => None,
        })
    }

    /// What a point is to the points that read it.
    fn resolution(&self, point: PointId) -> Resolution {
        self.state(point).resolution()
    }

    /// Whether a point is pruned.
    pub(crate) fn is_pruned(&self, point: PointId) -> bool {
        matches!(self.state(point), PointState::Pruned(_))
    }

    /// The points that are pruned.
    pub(crate) fn pruned(&self) -> Vec<PointId> {
        if self.pruned == 0 { Vec::new() } else { self.order.iter().copied().filter(|p| self.is_pruned(*p)).collect() }
    }

    /// The distinct points that a point reads.
    pub(crate) fn inputs(&self, point: PointId) -> &[PointId] {
        &self.entries[point.index()].inputs
    }

    /// The wanted points that read a point.
    pub(crate) fn dependents(&self, point: PointId) -> Vec<PointId> {
        self.entries[point.index()].dependents.clone()
    }

    /// Whether a wanted point reads this one.
    pub(crate) fn has_dependents(&self, point: PointId) -> bool {
        !self.entries[point.index()].dependents.is_empty()
    }

    /// The points that depend on a point, directly or not, in plan order.
    #[cfg(test)]
    pub(crate) fn downstream(&self, point: PointId) -> Vec<PointId> {
        let mut found = BTreeSet::new();
        let mut open = vec![point];
        while let Some(point) = open.pop() {
            for dependent in &self.entries[point.index()].dependents {
                if found.insert(self.entries[dependent.index()].rank) {
                    open.push(*dependent);
                }
            }
        }
        found.into_iter().map(|rank| self.starts[rank]).collect()
    }

    /// Whether every input is resolved.
    pub(crate) fn has_inputs(&self, point: PointId) -> bool {
        self.entries[point.index()].unresolved == 0
    }

    /// Whether all points of one of its roles are pruned.
    pub(crate) fn has_only_pruned_inputs(&self, point: PointId) -> bool {
        let roles = &self.roles[point.index()];
        self.pruned > 0 && roles.iter().any(|role| all_of(&role.members, |p| self.is_pruned(p)))
    }

    /// Whether a point does without this input if the input has failed or was skipped.
    pub(crate) fn skips_missing(&self, point: PointId, input: PointId) -> bool {
        !self.entries[point.index()].required.contains(&input)
    }

    /// Whether a point that starts now leaves out this input.
    pub(crate) fn leaves_out(&self, point: PointId, input: PointId) -> bool {
        match self.resolution(input) {
            Resolution::Pruned => true,
            Resolution::Missing => self.skips_missing(point, input),
            _ => false,
        }
    }

    /// The inputs that a point does without although they are not pruned.
    pub(crate) fn missing_inputs(&self, point: PointId) -> Vec<PointId> {
        self.inputs(point).iter().copied().filter(|p| self.resolution(*p) == Resolution::Missing).collect()
    }

    /// A failed point that left one of this point's inputs empty, if any.
    pub(crate) fn emptied_by(&self, point: PointId) -> Option<PointId> {
        let roles = self.roles[point.index()].iter().filter(|role| role.skips_missing);
        let mut empty = roles.filter(|role| all_of(&role.members, |p| self.leaves_out(point, p)));
        empty.find_map(|role| role.members.iter().find_map(|p| self.failure_behind(*p)))
    }

    /// The failed point because of which a point has no result, if any.
    fn failure_behind(&self, point: PointId) -> Option<PointId> {
        match self.state(point) {
            PointState::Failed | PointState::Refused => Some(point),
            PointState::Skipped(because) => *because,
            _ => None,
        }
    }

    /// The pruned points that a point reads.
    pub(crate) fn pruned_inputs(&self, point: PointId) -> Vec<PointId> {
        self.inputs(point).iter().copied().filter(|p| self.is_pruned(*p)).collect()
    }

    /// The inputs of a point as they are now.
    pub(crate) fn snapshot(&self, point: PointId) -> Snapshot {
        let inputs = self.inputs(point).iter();
        let output = |p: &PointId| match self.resolution(*p) {
            Resolution::Output(output) => Some((*p, output)),
            _ => None,
        };
        let repairs = inputs.clone().map(|p| (*p, self.repairs(*p))).filter(|(_, repairs)| *repairs > 0);
        Snapshot {
            resolved: ResolvedInputs {
                outputs: inputs.clone().filter_map(output).collect(),
                left_out: inputs.filter(|p| self.leaves_out(point, **p)).copied().collect(),
            },
            repairs: repairs.collect(),
        }
    }

    /// Whether the inputs of a point are those of a snapshot.
    pub(crate) fn is_current(&self, point: PointId, snapshot: &Snapshot) -> bool {
        self.has_inputs(point) && self.snapshot(point).resolved == snapshot.resolved
    }

    /// Whether the result of a point that was made from a snapshot is outdated. An input that is being made again is
    /// expected to get the same bytes as before. If the bytes turn out to differ, its dependents are withdrawn then. If
    /// it can't be made again, results that were made from it remain.
    pub(crate) fn is_outdated(&self, point: PointId, snapshot: &Snapshot) -> bool {
        let ResolvedInputs { outputs, left_out } = &snapshot.resolved;
        let is_replaced = |input: &PointId, read: &Digest| match self.resolution(*input) {
            Resolution::Output(now) => now != *read,
            Resolution::Pruned => true,
            Resolution::Unknown | Resolution::Missing => self.entries[input.index()].previous != Some(*read),
        };
        outputs.iter().any(|(input, read)| is_replaced(input, read))
            || left_out.iter().any(|input| !self.leaves_out(point, *input))
    }

    /// How often a point ran again because its stored result was lost.
    pub(crate) fn repairs(&self, point: PointId) -> u32 {
        self.entries[point.index()].repairs
    }

    /// Counts a repair.
    pub(crate) fn count_repair(&mut self, point: PointId) {
        self.entries[point.index()].repairs += 1;
    }

    /// Counts a lost worker. Returns the number of losses so far.
    pub(crate) fn count_loss(&mut self, point: PointId) -> u32 {
        self.entries[point.index()].losses += 1;
        self.entries[point.index()].losses
    }

    /// Counts a stop at a rung. Returns how often the point stopped there in a row.
    pub(crate) fn count_stop(&mut self, point: PointId, epoch: u64) -> u32 {
        let (last, count) = &mut self.entries[point.index()].rung;
        *count = if *last == epoch { *count + 1 } else { 1 };
        *last = epoch;
        *count
    }

    /// Remembers the digest of a result that is made again.
    pub(crate) fn set_previous(&mut self, point: PointId, digest: Option<Digest>) {
        self.entries[point.index()].previous = digest;
    }

    /// Whether a point had a result in this run that was withdrawn.
    #[cfg(test)]
    pub(crate) fn has_previous(&self, point: PointId) -> bool {
        self.entries[point.index()].previous.is_some()
    }

    /// Takes what [`PointTable::set_previous`] remembers.
    pub(crate) fn take_previous(&mut self, point: PointId) -> Option<Digest> {
        self.entries[point.index()].previous.take()
    }
}
