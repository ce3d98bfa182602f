//! A run as the report shows it.

use std::collections::BTreeMap;

use crate::status::StageStatus;
use crate::system::Usage;
use crate::value::Values;

/// A run as the report shows it.
#[derive(Clone, Debug, Default)]
pub struct RunOverlay {
    /// The pipeline's name.
    pub pipeline: String,
    /// The run's id.
    pub run: String,
    /// When it began, for people.
    pub started: String,
    /// The device.
    pub device: String,
    /// The number of threads.
    pub threads: usize,
    /// The version of vadpipe.
    pub version: String,
    /// Its workers, if it had several: how many there were and how they ended.
    pub workers: Option<String>,
    /// Its points, in plan order.
    pub stages: Vec<StageOverlay>,
    /// The points that this page gathers without, and how each ended.
    pub missing: Vec<(String, StageStatus)>,
}

/// A point of a run.
#[derive(Clone, Debug)]
pub struct StageOverlay {
    /// The point's name.
    pub name: String,
    /// The stage's kind.
    pub kind: String,
    /// Its parameters.
    pub params: Values,
    /// How it ended.
    pub status: StageStatus,
    /// How long it took, in this run or, if it was cached, in the run that made it.
    pub seconds: Option<f64>,
    /// What it used of the machine, if that is known.
    pub usage: Option<Usage>,
    /// The names of the points it reads.
    pub inputs: Vec<String>,
    /// Its metrics.
    pub metrics: BTreeMap<String, f64>,
    /// Why it was pruned.
    pub pruned: Option<String>,
    /// What `verify` found about it, and what was checked.
    pub verdict: Option<(String, String)>,
}

/// The word for the status of a point.
pub(super) fn word(status: StageStatus) -> &'static str {
    match status {
        StageStatus::Executed => "ran",
        other => other.word(),
    }
}
