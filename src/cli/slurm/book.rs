//! The workers of a run on a cluster: which wait and run, how others ended, and how many more the run needs.
//!
//! The book runs no program. It gets the queue, the events of workers and the ends of jobs, and says what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::answers::{Fate, Queued, TaskEnd, TaskId, is_hopeless};
use super::class::Class;
use super::group::Group;
use crate::error::Category;
use crate::event::{Event, WorkerCause};

/// For how many looks at the queue a new job may be missing in it.
const UNSEEN: u32 = 2;

/// A worker.
#[derive(Debug)]
struct Worker {
    class: Class,
    /// What it has: the memory of a class may grow.
    terms: Class,
    state: State,
    /// Whether it said itself that it ended.
    has_ended: bool,
    /// What it said when it ended, because someone stopped it. Only Slurm knows who.
    stopped: Option<Event>,
    /// Whether it was seen running, or spoke.
    has_started: bool,
    /// The node on which it runs.
    node: String,
    /// How long it waited in the queue.
    waited: Option<Duration>,
    /// How often it was not in the queue.
    unseen: u32,
    /// The points that it runs.
    running: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Running,
    Gone,
}

/// Why workers are stopped at the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Ending {
    /// Nothing is left for them.
    Over,
    /// The run was interrupted, or has failed.
    Stopped,
}

/// What the end of a worker leads to.
#[derive(Debug, PartialEq)]
pub(in crate::cli) enum Reaction {
    /// These events, in which the points that it ran are interrupted.
    Lost(Vec<Event>),
    /// This event of a worker that has said itself that it left: it was stopped for this reason.
    Stopped(Event),
    /// These events, and the user has cancelled the job.
    Cancelled(Vec<Event>),
    /// The run can't go on: no worker can start.
    Refused(TaskId, String),
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(in crate::cli) struct Book {
    workers: BTreeMap<TaskId, Worker>,
    /// By what the points need.
    groups: BTreeMap<Class, Group>,
    /// Whether any worker has spoken.
    has_events: bool,
    /// A worker that refused the pipeline, and why.
    refused: Option<(TaskId, String)>,
    /// How many workers were submitted in place of others.
    replaced: usize,
    /// The last event about the numbers of workers.
    last_counts: Option<Event>,
    /// The most memory of a worker that ran out of it, in bytes.
    most_memory: Option<u64>,
    /// How the run ends, once it does: then nobody asks why workers stop.
    ending: Option<Ending>,
}

/// The name of a task's worker.
fn name(task: TaskId) -> String {
    format!("slurm-{task}")
}

/// A node in a message.
fn place(node: &str) -> String {
    if node.is_empty() { String::new() } else { format!(" ({node})") }
}

/// The end of a worker that left in order, with the reason for which Slurm stopped it.
fn stopped(mut event: Event, fate: Fate) -> Reaction {
    if let Event::WorkerEnded { why, cause, .. } = &mut event
        && matches!(fate, Fate::TimeLimit | Fate::Preempted | Fate::NodeFailed | Fate::Cancelled)
    {
        (*why, *cause) = (format!("{why}: its job {}", fate.words()), fate.cause());
    }
    if fate == Fate::Cancelled { Reaction::Cancelled(vec![event]) } else { Reaction::Stopped(event) }
}

/// The task of a worker, whose name may begin with that of its machine.
fn task_of(worker: &str) -> Option<TaskId> {
    worker.rsplit('/').next()?.strip_prefix("slurm-")?.parse().ok()
}

impl Book {
    /// An empty book. Workers that run out of memory get at most this many bytes.
    pub(in crate::cli) fn new(most_memory: Option<u64>) -> Self {
        Self { most_memory, ..Self::default() }
    }

    fn group(&mut self, class: Class) -> &mut Group {
        self.groups.entry(class).or_insert_with(|| Group::new(class))
    }

