//! Estimates how long a plan takes, from the run records of this machine.
//!
//! - A training: `epochs left × samples × rate`. The rate is that of the newest training with the same workload: see
//!   [`crate::spec::Workload`].
//! - Any other stage: the time that this point took when it last ran here. If it never did, the mean of the stage's
//!   points.

use std::collections::BTreeMap;

use super::project::Project;
use super::ui::{about, count};
use crate::id::{PointId, PointName};
use crate::key::Digest;
use crate::plan::{Decision, Plan, State};
use crate::status::StageStatus;
use crate::store::{RunRecord, host_name};
use crate::system::cores;

/// Estimated times in seconds.
pub(super) struct Estimates {
    /// By point; points without an estimate are missing.
    points: BTreeMap<PointId, f64>,
    /// Points that will run and have no estimate.
    unknown: usize,
    /// The time until all points have run, some of them at the same time. Points that may run are not included.
    total: f64,
}

impl Estimates {
    /// Estimates the times of the points that a plan would run, from these runs, the newest first.
    pub(super) fn of(project: &Project, plan: &Plan, runs: &[RunRecord]) -> Self {
        let is_open = |d: &&Decision| matches!(d.state, State::Miss | State::Maybe) && d.output.is_none();
        let open: Vec<&Decision> = plan.decisions.iter().filter(is_open).collect();
        let mut estimates = Self { points: BTreeMap::new(), unknown: 0, total: 0.0 };
        if open.is_empty() {
            return estimates;
        }
        let history = History::read(project, runs);
        let cores = cores();
        let (mut alone, mut together, mut longest) = (0.0, 0.0, 0.0f64);
        for decision in open {
            let will_run = decision.state == State::Miss;
            let Some(seconds) = history.estimate(project, decision) else {
                estimates.unknown += usize::from(will_run);
                continue;
            };
            estimates.points.insert(decision.point, seconds);
            let stage = &project.spec.point(decision.point).parsed.stage;
            // A training that does not use all cores runs beside others: see `exec/resources.rs`.
            let fills_the_cores = stage.parallel() && stage.threads(cores) >= cores;
            if will_run && fills_the_cores {
                alone += seconds;
            } else if will_run {
                together += seconds;
                longest = longest.max(seconds);
            }
        }
        estimates.total = alone + longest.max(together / cores as f64);
        estimates
    }

    /// The estimated seconds of a point, if any.
    pub(super) fn point(&self, point: PointId) -> Option<f64> {
        self.points.get(&point).copied()
    }

    /// The estimated seconds of the plan, if every point that will run has an estimate.
    pub(super) fn seconds(&self) -> Option<f64> {
        (self.unknown == 0).then_some(self.total)
    }

    /// The estimate as text; `None` if there is none, or nothing will run.
    pub(super) fn words(&self) -> Option<String> {
        let unknown = match self.unknown {
            0 => String::new(),
            n => format!(", plus {} without an estimate", count(n, "stage")),
        };
        (self.total > 0.0).then(|| format!("{}{unknown}", about(self.total)))
    }
}

/// The times of earlier runs on this machine.
#[derive(Default)]
struct History {
    /// Seconds per sample, by the digest of the workload.
    rates: BTreeMap<Digest, f64>,
    /// Seconds of this pipeline's points.
    points: BTreeMap<String, f64>,
    /// The means of the points of each stage.
    stages: BTreeMap<String, f64>,
}

impl History {
    fn read(project: &Project, runs: &[RunRecord]) -> Self {
        let here = host_name();
        let mut history = Self::default();
        // The newest run comes first, so the first time of a point is the newest.
        for run in runs.iter().filter(|run| run.holder.host == here) {
            for stage in run.stages.iter().filter(|stage| stage.outcome == StageStatus::Executed) {
                if let Some(rate) = stage.rate.filter(|_| run.class == project.compute.numerics) {
                    history.rates.entry(rate.workload).or_insert(rate.seconds_per_sample);
                }
                if run.pipeline == project.spec.pipeline.name {
                    history.points.entry(stage.name.clone()).or_insert(stage.seconds);
                }
            }
        }
        let mut of_stages: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, seconds) in &history.points {
            of_stages.entry(PointName::parse(name).stage).or_default().push(*seconds);
        }
        let mean = |(name, all): (&str, Vec<f64>)| (name.to_owned(), all.iter().sum::<f64>() / all.len() as f64);
        history.stages = of_stages.into_iter().map(mean).collect();
        history
    }

    fn estimate(&self, project: &Project, decision: &Decision) -> Option<f64> {
        let point = project.spec.point(decision.point);
        let Some(epochs) = point.parsed.stage.epochs() else {
            return self.points.get(&point.name).or_else(|| self.stages.get(&point.stage)).copied();
        };
        let mut left = epochs.total() - decision.epochs.map_or(0, |e| e.cached);
        let mut seconds = 0.0;
        for segment in epochs.segments.iter().rev() {
            let here = left.min(segment.epochs);
            if here > 0 {
                let work = project.spec.workload(decision.point, segment.params.get("batch"));
                seconds += self.rates.get(&work.digest)? * here as f64 * work.samples;
            }
            left -= here;
        }
        Some(seconds)
    }
}
