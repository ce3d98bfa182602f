//! What is left of a plan that workers on other machines run, as far as their events say.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::project::Project;
use crate::event::Event;
use crate::id::PointId;
use crate::plan::{Plan, State};
use crate::spec::PointInput;

/// The points that are not done.
pub(super) struct Left<'a> {
    project: &'a Project,
    names: BTreeMap<&'a str, PointId>,
    undone: BTreeSet<PointId>,
    failed: BTreeSet<PointId>,
}

impl<'a> Left<'a> {
    /// Those that a plan would run.
    pub(super) fn new(project: &'a Project, plan: &Plan) -> Self {
        let names = plan.decisions.iter().map(|decision| (project.name(decision.point), decision.point)).collect();
        let mut left = Self { project, names, undone: BTreeSet::new(), failed: BTreeSet::new() };
        left.plan_again(plan);
        left
    }

    /// Those that a newer plan would run.
    pub(super) fn plan_again(&mut self, plan: &Plan) {
        let undone = plan.decisions.iter().filter(|d| matches!(d.state, State::Miss | State::Maybe)).map(|d| d.point);
        self.undone = undone.filter(|point| !self.failed.contains(point)).collect();
    }

    /// Notes an event of a worker.
    pub(super) fn hear(&mut self, event: &Event) {
        let (stage, has_failed) = match event {
            Event::StageFinished { stage, .. }
            | Event::StageCached { stage, .. }
            | Event::StagePruned { stage, .. } => (stage, false),
            Event::StageFailed { stage, .. } => (stage, true),
            _ => return,
        };
        let Some(point) = self.names.get(stage.as_str()) else { return };
        if has_failed {
            // Another worker may have made it before.
            if self.undone.remove(point) {
                self.failed.insert(*point);
            }
        } else {
            self.undone.remove(point);
            self.failed.remove(point);
        }
    }

    /// The points that can run now, or do.
    pub(super) fn ready(&self) -> Vec<PointId> {
        self.undone.iter().copied().filter(|point| self.is_ready(*point)).collect()
    }

    fn is_ready(&self, point: PointId) -> bool {
        let inputs = self.project.graph.inputs(point);
        let skips = || self.project.spec.point(point).inputs.values().any(PointInput::skips_missing);
        let is_there = |input: &PointId| !self.undone.contains(input) && (!self.failed.contains(input) || skips());
        inputs.iter().all(is_there)
    }
}