    /// The workers that wait or run. A job may take long to end after its worker.
    fn here(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(|worker| worker.state != State::Gone && !worker.has_ended)
    }

    /// What the workers of a class get, and the nodes to leave out.
    pub(in crate::cli) fn terms(&mut self, class: Class) -> (Class, BTreeSet<String>) {
        let group = self.group(class);
        (group.terms, group.excluded.clone())
    }

    /// How many more workers of a class are needed for this many points.
    ///
    /// # Errors
    /// If workers were submitted again and again without progress: why the last one was lost.
    pub(in crate::cli) fn lacking(&mut self, class: Class, points: usize, most: usize) -> Result<usize, String> {
        let terms = self.group(class).terms;
        // One with too little memory may be of use for the point that it runs.
        let is_of_use = |worker: &&Worker| worker.terms.memory >= terms.memory || !worker.running.is_empty();
        let here = self.here().filter(|worker| worker.class == class).filter(is_of_use).count();
        let free = most.saturating_sub(self.here().count());
        let lacking = points.min(most).saturating_sub(here).min(free);
        match self.group(class).is_stuck().filter(|_| lacking > 0 && here == 0) {
            Some(why) => Err(why),
            None => Ok(lacking),
        }
    }

    /// Notes an array that was submitted.
    pub(in crate::cli) fn submitted(&mut self, class: Class, job: u64, count: usize) {
        let is_first = !self.here().any(|worker| worker.class == class);
        let group = self.group(class);
        let (replaced, terms) = (group.submitted(count, is_first), group.terms);
        self.replaced += replaced;
        for index in 0..u32::try_from(count).unwrap_or(u32::MAX) {
            self.add(TaskId { job, index }, class, terms);
        }
    }

    fn add(&mut self, task: TaskId, class: Class, terms: Class) {
        let (node, running) = Default::default();
        let worker = Worker {
            class,
            terms,
            state: State::Pending,
            has_ended: false,
            stopped: None,
            has_started: false,
            node,
            waited: None,
            unseen: 0,
            running,
        };
        self.workers.entry(task).or_insert(worker);
    }

    /// Notes the jobs in the queue that a driver before this one submitted.
    pub(in crate::cli) fn adopt(&mut self, queue: &[Queued]) {
        for queued in queue {
            if let Some((class, terms)) = Class::parse_with_terms(&queued.comment) {
                self.found(queued.task, class, terms);
            }
        }
    }

    /// Notes a worker that a driver before this one submitted.
    fn found(&mut self, task: TaskId, class: Class, terms: Class) {
        self.group(class).found(terms);
        self.add(task, class, terms);
    }

    /// Notes the queue. Returns the tasks that have left it without a reason: Slurm has to be asked.
    pub(in crate::cli) fn see(&mut self, queue: &[Queued]) -> BTreeSet<TaskId> {
        self.adopt(queue);
        for queued in queue {
            let Some(worker) = self.workers.get_mut(&queued.task) else { continue };
            worker.state = if queued.is_pending { State::Pending } else { State::Running };
            worker.has_started |= !queued.is_pending;
            worker.unseen = 0;
            worker.node.clone_from(&queued.node);
            worker.waited = queued.waited.or(worker.waited);
        }
        let seen: BTreeSet<TaskId> = queue.iter().map(|queued| queued.task).collect();
        let mut gone = BTreeSet::new();
        for (task, worker) in self.workers.iter_mut().filter(|(task, w)| !seen.contains(task) && w.state != State::Gone)
        {
            worker.unseen += 1;
            // The job may have been submitted after the queue was made.
            if worker.state == State::Pending && !worker.has_ended && worker.unseen < UNSEEN {
                continue;
            }
            worker.state = State::Gone;
            if !worker.has_ended || worker.stopped.is_some() {
                gone.insert(*task);
            }
        }
        gone
    }

