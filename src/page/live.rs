//! The state of a run's points, as the events of the run tell it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde::Deserialize;

use crate::event::Event;
use crate::key::{Key, Position};
use crate::plan::Cause;
use crate::status::StageStatus;
use crate::store::StageRun;

/// A point in the newest run that knows it.
#[derive(Clone, Debug)]
pub(super) struct PointRun {
    /// The id of the run.
    pub(super) run: Arc<str>,
    pub(super) status: StageStatus,
    pub(super) kind: String,
    /// Its key, once known.
    pub(super) key: Option<Key>,
    /// The process that it waits for.
    pub(super) waits_for: Option<String>,
    /// Why it runs, failed, was skipped or was pruned.
    pub(super) why: Option<String>,
    /// The worker that runs it.
    pub(super) worker: Option<String>,
    /// Finished epochs and all epochs, of a training.
    pub(super) epochs: Option<(u64, u64)>,
    /// The epoch at which the run resumed the training.
    pub(super) resumed_at: Option<u64>,
    /// The state from which it was resumed last, and the one that it saved last.
    pub(super) states: [Option<(Key, Position)>; 2],
    /// The rungs that it reached.
    pub(super) rungs: Vec<u64>,
    /// The values of the last epoch.
    pub(super) figures: BTreeMap<String, f64>,
    /// The values of all epochs, by name.
    pub(super) curves: BTreeMap<String, LiveCurve>,
    /// Whether its result may be in a shared store only.
    pub(super) is_remote: bool,
    /// When this program saw it start, in Unix milliseconds. None if it started before.
    pub(super) seen_at: Option<i64>,
    /// When this program began to measure its epochs, in Unix milliseconds, and how many were finished then.
    pub(super) measured_from: Option<(i64, u64)>,
    /// When this program saw the last epoch end, in Unix milliseconds.
    pub(super) epoch_at: Option<i64>,
    pub(super) seconds: Option<f64>,
}

/// The values of a metric in the epochs of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct LiveCurve {
    /// The first epoch.
    pub(super) first: u64,
    /// A value for each epoch from there on. NaN where there is none.
    pub(super) values: Vec<f32>,
    /// The values of the epochs before, once they have been read. They stay: a later look may find no state to read.
    pub(super) earlier: Arc<OnceLock<Vec<f32>>>,
}

impl LiveCurve {
    fn set(&mut self, epoch: u64, value: f64) {
        /// More epochs without a value than any run skips.
        const LONGEST_GAP: usize = 1 << 20;
        /// More epochs than any training has.
        const LAST: u64 = 1 << 24;
        if epoch > LAST {
            return;
        }
        if self.values.is_empty() {
            self.first = epoch;
        }
        let Some(at) = epoch.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()) else { return };
        if at >= self.values.len() + LONGEST_GAP {
            return;
        }
        if at >= self.values.len() {
            self.values.resize(at + 1, f32::NAN);
        }
        self.values[at] = value as f32;
    }
}

/// An event of an epoch, of which there are most.
#[derive(Deserialize)]
pub(super) struct EpochLine {
    pub(super) stage: String,
    epoch: u64,
    epochs: u64,
    figures: BTreeMap<String, f64>,
}

/// How the line of such an event begins.
const EPOCH: &str = "{\"event\":\"epoch\"";

impl EpochLine {
    /// The event in this line, if it is one of an epoch.
    pub(super) fn parse(line: &str) -> Option<Self> {
        line.starts_with(EPOCH).then(|| serde_json::from_str(line).ok())?
    }
}

impl PointRun {
    /// A point of a run, as the record of the run tells it.
    pub(super) fn new(run: &Arc<str>, stage: &StageRun) -> Self {
        Self {
            run: Arc::clone(run),
            status: stage.outcome,
            kind: stage.kind.clone(),
            key: stage.key,
            waits_for: None,
            why: None,
            worker: stage.worker.clone(),
            epochs: None,
            resumed_at: stage.resumed_at,
            states: [None; 2],
            rungs: Vec::new(),
            figures: BTreeMap::new(),
            curves: BTreeMap::new(),
            is_remote: false,
            seen_at: None,
            measured_from: None,
            epoch_at: None,
            seconds: (stage.seconds > 0.0).then_some(stage.seconds),
        }
    }

