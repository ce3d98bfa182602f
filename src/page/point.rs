//! A point: the name of a result in a pipeline, with its result and what the newest run does with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::live::PointRun;
use crate::filter::{Cell, Coordinate};
use crate::key::{Digest, Key};

/// A point: the name of a result in a pipeline.
pub(super) struct Point {
    pub(super) pipeline: Arc<str>,
    pub(super) name: String,
    pub(super) stage: String,
    pub(super) axes: BTreeMap<String, Coordinate>,
    /// Its newest result.
    pub(super) result: Option<Outcome>,
    /// What the newest run that knows it did with it.
    pub(super) live: Option<PointRun>,
    /// Whether a pipeline file that was given has it.
    pub(super) is_declared: bool,
}

/// What the table shows of a result.
pub(super) struct Outcome {
    pub(super) key: Key,
    /// Its key before it ran, if its program read files that the pipeline does not name.
    pub(super) declared: Option<Key>,
    pub(super) digest: Digest,
    pub(super) kind: String,
    pub(super) metrics: BTreeMap<String, f64>,
    pub(super) parameters: BTreeMap<String, Cell>,
    /// All epochs of a training.
    pub(super) epochs: Option<u64>,
    pub(super) seconds: f64,
    /// Unix milliseconds.
    pub(super) finished_at: i64,
    /// The run that made it.
    pub(super) run: String,
}

impl Point {
    /// Whether it still is in the cache, in a run or in a pipeline file.
    pub(super) fn is_shown(&self) -> bool {
        self.result.is_some() || self.live.is_some() || self.is_declared
    }

    /// Whether its newest result is that of its newest run.
    pub(super) fn is_done(&self) -> bool {
        match (&self.result, &self.live) {
            (Some(_), None) => true,
            (Some(result), Some(live)) => live.has_ended_well() || (live.key == Some(result.key) && !live.is_open()),
            (None, _) => false,
        }
    }

    /// Its status in a word.
    pub(super) fn status(&self) -> &'static str {
        match &self.live {
            _ if self.is_done() => "done",
            Some(live) if live.waits_for.is_some() => "waiting",
            Some(live) if live.has_ended_well() && live.is_remote => "done",
            Some(live) if live.has_ended_well() => "removed",
            Some(live) => live.status.word(),
            None => "not run",
        }
    }

    /// The live values, unless the result has them.
    pub(super) fn current(&self) -> Option<&PointRun> {
        self.live.as_ref().filter(|_| !self.is_done())
    }

    /// The value of a metric: of its result, or of the last epoch of a training that runs.
    pub(super) fn metric(&self, name: &str) -> Option<f64> {
        match (self.current(), &self.result) {
            (Some(live), _) => live.figures.get(name).copied(),
            (None, Some(result)) => result.metrics.get(name).copied(),
            (None, None) => None,
        }
    }

    /// The names of its metrics: of its result and of a training that runs, so that no column comes and goes with it.
    pub(super) fn metrics(&self) -> impl Iterator<Item = &String> {
        let live = self.current().map(|live| &live.figures);
        live.into_iter().chain(self.result.as_ref().map(|result| &result.metrics)).flat_map(BTreeMap::keys)
    }

    /// The value of a parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&Cell> {
        self.result.as_ref()?.parameters.get(name)
    }

    /// The keys under which notes about it may be: those of the result that runs or is shown. New notes get the first.
    pub(super) fn noted_keys(&self) -> impl Iterator<Item = Key> {
        let live = self.current().and_then(|live| live.key);
        let result = self.result.as_ref().filter(|_| live.is_none());
        let of_result = result.into_iter().flat_map(|result| [Some(result.key), result.declared]);
        live.into_iter().chain(of_result.flatten())
    }

    /// The run that has its newest log.
    pub(super) fn log_run(&self) -> Option<&str> {
        let live = self.live.as_ref().filter(|_| !self.is_done() || self.result.is_none()).map(|live| &*live.run);
        live.or(self.result.as_ref().map(|result| result.run.as_str()))
    }

    /// Its kind, if it is known.
    pub(super) fn kind(&self) -> Option<&str> {
        let live = self.live.as_ref().map(|live| live.kind.as_str());
        live.or(self.result.as_ref().map(|result| result.kind.as_str()))
    }

    /// Forgets the curves of a run whose result is stored: the result has them.
    pub(super) fn drop_stored_curves(&mut self) {
        if self.is_done()
            && let Some(live) = &mut self.live
        {
            live.curves.clear();
        }
    }
}