    /// Notes an event of a worker. Returns the event as the user sees it; `None` if the book waits for Slurm to say why
    /// the worker was stopped.
    pub(in crate::cli) fn on_event(&mut self, worker: &str, mut event: Event) -> Option<Event> {
        let Some(task) = task_of(worker) else { return Some(event) };
        if let Event::WorkerStarted { worker, .. } | Event::WorkerEnded { worker, .. } = &mut event {
            *worker = name(task);
        }
        if let Event::StageStarted { stage, .. }
        | Event::StageFinished { stage, .. }
        | Event::StageFailed { stage, .. }
        | Event::StageInterrupted { stage, .. }
        | Event::RungReached { stage, .. } = &event
        {
            // Also of one that was lost, and whose point this worker has taken over.
            for worker in self.workers.values_mut() {
                worker.running.remove(stage);
            }
        }
        self.has_events = true;
        if let Event::WorkerStarted { class: Some(class), .. } = &event
            && let Some((class, terms)) = Class::parse_with_terms(class)
        {
            self.found(task, class, terms);
        }
        let Some(known) = self.workers.get_mut(&task) else { return Some(event) };
        let class = known.class;
        match &event {
            Event::WorkerStarted { .. } => (known.state, known.has_started) = (State::Running, true),
            Event::WorkerEnded { .. } => return self.ended(task, event),
            Event::StageStarted { stage, .. } => drop(known.running.insert(stage.clone())),
            Event::StageLeft { stage, lack } => {
                let why = format!("left {stage} to others, because it lacks {lack}");
                self.group(class).last_loss = Some(why);
            }
            _ => {}
        }
        if matches!(event, Event::StageFinished { .. } | Event::StateSaved { .. } | Event::RungReached { .. }) {
            self.group(class).made_progress();
        }
        Some(event)
    }

    /// Notes that a worker has said that it ended.
    fn ended(&mut self, task: TaskId, mut event: Event) -> Option<Event> {
        let worker = self.workers.get_mut(&task)?;
        let (class, terms) = (worker.class, worker.terms);
        let is_late = worker.state == State::Gone && !worker.has_ended;
        worker.has_ended = true;
        let Event::WorkerEnded { why, cause, exit_code, queued_seconds, .. } = &mut event else { return Some(event) };
        *queued_seconds = worker.waited.map(|waited| waited.as_secs_f64());
        if is_late {
            // Its end was reported in Slurm's words, which may say less.
            if *cause == WorkerCause::OutOfMemory {
                let _ = self.more_memory(class, terms);
            }
            return None;
        }
        if *cause == WorkerCause::Stopped {
            match self.ending {
                Some(Ending::Over) => *cause = WorkerCause::Done,
                Some(Ending::Stopped) => return Some(event),
                None => {
                    worker.stopped = Some(event);
                    self.group(class).missing += 1;
                    return None;
                }
            }
        }
        self.group(class).missing += usize::from(*cause != WorkerCause::Done);
        match (*cause, *exit_code) {
            (WorkerCause::OutOfMemory, _) => match self.more_memory(class, terms) {
                Ok(more) => {
                    *why = format!("{why}; {more}");
                    self.group(class).last_loss = Some(why.clone());
                }
                Err(no_more) => self.refused = Some((task, format!("{why}, {no_more}"))),
            },
            (_, Some(code)) if code == Category::BadInput.exit_code() => self.refused = Some((task, why.clone())),
            (_, Some(code)) if code != 0 => self.group(class).last_loss = Some(why.clone()),
            _ => {}
        }
        Some(event)
    }

    /// See [`Group::more_memory`].
    fn more_memory(&mut self, class: Class, terms: Class) -> Result<String, String> {
        let most = self.most_memory;
        self.group(class).more_memory(terms, most)
    }

    /// From now on, nobody asks Slurm why workers stop. Returns the events that waited for it.
    pub(in crate::cli) fn end(&mut self, ending: Ending) -> Vec<Event> {
        self.ending.get_or_insert(ending);
        self.workers.values_mut().filter_map(|worker| worker.stopped.take()).collect()
    }

