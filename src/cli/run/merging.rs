//! The events of several workers as those of one run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::event::{Event, Listener};
use crate::exec::RunLog;

/// Passes on the events of workers, and then those of the run that gathers their results.
pub(super) struct Merged<'a> {
    listener: &'a dyn Listener,
    /// The record of the run while its workers run. The run that gathers their results replaces it.
    log: Option<RunLog<'a>>,
    started: Instant,
    past: Mutex<Past>,
}

/// What the workers have done.
#[derive(Default)]
struct Past {
    /// What was passed on, without progress.
    events: Vec<Event>,
    /// The points that ran, with their workers.
    ran: BTreeMap<String, String>,
    failed: BTreeSet<String>,
}

impl<'a> Merged<'a> {
    /// Begins a run with this event.
    pub(super) fn start(listener: &'a dyn Listener, log: RunLog<'a>, started: &Event) -> Self {
        log.event(started);
        listener.event(started);
        Self { listener, log: Some(log), started: Instant::now(), past: Mutex::default() }
    }

    /// Ends the record of the workers.
    pub(super) fn end_log(&mut self) {
        self.log = None;
    }

    /// Passes on an event of a worker. Leaves out those that only concern this worker.
    pub(super) fn of_worker(&self, worker: &str, event: Event) {
        let event = match event {
            Event::RunStarted { .. }
            | Event::RunFinished { .. }
            | Event::Pulled { .. }
            | Event::Transferring { .. }
            | Event::StageCached { .. }
            | Event::StageWaiting { .. }
            | Event::StageLeft { .. }
            | Event::StageSkipped { .. }
            | Event::StagePruned { .. }
            | Event::ReportWritten { .. } => return,
            Event::StageStarted { stage, kind, key, reason, gpus, .. } => {
                Event::StageStarted { stage, kind, key, reason, gpus, worker: Some(worker.to_owned()) }
            }
            Event::Warning { message } => Event::Warning { message: format!("{worker}: {message}") },
            event => event,
        };
        match &event {
            Event::StageFinished { stage, .. } => {
                let mut past = self.past();
                past.ran.insert(stage.clone(), worker.to_owned());
                past.failed.remove(stage);
            }
            Event::StageFailed { stage, .. } if !self.past().failed.insert(stage.clone()) => return,
            _ => {}
        }
        self.pass(event);
    }

    /// Passes on an event of this process about its workers.
    pub(super) fn of_driver(&self, event: Event) {
        self.pass(event);
    }

    fn pass(&self, event: Event) {
        self.log.iter().for_each(|log| log.event(&event));
        self.log.iter().for_each(Listener::pause);
        self.listener.event(&event);
        self.listener.pause();
        if !matches!(event, Event::Progress { .. }) {
            self.past().events.push(event);
        }
    }

    /// The events that were passed on, without progress.
    pub(super) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.past().events)
    }

    /// Whether a point has failed.
    pub(super) fn has_failures(&self) -> bool {
        !self.past().failed.is_empty()
    }

    /// How many points each worker ran.
    pub(super) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        self.past().ran.values().for_each(|worker| *counts.entry(worker.clone()).or_default() += 1);
        counts
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Merged<'_> {
    /// An event of the run that gathers the results.
    fn event(&self, event: &Event) {
        match event {
            Event::RunStarted { .. } => {}
            Event::StageCached { stage, .. } if self.past().ran.contains_key(stage) => {}
            Event::StageFailed { stage, .. } if self.past().failed.contains(stage) => {}
            Event::RunFinished { .. } => {
                let mut event = event.clone();
                if let Event::RunFinished { seconds, .. } = &mut event {
                    *seconds = self.started.elapsed().as_secs_f64();
                }
                self.listener.event(&event);
            }
            event => self.listener.event(event),
        }
    }

    fn pause(&self) {
        self.listener.pause();
    }
}
