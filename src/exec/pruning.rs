//! Pruning while a run goes on: points of a sweep are trained to a rung, compared, and stopped or trained on.
//!
//! What is decided, and that it does not depend on what finishes first, is [`crate::plan::Bracket`]'s affair; here it is asked. A point
//! whose figure at the next rung is not known is trained to there: a job that ends with a state, not with a result. A point
//! whose figure is known but not all of those before it stays ready and is asked again when something has ended.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::event::Event;
use crate::exec::outcome::Fate;
use crate::exec::schedule::{Next, Scheduler};
use crate::id::PointId;
use crate::plan::{Cause, Decision, Reason, RungStatus, State};

/// What is to be done about a point.
pub(super) enum Climb {
    /// Train it: to this rung, or to its end.
    Train(Option<u64>),
    /// Something else.
    Not(Next),
}

impl Scheduler<'_> {
    /// How far a point is to be trained now. Every point that is not compared with others is run as it is.
    pub(super) fn climb(&mut self, point: PointId, decision: &Decision) -> Result<Climb> {
        let Some(ladder) = self.ladder.as_mut().filter(|ladder| ladder.contains(point)) else {
            return Ok(Climb::Train(None));
        };
        let mut standing = ladder.status(point);
        if let (RungStatus::Below { .. }, Some(components)) = (standing, &decision.components) {
            ladder.record(point, &self.planner.curve(components, &ladder.curve)?);
            standing = ladder.status(point);
        }
        Ok(match standing {
            RungStatus::Promoted => Climb::Train(None),
            RungStatus::Below { epoch } => Climb::Train(Some(epoch)),
            RungStatus::Undecided { .. } => Climb::Not(Next::Busy),
            RungStatus::Pruned(verdict) => {
                let cause = ladder.cause(&verdict);
                self.pruned.extend(decision.key.map(|key| (point, key)));
                self.prune(point, cause);
                Climb::Not(Next::Settled)
            }
        })
    }

    /// Takes over what the plan knows to be pruned.
    pub(super) fn already_pruned(&mut self, decision: &Decision) {
        let Decision { point, state: State::Pruned, key, reason: Some(reason), .. } = decision else { return };
        self.pruned.extend(key.map(|key| (*point, key)));
        // It may be known already from what it hangs on.
        if let (Some(Fate::Waiting), Some(cause)) = (self.fates.get(point), reason.causes.first()) {
            self.prune(*point, cause.clone());
        }
    }

    /// A point has no result, and neither has what hangs on it and others like it only.
    pub(super) fn prune(&mut self, point: PointId, cause: Cause) {
        self.fates.insert(point, Fate::Pruned);
        self.ready.remove(&self.position[&point]);
        self.known.pruned.insert(point);
        self.before.remove(&point);
        let (stage, reason) = (self.name(point), Reason::new(vec![cause]));
        self.shared.listener.event(&Event::StagePruned { stage, reason });
        for below in self.planner.graph.dependents(point) {
            // It may have had a result before points were compared anew.
            self.withdraw_if_made(below);
            if self.fates.get(&below) != Some(&Fate::Waiting) {
                continue;
            }
            if self.known.has_only_pruned_inputs(self.planner.spec.point(below)) {
                let cause = self.planner.cause_of_leaving_out(below, &self.known);
                self.prune(below, cause);
            } else {
                self.make_ready(below);
            }
        }
    }

    /// A training's state at a rung is in the store: the point is asked about again.
    pub(super) fn at_rung(&mut self, point: PointId, epoch: u64, seconds: f64) {
        self.shared.listener.event(&Event::RungReached { stage: self.name(point), epoch, seconds });
        self.fates.insert(point, Fate::Waiting);
        self.make_ready(point);
    }

    /// A point came out with other bytes than before. Where members of the comparison read it, their figures count no more,
    /// and neither does what was decided with them: who was pruned is asked about again, and so is what was made without.
    /// Members further below are told of it by what stands between, if that changes, too.
    pub(super) fn compare_anew(&mut self, changed: PointId) {
        let Some(ladder) = &mut self.ladder else { return };
        let readers = self.planner.graph.dependents(changed).into_iter().filter(|p| ladder.contains(*p)).collect();
        if BTreeSet::is_empty(&readers) {
            return;
        }
        ladder.discard(&readers);
        let members: Vec<PointId> = ladder.points().collect();
        self.pruned.clear();
        let out = std::mem::take(&mut self.known.pruned);
        self.fates.extend(out.iter().map(|point| (*point, Fate::Waiting)));
        let gathered: BTreeSet<PointId> = out.iter().flat_map(|point| self.planner.graph.dependents(*point)).collect();
        // Those that came to their end are judged anew, too, whatever they read.
        for below in gathered.into_iter().chain(members) {
            self.withdraw_if_made(below);
        }
        self.drop_unready();
        for point in out {
            self.make_ready(point);
        }
    }
}