    /// That no worker is left, if there were any.
    pub(in crate::cli) fn last_news(&self) -> Option<Event> {
        let (pending, running, reason, replaced) = (0, 0, None, self.replaced);
        (!self.workers.is_empty()).then_some(Event::Workers { pending, running, reason, replaced })
    }

    /// Notes how a task ended, as Slurm says it.
    pub(in crate::cli) fn lost(&mut self, end: &TaskEnd) -> Option<Reaction> {
        let TaskEnd { task, fate, node, waited, ran } = end;
        let has_events = self.has_events;
        let worker = self.workers.get_mut(task)?;
        // Slurm forgets a task that was cancelled before it began.
        let was_cancelled = *fate == Fate::Unknown && !worker.has_started;
        let fate = if was_cancelled { Fate::Cancelled } else { *fate };
        let (class, terms) = (worker.class, worker.terms);
        let node = if node.is_empty() { worker.node.clone() } else { node.clone() };
        let (waited, place) = (waited.or(worker.waited), place(&node));
        if let Some(event) = worker.stopped.take() {
            self.group(class).last_loss = Some(format!("was stopped: its job {}{place}", fate.words()));
            return Some(stopped(event, fate));
        }
        if worker.has_ended && fate != Fate::Cancelled {
            return None;
        }
        let running = std::mem::take(&mut worker.running);
        let mut why = format!("its job {}{place}", fate.words());
        match fate {
            // The pipeline is wrong, or the first worker can't even start. Later, it may be one node that is wrong.
            Fate::Failed(code) if code == 2 || (!has_events && code != 1) => {
                return Some(Reaction::Refused(*task, why));
            }
            Fate::NodeFailed if !node.is_empty() => drop(self.group(class).excluded.insert(node)),
            Fate::OutOfMemory => match self.more_memory(class, terms) {
                Ok(more) => why = format!("{why}; {more}"),
                Err(no_more) => return Some(Reaction::Refused(*task, format!("{why}, {no_more}"))),
            },
            _ => {}
        }
        let group = self.group(class);
        group.last_loss = Some(format!("was lost: {why}"));
        group.missing += 1;
        let mut events: Vec<Event> =
            running.into_iter().map(|stage| Event::StageInterrupted { stage, has_checkpoint: false }).collect();
        events.push(Event::WorkerEnded {
            worker: name(*task),
            why,
            cause: fate.cause(),
            is_lost: true,
            exit_code: None,
            queued_seconds: waited.map(|time| time.as_secs_f64()),
            seconds: ran.map(|time| time.as_secs_f64()),
        });
        Some(if fate == Fate::Cancelled { Reaction::Cancelled(events) } else { Reaction::Lost(events) })
    }

    /// A worker that refused the pipeline, and why.
    pub(in crate::cli) fn refused(&mut self) -> Option<(TaskId, String)> {
        self.refused.take()
    }

    /// The points that workers run now.
    pub(in crate::cli) fn running(&self) -> usize {
        self.workers.values().filter(|worker| worker.state != State::Gone).map(|worker| worker.running.len()).sum()
    }

    /// Why the workers of a class never start, if Slurm says so and no worker runs.
    pub(in crate::cli) fn hopeless(&self, queue: &[Queued]) -> Option<(Class, String)> {
        let own = || queue.iter().filter_map(|queued| Some((queued, self.workers.get(&queued.task)?)));
        let (queued, worker) = own().find(|(queued, _)| queued.is_pending && is_hopeless(&queued.reason))?;
        let is_running = own().any(|(queued, _)| !queued.is_pending);
        (!is_running).then(|| (worker.class, queued.reason.clone()))
    }

    /// Whether no worker waits or runs.
    pub(in crate::cli) fn is_empty(&self) -> bool {
        self.here().next().is_none()
    }

