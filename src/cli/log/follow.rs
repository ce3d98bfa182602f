//! `log --follow`: prints the logs of running stages as they grow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::filters::{Filters, word};
use crate::cli::ui::{DIM, Ui, paint};
use crate::error::{Error, Result};
use crate::event::Event;
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
/// If no stage of the run matches, or a file can't be read.
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
    let logs = store.dir().join("logs").join(&run.id);
    let prefixed = pending.len() > 1;
    let mut follower = Follower { ui, logs, prefixed, pending, running: BTreeMap::new() };
    let mut events = Tail::new(store.dir().join("runs").join(format!("{}.ndjson", run.id)));
    let by_name = filters.lists_stages();
    let mut reads = 0_usize;
    let status = loop {
        // Checked before the events are read, so that the last ones are not missed.
        let is_over = reads.is_multiple_of(CHECK) && !run.is_running();
        let past = reads == 0 && !by_name;
        let finished = follower.read_events(&mut events, past)?;
        follower.print_logs()?;
        // The event comes before the record of the run is complete.
        let status = finished.map(RunStatus::word).or_else(|| is_over.then(|| word(run)));
        if status.is_some() || (by_name && follower.pending.is_empty()) {
            follower.end_all()?;
            break status;
        }
        reads += 1;
        sleep(TICK);
    };
    if let Some(status) = status.filter(|_| !by_name) {
        ui.note(&paint(DIM, &format!("run {} has ended: {status}", run.id)));
    }
    Ok(())
}

struct Follower<'a> {
    ui: &'a Ui,
    logs: PathBuf,
    /// Whether each line begins with the name of its stage.
    prefixed: bool,
    /// The stages that match and have not ended.
    pending: BTreeSet<&'a str>,
    /// The logs of the running ones.
    running: BTreeMap<String, Tail>,
}

impl Follower<'_> {
    /// Reads new events. `past` skips the logs of stages that have already ended. Returns how the run ended, if it has.
    fn read_events(&mut self, events: &mut Tail, past: bool) -> Result<Option<RunStatus>> {
        let mut finished = None;
        // Other events may be long, and need not be parsed.
        let about_stages =
            |line: &&String| line.starts_with("{\"event\":\"stage-") || line.contains("\"run-finished\"");
        for line in events.read(false)?.iter().filter(about_stages) {
            match serde_json::from_str(line) {
                Ok(Event::StageStarted { stage, .. }) if self.pending.contains(stage.as_str()) => {
                    let log = self.logs.join(format!("{stage}.log"));
                    self.running.entry(stage).or_insert_with(|| Tail::new(log));
                }
                Ok(Event::StageCached { stage, .. }) => {
                    let followed = self.pending.remove(stage.as_str());
                    if followed && !past {
                        self.ui.note(&paint(DIM, &format!("{stage} does not run: its result is cached")));
                    }
                }
                Ok(
                    Event::StageFinished { stage, .. }
                    | Event::StageFailed { stage, .. }
                    | Event::StageInterrupted { stage, .. }
                    | Event::StageSkipped { stage, .. }
                    | Event::StagePruned { stage, .. },
                ) => {
                    self.pending.remove(stage.as_str());
                    let log = self.running.remove(&stage);
                    if let Some(mut log) = log.filter(|_| !past) {
                        self.print(&stage, log.read(true)?);
                    }
                }
                Ok(Event::RunFinished { status, .. }) => finished = Some(status),
                _ => {}
            }
        }
        Ok(finished)
    }

    /// Prints the new lines of all running stages.
    fn print_logs(&mut self) -> Result<()> {
        let mut running = std::mem::take(&mut self.running);
        for (stage, log) in &mut running {
            self.print(stage, log.read(false)?);
        }
        self.running = running;
        Ok(())
    }

    /// Prints what is left of all logs.
    fn end_all(&mut self) -> Result<()> {
        for (stage, mut log) in std::mem::take(&mut self.running) {
            self.print(&stage, log.read(true)?);
        }
        Ok(())
    }

    fn print(&self, stage: &str, lines: Vec<String>) {
        let prefix = if self.prefixed { paint(DIM, &format!("{stage} | ")) } else { String::new() };
        let lines: Vec<_> = lines.iter().map(|line| format!("{prefix}{line}")).collect();
        if !lines.is_empty() {
            self.ui.out(&lines.join("\n"));
        }
    }
}

/// A file that grows.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line that is not complete.
    rest: Vec<u8>,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, rest: Vec::new() }
    }

    /// The lines that were completed since the last call; if the file is `complete`, also an unfinished last line. None
    /// if the file does not exist yet.
    fn read(&mut self, complete: bool) -> Result<Vec<String>> {
        let failed = |path: &Path| Error::storage(format!("can't read {}", path.display()));
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(failed(&self.path).caused_by(error)),
            }
        }
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut self.rest).map_err(|error| failed(&self.path).caused_by(error))?;
        }
        let end = match self.rest.iter().rposition(|byte| *byte == b'\n') {
            _ if complete => self.rest.len(),
            Some(newline) => newline + 1,
            None => return Ok(Vec::new()),
        };
        let lines: Vec<u8> = self.rest.drain(..end).collect();
        Ok(String::from_utf8_lossy(&lines).lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_of_a_growing_file_are_returned_once_they_are_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut tail = Tail::new(path.clone());
        assert_eq!(tail.read(false).unwrap(), [""; 0], "there is no file yet");
        let mut file = File::create(path).unwrap();
        let mut after = |text: &str, complete| {
            file.write_all(text.as_bytes()).unwrap();
            tail.read(complete).unwrap()
        };
        assert_eq!(after("one\ntw", false), ["one"]);
        assert_eq!(after("", false), [""; 0]);
        assert_eq!(after("o\nthree\nfo", false), ["two", "three"]);
        assert_eq!(after("ur", true), ["four"]);
        assert_eq!(after("", true), [""; 0]);
    }
}
