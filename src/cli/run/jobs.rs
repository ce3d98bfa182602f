//! The workers of `run --on slurm`: submits them, listens to their events, and replaces those that were lost.
//!
//! The shared store says what is done. Slurm is asked only which workers wait and run, and why one ended that did not
//! say so itself. If this process dies, the workers go on, and the next one finds their jobs by name.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::left::Left;
use super::merging::Merged;
use super::output::end_of_output;
use crate::cli::project::Project;
use crate::cli::slurm::{Book, Class, Client, Ending, Reaction, Refused, Site, Submission, TaskId};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::plan::Plan;
use crate::shared::{EventsRead, SharedStore};
use crate::stage::Cancel;

/// The longest time between two looks for events.
const TICK: Duration = Duration::from_secs(2);
/// How often this process looks whether the user interrupts it.
const SHORT_TICK: Duration = Duration::from_millis(100);
/// The shortest time between two calls of `sbatch`: at most ten in a minute.
const BETWEEN_SUBMISSIONS: Duration = Duration::from_secs(6);
/// The longest pause after a failure of Slurm.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// The most tasks of an array. Larger ones are often refused.
const MAX_ARRAY: usize = 1000;
/// How long workers may take to save their states when they are asked to leave.
const LEAVING: Duration = Duration::from_secs(120);
/// How long to wait for the last words of workers that have nothing to do.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Where the user finds what to change.
const SETTINGS: &str = "see [engine.slurm] of the configuration: `vadpipe config --help`";

/// The workers of a run.
pub(super) struct Jobs<'a> {
    pub(super) project: &'a Project,
    pub(super) site: &'a Site,
    pub(super) client: &'a Client<'a>,
    pub(super) shared: &'a SharedStore,
    /// The id of the run.
    pub(super) run: &'a str,
    /// The name of its jobs.
    pub(super) name: &'a str,
    /// The folder for what jobs print.
    pub(super) outputs: &'a Path,
    /// Where the logs of the run are.
    pub(super) logs: &'a Path,
    /// The arguments of a worker.
    pub(super) arguments: &'a [String],
    /// Where vadpipe is on this machine.
    pub(super) program: &'a str,
    pub(super) keep_going: bool,
    /// Whether `vadpipe cancel` has ended the run.
    pub(super) is_cancelled: &'a dyn Fn() -> bool,
    pub(super) cancel: &'a Cancel,
}

/// What is known while they run.
pub(super) struct Course<'a> {
    book: Book,
    left: Left<'a>,
    read: EventsRead,
    /// The name of each worker by its id in the store.
    names: BTreeMap<String, String>,
    queue: Retried,
    submitting: Retried,
    /// The most tasks of an array.
    largest: usize,
    /// Whether the queue was seen since the start, or since `sbatch` failed: Slurm may have taken the job.
    is_queue_known: bool,
    /// How many workers there were when it was last looked what the store has.
    replanned_after: usize,
}

/// Something that is done again and again, after longer pauses while it fails.
struct Retried {
    next: Instant,
    pause: Duration,
    failures: u32,
}

impl Retried {
    fn every(pause: Duration) -> Self {
        Self { next: Instant::now(), pause, failures: 0 }
    }

    fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.next = Instant::now() + self.pause;
    }

    /// Whether this is the first failure in a row.
    fn failed(&mut self) -> bool {
        self.failures += 1;
        self.next = Instant::now() + (self.pause * 2u32.saturating_pow(self.failures.min(16))).min(LONGEST_PAUSE);
        self.failures == 1
    }
}

impl<'a> Course<'a> {
    /// The beginning.
    pub(super) fn new(jobs: &Jobs<'a>, plan: &Plan) -> Self {
        Self {
            book: Book::new(jobs.site.max_memory),
            left: Left::new(jobs.project, plan),
            read: EventsRead::default(),
            names: BTreeMap::new(),
            queue: Retried::every(jobs.site.poll),
            submitting: Retried::every(BETWEEN_SUBMISSIONS.min(jobs.site.poll)),
            largest: MAX_ARRAY,
            is_queue_known: false,
            replanned_after: 0,
        }
    }

    /// Whether a point has failed.
    pub(super) fn has_failures(&self) -> bool {
        self.left.has_failures()
    }
}

impl<'a> Jobs<'a> {
    /// Runs the workers until nothing is left for them. `replan` makes a plan with what the store has.
    ///
    /// # Errors
    /// If Slurm refuses the jobs, if the workers refuse the pipeline, or if they are lost again and again.
    pub(super) fn run(
        &self,
        course: &mut Course<'a>,
        merged: &Merged<'_>,
        replan: &dyn Fn() -> Result<Plan>,
    ) -> Result<()> {
        let ran = self.run_to_end(course, merged, replan);
        let (last_words, news) = (course.book.end(Ending::Stopped), course.book.last_news());
        last_words.into_iter().chain(news).for_each(|event| merged.of_driver(event));
        ran
    }