    /// Whether there were workers, and all have ended.
    pub(in crate::cli) fn are_all_gone(&self) -> bool {
        !self.workers.is_empty() && self.is_empty()
    }

    /// How many workers there were.
    pub(in crate::cli) fn submissions(&self) -> usize {
        self.workers.len()
    }

    /// The numbers of workers, if they have changed. `queue` says why they wait.
    pub(in crate::cli) fn news(&mut self, queue: &[Queued]) -> Option<Event> {
        let count = |state| self.here().filter(|worker| worker.state == state).count();
        let (pending, running) = (count(State::Pending), count(State::Running));
        let reasons = queue.iter().filter(|queued| queued.is_pending && !matches!(&*queued.reason, "None" | "(None)"));
        let reason = reasons.map(|queued| queued.reason.clone()).next().filter(|_| pending > 0);
        let event = Event::Workers { pending, running, reason, replaced: self.replaced };
        let is_old = self.last_counts.as_ref().map_or(self.workers.is_empty(), |last| *last == event);
        (!is_old).then(|| self.last_counts.insert(event).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Digest;
    use crate::store::host_name;

    const STOPPED: &str = "saved its states and left";
    const CLASS: Class = Class { cpus: 1, memory: Some(1000), gpus: 0 };

    fn task(index: u32) -> TaskId {
        TaskId { job: 7, index }
    }

    fn queued(index: u32, is_pending: bool) -> Queued {
        let (reason, node) = if is_pending { ("Resources", "") } else { ("None", "n1") };
        let waited = (!is_pending).then_some(Duration::from_secs(9));
        let (reason, node, comment) = (reason.to_owned(), node.to_owned(), CLASS.to_string());
        Queued { task: task(index), is_pending, reason, node, waited, comment }
    }

    fn end(index: u32, fate: Fate) -> TaskEnd {
        TaskEnd { task: task(index), fate, node: "n1".to_owned(), waited: None, ran: None }
    }

    fn worker(index: u32) -> String {
        format!("host/slurm-7_{index}")
    }

    fn started(stage: &str) -> Event {
        let (stage, kind, key) = (stage.to_owned(), "test".to_owned(), Digest::of(b""));
        Event::StageStarted { stage, kind, key, reason: None, gpus: Vec::new(), worker: None }
    }

    fn saved(stage: &str) -> Event {
        Event::StateSaved { stage: stage.to_owned(), epoch: 1, step: 0, seconds: 0.0, resumed_at: None, state: None }
    }

    fn left(index: u32, why: &str, code: u8) -> Event {
        let (worker, why, queued_seconds, seconds) = (worker(index), why.to_owned(), None, None);
        let cause = match code {
            0 if why == STOPPED => WorkerCause::Stopped,
            0 => WorkerCause::Done,
            _ => WorkerCause::Failed,
        };
        Event::WorkerEnded { worker, why, cause, is_lost: false, exit_code: Some(code), queued_seconds, seconds }
    }

    fn lost(book: &mut Book, index: u32, fate: Fate) -> Vec<Event> {
        match book.lost(&end(index, fate)) {
            Some(Reaction::Lost(events)) => events,
            other => panic!("{other:?}"),
        }
    }

    /// A book with workers that run.
    fn with_workers(count: u32) -> Book {
        let mut book = Book::default();
        book.submitted(CLASS, 7, count as usize);
        assert_eq!(book.see(&(0..count).map(|index| queued(index, false)).collect::<Vec<_>>()), BTreeSet::new());
        book
    }

    #[test]
    fn as_many_workers_are_submitted_as_points_can_run_and_the_site_allows() {
        let mut book = Book::default();
        assert_eq!(book.lacking(CLASS, 3, 8), Ok(3));
        book.submitted(CLASS, 7, 3);
        assert_eq!((book.lacking(CLASS, 3, 8), book.lacking(CLASS, 20, 8)), (Ok(0), Ok(5)));
        let other = Class { cpus: 4, ..CLASS };
        assert_eq!(book.lacking(other, 20, 8), Ok(5), "the limit is for all classes together");
        // Two of them find nothing to do.
        book.on_event(&worker(0), left(0, "ended: nothing was left for it", 0));
        book.on_event(&worker(1), left(1, "ended: nothing was left for it", 0));
        assert_eq!(book.see(&[queued(2, false)]), BTreeSet::new());
        assert_eq!((book.lacking(CLASS, 1, 8), book.lacking(CLASS, 2, 8)), (Ok(0), Ok(1)));
    }

    #[test]
    fn lost_worker_is_replaced_and_its_points_are_interrupted() {
        let mut book = with_workers(2);
        book.on_event(&worker(0), started("a"));
        book.on_event(&worker(0), started("b"));
        // Another worker has already taken one over.
        book.on_event(&worker(1), started("b"));
        assert_eq!(book.see(&[queued(1, false)]), BTreeSet::from([task(0)]));
        let events = lost(&mut book, 0, Fate::NodeFailed);
        assert!(matches!(&events[0], Event::StageInterrupted { stage, .. } if stage == "a"), "{events:?}");
        let Event::WorkerEnded { worker, why, is_lost: true, queued_seconds, .. } = &events[1] else {
            panic!("{events:?}")
        };
        assert_eq!((&**worker, &**why, *queued_seconds), ("slurm-7_0", "its job lost its node (n1)", Some(9.0)));
        assert_eq!((book.lacking(CLASS, 2, 8), book.running()), (Ok(1), 1));
        assert_eq!(book.terms(CLASS).1, BTreeSet::from(["n1".to_owned()]), "the next one runs elsewhere");
        book.submitted(CLASS, 8, 2);
        let news = book.news(&[]);
        assert!(matches!(news, Some(Event::Workers { pending: 2, running: 1, replaced: 1, .. })), "{news:?}");
    }

    /// Submits a worker that runs and then ends for lack of memory. Returns what follows.
    fn out_of_memory(book: &mut Book, index: u32, says_so: bool) -> Option<Reaction> {
        let task = TaskId { job: 100 + u64::from(index), index: 0 };
        book.submitted(CLASS, task.job, 1);
        book.see(&[Queued { task, ..queued(0, false) }]);
        if !says_so {
            book.see(&[]);
            return book.lost(&TaskEnd { task, ..end(0, Fate::OutOfMemory) });
        }
        let mut event = left(0, "ended: `a` ran out of memory", 1);
        if let Event::WorkerEnded { cause, .. } = &mut event {
            *cause = WorkerCause::OutOfMemory;
        }
        book.on_event(&format!("host/slurm-{task}"), event).map(Reaction::Stopped)
    }

    #[test]
    fn worker_that_ran_out_of_memory_gets_twice_as_much_up_to_the_limit() {
        for says_so in [false, true] {
            let mut book = Book::default();
            for memory in [2000, 4000] {
                assert!(out_of_memory(&mut book, memory, says_so).is_some());
                assert_eq!(book.terms(CLASS).0.memory, Some(u64::from(memory)));
            }
            let last = out_of_memory(&mut book, 8000, says_so);
            let why = match last {
                Some(Reaction::Refused(_, why)) => why,
                _ => book.refused().expect("it can't run").1,
            };
            assert!(why.contains("ran out of memory") && why.contains("gets no more"), "{why}");
        }
    }

    #[test]
    fn workers_that_run_out_of_the_same_memory_let_it_grow_once() {
        let mut book = with_workers(3);
        book.see(&[]);
        for index in 0..3 {
            lost(&mut book, index, Fate::OutOfMemory);
            assert_eq!(book.terms(CLASS).0.memory, Some(2000));
        }
    }

    #[test]
    fn workers_that_are_lost_again_and_again_end_the_run_unless_they_make_progress() {
        let mut book = Book::default();
        let mut round = |makes_progress: bool| {
            let lacking = book.lacking(CLASS, 1, 8)?;
            assert_eq!(lacking, 1);
            let job = 100 + book.submissions() as u64;
            book.submitted(CLASS, job, 1);
            let (task, name) = (TaskId { job, index: 0 }, format!("slurm-{job}_0"));
            if makes_progress {
                book.on_event(&name, saved("a"));
            }
            book.see(&[]);
            book.see(&[]);
            assert!(book.lost(&TaskEnd { task, ..end(0, Fate::Killed(9)) }).is_some());
            Ok::<_, String>(())
        };
        for _ in 0..3 {
            assert_eq!((round(false), round(false), round(true)), (Ok(()), Ok(()), Ok(())));
        }
        let ends: Vec<_> = (0..5).map(|_| round(false)).collect();
        assert_eq!(ends[..4], [Ok(()), Ok(()), Ok(()), Ok(())]);
        assert_eq!(ends[4], Err("was lost: its job was killed by signal 9 (n1)".to_owned()));
    }

    #[test]
    fn new_job_may_be_missing_in_the_queue_once() {
        let mut book = Book::default();
        book.submitted(CLASS, 7, 1);
        assert_eq!(book.see(&[]), BTreeSet::new());
        assert_eq!(book.see(&[queued(0, true)]), BTreeSet::new());
        assert_eq!((book.see(&[]), book.see(&[])), (BTreeSet::new(), BTreeSet::from([task(0)])));
        assert!(book.see(&[]).is_empty(), "it is asked for once");
    }

    #[test]
    fn worker_that_was_stopped_ends_for_the_reason_that_slurm_gives() {
        for (fate, expected) in [
            (Fate::Cancelled, "saved its states and left: its job was cancelled"),
            (Fate::Preempted, "saved its states and left: its job was preempted"),
            (Fate::Completed, STOPPED),
        ] {
            let mut book = with_workers(1);
            assert_eq!(book.on_event(&worker(0), left(0, STOPPED, 0)), None, "only Slurm knows who stopped it");
            assert_eq!(book.see(&[]), BTreeSet::from([task(0)]));
            let reaction = book.lost(&end(0, fate)).expect("it has ended");
            assert_eq!(matches!(reaction, Reaction::Cancelled(_)), fate == Fate::Cancelled, "{reaction:?}");
            let events = match reaction {
                Reaction::Lost(events) | Reaction::Cancelled(events) => events,
                Reaction::Stopped(event) => vec![event],
                Reaction::Refused(_, why) => panic!("{why}"),
            };
            let [Event::WorkerEnded { why, is_lost: false, .. }] = &*events else { panic!("{events:?}") };
            assert_eq!(why, expected);
            assert_eq!(book.lacking(CLASS, 1, 8), Ok(1));
        }
    }

    #[test]
    fn last_words_that_come_after_slurm_has_explained_the_end_count_once() {
        let mut book = with_workers(1);
        book.see(&[]);
        lost(&mut book, 0, Fate::Preempted);
        assert_eq!(book.on_event(&worker(0), left(0, STOPPED, 0)), None);
        book.submitted(CLASS, 8, 2);
        assert!(matches!(book.last_news(), Some(Event::Workers { replaced: 1, .. })));
        assert_eq!(book.end(Ending::Over), []);
    }

    #[test]
    fn driver_that_takes_a_run_up_learns_from_events_how_much_memory_was_too_little() {
        let mut book = Book::default();
        let class = Some(CLASS.to_string());
        book.on_event(&worker(0), Event::WorkerStarted { worker: worker(0), host: "n1".to_owned(), class });
        let mut event = left(0, "ended: `a` ran out of memory", 1);
        if let Event::WorkerEnded { cause, .. } = &mut event {
            *cause = WorkerCause::OutOfMemory;
        }
        assert!(book.on_event(&worker(0), event).is_some());
        assert_eq!(book.terms(CLASS).0.memory, Some(2000));
        assert_eq!((book.see(&[]), book.lacking(CLASS, 1, 8)), (BTreeSet::new(), Ok(1)));
        // Also from those that are in the queue.
        let mut book = Book::default();
        let comment = CLASS.with_terms(&Class { memory: Some(4000), ..CLASS });
        book.see(&[Queued { comment, ..queued(0, true) }]);
        assert_eq!((book.terms(CLASS).0.memory, book.lacking(CLASS, 1, 8)), (Some(4000), Ok(0)));
    }

    #[test]
    fn nobody_asks_why_workers_stop_at_the_end_of_the_run() {
        let mut book = with_workers(2);
        assert_eq!(book.on_event(&worker(0), left(0, STOPPED, 0)), None);
        assert_eq!(book.end(Ending::Over).len(), 1, "it waited for Slurm");
        let event = book.on_event(&worker(1), left(1, STOPPED, 0));
        assert!(matches!(event, Some(Event::WorkerEnded { cause: WorkerCause::Done, .. })), "{event:?}");
        assert_eq!(book.end(Ending::Over), []);
    }

    #[test]
    fn task_that_disappears_before_it_began_was_cancelled() {
        let mut book = Book::default();
        book.submitted(CLASS, 7, 1);
        book.see(&[queued(0, true)]);
        assert_eq!((book.see(&[]), book.see(&[])), (BTreeSet::new(), BTreeSet::from([task(0)])));
        assert!(matches!(book.lost(&end(0, Fate::Unknown)), Some(Reaction::Cancelled(_))));
        let mut book = with_workers(1);
        book.see(&[]);
        assert!(matches!(book.lost(&end(0, Fate::Unknown)), Some(Reaction::Lost(_))));
    }

    #[test]
    fn worker_that_refuses_the_pipeline_ends_the_run() {
        let mut book = with_workers(1);
        book.on_event(&worker(0), left(0, "ended: there is no data", 2));
        assert_eq!(book.refused(), Some((task(0), "ended: there is no data".to_owned())));
        // It could not even reach the store.
        let mut book = with_workers(1);
        book.see(&[]);
        assert!(matches!(book.lost(&end(0, Fate::Failed(2))), Some(Reaction::Refused(..))));
    }

    #[test]
    fn jobs_of_an_earlier_driver_are_found_by_their_comments() {
        let mut book = Book::default();
        let foreign = Queued { comment: "nightly".to_owned(), ..queued(5, false) };
        book.see(&[queued(0, false), queued(1, true), foreign]);
        assert_eq!(book.lacking(CLASS, 3, 8), Ok(1));
        let news = book.news(&[queued(1, true)]);
        let (reason, replaced) = (Some("Resources".to_owned()), 0);
        assert_eq!(news, Some(Event::Workers { pending: 1, running: 1, reason, replaced }));
        assert_eq!(book.news(&[queued(1, true)]), None, "nothing has changed");
    }

    #[test]
    fn workers_that_never_start_are_named_unless_others_run() {
        let book = with_workers(2);
        let never = Queued { reason: "PartitionConfig".to_owned(), ..queued(0, true) };
        assert_eq!(book.hopeless(std::slice::from_ref(&never)), Some((CLASS, "PartitionConfig".to_owned())));
        assert_eq!(book.hopeless(&[never, queued(1, false)]), None);
        assert_eq!(book.hopeless(&[queued(0, true)]), None);
    }

    #[test]
    fn workers_of_other_machines_are_only_passed_on() {
        let mut book = with_workers(1);
        let name = format!("{}/worker-9", host_name());
        let event = Event::WorkerStarted { worker: name.clone(), host: host_name(), class: None };
        assert_eq!(book.on_event(&name, event.clone()), Some(event));
        assert_eq!(book.lacking(CLASS, 2, 8), Ok(1));
    }
}
