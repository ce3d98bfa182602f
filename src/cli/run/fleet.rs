//! The worker processes of `run --on local:N`.
//!
//! The shared store says what is left to run, so this process only starts and stops them. Their events come through
//! pipes. If this process dies, their standard input ends, and they save their states and leave.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::merging::Merged;
use super::output::end_of_output;
use crate::error::{Category, Error, Result};
use crate::event::Event;
use crate::stage::Cancel;

/// How often the processes are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long to wait for the last events of a process that has ended.
const LEFT_BEHIND: Duration = Duration::from_secs(2);
/// How often a worker is started again without progress.
const RESTARTS: u32 = 3;

/// After this long without an event, workers that wait for each other have nothing to wait for. They ask for results
/// every two seconds.
const STUCK: Duration = Duration::from_secs(10);

/// The worker processes of a run.
pub(super) struct Fleet<'a> {
    /// The command of a worker: its index, its name and its cache.
    pub(super) command: &'a dyn Fn(usize, &str, &Path) -> Command,
    /// The folder for what the workers write.
    pub(super) folder: &'a Path,
    /// The id of the run.
    pub(super) run: &'a str,
    /// Where the logs of the run are.
    pub(super) logs: &'a Path,
    pub(super) keep_going: bool,
    pub(super) cancel: &'a Cancel,
    pub(super) merged: &'a Merged<'a>,
}

/// A worker.
struct Member {
    name: String,
    cache: PathBuf,
    child: Child,
    /// Whether it has ended.
    ended: bool,
    /// The points that it runs now.
    running: BTreeSet<String>,
    /// The points that it leaves to others.
    left: BTreeSet<String>,
    /// When its last event came.
    last_event: Instant,
    /// How often it was lost since it last made progress.
    losses: u32,
    /// Outputs whose end was not read yet.
    unread: u32,
    /// When its process was found to have ended.
    exited: Option<Instant>,
}

/// The index of a worker and its event; `None` at the end of its events.
type Line = (usize, Option<Event>);

