//! A run as a state machine: no I/O, no threads, no clock.
//!
//! [`RunState::apply`] takes an [`Input`], which reports an event, and returns [`Command`]s. The driver (`driver.rs`)
//! executes them and answers with inputs. A point usually goes through these states:
//!
//! ```text
//!           inputs resolved    resources free       not cached          lease taken        stored
//! Waiting ────────────────► Ready ─────────► LookingUp ─────► Claiming ─────► Running ─► Committing ─► Done
//! ```
//!
//! Answers may come in any order. The results of a run do not depend on that order. `tests/simulation.rs` tests this
//! with random graphs, losses and interruptions.
//!
//! - [`table`]: the states of all points and the sets derived from them.
//! - [`settling`]: the consequences of the end of a point: others become ready, or are skipped or pruned.
//! - [`repairing`]: points run again if their results are lost or their inputs change.

pub(crate) mod point;
mod repairing;
mod settling;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use self::point::{Attempt, Blocker, PointState};
use self::table::PointTable;
use crate::error::{Category, Error};
use crate::exec::job::{Ended, StartOptions};
use crate::id::PointId;
use crate::key::{Key, StateChain, StoredResult};
use crate::plan::{Bracket, Cause, ResolvedInputs, RungDecision, RungStatus};

/// How often a training may stop at a rung without a value to compare.
const STOPS_AT_A_RUNG: u32 = 3;
/// How often a point is started again after its worker was lost.
const WORKER_LOSSES: u32 = 2;

/// The options of a run that affect its decisions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    /// Points to execute even if their results are cached.
    pub forced: BTreeSet<PointId>,
    /// Continue with the points that do not depend on a failed point.
    pub keep_going: bool,
    /// Wait for a key that another process computes, instead of failing.
    pub wait: bool,
}

/// The plan's decision about a point.
#[derive(Debug)]
pub(crate) enum Planned {
    /// Its result is cached.
    Hit(StoredResult),
    /// It is pruned.
    Pruned { key: Option<Key>, cause: Cause },
    /// It failed in a worker of this run.
    Failed(Error),
    /// It is looked up when its inputs are resolved.
    Open,
}

/// An event that the driver reports.
#[derive(Debug)]
pub(crate) enum Input {
    /// Answers [`Command::LookUp`]. An error fails the point.
    LookedUp(PointId, Result<Lookup, Error>),
    /// Answers [`Command::Claim`].
    Claimed(PointId, Claim),
    /// The lease of a held point's key is free.
    HolderGone(PointId),
    /// A running training saved a state.
    StateSaved(PointId),
    /// A job made a result with this many bytes. The result is being stored, and the resources of the job are free.
    Made(PointId, usize),
    /// A job ended.
    Ended(PointId, Ended),
    /// The stored results of these points are gone.
    ResultsLost(Vec<PointId>),
    /// The user stopped the run, or it can't continue.
    Interrupted,
}

/// What the cache contains for a point.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    /// The key under which the point is computed.
    pub key: Key,
    /// The states of a training that can be stored.
    pub chain: StateChain,
    /// The index of the furthest one that is stored, or 0.
    pub cached_states: u64,
    /// The result, if it is cached. Its key also covers the files that its program read.
    pub stored: Option<StoredResult>,
    /// The stored values of the compared metric by epoch, if the command requested them.
    pub curve: Vec<f64>,
}

/// The answer to a request for a lease.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The lease is ours.
    Granted,
    /// Another process computes it.
    HeldBy(String),
    /// This worker lacks something to compute it.
    Lacking(String),
    /// Another process finished it since the look-up.
    Found(StoredResult),
    /// The stored results of these inputs are gone.
    InputsLost(BTreeSet<PointId>),
}

/// An action for the driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// Look up the result of a point with these inputs. With `curve`, also read the stored values of the compared
    /// metric.
    LookUp { point: PointId, inputs: ResolvedInputs, curve: bool },
    /// Take the lease of a key. With `look_again`, look up the result again after that, because another process may
    /// have stored it.
    Claim { point: PointId, key: Key, look_again: bool },
    /// Give back a lease that is not needed.
    Release(PointId),
    /// Start the job of a point.
    Start(PointId, StartOptions),
    /// Report to the user.
    Report(Report),
}

