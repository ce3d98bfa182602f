//! What the routes and the thread that follows the cache share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::broadcast;

use super::curves::CurveCache;
use super::guard::Guard;
use super::images::LastTensor;
use super::model::Model;
use super::table::Columns;
use crate::shared::SharedStore;
use crate::store::BlobReader;

/// Messages that a slow page may miss before it reads everything again.
const BACKLOG: usize = 64;

/// The message that tells a page to read everything again.
pub(super) const READ_ALL: &str = r#"{"table":true,"rows":[],"epochs":[],"runs":true,"states":true}"#;

/// The state of the server.
pub(super) struct App {
    /// Not held while tensors, files and logs are read, so that no page waits for the disk of another.
    model: RwLock<Model>,
    pub(super) blobs: Arc<BlobReader>,
    /// The columns of the table in the last message.
    pub(super) columns: RwLock<Columns>,
    /// Messages about changes, as JSON.
    pub(super) updates: broadcast::Sender<Arc<str>>,
    pub(super) curves: Mutex<CurveCache>,
    pub(super) last_tensor: Mutex<LastTensor>,
    /// Held while a file or a state is read that may be large, so that only one is in memory.
    pub(super) large: Mutex<()>,
    /// Held while a note is changed, and while all are read.
    pub(super) writing: Mutex<()>,
    pub(super) guard: Arc<Guard>,
    /// The run in a shared store that is followed.
    pub(super) remote: Option<Remote>,
    /// Why what is shown may be old, by what can't be followed.
    problems: Mutex<BTreeMap<Followed, String>>,
}

/// A run in a shared store.
pub struct Remote {
    /// The store.
    pub shared: SharedStore,
    /// The id of the run.
    pub run: String,
}

/// What the server follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Followed {
    Cache,
    SharedStore,
    /// All of it: a thread has failed.
    All,
}

impl App {
    pub(super) fn new(model: Model, guard: Guard, remote: Option<Remote>) -> Self {
        let (updates, _) = broadcast::channel(BACKLOG);
        let (columns, curves, last_tensor, large, writing, problems) = Default::default();
        let (blobs, guard) = (model.reader.blobs(), Arc::new(guard));
        Self {
            model: RwLock::new(model),
            blobs,
            columns,
            updates,
            curves,
            last_tensor,
            large,
            writing,
            guard,
            remote,
            problems,
        }
    }

    pub(super) fn model(&self) -> RwLockReadGuard<'_, Model> {
        self.model.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn model_mut(&self) -> RwLockWriteGuard<'_, Model> {
        self.model.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The columns of the table.
    pub(super) fn columns(&self) -> Columns {
        self.columns.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why something can't be followed, or that it can be followed again. Pages get a message if that changed.
    pub(super) fn set_problem(&self, of: Followed, problem: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.get(&of) == problem.as_ref() {
            return;
        }
        match problem {
            Some(problem) => drop(problems.insert(of, problem)),
            None => drop(problems.remove(&of)),
        }
        drop(problems);
        self.model_mut().changes.has_runs = true;
    }

    /// Notes that a thread which follows something has failed. It can't tell the pages any more.
    pub(super) fn note_failed_thread(&self) {
        let problem = "the page shows nothing new, because a part of it failed: start `vadpipe ui` again";
        self.set_problem(Followed::All, Some(problem.to_owned()));
        // Nobody may be listening.
        let _ = self.updates.send(READ_ALL.into());
    }

    /// Why what is shown may be old.
    pub(super) fn problem(&self) -> Option<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let texts: Vec<&str> = problems.values().map(String::as_str).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}
