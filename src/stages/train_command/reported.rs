//! The states that a warm process reports: it writes that after 20 epochs to `STATE_OUT/20`, and then logs
//! `{"saved": 20}`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::curves::Metrics;
use crate::file::remove_folder;
use crate::key::boundary_after;
use crate::stage::StageError;
use crate::stages::program::json::Field;

/// Stores the state in a folder after this epoch, with the metrics since the state before.
type Store<'a> = Box<dyn FnMut(u64, &Path, &[Metrics]) -> Result<(), StageError> + 'a>;

/// The states that a process reports.
pub(super) struct ReportedStates<'a> {
    /// The folder that contains the folder of each state.
    folder: PathBuf,
    /// Where a state is while it is stored: out of the program's way.
    taken: PathBuf,
    /// There is a state after each multiple of this many epochs, and after the last epoch.
    every: u64,
    store: Store<'a>,
    is_empty: bool,
}

impl<'a> ReportedStates<'a> {
    /// The states below `folder`, `every` epochs apart. `taken` is in the same file system.
    pub(super) fn new(folder: PathBuf, taken: PathBuf, every: u64, store: Store<'a>) -> Self {
        Self { folder, taken, every, store, is_empty: true }
    }

    /// Whether none was reported yet.
    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    fn next(&self, from: u64, to: u64) -> u64 {
        boundary_after(from, self.every, to)
    }

    /// The epoch of a state that is reported in the right order: the next one after `from`, the last one that was
    /// reported. The process trains to `to`, and has logged the epochs up to `logged`. Otherwise, what is wrong.
    pub(super) fn check(&self, epoch: &Field, from: u64, to: u64, logged: u64) -> Result<u64, String> {
        let Some(epoch) = epoch.number().filter(|epoch| epoch.fract() == 0.0) else {
            return Err("`saved` is not an epoch, which is a whole number".to_owned());
        };
        let expected = if from < to { format!("; expected {}", self.next(from, to)) } else { String::new() };
        // Larger numbers than there are epochs stay so.
        match epoch as u64 {
            _ if epoch < 1.0 => Err(format!("there is no state after epoch {epoch}{expected}")),
            epoch if epoch > to => {
                Err(format!("the state after epoch {epoch} is after the last one of this process, {to}"))
            }
            epoch if !epoch.is_multiple_of(self.every) && epoch != to => Err(format!(
                "there is no state after epoch {epoch}: VADPIPE_SEGMENT is {}, so states follow multiples of it{expected}",
                self.every
            )),
            epoch if epoch <= from => Err(format!(
                "the state after epoch {epoch} was reported before: each is reported once, in order{expected}"
            )),
            epoch if epoch > self.next(from, to) => {
                Err(format!("the state after epoch {epoch} is out of order: each is reported once, in order{expected}"))
            }
            epoch if epoch > logged => {
                let last = if logged == 0 { "none".to_owned() } else { format!("those up to {logged}") };
                Err(format!("the state after epoch {epoch} was reported, but of its epochs {last} were logged"))
            }
            epoch => Ok(epoch),
        }
    }

    /// Stores the state after this epoch.
    pub(super) fn store(&mut self, epoch: u64, epochs: &[Metrics]) -> Result<(), StageError> {
        let path = self.folder.join(epoch.to_string());
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(StageError::failed(format!("VADPIPE_STATE_OUT/{epoch} is not a folder"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = format!("the program reported the state after epoch {epoch}, but wrote none");
                return Err(StageError::failed(format!("{message}; {}", self.hint(epoch))));
            }
            Err(error) => return Err(StageError::io(format!("can't read {}", path.display()))(error)),
        }
        let failed = || StageError::io(format!("can't move {}", path.display()));
        if self.taken.exists() {
            remove_folder(&self.taken).map_err(failed())?;
        }
        fs::rename(&path, &self.taken).map_err(failed())?;
        self.is_empty = false;
        (self.store)(epoch, &self.taken, epochs)
    }

    /// Fails if a state between `from` and `to` was not reported. The process has exited with 0.
    pub(super) fn check_complete(&self, from: u64, to: u64) -> Result<(), StageError> {
        if from == to {
            return Ok(());
        }
        let epoch = self.next(from, to);
        let message = format!("the program exited with 0, but did not report the state after epoch {epoch}");
        Err(StageError::failed(format!("{message}; {}", self.hint(epoch))))
    }

    /// How to report a state.
    fn hint(&self, epoch: u64) -> String {
        let names = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let is_epoch = |name: &std::ffi::OsString| name.to_str().is_some_and(|name| name.parse::<u64>().is_ok());
        let other = names.into_iter().find(|name| !is_epoch(name));
        let other = other.map(|name| format!("it wrote `{}` to VADPIPE_STATE_OUT itself; ", name.display()));
        format!(
            "{}with `warm = true`, write the state after epoch {epoch} to the folder VADPIPE_STATE_OUT/{epoch}, and then \
             append {{\"saved\": {epoch}}} to VADPIPE_LOG",
            other.unwrap_or_default()
        )
    }
}