/// A report to the user.
#[derive(Debug)]
pub(crate) enum Report {
    /// The result was cached.
    Cached(PointId, Key),
    /// Another process computes this point.
    WaitsFor(PointId, String),
    /// This worker lacks something to compute this point, which another worker has.
    Left(PointId, String),
    /// The stored result is gone, and the point runs again.
    RunsAgain(PointId),
    /// The point has no result.
    Pruned(PointId, PruneCause),
    /// The run was stopped while the point ran.
    Interrupted(PointId),
    /// The point failed.
    Failed(PointId, Failure),
    /// The point does not run because that other point failed.
    Skipped(PointId, PointId),
    /// The result of the point is made without these inputs, which failed or were skipped.
    Without(PointId, Vec<PointId>),
}

/// Why a point has no result.
#[derive(Debug)]
pub(crate) enum PruneCause {
    /// The plan pruned it.
    Planned(Cause),
    /// Its value was not among the best.
    Compared(RungDecision),
    /// All points of one of its inputs are pruned. The list has all pruned points that it reads.
    LeftOut(Vec<PointId>),
}

/// Why a point failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Its job or its look-up failed.
    Job(Error),
    /// Another process computes it, and the run must not wait.
    Held(String),
    /// The cache keeps losing the result of this input.
    KeepsLosing(PointId, Error),
    /// The cache keeps losing its own result.
    KeepsBeingLost,
    /// Its state at this epoch has no value of the metric that is compared.
    NoFigure(u64),
    /// It was never started: an error in the state machine.
    NeverRan,
}

/// The state of a run.
pub(crate) struct RunState {
    table: PointTable,
    policy: Policy,
    bracket: Option<Bracket>,
    stopping: bool,
    failed: bool,
    commands: Vec<Command>,
}

impl RunState {
    /// A run in which every point waits.
    pub(crate) fn new(table: PointTable, policy: Policy, bracket: Option<Bracket>) -> Self {
        Self { table, policy, bracket, stopping: false, failed: false, commands: Vec::new() }
    }

    /// Applies the decisions of the plan, in plan order, and schedules the points that are ready.
    pub(crate) fn start(&mut self, plan: Vec<(PointId, Planned)>) -> Vec<Command> {
        let mut failed = Vec::new();
        for (point, planned) in plan {
            match planned {
                Planned::Failed(error) => failed.push((point, error)),
                Planned::Hit(stored) => self.settle_cached(point, stored),
                Planned::Pruned { key, cause } => self.prune(point, key, PruneCause::Planned(cause)),
                Planned::Open => {}
            }
        }
        failed.into_iter().for_each(|(point, error)| self.fail(point, Failure::Job(error)));
        for point in self.table.order().to_vec() {
            self.make_ready(point);
        }
        self.schedule()
    }

    /// Handles an input and returns the commands that follow from it.
    pub(crate) fn apply(&mut self, input: Input) -> Vec<Command> {
        match input {
            Input::LookedUp(point, lookup) => self.looked_up(point, lookup),
            Input::Claimed(point, claim) => self.claimed(point, claim),
            Input::HolderGone(point) => {
                if matches!(self.table.state(point), PointState::Held(_)) {
                    self.requeue(point);
                }
            }
            Input::StateSaved(point) => self.unblock(point),
            Input::Made(point, bytes) => self.made(point, bytes),
            Input::Ended(point, ended) => self.ended(point, ended),
            Input::ResultsLost(points) => self.results_lost(points),
            Input::Interrupted => self.stopping = true,
        }
        self.schedule()
    }

