//! The points that failed when they last ran.

use std::collections::BTreeMap;

use crate::plan::{Cause, Decision, some_of};
use crate::status::StageStatus;
use crate::store::RunRecord;

/// The points of a pipeline that failed when they last ran.
#[derive(Default)]
pub(super) struct FailedPoints(BTreeMap<String, String>);

impl FailedPoints {
    /// The failed points of this pipeline. `runs` has the newest run first.
    pub(super) fn of<'a>(pipeline: &str, runs: impl IntoIterator<Item = &'a RunRecord>) -> Self {
        let mut last_runs: BTreeMap<String, Option<String>> = BTreeMap::new();
        for run in runs.into_iter().filter(|run| run.pipeline == pipeline) {
            for stage in &run.stages {
                let failed = match stage.outcome {
                    StageStatus::Failed => Some(run.id.clone()),
                    StageStatus::Executed | StageStatus::Cached => None,
                    _ => continue,
                };
                last_runs.entry(stage.name.clone()).or_insert(failed);
            }
        }
        Self(last_runs.into_iter().filter_map(|(name, run)| Some((name, run?))).collect())
    }

    /// The run in which a point failed, if it failed when it last ran.
    pub(super) fn run(&self, point: &str) -> Option<&str> {
        self.0.get(point).map(String::as_str)
    }

    /// Why a point will run: the causes that make sense beside what has run already, in words. A point that failed or a
    /// training that was interrupted has no result yet, but "never run" would be wrong.
    pub(super) fn causes(&self, point: &str, decision: &Decision) -> Vec<String> {
        let failed_in = self.run(point);
        let has_run = failed_in.is_some() || decision.epochs.is_some_and(|epochs| epochs.cached > 0);
        let causes = decision.reason.iter().flat_map(|reason| &reason.causes);
        let causes = causes.filter(|cause| !(has_run && **cause == Cause::NeverRun)).map(|cause| match cause {
            Cause::Missing { stages } => {
                let failed = |name: &String| if self.run(name).is_some() { " (failed)" } else { "" };
                let stages: Vec<String> = stages.iter().map(|name| format!("{name}{}", failed(name))).collect();
                format!("cached without {}", some_of(&stages))
            }
            other => other.to_string(),
        });
        causes.chain(failed_in.map(|run| format!("failed in run {run}"))).collect()
    }
}
