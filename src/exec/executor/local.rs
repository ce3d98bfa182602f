//! Runs jobs in threads of this process.
//!
//! Several threads run stages, and one thread stores their results. While a commit waits for the disk, other stages
//! run. The next commit stores all their results together, so a short stage costs a fraction of a flush. A stage starts
//! after its inputs are durable, so the index never refers to a missing result.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, Scope};
use std::time::Duration;

use super::{Executor, ExecutorEvent};
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::exec::context::RunContext;
use crate::exec::job::{Ended, Job};
use crate::exec::worker::{StageOutput, Worker, panic_message};
use crate::id::PointId;
use crate::store::ResultRecord;

/// The most results in one commit. Waiting results are held in memory.
const GROUP: usize = 256;

/// The threads of a run. They end when this is dropped.
pub(crate) struct LocalExecutor<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    worker: Worker<'scope>,
    jobs: Sender<Job>,
    queue: Arc<Mutex<Receiver<Job>>>,
    outputs: Sender<StageOutput>,
    events: Receiver<ExecutorEvent>,
    sender: Sender<ExecutorEvent>,
    threads: usize,
    running: BTreeSet<PointId>,
}

impl<'scope, 'env> LocalExecutor<'scope, 'env> {
    /// Starts the thread that stores results.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(crate) fn new(scope: &'scope Scope<'scope, 'env>, worker: Worker<'scope>) -> Result<Self> {
        let (jobs, queue) = channel();
        let (outputs, waiting) = channel();
        let (sender, events) = channel();
        let committed = sender.clone();
        Builder::new()
            .spawn_scoped(scope, move || {
                commit_groups(|group| worker.commit(group), |output: &StageOutput| output.point, &waiting, &committed);
            })
            .map_err(no_thread)?;
        let queue = Arc::new(Mutex::new(queue));
        Ok(Self { scope, worker, jobs, queue, outputs, events, sender, threads: 0, running: BTreeSet::new() })
    }

    fn spawn(&mut self) -> io::Result<()> {
        let (worker, queue) = (self.worker, Arc::clone(&self.queue));
        let (events, outputs) = (self.sender.clone(), self.outputs.clone());
        Builder::new().spawn_scoped(self.scope, move || work(worker, &queue, &events, &outputs))?;
        self.threads += 1;
        Ok(())
    }
}

impl Executor for LocalExecutor<'_, '_> {
    fn start(&mut self, job: Job) {
        self.running.insert(job.point);
        if self.running.len() > self.threads
            && let Err(error) = self.spawn()
            && self.threads == 0
        {
            let _ = self.sender.send(ExecutorEvent::Ended(job.point, Ended::Failed(no_thread(error))));
            return;
        }
        // Without a new thread, an existing thread takes the job later. The receiver exists as long as this executor.
        let _ = self.jobs.send(job);
    }

    fn poll(&mut self, timeout: Duration) -> Option<ExecutorEvent> {
        let event = match self.events.recv_timeout(timeout) {
            Ok(event) => event,
            // This executor holds a sender, so the channel never closes.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        };
        if let ExecutorEvent::Made(point, _) | ExecutorEvent::Ended(point, _) = &event {
            self.running.remove(point);
        }
        Some(event)
    }

    fn cancel(&mut self) {
        self.worker.context.cancel.cancel();
    }
}

fn no_thread(error: io::Error) -> Error {
    Error::exhausted("can't start a thread", error)
}

fn work(
    worker: Worker<'_>,
    queue: &Mutex<Receiver<Job>>,
    events: &Sender<ExecutorEvent>,
    outputs: &Sender<StageOutput>,
) {
    loop {
        // The thread that waits for a job holds the lock; the others wait for the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let point = job.point;
        let listener = SavedStates { listener: worker.context.listener, point, events };
        let worker = Worker { context: RunContext { listener: &listener, ..worker.context }, ..worker };
        let sent = match worker.execute(job) {
            Ok(output) => {
                let sent = events.send(ExecutorEvent::Made(point, output.bytes()));
                sent.is_ok() && outputs.send(output).is_ok()
            }
            Err(ended) => events.send(ExecutorEvent::Ended(point, ended)).is_ok(),
        };
        if !sent {
            return;
        }
    }
}

/// Reports saved states to the driver, because other trainings may wait for them.
struct SavedStates<'a> {
    listener: &'a dyn Listener,
    point: PointId,
    events: &'a Sender<ExecutorEvent>,
}

impl Listener for SavedStates<'_> {
    fn event(&self, event: &Event) {
        self.listener.event(event);
        if matches!(event, Event::StateSaved { .. }) {
            let _ = self.events.send(ExecutorEvent::StateSaved(self.point));
        }
    }

    fn pause(&self) {
        self.listener.pause();
    }
}

/// Stores results in groups: each group has all results that wait, up to [`GROUP`].
fn commit_groups<T>(
    commit: impl Fn(&[T]) -> Vec<Result<ResultRecord>>,
    point: impl Fn(&T) -> PointId,
    waiting: &Receiver<T>,
    events: &Sender<ExecutorEvent>,
) {
    while let Ok(first) = waiting.recv() {
        let mut group = vec![first];
        group.extend(waiting.try_iter().take(GROUP - 1));
        // Each result must get an event, even after a panic.
        let stored = catch_unwind(AssertUnwindSafe(|| commit(&group))).unwrap_or_else(|panic| {
            let text = panic_message(&*panic).unwrap_or("storing a result panicked");
            group.iter().map(|_| Err(Error::storage(format!("internal error: {text}")))).collect()
        });
        for (result, stored) in group.iter().zip(stored) {
            let ended = stored.map_or_else(Ended::with, |record| Ended::Made(Box::new(record)));
            if events.send(ExecutorEvent::Ended(point(result), ended)).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_while_storing_fails_its_group_and_the_next_group_is_stored() {
        let (made, waiting) = channel();
        let (events, received) = channel();
        let commit = |group: &[usize]| {
            assert!(!group.contains(&3), "three");
            group.iter().map(|_| Err(Error::storage("stored"))).collect()
        };
        [3, 4].into_iter().for_each(|point| made.send(point).unwrap());
        let messages = std::thread::scope(|scope| {
            scope.spawn(move || commit_groups(commit, |point| PointId::new(*point), &waiting, &events));
            let next = || match received.recv().unwrap() {
                ExecutorEvent::Ended(point, Ended::Failed(error)) => (point.index(), error.message),
                _ => panic!("every result fails"),
            };
            let first = [next(), next()];
            made.send(5).unwrap();
            let messages = [&first[..], &[next()]].concat();
            drop(made);
            messages
        });
        let failed = "internal error: three".to_owned();
        assert_eq!(messages, [(3, failed.clone()), (4, failed), (5, "stored".to_owned())]);
    }
}