    /// Ends the run and skips pending points. Consistency check: without a failure or an interruption no point may be
    /// pending.
    pub(crate) fn finish(&mut self) -> Vec<Command> {
        let is_pending = |state: &Self, p: &PointId| state.table.state(*p).is_pending();
        let pending: Vec<PointId> = self.table.order().iter().copied().filter(|p| is_pending(self, p)).collect();
        if let Some(first) = pending.first()
            && !self.stopping
            && !self.failed
        {
            self.fail(*first, Failure::NeverRan);
        }
        for point in pending {
            if is_pending(self, &point) {
                self.table.set(point, PointState::Skipped(None));
            }
        }
        std::mem::take(&mut self.commands)
    }

    /// Whether an answer is outstanding, or the run waits for another process.
    pub(crate) fn is_under_way(&self) -> bool {
        self.table.is_busy() || (!self.stopping && self.table.held().next().is_some())
    }

    /// Whether no more points start.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// The points whose keys other processes compute, with these keys.
    pub(crate) fn held(&self) -> Vec<(PointId, Key)> {
        self.table.held().collect()
    }

    /// The states of all points.
    pub(crate) fn table(&self) -> &PointTable {
        &self.table
    }

    /// The points that are compared, with their values.
    pub(crate) fn bracket(&self) -> Option<&Bracket> {
        self.bracket.as_ref()
    }

    /// Looks up ready points in plan order while resources are free.
    fn schedule(&mut self) -> Vec<Command> {
        while !self.stopping
            && let Some(point) = self.table.next_ready()
        {
            let snapshot = self.table.snapshot(point);
            let inputs = snapshot.resolved.clone();
            let curve = self.bracket.as_mut().is_some_and(|b| matches!(b.status(point), RungStatus::Below { .. }));
            self.table.set(point, PointState::LookingUp(snapshot));
            self.commands.push(Command::LookUp { point, inputs, curve });
        }
        std::mem::take(&mut self.commands)
    }

    fn looked_up(&mut self, point: PointId, lookup: Result<Lookup, Error>) {
        let PointState::LookingUp(inputs) = self.table.state(point).clone() else { return };
        if self.stopping || !self.table.is_current(point, &inputs) {
            return self.requeue(point);
        }
        let lookup = match lookup {
            Ok(lookup) => lookup,
            Err(error) => return self.fail(point, Failure::Job(error)),
        };
        let Lookup { key, chain, cached_states, stored, curve } = lookup;
        let rung = match self.rung_status_with(point, &curve) {
            RungStatus::Promoted => None,
            RungStatus::Below { epoch } => Some(epoch),
            RungStatus::Undecided { .. } => return self.block(point, Blocker::Comparison),
            RungStatus::Pruned(decision) => return self.prune(point, Some(key), PruneCause::Compared(decision)),
        };
        let was_lost = self.table.repairs(point) > 0;
        if let (Some(stored), None, false) = (stored, rung, was_lost) {
            return self.settle_cached(point, stored);
        }
        // A forced training ignores stored states only when it trains to its end, not on the way to a rung.
        let fresh = self.policy.forced.contains(&point) && rung.is_none();
        let other = self.table.computes(&key);
        if let Some(other) = other.or_else(|| self.trains_missing_states(&chain, cached_states).filter(|_| !fresh)) {
            return self.block(point, Blocker::Job(other));
        }
        let look_again = rung.is_none() && !was_lost && !self.policy.forced.contains(&point);
        self.table.set(point, PointState::Claiming(Attempt { key, chain, rung, fresh, inputs }));
        self.commands.push(Command::Claim { point, key, look_again });
    }

    /// A training that makes states of this chain which are not cached, if any. No epoch is trained twice.
    fn trains_missing_states(&self, chain: &StateChain, cached: u64) -> Option<PointId> {
        let states = |other: &Attempt| chain.shared_prefix(&other.chain).saturating_sub(1) as u64;
        self.table.attempts().find(|(_, other)| states(other) > cached).map(|(point, _)| point)
    }

    fn block(&mut self, point: PointId, blocker: Blocker) {
        self.table.set(point, PointState::Blocked(blocker));
    }

