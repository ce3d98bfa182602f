//! Results that are lost or change while a run goes on: they are made again, and then what reads them.

use std::collections::BTreeSet;

use super::point::{PointState, Snapshot};
use super::{Command, Failure, Report, RunState};
use crate::error::Error;
use crate::id::PointId;

/// A result that is lost more often than this points to a broken disk.
const REPAIRS: u32 = 2;

impl RunState {
    /// The stored results of some points are gone: they run again.
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

    /// Inputs of a point are missing or damaged: they are made again, then the point starts over. `started` tells how
    /// often each had been repaired when the point read it, since another reader may have had it repaired meanwhile.
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

    /// Makes a point with a result start over. One that is on its way checks its inputs when it ends.
    pub(super) fn withdraw(&mut self, point: PointId) {
        if let PointState::Done(done) = *self.table.state(point) {
            self.table.set_previous(point, Some(done.output));
            self.requeue(point);
        }
    }

    /// A point came out with other bytes than before: what was made of the old ones starts over.
    pub(super) fn withdraw_dependents(&mut self, point: PointId) {
        self.compare_again(point);
        for dependent in self.table.dependents(point) {
            self.withdraw(dependent);
        }
    }

    /// Trainings that are compared read a point that came out with other bytes. Their figures no longer count, and
    /// neither does what was decided by them: pruned points are compared again, and what was made without them starts
    /// over.
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
            self.make_ready(point);
        }
        self.requeue_decided();
    }
}