    /// Adds an epoch that ended at `now`, in Unix milliseconds, or at an unknown time. Returns whether its values have
    /// other names than before.
    pub(super) fn add_epoch(&mut self, line: EpochLine, now: Option<i64>) -> bool {
        let has_other_names = !self.figures.keys().eq(line.figures.keys());
        self.epochs = Some((line.epoch, line.epochs));
        self.epoch_at = now;
        for (name, value) in &line.figures {
            self.curves.entry(name.clone()).or_default().set(line.epoch, *value);
        }
        self.figures = line.figures;
        has_other_names
    }

    /// Begins to measure the epochs of a training that runs already.
    pub(super) fn measure(&mut self, now: i64) {
        if self.status == StageStatus::Running && self.measured_from.is_none() {
            self.measured_from = Some((now, self.epochs.map_or(0, |(done, _)| done)));
        }
    }

    /// The seconds that a running training still takes, from the epochs that were seen.
    pub(super) fn seconds_left(&self, now: i64) -> Option<f64> {
        let ((from, before), (done, total)) = (self.measured_from?, self.epochs?);
        let epoch_at = self.epoch_at?;
        let trained = done.checked_sub(before).filter(|trained| *trained > 0)?;
        let seconds = |from: i64, to: i64| to.saturating_sub(from).max(0) as f64 / 1000.0;
        let each = seconds(from, epoch_at) / trained as f64;
        // The epoch that runs now has begun when the last one ended.
        let left = each * total.saturating_sub(done) as f64 - seconds(epoch_at, now);
        Some(left.max(0.0))
    }

    /// Applies an event that is about this point. `now` is the time of the event in Unix milliseconds, if it is known.
    pub(super) fn apply(&mut self, event: Event, now: Option<i64>) {
        if let Some((_, status)) = event.stage_status() {
            self.status = status;
            self.waits_for = None;
        }
        match event {
            Event::StageStarted { kind, key, reason, worker, .. } => {
                (self.kind, self.key, self.worker) = (kind, Some(key), worker);
                self.why = reason.map(|reason| reason.text);
                self.seen_at = now;
                (self.measured_from, self.epoch_at) = (now.map(|now| (now, 0)), None);
            }
            Event::StageWaiting { holder, .. } => self.waits_for = Some(holder),
            Event::StageCached { key, .. } => self.key = Some(key),
            Event::StateSaved { epoch, step, state, .. } => {
                self.states[1] = state.map(|key| (key, Position { epoch, step }));
            }
            Event::Resumed { epoch, step, epochs, state, .. } => {
                self.states = [state.map(|key| (key, Position { epoch, step })), None];
                self.epochs = Some((epoch, epochs));
                (self.measured_from, self.epoch_at) = (now.map(|now| (now, epoch)), None);
                // After a rung, the run goes on with what it trained itself.
                if !self.rungs.contains(&epoch) {
                    self.resumed_at = Some(epoch);
                }
            }
            // Events are read again if the record of a run that is over changes.
            Event::RungReached { epoch, .. } if !self.rungs.contains(&epoch) => self.rungs.push(epoch),
            Event::StageFinished { key, seconds, metrics, .. } => {
                (self.key, self.seconds) = (Some(key), Some(seconds));
                self.figures = metrics;
            }
            Event::StageFailed { error, .. } => self.why = Some(error),
            Event::StageSkipped { because, .. } => self.why = Some(format!("because of {because}")),
            Event::StagePruned { reason, .. } => {
                if let Some(Cause::Pruned { epoch, .. }) = reason.causes.first() {
                    let total = self.epochs.map_or(*epoch, |(_, total)| total);
                    self.epochs = Some((*epoch, total));
                }
                self.why = Some(reason.text);
            }
            _ => {}
        }
    }

    /// Whether it has a result.
    pub(super) fn has_ended_well(&self) -> bool {
        matches!(self.status, StageStatus::Cached | StageStatus::Executed)
    }

    /// Whether the point still has to run, or runs.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.status, StageStatus::Pending | StageStatus::Running)
    }
}

/// The point that an event is about, if it is about one.
pub(super) fn point_of(event: &Event) -> Option<&str> {
    Some(match event {
        Event::StageWaiting { stage, .. }
        | Event::Resumed { stage, .. }
        | Event::StateSaved { stage, .. }
        | Event::RungReached { stage, .. }
        | Event::Epoch { stage, .. } => stage,
        other => other.stage_status()?.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_that_no_training_reaches_is_ignored() {
        let mut curve = LiveCurve::default();
        curve.set(u64::MAX, 1.0);
        curve.set(3, 2.0);
        curve.set(1 << 22, 2.0);
        assert_eq!((curve.first, curve.values), (3, vec![2.0]));
    }
}
