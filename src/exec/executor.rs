//! Where jobs run: in threads of this process (`local.rs`), or in processes of their own (`process.rs`).
//! With a shared store, another layer pushes what they make (`sharing.rs`).

pub(crate) mod local;
pub(crate) mod process;
pub(crate) mod sharing;

use std::time::Duration;

use crate::exec::job::{Ended, Job};
use crate::id::PointId;
use crate::store::ResultRecord;

/// Runs jobs and stores their results.
pub(crate) trait Executor {
    /// Starts a job. Its end is reported as an event.
    fn start(&mut self, job: Job);
    /// Waits for the next event, at most this long.
    fn poll(&mut self, timeout: Duration) -> Option<ExecutorEvent>;
    /// Asks all jobs to stop. Each of them still ends with an event.
    fn cancel(&mut self);
}

/// What happened to a job.
pub(crate) enum ExecutorEvent {
    /// It saved a state of its training.
    StateSaved(PointId),
    /// The store of another process warned, for example of damage.
    StoreWarned,
    /// It made a result with this many bytes, which is being stored. The other resources of the job are free.
    Made(PointId, usize),
    /// It ended.
    Ended(PointId, Ended<Box<ResultRecord>>),
}