    fn run_to_end(
        &self,
        course: &mut Course<'a>,
        merged: &Merged<'_>,
        replan: &dyn Fn() -> Result<Plan>,
    ) -> Result<()> {
        let mut stopped: Option<(Instant, Duration)> = None;
        loop {
            if course.queue.is_due() {
                self.look(course, merged, stopped.is_some())?;
            }
            self.listen(course, merged)?;
            if let Some((since, longest)) = stopped {
                if course.book.is_empty() || since.elapsed() >= longest {
                    let _ = if course.book.is_empty() { Ok(()) } else { self.client.kill(self.name) };
                    return Ok(());
                }
            } else {
                let is_over = course.left.ready().is_empty() && course.book.running() == 0;
                if (self.is_cancelled)() && !self.cancel.is_cancelled() {
                    warn(merged, "the run was cancelled".to_owned());
                    self.cancel.cancel();
                }
                let must_stop = self.cancel.is_cancelled() || (course.has_failures() && !self.keep_going);
                if is_over || must_stop {
                    self.stop(merged);
                    let ending = if must_stop { Ending::Stopped } else { Ending::Over };
                    course.book.end(ending).into_iter().for_each(|event| merged.of_driver(event));
                    stopped = Some((Instant::now(), if must_stop { LEAVING } else { LAST_WORDS }));
                    course.queue.next = Instant::now() + self.site.poll.min(LAST_WORDS / 4);
                } else if course.submitting.is_due() && course.is_queue_known {
                    if course.book.are_all_gone() && course.replanned_after != course.book.submissions() {
                        // Events may have been lost. The store knows.
                        course.left.plan_again(&replan()?);
                        course.replanned_after = course.book.submissions();
                    }
                    self.submit(course, &|message| warn(merged, message))?;
                }
            }
            self.wait(stopped.is_some());
        }
    }

    /// Waits for the next look at the events.
    fn wait(&self, is_stopping: bool) {
        let until = Instant::now() + TICK.min(self.site.poll / 2);
        while Instant::now() < until && (is_stopping || !self.cancel.is_cancelled()) {
            std::thread::sleep(SHORT_TICK);
        }
    }

    fn stop(&self, merged: &Merged<'_>) {
        if let Err(why) = self.client.stop(self.name) {
            warn(merged, format!("can't cancel the jobs {}: {why}", self.name));
        }
    }

    /// Passes on what workers tell.
    fn listen(&self, course: &mut Course<'a>, merged: &Merged<'_>) -> Result<()> {
        for (worker, mut event) in self.read_events(course) {
            if let Event::StageFinished { stage, .. } | Event::StageInterrupted { stage, .. } = &event {
                self.fetch_log(stage);
            }
            if let Event::StageFailed { stage, log, .. } = &mut event {
                *log = self.fetch_log(stage);
            }
            merged.of_worker(worker.rsplit('/').next().unwrap_or(&worker), event);
        }
        match course.book.refused() {
            Some((task, why)) => Err(self.refusal(task, &why)),
            None => Ok(()),
        }
    }

