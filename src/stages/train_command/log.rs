//! What a training program logs: a JSON object a line, read while the program writes it; and the curves made of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::mem;
use std::path::PathBuf;

use jiter::JsonValue;

use crate::artifact::{Tensor, TensorError};
use crate::file::empty_folder;
use crate::stage::{Progress, StageError, Update};
use crate::stages::program::{MAX_METRIC_NAME, ReadOnly, Watch, number};

/// The longest line, in bytes.
const MAX_LINE: usize = 1 << 20;
/// How many bytes are read at a time, so that a program that never stops logging can be interrupted.
const AT_A_TIME: u64 = 4 << 20;
/// The bits of the NaN that stands for an epoch in which a metric was not logged. A program that computes or logs a
/// NaN never makes this one: its payload is that of R's `NA`.
const MISSING: u64 = 0x7ff8_0000_0000_07a2;
/// The names of the tensors of curves begin with this.
const PREFIX: &str = "history.";

/// The metrics of the finished epochs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Curves {
    epochs: usize,
    /// One value for each epoch.
    by_name: BTreeMap<String, Vec<f64>>,
}

impl Curves {
    /// The curves of a state.
    ///
    /// # Errors
    /// If a tensor is not a list of f64, one for each epoch.
    pub(super) fn from_tensors(tensors: &BTreeMap<String, Tensor>, epochs: u64) -> Result<Self, TensorError> {
        let epochs = usize::try_from(epochs).unwrap_or(usize::MAX);
        let mut by_name = BTreeMap::new();
        for (name, tensor) in tensors {
            let Some(name) = name.strip_prefix(PREFIX) else { continue };
            let curve = tensor.to_vec::<f64>()?;
            if curve.len() != epochs {
                return Err(TensorError::Shape { elements: curve.len(), shape: vec![epochs] });
            }
            by_name.insert(name.to_owned(), curve);
        }
        Ok(Self { epochs, by_name })
    }

    /// The curves as tensors `history.NAME`: `f64 [epochs]`.
    pub(super) fn to_tensors(&self) -> BTreeMap<String, Tensor> {
        self.by_name.iter().map(|(name, curve)| (format!("{PREFIX}{name}"), Tensor::vector(curve))).collect()
    }

    /// Adds an epoch.
    pub(super) fn push(&mut self, metrics: &BTreeMap<String, f64>) {
        for name in metrics.keys().filter(|name| !self.by_name.contains_key(*name)).cloned().collect::<Vec<_>>() {
            self.by_name.insert(name, vec![f64::from_bits(MISSING); self.epochs]);
        }
        for (name, curve) in &mut self.by_name {
            curve.push(metrics.get(name).copied().unwrap_or(f64::from_bits(MISSING)));
        }
        self.epochs += 1;
    }

    /// What was logged in the last epoch.
    pub(super) fn last(&self) -> BTreeMap<String, f64> {
        let last = |curve: &Vec<f64>| curve.last().copied().filter(|value| value.to_bits() != MISSING);
        self.by_name.iter().filter_map(|(name, curve)| Some((name.clone(), last(curve)?))).collect()
    }

    /// The best value of a metric, and its epoch, from 1. The first of several; NaN is never the best.
    pub(super) fn best(&self, name: &str, larger: bool) -> Option<(f64, u64)> {
        let values = (1..).zip(self.by_name.get(name)?.iter().copied()).filter(|(_, value)| !value.is_nan());
        let better = |a: f64, b: f64| if larger { a > b } else { a < b };
        values.fold(None, |best, (epoch, value)| match best {
            Some((other, _)) if !better(value, other) => best,
            _ => Some((value, epoch)),
        })
    }

    /// The names of the metrics.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

/// The log of one process, which trains from one epoch to another.
pub(super) struct TrainingLog<'a> {
    path: PathBuf,
    /// Where the process writes its state. Emptied at each start.
    state: Option<PathBuf>,
    /// What the program must not change.
    protected: [&'a ReadOnly; 2],
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
    epochs: Vec<BTreeMap<String, f64>>,
}

impl<'a> TrainingLog<'a> {
    /// The log of a process that trains from one of these epochs to the other.
    pub(super) fn new(
        path: PathBuf,
        state: Option<PathBuf>,
        protected: [&'a ReadOnly; 2],
        (from, to, total): (u64, u64, u64),
        progress: &'a dyn Progress,
    ) -> Self {
        Self { path, state, protected, from, to, total, progress, read: 0, lines: 0, rest: vec![], epochs: vec![] }
    }

    /// The metrics of the epochs, after the process has exited with 0.
    ///
    /// # Errors
    /// If an epoch is missing.
    pub(super) fn finish(mut self) -> Result<Vec<BTreeMap<String, f64>>, StageError> {
        self.read_lines(u64::MAX)?;
        let last = mem::take(&mut self.rest);
        if !last.is_empty() {
            self.read_line(&last)?;
        }
        let logged = self.from + self.epochs.len() as u64;
        if logged == self.to {
            return Ok(self.epochs);
        }
        let missing = if logged + 1 == self.to {
            format!("epoch {}", self.to)
        } else {
            format!("epochs {} to {}", logged + 1, self.to)
        };
        let hint = "append a line such as {\"epoch\": 1, \"loss\": 0.5} to the file VADPIPE_LOG after each epoch; a line \
                    with `step` is progress only";
        Err(StageError::failed(format!("the program exited with 0, but did not log {missing}; {hint}")))
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
        let value = JsonValue::parse(line, true).map_err(|error| self.wrong(error.description(line)))?;
        let JsonValue::Object(fields) = value else { return Err(self.wrong("it is not a JSON object")) };
        let (mut epoch, mut metrics, mut shown) = (None, BTreeMap::new(), Vec::new());
        for (name, value) in fields.iter() {
            let Ok(number) = number(value) else { continue };
            match &**name {
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
        match epoch.filter(|_| !is_step) {
            Some(epoch) => self.end_epoch(epoch, metrics, shown)?,
            None if is_step => self.report(shown, false),
            None => {}
        }
        self.lines += 1;
        Ok(())
    }

    fn end_epoch(
        &mut self,
        epoch: f64,
        metrics: BTreeMap<String, f64>,
        shown: Vec<(std::borrow::Cow<'static, str>, f64)>,
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

    fn report(&self, figures: Vec<(std::borrow::Cow<'static, str>, f64)>, epoch_end: bool) {
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

    fn looks(&mut self) -> Result<(), StageError> {
        self.read_lines(AT_A_TIME)
    }
}
