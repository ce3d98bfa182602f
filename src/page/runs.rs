//! Runs: what their records tell.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::file::tail::Tail;
use crate::status::RunStatus;
use crate::store::{Holder, RunRecord};

/// A run.
pub(super) struct Run {
    pub(super) id: Arc<str>,
    pub(super) pipeline: Arc<str>,
    /// Its pipeline file as given.
    pub(super) file: String,
    pub(super) name: Option<String>,
    pub(super) note: Option<String>,
    pub(super) device: String,
    pub(super) threads: usize,
    pub(super) holder: Holder,
    pub(super) started_at: i64,
    pub(super) finished_at: Option<i64>,
    pub(super) status: RunStatus,
    /// Whether its process lives.
    pub(super) is_running: bool,
    /// Whether its workers write to a shared store, so that this cache may lack its record and its results.
    pub(super) is_remote: bool,
    /// How many of its points have each status, as its record says.
    pub(super) counts: BTreeMap<&'static str, usize>,
    /// Its events, if they are followed. Taken out while they are read.
    pub(super) events: Option<Tail>,
    /// Whether all its events were read.
    pub(super) has_all_events: bool,
}

impl Run {
    /// The run of this record.
    pub(super) fn new(record: &RunRecord) -> Self {
        Self {
            id: Arc::from(record.id.as_str()),
            pipeline: Arc::from(record.pipeline.as_str()),
            file: record.file.clone(),
            name: record.label.name.clone(),
            note: record.label.note.clone(),
            device: record.device.clone(),
            threads: record.threads,
            holder: record.holder.clone(),
            started_at: record.started_at,
            finished_at: record.finished_at,
            status: record.status,
            is_running: record.is_running(),
            is_remote: false,
            counts: BTreeMap::new(),
            events: None,
            has_all_events: false,
        }
    }

    /// Whether its process is gone before the run has ended.
    pub(super) fn was_killed(&self) -> bool {
        self.finished_at.is_none() && !self.is_running
    }

    /// How it ended, or that it runs.
    pub(super) fn word(&self) -> &'static str {
        match self.status {
            RunStatus::Running if !self.is_running => "killed",
            status => status.word(),
        }
    }

    /// The run as JSON. `points` says how many of its points have each status.
    pub(super) fn json(&self, points: &BTreeMap<&'static str, usize>) -> Value {
        json!({
            "id": &*self.id, "pipeline": &*self.pipeline, "file": self.file, "name": self.name, "note": self.note,
            "device": self.device, "threads": self.threads, "host": self.holder.host, "started_at": self.started_at,
            "finished_at": self.finished_at, "status": self.word(), "points": points,
        })
    }
}
