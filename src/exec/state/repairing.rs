//! Points run again if their results are lost during a run. If the new bytes differ, their dependents run again, too.

use std::collections::BTreeSet;

use super::point::{PointState, Snapshot};
use super::{Command, Failure, Report, RunState};
use crate::error::Error;
use crate::id::PointId;

/// How often a lost result is made again. More losses indicate a broken disk.
const REPAIRS: u32 = 2;

impl RunState {
    /// Handles the loss of stored results: these points run again.
    pub(super) fn results_lost(&mut self, points: Vec<PointId>) {
        if self.stopping {
            return;
        }
        for point in points {
            if !matches!(self.table.state(point), PointState::Done(_)) {
                continue;
            }
            if self.table.repairs(point) >= REPAIRS {
                self.fail(point, Failure::KeepsBeingLost);
            } else {
                self.repair(point);
            }
        }
    }

    /// Handles missing or damaged inputs of a point: they are made again, then the point starts over. `started` has the
    /// number of repairs of each input when the point started. An input that was repaired since then is not repaired
    /// again.
    pub(super) fn repair_inputs(
        &mut self,
        point: PointId,
        error: Error,
        damaged: &BTreeSet<PointId>,
        started: &Snapshot,
    ) {
        let is_unrepaired =
            |p: &&PointId| self.table.repairs(**p) <= started.repairs.get(p).copied().unwrap_or_default();
        let broken: Vec<PointId> = damaged.iter().filter(is_unrepaired).copied().collect();
        if let Some(producer) = broken.iter().find(|p| self.table.repairs(**p) >= REPAIRS) {
            return self.fail(point, Failure::KeepsLosing(*producer, error));
        }
        self.table.set(point, PointState::Waiting);
        for producer in broken {
            self.repair(producer);
        }
        self.requeue(point);
    }

    fn repair(&mut self, point: PointId) {
        self.commands.push(Command::Report(Report::RunsAgain(point)));
        self.table.count_repair(point);
        self.withdraw(point);
    }

    /// Starts over with a point that has a result. A point that is running checks its inputs when it ends.
    pub(super) fn withdraw(&mut self, point: PointId) {
        if let PointState::Done(done) = *self.table.state(point) {
            self.table.set_previous(point, Some(done.output));
            self.requeue(point);
        }
    }

    /// Handles a result whose bytes changed: the dependents start over.
    pub(super) fn withdraw_dependents(&mut self, point: PointId) {
        self.compare_again(point);
        for dependent in self.table.dependents(point) {
            self.withdraw(dependent);
        }
    }

    /// If compared trainings read the changed point, discards their values and all decisions. Pruned points are
    /// compared again, and points that were made without them start over.
    fn compare_again(&mut self, changed: PointId) {
        let Some(bracket) = &mut self.bracket else { return };
        let dependents = self.table.dependents(changed).into_iter();
        let readers: BTreeSet<PointId> = dependents.filter(|p| bracket.contains(*p)).collect();
        if readers.is_empty() {
            return;
        }
        bracket.discard(&readers);
        let members: Vec<PointId> = bracket.points().collect();
        let pruned = self.table.pruned();
        for point in &pruned {
            self.table.set(*point, PointState::Waiting);
        }
        let gathering: BTreeSet<PointId> = pruned.iter().flat_map(|p| self.table.dependents(*p)).collect();
        for point in gathering.into_iter().chain(members) {
            self.withdraw(point);
        }
        for point in pruned {
            self.requeue(point);
        }
        self.requeue_decided();
    }
}
