//! Pushes results and states to the shared store as they are made.
//!
//! This is a layer around another executor. A job whose result is stored in the cache ends for the driver only once the
//! result is in the shared store, so that no stage starts from a result that another machine has made differently. If
//! the store has another result under the same key, it is used instead. One thread pushes, and takes all
//! that waits at once.
//!
//! The states of a training are pushed when its job ends, however it ends, and from time to time while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, Scope};
use std::time::{Duration, Instant};

use super::{Executor, ExecutorEvent};
use crate::error::{Error, Result};
use crate::exec::context::RunContext;
use crate::exec::filling::without_store;
use crate::exec::job::{Ended, Job};
use crate::exec::worker::panic_message;
use crate::id::PointId;
use crate::key::{Key, StateChain};
use crate::shared::{SharedError, SharedStore, Transfer};
use crate::store::{Import, ResultRecord, StateRecord};

/// Heartbeats of claims between two pushes of the states of a training that runs.
const PAUSE: u32 = 6;
/// How often the inner executor is asked while something is pushed.
const TICK: Duration = Duration::from_millis(20);

/// An executor that pushes what its jobs make.
pub(crate) struct SharingExecutor<'scope> {
    inner: Box<dyn Executor + 'scope>,
    tasks: Sender<Task>,
    done: Receiver<ExecutorEvent>,
    /// Tasks whose end was not received yet.
    pending: usize,
    trainings: BTreeMap<PointId, Training>,
    /// The shortest time between two pushes of the states of a training that runs.
    pause: Duration,
}

/// A training that runs.
#[derive(Clone)]
struct Training {
    chain: StateChain,
    class: String,
    pushed_at: Instant,
}

/// What is to be pushed before a job ends.
struct Task {
    point: PointId,
    training: Option<Training>,
    /// `None` to push only the states of a training that goes on.
    ended: Option<Ended<Box<ResultRecord>>>,
}

impl<'scope> SharingExecutor<'scope> {
    /// Starts the thread that pushes.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(crate) fn new<'env>(
        scope: &'scope Scope<'scope, 'env>,
        inner: Box<dyn Executor + 'scope>,
        context: RunContext<'scope>,
        shared: &'scope SharedStore,
        heartbeat: Duration,
    ) -> Result<Self> {
        let (tasks, waiting) = channel();
        let (events, done) = channel();
        let pusher = Pusher { context, shared, pushed: BTreeSet::new() };
        let run = move || pusher.run(&waiting, &events);
        Builder::new().spawn_scoped(scope, run).map_err(|e| Error::exhausted("can't start a thread", e))?;
        Ok(Self { inner, tasks, done, pending: 0, trainings: BTreeMap::new(), pause: heartbeat * PAUSE })
    }

    fn push(&mut self, task: Task) -> Option<ExecutorEvent> {
        let is_end = task.ended.is_some();
        match self.tasks.send(task) {
            Ok(()) => {
                self.pending += usize::from(is_end);
                None
            }
            // The thread has panicked. The result is in the cache.
            Err(task) => Some(ExecutorEvent::Ended(task.0.point, task.0.ended?)),
        }
    }

    /// What the driver learns of an event of the inner executor now.
    fn pass(&mut self, event: ExecutorEvent) -> Option<ExecutorEvent> {
        match event {
            ExecutorEvent::StateSaved(point) => {
                if let Some(training) = self.trainings.get_mut(&point)
                    && training.pushed_at.elapsed() >= self.pause
                {
                    training.pushed_at = Instant::now();
                    let training = Some(training.clone());
                    self.push(Task { point, training, ended: None });
                }
                Some(ExecutorEvent::StateSaved(point))
            }
            ExecutorEvent::Ended(point, ended) => {
                let training = self.trainings.remove(&point);
                match (&ended, &training) {
                    (Ended::Made(_), _) | (_, Some(_)) => self.push(Task { point, training, ended: Some(ended) }),
                    (_, None) => Some(ExecutorEvent::Ended(point, ended)),
                }
            }
            event => Some(event),
        }
    }
}

