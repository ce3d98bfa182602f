//! The log of a training program: a JSON object a line, read while the program writes it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::mem;
use std::path::PathBuf;

use super::curves::Metrics;
use super::reported::ReportedStates;
use crate::file::empty_folder;
use crate::stage::{Progress, StageError, Update};
use crate::stages::program::json::{Field, fields};
use crate::stages::program::{MAX_METRIC_NAME, ReadOnly, Watch};

/// The longest line, in bytes.
const MAX_LINE: usize = 1 << 20;
/// How many bytes are read at a time, so that a program that never stops logging can be interrupted.
const AT_A_TIME: u64 = 4 << 20;

/// The log of one process, which trains from one epoch to another.
pub(super) struct TrainingLog<'a> {
    path: PathBuf,
    /// Where the process writes its state. Emptied at each start.
    state: Option<PathBuf>,
    /// The states that a warm process reports.
    reported: Option<ReportedStates<'a>>,
    /// What the program must not change.
    protected: [&'a ReadOnly; 2],
    /// The start of the process or, if it is warm, the last state that it has reported.
    from: u64,
    to: u64,
    total: u64,
    progress: &'a dyn Progress,
    /// How much of the file has been read.
    read: u64,
    lines: u64,
    /// The beginning of a line that is not complete.
    rest: Vec<u8>,
    /// The metrics of the epochs after `from`.
    epochs: Vec<Metrics>,
}

