//! The workers of a run, counted from its events.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Event, WorkerCause};

/// The workers of a run, counted from its events.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WorkerCounts {
    /// Those that wait in the queue of the cluster.
    pub pending: usize,
    /// Why they wait, in the cluster's words.
    pub reason: Option<String>,
    /// Those that run.
    pub running: usize,
    #[serde(skip)]
    running_names: BTreeSet<String>,
    /// Those that have started.
    pub started: usize,
    /// Those that ended although work was left for them, by the cause.
    pub ended_early: BTreeMap<WorkerCause, usize>,
    /// Those that were submitted in place of others.
    pub replaced: usize,
    /// Seconds that those that have ended waited in the queue, together.
    pub queued_seconds: f64,
    /// The longest of these times.
    pub longest_queued_seconds: f64,
    /// Seconds that those that have ended ran, together.
    pub ran_seconds: f64,
}

impl WorkerCounts {
    /// Counts the workers in the events of a run. `None` if it had none.
    pub fn of<'e>(events: impl IntoIterator<Item = &'e Event>) -> Option<Self> {
        let mut counts = None;
        events.into_iter().for_each(|event| Self::count(&mut counts, event));
        counts
    }

    /// Counts the worker of an event, if it is about workers.
    pub fn count(counts: &mut Option<Self>, event: &Event) {
        if matches!(event, Event::WorkerStarted { .. } | Event::WorkerEnded { .. } | Event::Workers { .. }) {
            counts.get_or_insert_with(Self::default).add(event);
        }
    }

    fn add(&mut self, event: &Event) {
        match event {
            Event::WorkerStarted { worker, .. } => {
                self.started += 1;
                self.running_names.insert(worker.clone());
            }
            Event::WorkerEnded { worker, cause, queued_seconds, seconds, .. } => {
                self.running_names.remove(worker);
                if *cause != WorkerCause::Done {
                    *self.ended_early.entry(*cause).or_default() += 1;
                }
                self.queued_seconds += queued_seconds.unwrap_or(0.0);
                self.longest_queued_seconds = self.longest_queued_seconds.max(queued_seconds.unwrap_or(0.0));
                self.ran_seconds += seconds.unwrap_or(0.0);
            }
            Event::Workers { pending, reason, replaced, .. } => {
                (self.pending, self.replaced) = (*pending, *replaced);
                self.reason.clone_from(reason);
            }
            _ => {}
        }
        self.running = self.running_names.len();
    }

    /// For the user: `2 running, 1 pending (Resources); 5 started, 1 preempted; 1 replaced`. `seconds` writes a time.
    pub fn words(&self, seconds: impl Fn(f64) -> String) -> String {
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let now = match (self.running, self.pending) {
            (0, 0) => String::new(),
            (running, 0) => format!("{running} running; "),
            (running, pending) => format!("{running} running, {pending} pending{reason}; "),
        };
        let early = self.ended_early.iter().map(|(cause, count)| format!(", {count} {}", cause.words()));
        let replaced = if self.replaced > 0 { format!("; {} replaced", self.replaced) } else { String::new() };
        let queue = (self.queued_seconds > 0.0).then(|| {
            let longest = seconds(self.longest_queued_seconds);
            format!("; {} in the queue ({longest} at most)", seconds(self.queued_seconds))
        });
        let work = (self.ran_seconds > 0.0).then(|| format!("; {} of work", seconds(self.ran_seconds)));
        let times: String = [queue, work].into_iter().flatten().collect();
        format!("{now}{} started{}{replaced}{times}", self.started, early.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(worker: &str) -> Event {
        Event::WorkerStarted { worker: worker.to_owned(), host: "n1".to_owned(), class: None }
    }

    fn ended(worker: &str, cause: WorkerCause, queued: Option<f64>, ran: Option<f64>) -> Event {
        let (worker, why) = (worker.to_owned(), String::new());
        let (is_lost, exit_code) = (cause == WorkerCause::NodeFailed, None);
        Event::WorkerEnded { worker, why, cause, is_lost, exit_code, queued_seconds: queued, seconds: ran }
    }

    fn workers(pending: usize, running: usize, replaced: usize) -> Event {
        let reason = (pending > 0).then(|| "Resources".to_owned());
        Event::Workers { pending, running, reason, replaced }
    }

    #[test]
    fn workers_are_counted_and_queue_time_stands_apart_from_run_time() {
        let words = |events: &[Event]| WorkerCounts::of(events).map(|counts| counts.words(|s| format!("{s} s")));
        assert_eq!(words(&[Event::Warning { message: "no workers".to_owned() }]), None);
        let mut events = vec![started("a"), started("b"), workers(1, 2, 0)];
        assert_eq!(words(&events).unwrap(), "2 running, 1 pending (Resources); 2 started");
        events.push(ended("a", WorkerCause::NodeFailed, Some(3.0), Some(60.0)));
        events.push(ended("b", WorkerCause::Preempted, Some(9.0), Some(30.0)));
        events.push(workers(0, 0, 2));
        events.extend([started("c"), started("d")]);
        assert_eq!(
            words(&events).unwrap(),
            "2 running; 4 started, 1 preempted, 1 lost with their nodes; 2 replaced; 12 s in the queue (9 s at most); \
             90 s of work"
        );
        events.extend(["c", "d"].map(|worker| ended(worker, WorkerCause::Done, None, Some(10.0))));
        assert!(words(&events).unwrap().starts_with("4 started, 1 preempted"));
    }
}
