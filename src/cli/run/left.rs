//! What is left to run of a plan. Workers on other machines run it, and their events say what is done.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::project::Project;
use crate::event::Event;
use crate::id::PointId;
use crate::plan::Plan;
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
        let undone = plan.open().map(|decision| decision.point);
        self.undone = undone.filter(|point| !self.failed.contains(point)).collect();
    }

    /// Notes an event of a worker. Returns false for a failure that does not count, because another worker has made the
    /// result.
    pub(super) fn on_event(&mut self, event: &Event) -> bool {
        let (stage, has_failed) = match event {
            Event::StageFinished { stage, .. }
            | Event::StageCached { stage, .. }
            | Event::StagePruned { stage, .. } => (stage, false),
            Event::StageFailed { stage, .. } => (stage, true),
            _ => return true,
        };
        let Some(point) = self.names.get(stage.as_str()) else { return true };
        if has_failed {
            if self.undone.remove(point) {
                self.failed.insert(*point);
            }
            return self.failed.contains(point);
        }
        self.undone.remove(point);
        self.failed.remove(point);
        true
    }

    /// Whether a point has failed, and no other worker has made it.
    pub(super) fn has_failures(&self) -> bool {
        !self.failed.is_empty()
    }

    /// The points that can run now, or do.
    pub(super) fn ready(&self) -> Vec<PointId> {
        let (mut ready, mut missing) = (Vec::new(), self.failed.clone());
        for point in self.project.graph.order().iter().filter(|point| self.undone.contains(point)) {
            let inputs = self.project.graph.inputs(*point);
            let skips = self.project.spec.point(*point).inputs.values().any(PointInput::skips_missing);
            if !skips && inputs.iter().any(|input| missing.contains(input)) {
                missing.insert(*point);
            } else if inputs.iter().all(|input| !self.undone.contains(input) || missing.contains(input)) {
                ready.push(*point);
            }
        }
        ready
    }
}