    fn claimed(&mut self, point: PointId, claim: Claim) {
        let PointState::Claiming(attempt) = self.table.state(point).clone() else {
            if matches!(claim, Claim::Granted) {
                self.commands.push(Command::Release(point));
            }
            return;
        };
        let is_current = self.table.is_current(point, &attempt.inputs);
        match claim {
            Claim::Granted if self.stopping || !is_current => {
                self.commands.push(Command::Release(point));
                self.requeue(point);
            }
            Claim::Granted => {
                let Attempt { rung, fresh, .. } = attempt;
                self.table.set(point, PointState::Running(attempt));
                let (threads, is_alone) = (self.table.own_threads(point), self.table.is_alone(point));
                let options = StartOptions { rung, fresh, threads, is_alone };
                self.report_missing(point);
                return self.commands.push(Command::Start(point, options));
            }
            _ if !is_current => self.requeue(point),
            Claim::HeldBy(holder) if self.policy.wait => {
                self.table.set(point, PointState::Held(attempt.key));
                self.commands.push(Command::Report(Report::WaitsFor(point, holder)));
            }
            Claim::HeldBy(holder) => self.fail(point, Failure::Held(holder)),
            Claim::Lacking(lack) => {
                self.table.set(point, PointState::Held(attempt.key));
                self.commands.push(Command::Report(Report::Left(point, lack)));
            }
            Claim::Found(stored) => self.settle_cached(point, stored),
            Claim::InputsLost(lost) => {
                let error = Error::storage("an input is no longer in the cache");
                self.repair_inputs(point, error, &lost, &self.table.snapshot(point));
            }
        }
        self.unblock(point);
    }

    fn made(&mut self, point: PointId, bytes: usize) {
        if let PointState::Running(attempt) = self.table.state(point).clone() {
            self.table.set(point, PointState::Committing(attempt, bytes));
        }
    }

    fn ended(&mut self, point: PointId, ended: Ended) {
        let (PointState::Running(attempt) | PointState::Committing(attempt, _)) = self.table.state(point).clone()
        else {
            return;
        };
        match ended {
            Ended::Made(stored) => {
                // A result that does not count stays in the cache under its key.
                let counts =
                    self.rung_status(point) == RungStatus::Promoted && !self.table.is_outdated(point, &attempt.inputs);
                if counts { self.settle(point, stored, true) } else { self.requeue(point) }
            }
            Ended::AtRung(epoch) => {
                // Its state may be lost before it is compared, but not again and again.
                if self.table.count_stop(point, epoch) > STOPS_AT_A_RUNG {
                    self.fail(point, Failure::NoFigure(epoch));
                } else {
                    self.requeue(point);
                }
            }
            Ended::Interrupted => {
                self.stopping = true;
                self.table.set(point, PointState::Skipped(None));
                self.commands.push(Command::Report(Report::Interrupted(point)));
            }
            Ended::Damaged(damaged, error) => self.repair_inputs(point, error, &damaged, &attempt.inputs),
            Ended::WorkerLost(error) => {
                if self.table.count_loss(point) > WORKER_LOSSES {
                    self.fail(point, Failure::Job(error));
                } else {
                    self.requeue(point);
                }
            }
            Ended::OutOfMemory(error) | Ended::Failed(error) => {
                self.stopping |= error.category == Category::Storage;
                self.fail(point, Failure::Job(error));
            }
        }
        self.unblock(point);
    }

    /// Requeues the points that a point blocked.
    fn unblock(&mut self, point: PointId) {
        for blocked in self.table.blocked_by(point) {
            self.requeue(blocked);
        }
    }

    fn rung_status(&mut self, point: PointId) -> RungStatus {
        self.bracket.as_mut().map_or(RungStatus::Promoted, |bracket| bracket.status(point))
    }

    /// Records the stored metric values of a point and returns its status.
    fn rung_status_with(&mut self, point: PointId, curve: &[f64]) -> RungStatus {
        if let Some(bracket) = self.bracket.as_mut() {
            bracket.record(point, curve);
        }
        self.requeue_decided();
        self.rung_status(point)
    }

    /// Requeues the points whose comparison is now decided.
    fn requeue_decided(&mut self) {
        for point in self.table.undecided() {
            if !matches!(self.rung_status(point), RungStatus::Undecided { .. }) {
                self.requeue(point);
            }
        }
    }
}
