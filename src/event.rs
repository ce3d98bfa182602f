//! What happens in a run: the one vocabulary of run records, `run --json` and the terminal.
//!
//! The runner only sends events; terminal, NDJSON file and report listen. A line of `run --json` is one event. Fields may
//! be added; a change of meaning raises [`VERSION`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::plan::Reason;
use crate::status::RunStatus;

/// The version of this vocabulary; it stands in the first event of a run.
pub const VERSION: u32 = 1;

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum Event {
    /// The first.
    RunStarted {
        /// [`VERSION`].
        version: u32,
        /// The run's id.
        run: String,
        /// Name of the pipeline.
        pipeline: String,
        /// How many stages are wanted.
        stages: usize,
        /// What computes: "cpu", "cuda:0".
        device: String,
        /// The numerics class of the device.
        numerics: String,
        /// Worker threads.
        threads: usize,
    },
    /// A stage's result was in the cache.
    StageCached {
        /// The point.
        stage: String,
        /// Its key.
        key: Key,
    },
    /// Another process computes this very key; we wait for it.
    StageWaiting {
        /// The point.
        stage: String,
        /// Who holds it.
        holder: String,
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
    },
    /// A training continues from a stored state.
    Resumed {
        /// The point.
        stage: String,
        /// Finished epochs.
        epoch: u64,
        /// Steps in the epoch after them.
        step: u64,
        /// Epochs in all.
        epochs: u64,
        /// The same as `epoch`: where this run took the training up.
        resumed_at: u64,
    },
    /// How far a stage is. Thinned out; not in the run's file.
    Progress {
        /// The point.
        stage: String,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
        /// What is counted.
        unit: String,
        /// Figures of the moment.
        figures: BTreeMap<String, f64>,
        /// Samples per second.
        rate: Option<f64>,
        /// Where this run took the training up, if it continued one.
        #[serde(skip_serializing_if = "Option::is_none")]
        resumed_at: Option<u64>,
    },
    /// A training finished an epoch.
    Epoch {
        /// The point.
        stage: String,
        /// Finished epochs, from 1.
        epoch: u64,
        /// Epochs in all.
        epochs: u64,
        /// The epoch's figures.
        figures: BTreeMap<String, f64>,
        /// Where this run took the training up, if it continued one.
        #[serde(skip_serializing_if = "Option::is_none")]
        resumed_at: Option<u64>,
    },
    /// A training's state is in the store.
    StateSaved {
        /// The point.
        stage: String,
        /// Finished epochs.
        epoch: u64,
        /// Steps in the epoch after them.
        step: u64,
        /// Seconds that it took.
        seconds: f64,
        /// Where this run took the training up, if it continued one.
        #[serde(skip_serializing_if = "Option::is_none")]
        resumed_at: Option<u64>,
    },
    /// A training was taken to a rung of `[matrix.prune]` and its state is in the store: now it is compared.
    RungReached {
        /// The point.
        stage: String,
        /// Finished epochs.
        epoch: u64,
        /// Seconds it ran.
        seconds: f64,
    },
    /// A point has no result, since it was pruned or hangs on points that are.
    StagePruned {
        /// The point.
        stage: String,
        /// From what that was decided.
        reason: Reason,
    },
    /// A stage's result is in the store.
    StageFinished {
        /// The point.
        stage: String,
        /// Its key.
        key: Key,
        /// Digest of what it made.
        digest: Key,
        /// Seconds it ran.
        seconds: f64,
        /// Its metrics.
        metrics: BTreeMap<String, f64>,
    },
    /// A stage stopped because the user asked. A training saved its state just before.
    StageInterrupted {
        /// The point.
        stage: String,
    },
    /// A stage failed.
    StageFailed {
        /// The point.
        stage: String,
        /// Why, with its causes.
        error: String,
        /// What to do.
        hint: Option<String>,
        /// Where its log is.
        log: String,
    },
    /// A stage did not run because of others.
    StageSkipped {
        /// The point.
        stage: String,
        /// The point that stands in its way.
        because: String,
    },
    /// A report was written.
    ReportWritten {
        /// The point.
        stage: String,
        /// The file.
        path: String,
    },
    /// Something the user should know: damage found and mended, a database set aside, …
    Warning {
        /// What.
        message: String,
    },
    /// The last.
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
        /// Points that did not run because of others, or of an interruption.
        skipped: Vec<String>,
        /// Points that have no result, since they were pruned or hang on points that are.
        #[serde(default)]
        pruned: Vec<String>,
        /// Seconds from the first event.
        seconds: f64,
    },
}

impl Event {
    /// Whether such events come by the thousand where stages take no time. They may be held back until
    /// [`Listener::pause`]; all others are passed on at once, behind what was held back.
    pub fn is_one_of_many(&self) -> bool {
        use Event::{StageCached, StageFinished, StageSkipped, StageStarted};
        matches!(self, StageCached { .. } | StageStarted { .. } | StageFinished { .. } | StageSkipped { .. })
    }
}

/// Where events go. Called from several threads.
pub trait Listener: Send + Sync {
    /// Takes an event. Must not block for long.
    fn event(&self, event: &Event);
    /// Nothing happens for a moment: whoever holds events back, to write several at once, passes them on. After the last
    /// event it is not called any more.
    fn pause(&self) {}
}