impl Executor for SharingExecutor<'_> {
    fn start(&mut self, job: Job) {
        if job.components.segments.is_some() {
            let training =
                Training { chain: job.components.chain(), class: job.class.clone(), pushed_at: Instant::now() };
            self.trainings.insert(job.point, training);
        }
        self.inner.start(job);
    }

    fn poll(&mut self, timeout: Duration) -> Option<ExecutorEvent> {
        let until = Instant::now() + timeout;
        loop {
            if let Ok(event) = self.done.try_recv() {
                self.pending = self.pending.saturating_sub(1);
                return Some(event);
            }
            let left = until.saturating_duration_since(Instant::now());
            let wait = if self.pending > 0 { left.min(TICK) } else { left };
            let event = self.inner.poll(wait).and_then(|event| self.pass(event));
            if event.is_some() || left.is_zero() {
                return event;
            }
        }
    }

    fn cancel(&mut self) {
        self.inner.cancel();
    }
}

/// The thread that pushes.
struct Pusher<'a> {
    context: RunContext<'a>,
    shared: &'a SharedStore,
    /// The states that are in the store, by key and step.
    pushed: BTreeSet<(Key, u64)>,
}

impl Pusher<'_> {
    fn run(mut self, waiting: &Receiver<Task>, events: &Sender<ExecutorEvent>) {
        loop {
            let Ok(first) = waiting.recv() else { return };
            let mut tasks = vec![first];
            tasks.extend(waiting.try_iter());
            // Each job must end, even after a panic.
            let replaced = catch_unwind(AssertUnwindSafe(|| self.push(&tasks))).unwrap_or_else(|panic| {
                let text = panic_message(&*panic).unwrap_or("pushing results panicked");
                self.context.give_up(self.shared, || text.to_owned());
                Vec::new()
            });
            for Task { point, ended, .. } in tasks {
                let Some(ended) = ended else { continue };
                let ended = ended.map(|own| {
                    let other = replaced.iter().find(|other| other.key == own.key);
                    other.map_or(own, |other| Box::new(other.clone()))
                });
                if events.send(ExecutorEvent::Ended(point, ended)).is_err() {
                    return;
                }
            }
        }
    }

    /// Pushes what these tasks made. Returns the results of the store that replace own ones.
    fn push(&mut self, tasks: &[Task]) -> Vec<ResultRecord> {
        if self.shared.is_given_up() {
            return Vec::new();
        }
        let results = tasks.iter().filter_map(|task| match &task.ended {
            Some(Ended::Made(record)) => Some((**record).clone()),
            _ => None,
        });
        let mut records = Import { results: results.collect(), states: Vec::new() };
        for training in tasks.iter().filter_map(|task| task.training.as_ref()) {
            // If the cache fails, the run ends for that reason.
            records.states.extend(self.states(training).unwrap_or_default());
        }
        if records.is_empty() {
            return Vec::new();
        }
        let names: Vec<_> = records.states.iter().map(|state| (state.key, state.step)).collect();
        let pushed = self.shared.push(self.context.store, records, &Transfer::default());
        self.shared.warnings().into_iter().for_each(|message| self.context.warn(message));
        match pushed {
            Ok(pushed) => {
                self.pushed.extend(names);
                self.adopt(pushed.others)
            }
            Err(error) => {
                let warning = || match &error {
                    SharedError::Unusable { .. } => format!("{error}; this run pushes nothing more"),
                    error => format!("{}; `vadpipe push` copies the results later", without_store(error)),
                };
                self.context.give_up(self.shared, warning);
                Vec::new()
            }
        }
    }

    /// The states of a training in the cache that are not in the store yet.
    fn states(&self, training: &Training) -> Result<Vec<StateRecord>> {
        let all = self.context.store.chain_states(training.chain.keys())?.into_iter();
        let is_new = |state: &StateRecord| state.step == 0 && !self.pushed.contains(&(state.key, state.step));
        Ok(all.filter(|state| state.class == training.class && is_new(state)).collect())
    }

    /// Replaces own results by those of the store.
    fn adopt(&self, others: Vec<ResultRecord>) -> Vec<ResultRecord> {
        let mut adopted = Vec::new();
        for other in others {
            let what = format!("the store has another result of `{}`, made by {}", other.point, other.provenance.host);
            match self.shared.pull_record(self.context.store, other, &Transfer::default()) {
                Ok(Some(record)) => {
                    self.context.warn(format!(
                        "{what}; using it instead of this run's (`vadpipe store status` lists such results)"
                    ));
                    adopted.push(record);
                }
                Ok(None) => self.context.warn(format!("{what}, but it is damaged; using this run's")),
                Err(error) => self.context.give_up(self.shared, || without_store(&error)),
            }
        }
        adopted
    }
}
