//! The events of a run. Run records, `run --json` and the terminal all use them.
//!
//! The runner sends events; the terminal, the NDJSON file and the report receive them. Each line of `run --json` is one
//! event. New fields may be added. A change of meaning raises [`VERSION`].

mod workers;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::plan::Reason;
use crate::status::{RunStatus, StageStatus};

pub use self::workers::WorkerCounts;

/// The version of the events. The first event of a run contains it.
pub const VERSION: u32 = 1;

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum Event {
    /// The first event of a run.
    RunStarted {
        /// [`VERSION`].
        version: u32,
        /// The run's id.
        run: String,
        /// Name of the pipeline.
        pipeline: String,
        /// The number of points in the plan.
        stages: usize,
        /// The device: "cpu", "cuda:0".
        device: String,
        /// The numerics class of the device.
        numerics: String,
        /// Worker threads.
        threads: usize,
    },
    /// Results and states were copied from the shared store.
    Pulled {
        /// Results that the cache lacked.
        results: usize,
        /// States of trainings that the cache lacked.
        states: usize,
        /// Bytes of their tensors and files.
        bytes: u64,
    },
    /// The progress of a transfer from the shared store, before the first event of the run. Not written to its file.
    Transferring {
        /// Bytes that were copied.
        done: u64,
        /// Bytes to copy, as far as known.
        total: u64,
    },
    /// A stage's result was in the cache.
    StageCached {
        /// The point.
        stage: String,
        /// Its key.
        key: Key,
    },
    /// Another process is computing the same key, and this run waits for it.
    StageWaiting {
        /// The point.
        stage: String,
        /// The process that computes it.
        holder: String,
    },
    /// This worker does not have what the stage needs, and leaves it to another one.
    StageLeft {
        /// The point.
        stage: String,
        /// What the worker lacks: "8 GB of memory".
        lack: String,
    },
    /// A stage begins.
    StageStarted {
        /// The point.
        stage: String,
        /// Its kind.
        kind: String,
        /// Its key.
        key: Key,
        /// Why it runs.
        reason: Option<Reason>,
        /// The GPUs that its program gets.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gpus: Vec<String>,
        /// The worker that runs it, if the run has several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker: Option<String>,
    },
    /// A training continues from a stored state.
    Resumed {
        /// The point.
        stage: String,
        /// Finished epochs.
        epoch: u64,
        /// Steps in the epoch after them.
        step: u64,
        /// Total epochs.
        epochs: u64,
        /// The epoch at which this run resumed the training; equal to `epoch`.
        resumed_at: u64,
        /// The key of the state. None in events of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<Key>,
    },
    /// A program finds what it saved in its checkpoint before.
    CheckpointFound {
        /// The point.
        stage: String,
        /// The run in which it was used last.
        run: String,
    },
    /// The progress of a stage. Sent at a limited rate, and not written to the run's file.
    Progress {
        /// The point.
        stage: String,
        /// Units done.
        done: u64,
        /// Total units.
        total: u64,
        /// The name of the unit.
        unit: String,
        /// Current values, such as the loss.
        figures: BTreeMap<String, f64>,
        /// Samples per second.
        rate: Option<f64>,
        /// The epoch at which this run resumed the training, if it did.
        #[serde(skip_serializing_if = "Option::is_none")]
        resumed_at: Option<u64>,
    },
    /// A training finished an epoch.
    Epoch {
        /// The point.
        stage: String,
        /// Finished epochs, from 1.
        epoch: u64,
        /// Total epochs.
        epochs: u64,
        /// The epoch's values, such as the loss.
        figures: BTreeMap<String, f64>,
        /// The epoch at which this run resumed the training, if it did.
        #[serde(skip_serializing_if = "Option::is_none")]
        resumed_at: Option<u64>,
    },
    /// A training's state was stored.
    StateSaved {
        /// The point.
        stage: String,
        /// Finished epochs.
        epoch: u64,
        /// Steps in the epoch after them.
        step: u64,
        /// Seconds that storing it took.
        seconds: f64,
        /// The epoch at which this run resumed the training, if it did.
        #[serde(skip_serializing_if = "Option::is_none")]
        resumed_at: Option<u64>,
        /// The key of the state. None in events of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<Key>,
    },
    /// A training reached a rung of `[matrix.prune]`, and its state was stored. Next it is compared with other points.
    RungReached {
        /// The point.
        stage: String,
        /// Finished epochs.
        epoch: u64,
        /// Seconds it ran.
        seconds: f64,
    },
    /// A point has no result because it was pruned or depends on pruned points.
    StagePruned {
        /// The point.
        stage: String,
        /// Why it was pruned.
        reason: Reason,
    },
    /// A stage's result was stored.
    StageFinished {
        /// The point.
        stage: String,
        /// Its key.
        key: Key,
        /// The digest of the result.
        digest: Key,
        /// Seconds it ran.
        seconds: f64,
        /// Its metrics.
        #[serde(with = "crate::artifact::metrics")]
        metrics: BTreeMap<String, f64>,
    },
    /// A stage stopped because the user interrupted the run. A training has saved its state.
    StageInterrupted {
        /// The point.
        stage: String,
        /// Whether its program has a checkpoint, in which it may have saved its work.
        #[serde(default)]
        has_checkpoint: bool,
    },
    /// A stage failed.
    StageFailed {
        /// The point.
        stage: String,
        /// The error, with its causes.
        error: String,
        /// What the user can do about it.
        hint: Option<String>,
        /// Where its log is.
        log: String,
    },
    /// A stage did not run because of another point.
    StageSkipped {
        /// The point.
        stage: String,
        /// The point that prevented it.
        because: String,
    },
    /// A stage gathers a list without these points, which failed or were skipped (`missing = "skip"`). Sent before
    /// `stage-started` or `stage-cached`.
    InputsMissing {
        /// The point.
        stage: String,
        /// The points that it does without.
        missing: Vec<String>,
    },
    /// A worker of the run began.
    WorkerStarted {
        /// Its name.
        worker: String,
        /// The machine on which it runs.
        host: String,
        /// What it has, in the words of the engine that started it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class: Option<String>,
    },
    /// A worker of the run ended.
    WorkerEnded {
        /// Its name.
        worker: String,
        /// Why: "left in time", or if it was lost "its job was preempted".
        why: String,
        /// The kind of this reason.
        #[serde(default)]
        cause: WorkerCause,
        /// Whether it ended without a word, so that others take its points over.
        is_lost: bool,
        /// The exit code of its process, unless it was lost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<u8>,
        /// Seconds that its job waited in the queue of the cluster, if it had to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        queued_seconds: Option<f64>,
        /// Seconds that it ran, if it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
    },
    /// How many workers of the run there are. Sent when it changes.
    Workers {
        /// Those that wait in the queue of the cluster.
        pending: usize,
        /// Those that run.
        running: usize,
        /// Why they wait, in the cluster's words: "Resources".
        reason: Option<String>,
        /// Those that were submitted so far in place of workers that ended although work was left for them.
        #[serde(default)]
        replaced: usize,
    },
    /// A report was written.
    ReportWritten {
        /// The point.
        stage: String,
        /// The file.
        path: String,
    },
    /// A message to the user, for example about repaired damage or a database that was set aside.
    Warning {
        /// The message.
        message: String,
    },
    /// The last event of a run.
    RunFinished {
        /// How it ended.
        status: RunStatus,
        /// The run's id.
        run: String,
        /// Points that ran, in plan order.
        executed: Vec<String>,
        /// Points whose result was in the cache.
        cached: Vec<String>,
        /// Points that failed.
        failed: Vec<String>,
        /// Points that did not run because of other points or an interruption.
        skipped: Vec<String>,
        /// Points that have no result because they were pruned or depend on pruned points.
        #[serde(default)]
        pruned: Vec<String>,
        /// Epochs of the trainings among the points that have a result: those that this run trained.
        #[serde(default)]
        epochs_trained: u64,
        /// The others, which were in the cache.
        #[serde(default)]
        epochs_cached: u64,
        /// Seconds since the first event.
        seconds: f64,
    },
}

