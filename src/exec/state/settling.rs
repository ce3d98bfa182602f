//! The consequences of the end of a point: its dependents become ready, or are skipped or pruned.
//!
//! A point that failed or was skipped is *missing*. Points that need it are skipped. Lists with `missing = "skip"` do
//! without it: they have the members that are not missing, as if the others were not in the pipeline.

use super::point::{Done, PointState};
use super::{Command, Failure, PruneCause, Report, RunState};
use crate::id::PointId;
use crate::key::{Key, StoredResult};

impl RunState {
    /// Handles a result that was in the cache.
    pub(super) fn settle_cached(&mut self, point: PointId, stored: StoredResult) {
        self.report_missing(point);
        self.commands.push(Command::Report(Report::Cached(point, stored.key)));
        self.settle(point, stored, false);
    }

    /// Reports the inputs that a point does without, if any.
    pub(super) fn report_missing(&mut self, point: PointId) {
        let missing = self.table.missing_inputs(point);
        if !missing.is_empty() {
            self.commands.push(Command::Report(Report::Without(point, missing)));
        }
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

    /// Makes a point ready if it waits and all its inputs are resolved. Prunes or skips it if one of them is empty.
    pub(super) fn make_ready(&mut self, point: PointId) {
        if *self.table.state(point) != PointState::Waiting || !self.table.has_inputs(point) {
            return;
        }
        if self.table.has_only_pruned_inputs(point) {
            let cause = PruneCause::LeftOut(self.table.pruned_inputs(point));
            self.prune(point, None, cause);
        } else if let Some(because) = self.table.emptied_by(point) {
            self.skip(point, Some(because));
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
        let required = |input: &PointId| match self.table.state(*input) {
            PointState::Skipped(None) => Some(None),
            _ if self.table.skips_missing(point, *input) => None,
            PointState::Failed | PointState::Refused => Some(Some(*input)),
            PointState::Skipped(because) => Some(*because),
            _ => None,
        };
        let failed = self.table.inputs(point).iter().find_map(required);
        failed.or_else(|| self.table.emptied_by(point).map(Some))
    }

    /// Skips a point and the pending points that need it because another point failed.
    fn skip(&mut self, point: PointId, because: Option<PointId>) {
        self.mark_skipped(point, because);
        if let Some(because) = because {
            self.skip_dependents(point, because);
        }
    }

    fn mark_skipped(&mut self, point: PointId, because: Option<PointId>) {
        self.table.set(point, PointState::Skipped(because));
        self.unblock(point);
        let Some(because) = because else { return };
        self.commands.push(Command::Report(Report::Skipped(point, because)));
        if let (Some(bracket), PointState::Failed) = (&mut self.bracket, self.table.state(because)) {
            bracket.fail(point);
        }
    }

    /// Skips the pending points that need a point without a result, and the points that need these.
    fn skip_dependents(&mut self, point: PointId, because: PointId) {
        let mut open = self.go_on_without(point, because);
        while let Some((point, because)) = open.pop() {
            if self.table.state(point).is_pending() {
                self.mark_skipped(point, Some(because));
                open.extend(self.go_on_without(point, because));
            }
        }
    }

    /// Makes the dependents ready that waited for a point and do without it. Returns the pending dependents that can't
    /// run without it, the last in plan order first, and the failed point behind each.
    fn go_on_without(&mut self, point: PointId, because: PointId) -> Vec<(PointId, PointId)> {
        let mut stopped = Vec::new();
        for dependent in self.table.dependents(point).into_iter().rev() {
            if !self.table.state(dependent).is_pending() {
                continue;
            }
            let is_last = self.table.has_inputs(dependent) && !self.table.has_only_pruned_inputs(dependent);
            if !self.table.skips_missing(dependent, point) {
                stopped.push((dependent, because));
            } else if let Some(because) = is_last.then(|| self.table.emptied_by(dependent)).flatten() {
                stopped.push((dependent, because));
            } else {
                self.make_ready(dependent);
            }
        }
        stopped
    }

    /// Starts over with a skipped point if none of its inputs is failed or skipped any more, and with points that did
    /// without it.
    fn unskip(&mut self, point: PointId) {
        let mut open = vec![point];
        while let Some(point) = open.pop() {
            if matches!(self.table.state(point), PointState::Skipped(Some(_))) && self.failed_input(point).is_none() {
                self.requeue(point);
                for dependent in self.table.dependents(point) {
                    if self.table.skips_missing(dependent, point) {
                        self.withdraw(dependent);
                    }
                    open.push(dependent);
                }
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

    /// Fails a point and skips the pending points that need it.
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
        self.skip_dependents(point, point);
        self.requeue_decided();
    }
}
