//! The consequences of the end of a point: its dependents become ready, or are skipped or pruned.

use super::point::{Done, PointState};
use super::{Command, Failure, PruneCause, Report, RunState};
use crate::id::PointId;
use crate::key::{Key, StoredResult};

impl RunState {
    /// Handles a result that was in the cache.
    pub(super) fn settle_cached(&mut self, point: PointId, stored: StoredResult) {
        self.commands.push(Command::Report(Report::Cached(point, stored.key)));
        self.settle(point, stored, false);
    }

    /// Handles a result that is now in the cache.
    pub(super) fn settle(&mut self, point: PointId, stored: StoredResult, executed: bool) {
        let StoredResult { key, output } = stored;
        self.table.set(point, PointState::Done(Done { key, output, executed }));
        if self.table.take_previous(point).is_some_and(|previous| previous != output) {
            self.withdraw_dependents(point);
        }
        for dependent in self.table.dependents(point) {
            self.make_ready(dependent);
        }
    }

    /// Makes a point ready if it waits and all its inputs are resolved.
    pub(super) fn make_ready(&mut self, point: PointId) {
        if *self.table.state(point) != PointState::Waiting || !self.table.has_inputs(point) {
            return;
        }
        if self.table.has_only_pruned_inputs(point) {
            let cause = PruneCause::LeftOut(self.table.pruned_inputs(point));
            self.prune(point, None, cause);
        } else {
            self.table.set(point, PointState::Ready);
        }
    }

    /// Starts over with a point. It becomes ready or waits, or is skipped if an input has failed.
    pub(super) fn requeue(&mut self, point: PointId) {
        match self.failed_input(point) {
            Some(because) => {
                self.skip(point, because);
                self.requeue_decided();
            }
            None => {
                self.table.set(point, PointState::Waiting);
                self.make_ready(point);
            }
        }
    }

    /// The failed point that prevents this point from running, if any. `Some(None)` if an input was skipped because the
    /// run was stopped.
    fn failed_input(&self, point: PointId) -> Option<Option<PointId>> {
        self.table.inputs(point).iter().find_map(|input| match self.table.state(*input) {
            PointState::Failed | PointState::Refused => Some(Some(*input)),
            PointState::Skipped(because) => Some(*because),
            _ => None,
        })
    }

    /// Skips a point and its pending dependents because another point failed.
    fn skip(&mut self, point: PointId, because: Option<PointId>) {
        let mut open = vec![point];
        while let Some(point) = open.pop() {
            self.table.set(point, PointState::Skipped(because));
            self.unblock(point);
            let Some(because) = because else { return };
            self.commands.push(Command::Report(Report::Skipped(point, because)));
            if let (Some(bracket), PointState::Failed) = (&mut self.bracket, self.table.state(because)) {
                bracket.fail(point);
            }
            open.extend(self.pending_dependents(point));
        }
    }

    /// The dependents that have not started, the last in plan order first.
    fn pending_dependents(&self, point: PointId) -> impl Iterator<Item = PointId> {
        let dependents = self.table.dependents(point).into_iter().rev();
        dependents.filter(|dependent| self.table.state(*dependent).is_pending())
    }

    /// Starts over with a skipped point if none of its inputs is failed or skipped any more.
    fn unskip(&mut self, point: PointId) {
        let mut open = vec![point];
        while let Some(point) = open.pop() {
            if matches!(self.table.state(point), PointState::Skipped(Some(_))) && self.failed_input(point).is_none() {
                self.requeue(point);
                open.extend(self.table.dependents(point));
            }
        }
    }

    /// Prunes a point, and each dependent for which all points of an input are pruned.
    pub(super) fn prune(&mut self, point: PointId, key: Option<Key>, cause: PruneCause) {
        let mut open = vec![(point, key, cause)];
        while let Some((point, key, cause)) = open.pop() {
            if let PointState::Pruned(known) = self.table.state(point) {
                let key = known.or(key);
                self.table.set(point, PointState::Pruned(key));
                continue;
            }
            self.table.set(point, PointState::Pruned(key));
            self.table.set_previous(point, None);
            self.commands.push(Command::Report(Report::Pruned(point, cause)));
            for dependent in self.table.dependents(point) {
                // It may have a result from before the comparison was repeated.
                self.withdraw(dependent);
                let is_idle = matches!(self.table.state(dependent), PointState::Waiting | PointState::Skipped(_));
                if is_idle && self.table.has_only_pruned_inputs(dependent) {
                    open.push((dependent, None, PruneCause::LeftOut(self.table.pruned_inputs(dependent))));
                } else {
                    self.unskip(dependent);
                    self.make_ready(dependent);
                }
            }
        }
    }

    /// Fails a point and skips its pending dependents.
    pub(super) fn fail(&mut self, point: PointId, failure: Failure) {
        self.failed = true;
        self.stopping |= !self.policy.keep_going;
        // Another process may still make the result of a refused point, so comparisons with it stay undecided.
        let is_refused = matches!(failure, Failure::Held(_));
        self.table.set(point, if is_refused { PointState::Refused } else { PointState::Failed });
        self.commands.push(Command::Report(Report::Failed(point, failure)));
        if let Some(bracket) = self.bracket.as_mut().filter(|_| !is_refused) {
            bracket.fail(point);
        }
        for dependent in self.pending_dependents(point).collect::<Vec<_>>().into_iter().rev() {
            if self.table.state(dependent).is_pending() {
                self.skip(dependent, Some(point));
            }
        }
        self.requeue_decided();
    }
}