    /// Reads the new events of workers. Returns those for the user, with the names of their workers.
    fn read_events(&self, course: &mut Course<'a>) -> Vec<(String, Event)> {
        // If the store fails now, it may not the next time.
        let pieces = self.shared.new_events(self.run, &mut course.read).unwrap_or_default();
        let mut events = Vec::new();
        for (id, piece) in pieces {
            // A line may be damaged: it is only for the user.
            for event in piece.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()) {
                if let Event::WorkerStarted { worker, .. } = &event {
                    course.names.insert(id.clone(), worker.clone());
                }
                let worker = course.names.get(&id).cloned().unwrap_or_else(|| id.clone());
                let event = course.book.on_event(&worker, event).filter(|event| course.left.on_event(event));
                events.extend(event.map(|event| (worker, event)));
            }
        }
        events
    }

    /// Copies the log of a stage from the store. Returns where it is.
    fn fetch_log(&self, stage: &str) -> String {
        let path = self.logs.join(format!("{stage}.log"));
        // The log is not a result, and a stage that printed nothing has none.
        if let Ok(Some(log)) = self.shared.log(self.run, stage) {
            let _ = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, log));
        }
        path.display().to_string()
    }

    /// Looks at the queue. Asks why workers have left it.
    fn look(&self, course: &mut Course<'a>, merged: &Merged<'_>, is_stopping: bool) -> Result<()> {
        let queue = match self.client.queue(self.name) {
            Ok(queue) => queue,
            Err(why) => {
                if course.queue.failed() {
                    warn(merged, format!("can't look at the queue; trying again: {why}"));
                }
                return Ok(());
            }
        };
        course.queue.succeeded();
        course.is_queue_known = true;
        course.book.adopt(&queue);
        // What a worker said before its job ended counts.
        self.listen(course, merged)?;
        let gone = course.book.see(&queue);
        if !gone.is_empty() && !is_stopping {
            self.explain(course, &gone, merged)?;
        }
        if let Some(event) = course.book.news(&queue) {
            merged.of_driver(event);
        }
        match course.book.hopeless(&queue).filter(|_| !is_stopping) {
            Some((class, reason)) => Err(Error::bad_input(format!(
                "Slurm never starts workers with {}: they wait for the reason {reason}",
                class.words()
            ))
            .hint(SETTINGS)),
            None => Ok(()),
        }
    }

    fn explain(&self, course: &mut Course<'a>, gone: &BTreeSet<TaskId>, merged: &Merged<'_>) -> Result<()> {
        for end in self.client.ends(gone) {
            let events = match course.book.lost(&end) {
                None => continue,
                Some(Reaction::Refused(task, why)) => return Err(self.refusal(task, &why)),
                Some(Reaction::Lost(events)) => events,
                Some(Reaction::Stopped(event)) => vec![event],
                Some(Reaction::Cancelled(events)) => {
                    warn(merged, "a job was cancelled, so the run stops".to_owned());
                    self.cancel.cancel();
                    events
                }
            };
            events.into_iter().for_each(|event| merged.of_driver(event));
        }
        Ok(())
    }

    /// Submits workers for the points that can run.
    fn submit(&self, course: &mut Course<'a>, warn: &dyn Fn(String)) -> Result<()> {
        let mut points: BTreeMap<Class, (usize, Option<Duration>)> = BTreeMap::new();
        for point in course.left.ready() {
            let point = self.project.spec.point(point);
            let (count, longest) = points.entry(Class::of(point, self.site)).or_insert((0, Some(Duration::ZERO)));
            *count += 1;
            // A training can be interrupted.
            if point.parsed.stage.epochs().is_none() {
                *longest = longest.and_then(|longest| Some(longest.max(point.resources.time?)));
            }
        }
        for (class, (count, time)) in points {
            let time = time.filter(|time| !time.is_zero());
            let lacking = course.book.lacking(class, count, self.site.workers.get().into());
            let lacking = lacking.map_err(|why| {
                Error::storage(format!("workers with {} make no progress: the last one {why}", class.words()))
                    .hint(format!("their output is in {}", self.outputs.display()))
            })?;
            if lacking > 0 {
                // One class at a time, so that there is a pause between them.
                return self.submit_class(course, class, (lacking.min(course.largest), time), warn);
            }
        }
        Ok(())
    }

    fn submit_class(
        &self,
        course: &mut Course<'a>,
        class: Class,
        (count, time): (usize, Option<Duration>),
        warn: &dyn Fn(String),
    ) -> Result<()> {
        let (terms, excluded) = course.book.terms(class);
        let Self { name, outputs, arguments, program, .. } = *self;
        let excluded = &excluded;
        let submission = Submission { name, class, terms, time, count, excluded, outputs, arguments, program };
        let answer = self.client.submit(&submission);
        // Slurm has taken such jobs before.
        let answer = answer.map_err(|refused| match refused {
            Refused::Final(why) if course.book.submissions() > 0 => Refused::ForNow(why),
            refused => refused,
        });
        match answer {
            Ok(job) => {
                course.submitting.succeeded();
                course.book.submitted(class, job, count);
            }
            Err(Refused::TooLarge) => course.largest = (count / 2).max(1),
            Err(Refused::ForNow(why)) => {
                (course.is_queue_known, course.queue.next) = (false, Instant::now());
                if course.submitting.failed() {
                    warn(format!("Slurm takes no jobs now; trying again: {why}"));
                }
            }
            Err(Refused::Final(why)) => {
                return Err(
                    Error::bad_input(format!("Slurm refuses workers with {}: {why}", terms.words())).hint(SETTINGS)
                );
            }
        }
        Ok(())
    }

    /// Submits the workers that a run needs now. Returns how many there are.
    ///
    /// # Errors
    /// As [`Jobs::run`], or if Slurm takes no jobs now.
    pub(super) fn submit_only(&self, course: &mut Course<'a>) -> Result<usize> {
        let later = |why: String| Error::storage(why).hint("run the same command again later");
        let queue = self.client.queue(self.name).map_err(|why| later(format!("can't look at the queue: {why}")))?;
        // They may say how much memory is too little.
        self.read_events(course);
        course.book.see(&queue);
        let refusal = Cell::new(None);
        loop {
            let before = (course.book.submissions(), course.largest);
            self.submit(course, &|message| refusal.set(Some(message)))?;
            if let Some(message) = refusal.take() {
                return Err(later(message));
            }
            if (course.book.submissions(), course.largest) == before {
                return Ok(course.book.submissions());
            }
        }
    }

    /// The error of a worker that can't do anything.
    fn refusal(&self, task: TaskId, why: &str) -> Error {
        let output = self.outputs.join(format!("{task}.out"));
        let end = end_of_output(&output);
        Error::bad_input(format!("the worker slurm-{task} can't work: {why}{end}"))
            .hint(format!("its output is in {}", output.display()))
    }
}

fn warn(merged: &Merged<'_>, message: String) {
    merged.of_driver(Event::Warning { message });
}