/// Why a worker of a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerCause {
    /// Nothing was left for it.
    Done,
    /// The time of its job was over.
    TimeLimit,
    /// It was asked to leave, and it is not known why.
    Stopped,
    /// Another job needed its place.
    Preempted,
    /// Memory ran out.
    OutOfMemory,
    /// Its node failed.
    NodeFailed,
    /// The user cancelled its job.
    Cancelled,
    /// A signal killed it.
    Killed,
    /// It ended with an error.
    Failed,
    /// Nobody knows.
    #[default]
    Unknown,
}

impl WorkerCause {
    /// For the user, after a number of workers.
    pub fn words(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::TimeLimit => "at their time limits",
            Self::Stopped => "stopped",
            Self::Preempted => "preempted",
            Self::OutOfMemory => "out of memory",
            Self::NodeFailed => "lost with their nodes",
            Self::Cancelled => "cancelled",
            Self::Killed => "killed",
            Self::Failed => "failed",
            Self::Unknown => "lost",
        }
    }
}

impl Event {
    /// Whether a run of fast stages sends thousands of such events. A listener may buffer them until
    /// [`Listener::pause`]. It passes all other events on at once, after the buffered ones.
    pub fn is_one_of_many(&self) -> bool {
        use Event::{StageCached, StageFinished, StageSkipped, StageStarted};
        matches!(self, StageCached { .. } | StageStarted { .. } | StageFinished { .. } | StageSkipped { .. })
    }

    /// The stage that it is about and the status of that stage after it, if it is about one.
    pub fn stage_status(&self) -> Option<(&str, StageStatus)> {
        Some(match self {
            Self::StageStarted { stage, .. } => (stage, StageStatus::Running),
            Self::StageFinished { stage, .. } => (stage, StageStatus::Executed),
            Self::StageCached { stage, .. } => (stage, StageStatus::Cached),
            Self::StageFailed { stage, .. } => (stage, StageStatus::Failed),
            Self::StageInterrupted { stage, .. } => (stage, StageStatus::Interrupted),
            Self::StageSkipped { stage, .. } => (stage, StageStatus::Skipped),
            Self::StagePruned { stage, .. } => (stage, StageStatus::Pruned),
            _ => return None,
        })
    }
}

/// Receives events. Called from several threads.
pub trait Listener: Send + Sync {
    /// Receives an event. Must not block for long.
    fn event(&self, event: &Event);
    /// Called when no events are pending. A listener that buffers events, to write several at once, must write them
    /// now. Not called after the last event.
    fn pause(&self) {}
}

/// A listener that ignores all events.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Listener for Silent {
    fn event(&self, _: &Event) {}
}
