//! `log --follow`: prints the logs of running stages as they grow.

use std::collections::{BTreeMap, BTreeSet};
use std::process::exit;
use std::thread::sleep;
use std::time::Duration;

use super::files::{events_path, log_path};
use super::filters::{Filters, word};
use crate::cli::session::stop_on_signals;
use crate::cli::ui::{DIM, Ui, paint};
use crate::error::{Category, Error, Result};
use crate::event::Event;
use crate::file::tail::Tail;
use crate::stage::Cancel;
use crate::status::{RunStatus, StageStatus};
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
    check_text(ui)?;
    let pending: BTreeSet<&str> =
        run.stages.iter().filter(|stage| filters.takes_stage(stage)).map(|stage| stage.name.as_str()).collect();
    if pending.is_empty() {
        let hint = format!("`vadpipe log {}` lists its stages", run.id);
        return Err(Error::bad_input(format!("no stage of run {} matches", run.id)).hint(hint));
    }
    // This command writes nothing, so it can exit at once.
    stop_on_signals(&Cancel::default(), |_| exit(i32::from(Category::Interrupted.exit_code())))?;
    let prefixed = pending.len() > 1;
    let (running, failed) = (BTreeMap::new(), Vec::new());
    let mut follower = Follower { ui, store, run: &run.id, prefixed, pending, running, failed };
    let mut events = Tail::of_documents(events_path(store, &run.id));
    let by_name = filters.lists_stages();
    let mut reads = 0_usize;
    let status = loop {
        // Checked before the events are read, so that the last ones are not missed.
        let is_over = reads.is_multiple_of(CHECK) && !run.is_running();
        let past = reads == 0 && !by_name;
        let finished = follower.read_events(&mut events, past)?;
        follower.print_logs(false)?;
        if reads == 0 && by_name && follower.running.is_empty() && run.is_running() {
            follower.report_waiting();
        }
        // The event comes before the record of the run is complete.
        let status = finished.map(RunStatus::word).or_else(|| is_over.then(|| word(run)));
        if status.is_some() || (by_name && follower.pending.is_empty()) {
            follower.print_logs(true)?;
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

/// Checks that the user wants text.
///
/// # Errors
/// With `--json`.
pub(super) fn check_text(ui: &Ui) -> Result<()> {
    match ui.json {
        true => Err(Error::bad_input("a log is text, not JSON").hint("leave out --json")),
        false => Ok(()),
    }
}

/// The error of stages that have no result: those that failed, or else those that have the status of the first one.
pub(super) fn failure(stages: &[(String, StageStatus)], run: &str) -> Result<()> {
    let failed = stages.iter().find(|(_, status)| *status == StageStatus::Failed);
    let Some((first, status)) = failed.or(stages.first()) else { return Ok(()) };
    let more = match stages.iter().filter(|(_, other)| other == status).count() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let ended = match status {
        StageStatus::Failed => "failed",
        StageStatus::Skipped if more.is_empty() => "was skipped",
        StageStatus::Skipped => "were skipped",
        StageStatus::Interrupted if more.is_empty() => "was interrupted",
        StageStatus::Interrupted => "were interrupted",
        _ => "did not finish",
    };
    let message = format!("`{first}`{more} {ended} in run {run}");
    Err(Error::new(Category::StageFailed, message).hint(format!("`vadpipe log {run}` shows how each stage ended")))
}

/// Prints the new lines of a log. With `prefixed`, each line begins with the name of its stage.
pub(super) fn print_new(log: &mut Tail, stage: &str, prefixed: bool, complete: bool, ui: &Ui) -> Result<()> {
    let prefix = if prefixed { paint(DIM, &format!("{stage} | ")) } else { String::new() };
    log.read(complete, |lines| {
        let lines: Vec<String> = lines.iter().map(|line| format!("{prefix}{line}")).collect();
        ui.out(&lines.join("\n"));
    })
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
    /// The stages that match and ended without a result, except those that were pruned.
    failed: Vec<(String, StageStatus)>,
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
                Ok(Event::RunFinished { status, .. }) => finished = Some(status),
                Ok(event) => {
                    let Some((stage, status)) = event.stage_status() else { continue };
                    self.set_status(stage, status, past)?;
                }
                Err(_) => {}
            }
        }
        Ok(finished)
    }

    /// A stage has another status.
    fn set_status(&mut self, stage: &str, status: StageStatus, past: bool) -> Result<()> {
        if status == StageStatus::Running {
            if self.pending.contains(stage) {
                let log = || Tail::new(log_path(self.store, self.run, stage));
                self.running.entry(stage.to_owned()).or_insert_with(log);
            }
            return Ok(());
        }
        let is_followed = self.pending.remove(stage);
        if status == StageStatus::Cached && is_followed && !past {
            self.ui.note(&paint(DIM, &format!("{stage} does not run: its result is cached")));
        }
        // The last lines of its log.
        if let Some(mut log) = self.running.remove(stage).filter(|_| !past) {
            print_new(&mut log, stage, self.prefixed, true, self.ui)?;
        }
        let failed = matches!(status, StageStatus::Failed | StageStatus::Interrupted | StageStatus::Skipped);
        self.failed.extend((failed && is_followed).then(|| (stage.to_owned(), status)));
        Ok(())
    }

    /// Prints the new lines of all running stages. With `complete`, also unfinished ones.
    fn print_logs(&mut self, complete: bool) -> Result<()> {
        let (ui, prefixed) = (self.ui, self.prefixed);
        self.running.iter_mut().try_for_each(|(stage, log)| print_new(log, stage, prefixed, complete, ui))
    }

    fn report_waiting(&self) {
        let Some(first) = self.pending.first() else { return };
        let what = match self.pending.len() {
            1 => format!("`{first}`"),
            count => format!("one of {count} stages"),
        };
        self.ui.note(&paint(DIM, &format!("waiting for {what} to start")));
    }

    /// How the stages ended. Those that are left did not end before their run was killed.
    fn result(mut self, run: &str) -> Result<()> {
        self.failed.extend(self.pending.iter().map(|stage| ((*stage).to_owned(), StageStatus::Running)));
        failure(&self.failed, run)
    }
}
