//! What became of each point, and what follows from it: what waits for its result gets ready, or is skipped, or runs again.

use std::sync::Arc;

use crate::error::{Category, Error};
use crate::event::Event;
use crate::exec::schedule::Scheduler;
use crate::exec::worker::{Done, Failure};
use crate::id::PointId;
use crate::key::{Digest, Key};
use crate::plan::RungStatus;
use crate::spec::PointInput;
use crate::stage::Cancel;
use crate::status::RunStatus;

/// What became of a point.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    /// Waiting for its inputs, or for room.
    Waiting,
    /// Running now.
    Running,
    /// Its result was in the cache.
    Cached,
    /// It ran.
    Executed,
    /// It failed.
    Failed,
    /// It did not run because of this point, or because of an interruption.
    Skipped(Option<PointId>),
    /// It has no result: it was pruned, or hangs on points that are.
    Pruned,
}

impl Scheduler<'_> {
    pub(super) fn ended(&mut self, done: Done) {
        let Done { point, outcome } = done;
        let started = self.started.remove(&point).or_else(|| self.committing.remove(&point));
        let (seconds, bytes) = started.as_ref().and_then(|s| s.ended).unwrap_or_default();
        self.backlog = self.backlog.saturating_sub(bytes);
        self.leases.remove(&point);
        if let Some(started) = &started {
            self.computing.remove(&started.key);
        }
        match outcome {
            Ok(record) => {
                let metrics = record.manifest.metrics.clone();
                let (stage, key, digest) = (self.name(point), record.key, record.digest);
                self.shared.listener.event(&Event::StageFinished { stage, key, digest, seconds, metrics });
                let is_judged_anew =
                    self.ladder.as_mut().is_some_and(|ladder| ladder.status(point) != RungStatus::Promoted);
                if is_judged_anew || started.is_some_and(|s| self.is_outdated(&s.read)) {
                    // It stays in the store, under a key that nobody asks for now, or until it is decided that it goes on.
                    self.fates.insert(point, Fate::Waiting);
                    self.make_ready(point);
                    return;
                }
                if !self.planner.graph.dependents(point).is_empty() {
                    self.records.insert(point, Arc::new(record));
                }
                self.settled(point, key, digest, Fate::Executed);
            }
            Err(Failure { at_rung: Some(epoch), .. }) => {
                let seconds = started.map_or(0.0, |s| s.at.elapsed().as_secs_f64());
                self.at_rung(point, epoch, seconds);
            }
            Err(Failure { interrupted: true, .. }) => {
                self.fates.insert(point, Fate::Skipped(None));
                self.shared.listener.event(&Event::StageInterrupted { stage: self.name(point) });
            }
            Err(Failure { error, damaged, .. }) if !damaged.is_empty() => {
                let repairs = started.map(|s| s.repairs).unwrap_or_default();
                self.mend(point, error, &damaged, &repairs);
            }
            Err(Failure { error, .. }) => {
                let fatal = error.category == Category::Storage;
                self.failed(point, error);
                self.stopping |= fatal;
            }
        }
    }

    pub(super) fn cached(&mut self, point: PointId, key: Key, output: Digest) {
        self.shared.listener.event(&Event::StageCached { stage: self.name(point), key });
        self.settled(point, key, output, Fate::Cached);
    }

    fn settled(&mut self, point: PointId, key: Key, output: Digest, fate: Fate) {
        self.fates.insert(point, fate);
        self.ready.remove(&self.position[&point]);
        self.known.outputs.insert(point, output);
        if self.before.remove(&point).is_some_and(|before| before != output) {
            self.withdraw_below(point);
        }
        self.results.insert(point, (key, output));
        for dependent in self.planner.graph.dependents(point) {
            self.make_ready(dependent);
        }
    }

    pub(super) fn make_ready(&mut self, point: PointId) {
        if self.fates.get(&point) != Some(&Fate::Waiting) || !self.has_inputs(point) {
            return;
        }
        if self.known.has_only_pruned_inputs(self.planner.spec.point(point)) {
            let cause = self.planner.cause_of_leaving_out(point, &self.known);
            return self.prune(point, cause);
        }
        self.ready.insert(self.position[&point]);
    }

    pub(super) fn has_inputs(&self, point: PointId) -> bool {
        let mut inputs = self.planner.spec.point(point).inputs.values().flat_map(PointInput::points);
        inputs.all(|i| self.known.is_settled(*i))
    }

    pub(super) fn failed(&mut self, point: PointId, error: Error) {
        let text = error.with_causes();
        let log = self.shared.log_path(self.planner.spec.point(point)).display().to_string();
        let (stage, hint) = (self.name(point), error.hint.clone());
        self.shared.listener.event(&Event::StageFailed { stage, error: text, hint, log });
        self.fates.insert(point, Fate::Failed);
        // One that another process has is not known to fail: what is compared with it stays undecided.
        let will_never_be = error.category != Category::CacheHeld;
        self.error.get_or_insert(error);
        self.stopping |= !self.wishes.keep_going;
        for below in self.planner.graph.downstream([point]) {
            self.ladder.iter_mut().filter(|_| will_never_be).for_each(|ladder| ladder.fail(below));
            if self.fates.get(&below) == Some(&Fate::Waiting) {
                self.fates.insert(below, Fate::Skipped(Some(point)));
                let (stage, because) = (self.name(below), self.name(point));
                self.shared.listener.event(&Event::StageSkipped { stage, because });
            }
        }
    }

    /// Whatever is over, nobody waits for something that won't happen: that would be an error of ours, and is said to be one.
    pub(super) fn forgets_nobody(&mut self) {
        if self.stopping || self.error.is_some() {
            return;
        }
        if let Some(point) = self.order.iter().copied().find(|p| self.fates[p] == Fate::Waiting) {
            let message = format!("internal error: `{}` was never run", self.name(point));
            let hint = "run again: what was finished is cached; please report this";
            self.failed(point, Error::new(Category::StageFailed, message).hint(hint));
        }
    }

    /// Whatever has not run when all is over was stopped.
    pub(crate) fn skip_the_rest(&mut self) {
        for point in self.order.clone() {
            if self.fates[&point] == Fate::Waiting {
                self.fates.insert(point, Fate::Skipped(None));
            }
        }
    }

    /// How the run ended. `asked` is what the user stops everything with.
    pub(crate) fn status(&self, asked: &Cancel) -> RunStatus {
        let storage_failed = self.error.as_ref().is_some_and(|e| e.category == Category::Storage);
        if self.fates.values().all(|f| matches!(f, Fate::Cached | Fate::Executed | Fate::Pruned)) {
            RunStatus::Ok
        } else if asked.is_cancelled() && !storage_failed {
            RunStatus::Interrupted
        } else {
            RunStatus::Failed
        }
    }
}
