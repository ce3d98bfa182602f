//! What the routes and the thread that follows the cache share.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::broadcast;

use super::curves::CurveCache;
use super::guard::Guard;
use super::images::LastTensor;
use super::model::Model;
use super::table::Columns;

/// Messages that a slow page may miss before it reads everything again.
const BACKLOG: usize = 64;

/// The state of the server.
pub(super) struct App {
    model: RwLock<Model>,
    /// The columns of the table in the last message.
    pub(super) columns: RwLock<Columns>,
    /// Messages about changes, as JSON.
    pub(super) updates: broadcast::Sender<Arc<str>>,
    pub(super) curves: Mutex<CurveCache>,
    pub(super) last_tensor: Mutex<LastTensor>,
    pub(super) guard: Arc<Guard>,
    /// Why the cache can't be followed.
    problem: Mutex<Option<String>>,
}

impl App {
    pub(super) fn new(model: Model, guard: Guard) -> Self {
        let (updates, _) = broadcast::channel(BACKLOG);
        let (columns, curves, last_tensor, problem) = Default::default();
        Self { model: RwLock::new(model), columns, updates, curves, last_tensor, guard: Arc::new(guard), problem }
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

    pub(super) fn set_problem(&self, problem: &str) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem.to_owned());
    }

    pub(super) fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