impl Fleet<'_> {
    /// Runs this many workers until nothing is left for them.
    ///
    /// # Errors
    /// If a worker can't be started, refuses the pipeline, or is lost again and again.
    pub(super) fn run(&self, count: u16) -> Result<()> {
        let (events, received) = channel();
        let mut members = Vec::new();
        let outcome = self.drive(count, &mut members, (&events, &received));
        if outcome.is_err() {
            members.iter().for_each(Member::stop);
            members.iter_mut().for_each(|member| drop(member.child.wait()));
        }
        outcome
    }

    fn drive(
        &self,
        count: u16,
        members: &mut Vec<Member>,
        (events, received): (&Sender<Line>, &Receiver<Line>),
    ) -> Result<()> {
        for index in 0..usize::from(count) {
            let (name, cache) = (format!("worker-{}", index + 1), self.folder.join(format!("worker-{}", index + 1)));
            let child = self.start(&name, &cache, index, events)?;
            let (running, left, last_event) = (BTreeSet::new(), BTreeSet::new(), Instant::now());
            let (ended, losses, unread, exited) = (false, 0, 1, None);
            members.push(Member { name, cache, child, ended, running, left, last_event, losses, unread, exited });
        }
        let mut is_stopping = false;
        while members.iter().any(|member| !member.ended) {
            for (index, event) in received.recv_timeout(TICK).into_iter().chain(received.try_iter()) {
                match event {
                    Some(event) => self.event(&mut members[index], event),
                    None => members[index].unread -= 1,
                }
            }
            self.look(members, is_stopping, events)?;
            let must_stop = self.cancel.is_cancelled() || (self.merged.has_failures() && !self.keep_going);
            // The final run makes what they wait for, if it can be made.
            let must_stop = must_stop || are_stuck(members);
            if must_stop && !is_stopping {
                is_stopping = true;
                members.iter().for_each(Member::stop);
            }
        }
        Ok(())
    }

    fn start(&self, name: &str, cache: &Path, index: usize, events: &Sender<Line>) -> Result<Child> {
        let failed = |e| Error::exhausted(format!("can't start {name}"), e);
        let errors = File::options().create(true).append(true).open(self.errors(name)).map_err(failed)?;
        let mut command = (self.command)(index, name, cache);
        // A signal from the terminal must not reach it twice.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().map_err(failed)?;
        if let Some(output) = child.stdout.take() {
            let events = events.clone();
            let read = move || read(index, output, &events);
            std::thread::Builder::new().name(format!("vadpipe-{name}")).spawn(read).map_err(failed)?;
        }
        Ok(child)
    }

    fn errors(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.stderr"))
    }

    /// Handles an event of a worker.
    fn event(&self, member: &mut Member, mut event: Event) {
        member.last_event = Instant::now();
        match &mut event {
            Event::StageLeft { stage, .. } => drop(member.left.insert(stage.clone())),
            Event::StageCached { stage, .. } | Event::StagePruned { stage, .. } => drop(member.left.remove(stage)),
            Event::StageStarted { stage, .. } => drop(member.running.insert(stage.clone())),
            Event::StageFinished { stage, .. } | Event::StageInterrupted { stage, .. } => {
                member.losses = 0;
                self.end(member, stage);
            }
            // An epoch whose state is not saved is trained again, and may kill the worker again.
            Event::StateSaved { .. } => member.losses = 0,
            Event::RungReached { stage, .. } => drop(member.running.remove(stage)),
            Event::StageFailed { stage, log, .. } => *log = self.end(member, stage).display().to_string(),
            _ => {}
        }
        self.merged.of_worker(&member.name, event);
    }

    /// Copies the log of a point that has ended. Returns where it is.
    fn end(&self, member: &mut Member, stage: &str) -> PathBuf {
        member.running.remove(stage);
        let to = self.logs.join(format!("{stage}.log"));
        let from = member.cache.join("logs").join(self.run).join(format!("{stage}.log"));
        // The log is not a result, and a stage that printed nothing has none.
        let _ = fs::read(from).and_then(|text| {
            to.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&to, text)
        });
        to
    }

    /// Looks for workers that have ended and whose events were handled.
    fn look(&self, members: &mut [Member], is_stopping: bool, events: &Sender<Line>) -> Result<()> {
        for (index, member) in members.iter_mut().enumerate().filter(|(_, member)| !member.ended) {
            let waited = member.child.try_wait().map_err(|e| Error::exhausted("can't wait for a worker", e))?;
            let Some(status) = waited else { continue };
            // A program that a dead worker left behind may hold the pipe.
            if member.unread > 0 && member.exited.get_or_insert_with(Instant::now).elapsed() < LEFT_BEHIND {
                continue;
            }
            member.ended = true;
            let is_expected = status.success() || is_stopping || status.code() == Some(code(Category::StageFailed));
            if !is_expected && self.is_lost(member, status)? {
                member.child = self.start(&member.name, &member.cache, index, events)?;
                (member.ended, member.unread, member.exited) = (false, member.unread + 1, None);
            }
        }
        Ok(())
    }

    /// Handles the death of a worker. Returns whether to start it again.
    fn is_lost(&self, member: &mut Member, status: ExitStatus) -> Result<bool> {
        let why = format!("{} {}", member.name, words(status));
        if status.code() == Some(code(Category::BadInput)) {
            return Err(Error::bad_input(format!("{why}{}", end_of_output(&self.errors(&member.name)))));
        }
        let is_last = member.losses >= RESTARTS;
        if is_last && member.running.is_empty() {
            return Err(Error::storage(format!("{why}{}", end_of_output(&self.errors(&member.name)))));
        }
        for stage in std::mem::take(&mut member.running) {
            let log = self.end(member, &stage).display().to_string();
            let event = match is_last {
                true => Event::StageFailed { stage, error: format!("its worker was lost: {why}"), hint: None, log },
                false => Event::StageInterrupted { stage, has_checkpoint: false },
            };
            self.merged.of_worker(&member.name, event);
        }
        member.losses += 1;
        if !is_last {
            let message = format!("{}; it is started again", words(status));
            self.merged.of_worker(&member.name, Event::Warning { message });
        }
        Ok(!is_last)
    }
}

impl Member {
    /// Asks it to save its states and to leave.
    fn stop(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).filter(|_| !self.ended);
        // It may have ended just now.
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
    }
}

/// Whether all workers wait for stages that they leave to others, so that nobody runs anything.
fn are_stuck(members: &[Member]) -> bool {
    let is_waiting =
        |member: &Member| member.running.is_empty() && !member.left.is_empty() && member.last_event.elapsed() >= STUCK;
    members.iter().filter(|member| !member.ended).all(is_waiting)
}

fn read(index: usize, output: ChildStdout, events: &Sender<Line>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        // The last line of a killed process may be incomplete.
        if let Ok(event) = serde_json::from_str(&line)
            && events.send((index, Some(event))).is_err()
        {
            return;
        }
    }
    let _ = events.send((index, None));
}

fn code(category: Category) -> i32 {
    i32::from(category.exit_code())
}

fn words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, code) => format!("ended with exit code {}", code.unwrap_or(-1)),
    }
}
