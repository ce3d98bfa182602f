//! How a cache is opened.

use std::sync::Arc;
use std::time::Duration;

use super::holder::Holder;

/// Called once for each wait for another process that lasts longer than a moment.
pub type Waiting = Arc<dyn Fn(Option<&Holder>) + Send + Sync>;

/// Whether the user has interrupted the program.
pub type Cancelled = Arc<dyn Fn() -> bool + Send + Sync>;

/// How to open a cache.
#[derive(Clone)]
pub struct Options {
    /// Whether to wait while another process has a database open. Processes have one open only for moments, so without
    /// waiting the error [`super::StoreError::Held`] is returned after half a second.
    pub wait: bool,
    /// The longest wait.
    pub timeout: Duration,
    /// How long an unused database stays open.
    pub idle: Duration,
    /// Called once for each long wait.
    pub waiting: Option<Waiting>,
    /// Polled during long waits: true ends them with [`super::StoreError::Cancelled`].
    pub cancelled: Option<Cancelled>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wait: true,
            timeout: Duration::from_secs(600),
            idle: Duration::from_millis(150),
            waiting: None,
            cancelled: None,
        }
    }
}
