//! `log --follow`: prints the logs of running stages as they grow.

use std::collections::{BTreeMap, BTreeSet};
use std::process::exit;
use std::thread::sleep;
use std::time::Duration;

use super::filters::{Filters, word};
use super::tail::{Tail, log_path};
use crate::cli::session::stop_on_signals;
use crate::cli::ui::{DIM, Ui, paint};
use crate::error::{Category, Error, Result};
use crate::event::Event;
use crate::stage::Cancel;
use crate::status::RunStatus;
use crate::store::{RunRecord, Store};

/// How often files are read.
const TICK: Duration = Duration::from_millis(100);
/// The process of the run is checked after this many reads.
const CHECK: usize = 10;

/// Prints the logs of the stages that run, and of those that start later, until all stages that match or the run have
/// ended. If the command line names stages, also the logs of those that have already ended.
///
/// # Errors
/// If no stage of the run matches, or a file can't be read. If the command line names stages: if one of them failed.
pub(super) fn follow(store: &Store, run: &RunRecord, filters: &Filters, ui: &Ui) -> Result<()> {
    if ui.json {
        return Err(Error::bad_input("a log that is followed is text, not JSON").hint("leave out --json"));
    }
    let pending: BTreeSet<&str> =
        run.stages.iter().filter(|stage| filters.takes_stage(stage)).map(|stage| stage.name.as_str()).collect();
    if pending.is_empty() {
        let hint = format!("`vadpipe log {}` lists its stages", run.id);
        return Err(Error::bad_input(format!("no stage of run {} matches", run.id)).hint(hint));
    }
    // Nothing is to be saved.
    stop_on_signals(&Cancel::default(), |_| exit(i32::from(Category::Interrupted.exit_code())))?;
    let prefixed = pending.len() > 1;
    let (running, failed) = (BTreeMap::new(), Vec::new());
    let mut follower = Follower { ui, store, run: &run.id, prefixed, pending, running, failed };
    let mut events = Tail::new(store.dir().join("runs").join(format!("{}.ndjson", run.id)));
    let by_name = filters.lists_stages();
    let mut reads = 0_usize;
    let status = loop {
        // Checked before the events are read, so that the last ones are not missed.
        let is_over = reads.is_multiple_of(CHECK) && !run.is_running();
        let past = reads == 0 && !by_name;
        let finished = follower.read_events(&mut events, past)?;
        follower.print_logs()?;
        if reads == 0 && by_name && follower.running.is_empty() && run.is_running() {
            follower.say_that_it_waits();
        }
        // The event comes before the record of the run is complete.
        let status = finished.map(RunStatus::word).or_else(|| is_over.then(|| word(run)));
        if status.is_some() || (by_name && follower.pending.is_empty()) {
            follower.end_all()?;
            break status;
        }
        reads += 1;
        sleep(TICK);
    };
    match status {
        Some(status) if !by_name => ui.note(&paint(DIM, &format!("run {} has ended: {status}", run.id))),
        _ if by_name => return follower.result(&run.id),
        _ => {}
    }
    Ok(())
}

/// The error of stages that did not end well.
pub(super) fn failure(stages: &[String], run: &str) -> Result<()> {
    let [first, others @ ..] = stages else { return Ok(()) };
    let more = if others.is_empty() { String::new() } else { format!(" and {} others", others.len()) };
    let message = format!("`{first}`{more} did not end well in run {run}");
    Err(Error::new(Category::StageFailed, message).hint(format!("`vadpipe log {run}` shows how each stage ended")))
}

/// The beginning of each line of a stage, if there are several.
pub(super) fn prefix(stage: &str, is_one_of_many: bool) -> String {
    if is_one_of_many { paint(DIM, &format!("{stage} | ")) } else { String::new() }
}

struct Follower<'a> {
    ui: &'a Ui,
    store: &'a Store,
    /// The id of the run.
    run: &'a str,
    /// Whether each line begins with the name of its stage.
    prefixed: bool,
    /// The stages that match and have not ended.
    pending: BTreeSet<&'a str>,
    /// The logs of the running ones.
    running: BTreeMap<String, Tail>,
    /// The stages that match and failed, or ended without a result because another one failed.
    failed: Vec<String>,
}

impl Follower<'_> {
    /// Reads new events. `past` skips the logs of stages that have already ended. Returns how the run ended, if it has.
    fn read_events(&mut self, events: &mut Tail, past: bool) -> Result<Option<RunStatus>> {
        let mut finished = None;
        // Other events may be long, and need not be parsed.
        let about_stages =
            |line: &&String| line.starts_with("{\"event\":\"stage-") || line.contains("\"run-finished\"");
        let mut lines = Vec::new();
        events.read(false, |new| lines.extend(new.iter().filter(about_stages).cloned()))?;
        for line in &lines {
            match serde_json::from_str(line) {
                Ok(Event::StageStarted { stage, .. }) if self.pending.contains(stage.as_str()) => {
                    let log = log_path(self.store, self.run, &stage);
                    self.running.entry(stage).or_insert_with(|| Tail::new(log));
                }
                Ok(Event::StageCached { stage, .. }) => {
                    let followed = self.pending.remove(stage.as_str());
                    if followed && !past {
                        self.ui.note(&paint(DIM, &format!("{stage} does not run: its result is cached")));
                    }
                }
                Ok(Event::StageFinished { stage, .. } | Event::StagePruned { stage, .. }) => {
                    self.end(stage, past, false)?;
                }
                Ok(
                    Event::StageFailed { stage, .. }
                    | Event::StageInterrupted { stage, .. }
                    | Event::StageSkipped { stage, .. },
                ) => self.end(stage, past, true)?,
                Ok(Event::RunFinished { status, .. }) => finished = Some(status),
                _ => {}
            }
        }
        Ok(finished)
    }

    /// A stage has ended. Prints what is left of its log.
    fn end(&mut self, stage: String, past: bool, has_failed: bool) -> Result<()> {
        let is_followed = self.pending.remove(stage.as_str());
        if let Some(mut log) = self.running.remove(&stage).filter(|_| !past) {
            self.print(&stage, &mut log, true)?;
        }
        self.failed.extend((has_failed && is_followed).then_some(stage));
        Ok(())
    }

    /// Prints the new lines of all running stages.
    fn print_logs(&mut self) -> Result<()> {
        let mut running = std::mem::take(&mut self.running);
        running.iter_mut().try_for_each(|(stage, log)| self.print(stage, log, false))?;
        self.running = running;
        Ok(())
    }

    /// Prints what is left of all logs.
    fn end_all(&mut self) -> Result<()> {
        let mut running = std::mem::take(&mut self.running);
        running.iter_mut().try_for_each(|(stage, log)| self.print(stage, log, true))
    }

    fn print(&self, stage: &str, log: &mut Tail, complete: bool) -> Result<()> {
        let prefix = prefix(stage, self.prefixed);
        log.read(complete, |lines| {
            let lines: Vec<String> = lines.iter().map(|line| format!("{prefix}{line}")).collect();
            self.ui.out(&lines.join("\n"));
        })
    }

    fn say_that_it_waits(&self) {
        let Some(first) = self.pending.first() else { return };
        let what = match self.pending.len() {
            1 => format!("`{first}`"),
            count => format!("one of {count} stages"),
        };
        self.ui.note(&paint(DIM, &format!("waiting for {what} to start")));
    }

    /// How the stages ended. Those that are left did not end before their run was killed.
    fn result(mut self, run: &str) -> Result<()> {
        self.failed.extend(self.pending.iter().map(|stage| (*stage).to_owned()));
        failure(&self.failed, run)
    }
}