impl<'a> TrainingLog<'a> {
    /// The log of a process that trains from one of these epochs to the other.
    pub(super) fn new(
        path: PathBuf,
        state: Option<PathBuf>,
        reported: Option<ReportedStates<'a>>,
        protected: [&'a ReadOnly; 2],
        (from, to, total): (u64, u64, u64),
        progress: &'a dyn Progress,
    ) -> Self {
        let (read, lines, rest, epochs) = (0, 0, vec![], vec![]);
        Self { path, state, reported, protected, from, to, total, progress, read, lines, rest, epochs }
    }

    /// The metrics of the epochs whose state the program has not reported, after the process has exited with 0: all
    /// epochs, or none of a warm process.
    ///
    /// # Errors
    /// If an epoch is missing, or the state of a warm process.
    pub(super) fn finish(mut self) -> Result<Vec<Metrics>, StageError> {
        self.read_lines(u64::MAX)?;
        let last = mem::take(&mut self.rest);
        if !last.is_empty() {
            self.read_line(&last)?;
        }
        let logged = self.from + self.epochs.len() as u64;
        if logged < self.to {
            let missing = match self.to - logged {
                1 => format!("epoch {}", self.to),
                _ => format!("epochs {} to {}", logged + 1, self.to),
            };
            let hint = "append a line such as {\"epoch\": 1, \"loss\": 0.5} to the file VADPIPE_LOG after each epoch; a \
                        line with `step` is progress only";
            let message = format!("the program exited with 0, but did not log {missing}; {hint}");
            return Err(StageError::failed(message));
        }
        self.reported.as_ref().map_or(Ok(()), |reported| reported.check_complete(self.from, self.to))?;
        Ok(self.epochs)
    }

    /// Reads what the program has appended since the last call, at most about so many bytes.
    fn read_lines(&mut self, most: u64) -> Result<(), StageError> {
        let failed = StageError::io(format!("can't read the log {}", self.path.display()));
        let mut buffer = vec![0; 1 << 16];
        let mut open = || -> io::Result<File> {
            let mut file = crate::file::open(&self.path)?;
            if file.metadata()?.len() < self.read {
                // The program has emptied it.
                (self.read, self.rest) = (0, vec![]);
            }
            file.seek(SeekFrom::Start(self.read))?;
            Ok(file)
        };
        let mut file = match open() {
            // The program has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file.map_err(failed)?,
        };
        let end = self.read.saturating_add(most);
        while self.read < end {
            let count = file.read(&mut buffer).map_err(StageError::io("can't read the log of the training"))?;
            if count == 0 {
                return Ok(());
            }
            self.read += count as u64;
            let mut pieces = buffer[..count].split(|byte| *byte == b'\n').peekable();
            while let Some(piece) = pieces.next() {
                self.rest.extend_from_slice(piece);
                if self.rest.len() > MAX_LINE {
                    return Err(self.wrong(format!("it has more than {MAX_LINE} bytes")));
                }
                if pieces.peek().is_some() {
                    let line = mem::take(&mut self.rest);
                    self.read_line(&line)?;
                }
            }
        }
        Ok(())
    }

    fn wrong(&self, what: impl std::fmt::Display) -> StageError {
        StageError::failed(format!("line {} of the program's log is not valid: {what}", self.lines + 1))
    }

    fn read_line(&mut self, line: &[u8]) -> Result<(), StageError> {
        if line.trim_ascii().is_empty() {
            self.lines += 1;
            return Ok(());
        }
        let fields = fields(line).map_err(|what| self.wrong(what))?;
        let (mut epoch, mut saved, mut metrics, mut shown) = (None, None, BTreeMap::new(), Vec::new());
        for (name, field) in &fields {
            if name == "saved" && self.reported.is_some() {
                saved = Some(field);
                continue;
            }
            let Some(number) = field.number() else { continue };
            match name.as_str() {
                "epoch" => epoch = Some(number),
                name if name.len() > MAX_METRIC_NAME => {
                    return Err(self.wrong(format!("the name of a metric has {} bytes", name.len())));
                }
                name => {
                    if !name.starts_with('_') && name != "step" {
                        metrics.insert(name.to_owned(), number);
                    }
                    shown.push((name.to_owned().into(), number));
                }
            }
        }
        let is_step = fields.iter().any(|(name, _)| name == "step");
        match (epoch.filter(|_| !is_step), saved) {
            (None, Some(saved)) => self.end_state(saved)?,
            (Some(_), Some(_)) => {
                return Err(self.wrong("it has both `epoch` and `saved`, which are lines of their own"));
            }
            (Some(epoch), None) => self.end_epoch(epoch, metrics, shown)?,
            (None, None) if is_step => self.report(shown, false),
            (None, None) => {}
        }
        self.lines += 1;
        Ok(())
    }

    /// Stores a state that a warm process reports, and the metrics up to it.
    fn end_state(&mut self, epoch: &Field) -> Result<(), StageError> {
        let Some(reported) = &mut self.reported else { return Ok(()) };
        let logged = self.from + self.epochs.len() as u64;
        let epoch = match reported.check(epoch, self.from, self.to, logged) {
            Ok(epoch) => epoch,
            Err(what) => return Err(self.wrong(what)),
        };
        let rest = usize::try_from(epoch - self.from).map_or_else(|_| vec![], |count| self.epochs.split_off(count));
        reported.store(epoch, &mem::replace(&mut self.epochs, rest))?;
        self.from = epoch;
        Ok(())
    }

    fn end_epoch(
        &mut self,
        epoch: f64,
        metrics: Metrics,
        shown: Vec<(Cow<'static, str>, f64)>,
    ) -> Result<(), StageError> {
        let expected = self.from + self.epochs.len() as u64 + 1;
        if expected > self.to {
            let why = format!("epoch {epoch} is after the last one of this process, {}", self.to);
            return Err(self.wrong(why));
        }
        #[expect(clippy::float_cmp, reason = "epochs are whole numbers, which floats hold exactly")]
        if epoch != expected as f64 {
            let why = match epoch {
                _ if epoch < 1.0 => "does not exist: epochs count from 1",
                _ if epoch < expected as f64 => "was logged before: each epoch is logged once, in order",
                _ => "is out of order: each epoch is logged once, in order",
            };
            return Err(self.wrong(format!("epoch {epoch} {why}; expected {expected}")));
        }
        self.epochs.push(metrics);
        self.report(shown, true);
        Ok(())
    }

    fn report(&self, figures: Vec<(Cow<'static, str>, f64)>, epoch_end: bool) {
        let done = self.from + self.epochs.len() as u64;
        self.progress.update(Update { done, total: self.total, unit: "epochs", figures, rate: None, epoch_end });
    }
}

impl Watch for TrainingLog<'_> {
    fn starts(&mut self) -> Result<(), StageError> {
        (self.read, self.lines, self.rest, self.epochs) = (0, 0, vec![], vec![]);
        if self.protected.iter().any(|folder| folder.is_changed()) {
            let message = "the program changed its state or its inputs before it failed, so it is not started again";
            return Err(StageError::failed(message));
        }
        // Not opened, because the program may have replaced it.
        let empty = match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::create_new(&self.path),
        };
        empty.map_err(StageError::io(format!("can't write {}", self.path.display())))?;
        let Some(state) = &self.state else { return Ok(()) };
        empty_folder(state).map_err(StageError::io(format!("can't create the folder {}", state.display())))
    }

    /// A warm process that has reported a state is followed by one that starts from this state.
    fn can_start_again(&self) -> bool {
        self.reported.as_ref().is_none_or(ReportedStates::is_empty)
    }

    fn looks(&mut self) -> Result<(), StageError> {
        self.read_lines(AT_A_TIME)
    }
}
