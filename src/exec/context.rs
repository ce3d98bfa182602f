//! The values that all parts of a run share.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::event::{Event, Listener};
use crate::exec::run_files::Relocation;
use crate::graph::Graph;
use crate::id::PointId;
use crate::plan::Planner;
use crate::shared::SharedStore;
use crate::spec::{Point, Spec};
use crate::stage::{Cancel, Compute};
use crate::store::Store;

/// A pipeline, its cache, and what to compute with.
#[derive(Clone, Copy)]
pub struct RunContext<'a> {
    /// The pipeline.
    pub spec: &'a Spec,
    /// Its graph.
    pub graph: &'a Graph,
    /// The cache.
    pub store: &'a Arc<Store>,
    /// The store that the cache is completed from.
    pub shared: Option<&'a SharedStore>,
    /// What stages compute on.
    pub compute: &'a Compute,
    /// Folders that may contain data files.
    pub data_dirs: &'a [PathBuf],
    /// Where the pipeline's files come from, if they were laid out in another folder.
    pub relocation: Option<&'a Relocation>,
    /// Threads of the process.
    pub threads: usize,
    /// Bytes of memory for the stages that run at the same time.
    pub memory: u64,
    /// Cancels the run.
    pub cancel: &'a Cancel,
    /// Receives the events.
    pub listener: &'a dyn Listener,
}

impl<'a> RunContext<'a> {
    /// A planner that ignores the stored results of `forced`.
    pub(crate) fn planner(&self, forced: &'a BTreeSet<PointId>) -> Planner<'a> {
        let Self { spec, graph, store, compute, .. } = *self;
        Planner { spec, graph, store, compute, forced, in_store: None }
    }

    /// Warns the user.
    pub(crate) fn warn(&self, message: String) {
        self.listener.event(&Event::Warning { message });
    }

    /// Does without the shared store from now on. Warns the first time.
    pub(crate) fn give_up(&self, shared: &SharedStore, why: impl FnOnce() -> String) {
        shared.give_up(why).into_iter().for_each(|message| self.warn(message));
    }

    /// A point of the pipeline.
    pub(crate) fn point(&self, id: PointId) -> &'a Point {
        self.spec.point(id)
    }

    /// The name of a point.
    pub(crate) fn name(&self, id: PointId) -> &'a str {
        &self.spec.point(id).name
    }
}
