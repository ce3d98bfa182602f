//! What `verify` finds about a training program.
//!
//! The whole training runs again. If a state or the result differs, the program is *not reproducible*: an extension
//! keeps the recipe, but not the bytes. Otherwise one process trains the epochs of the first two segments. If its state
//! differs from that of two processes, the *state is incomplete*: the program remembers something that it does not
//! save. That is harmless as long as each process trains one segment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tempfile::TempDir;

use super::difference::{self, Difference};
use crate::artifact::{Folder, FolderOnDisk, Tensor};
use crate::error::{Error, Result};
use crate::exec::job::Job;
use crate::exec::worker::{StageChain, Worker};
use crate::key::{Position, StateChain};
use crate::stage::{Cancel, ProcessFolders, ProgramChain, ProgramState, StageError};
use crate::store::{NewState, ResultRecord, StateRecord, Store};

/// The numerics class of states that are only compared.
const REPLAYED: &str = "replayed";

/// What was found about a training program.
#[derive(Clone, Debug, Serialize)]
pub struct ProgramVerdict {
    /// The first epoch that differed, if it can be told.
    pub epoch: Option<u64>,
    /// What differs if one process trains the epochs of two.
    pub incomplete: Option<Difference>,
    /// The epochs of the first two segments. `None` if the training is shorter, so that its state was not checked.
    pub compared: Option<u64>,
}

/// The epochs whose states are needed to judge a program: those that are stored, and the first two boundaries.
pub(super) fn needed_states(worker: &Worker<'_>, job: &Job, every: u64) -> Result<BTreeSet<u64>> {
    let stored = stored_states(worker, job, worker.context.store)?;
    Ok(stored.into_iter().map(|state| state.epoch).chain([every, 2 * every]).collect())
}

/// The states of a chain in a store whose files are as they were, from the first to the last.
pub(super) fn stored_states(worker: &Worker<'_>, job: &Job, store: &Store) -> Result<Vec<StateRecord>> {
    let query = worker.context.spec.resumable(job.point, &worker.context.compute.numerics);
    Ok(store.resumable_states(job.components.chain().keys(), &query)?)
}

/// Compares the result and the states of a training with those of its second run, which are in `worker.into`.
pub(super) fn judge(
    worker: &Worker<'_>,
    job: &Job,
    stored: &ResultRecord,
    again: &ResultRecord,
) -> Result<(Option<Difference>, ProgramVerdict)> {
    let every = worker.context.spec.resumable(job.point, "").every;
    let before = stored_states(worker, job, worker.context.store)?;
    let now = stored_states(worker, job, worker.into)?;
    for (old, new) in before.iter().filter_map(|old| Some((old, now.iter().find(|new| new.key == old.key)?))) {
        if let Some(found) = compare(worker, (worker.context.store, old), (worker.into, new))? {
            let epoch = first_epoch(worker, old, new)?.unwrap_or(old.epoch);
            return Ok((Some(found), ProgramVerdict { epoch: Some(epoch), incomplete: None, compared: None }));
        }
    }
    if stored.digest != again.digest {
        let found = difference::of_results(worker, stored, again)?;
        return Ok((Some(found), ProgramVerdict { epoch: None, incomplete: None, compared: None }));
    }
    let end = 2 * every;
    let Some(two_processes) = now.iter().find(|state| state.epoch == end) else {
        return Ok((None, ProgramVerdict { epoch: None, incomplete: None, compared: None }));
    };
    let one_process = replay(worker, job, None, end, end)?;
    let incomplete = compare(worker, (worker.into, two_processes), (worker.into, &one_process))?;
    Ok((None, ProgramVerdict { epoch: None, incomplete, compared: Some(end) }))
}

/// The first difference between two states.
pub(super) fn compare(
    worker: &Worker<'_>,
    (old_store, old): (&Store, &StateRecord),
    (new_store, new): (&Store, &StateRecord),
) -> Result<Option<Difference>> {
    if let Some(found) = difference::of_folders((old_store, &old.folder), (new_store, &new.folder))? {
        return Ok(Some(found));
    }
    worker.context.cancel.check()?;
    difference::of_states(&old_store.read_state(old)?, &new_store.read_state(new)?)
}

/// The first epoch, from 1, in which a curve of two states differs.
fn first_epoch(worker: &Worker<'_>, old: &StateRecord, new: &StateRecord) -> Result<Option<u64>> {
    let (old, new) = (worker.context.store.read_state(old)?, worker.into.read_state(new)?);
    let epochs = old.iter().filter_map(|(name, old)| {
        let new = new.get(name)?.bytes().chunks(8);
        (1..).zip(old.bytes().chunks(8).zip(new)).find(|(_, (old, new))| old != new).map(|(epoch, _)| epoch)
    });
    Ok(epochs.min())
}

/// Trains from a stored state, or from the start, to an epoch. A process trains `every` epochs. Returns the last state,
/// which is in `worker.into`.
pub(super) fn replay(
    worker: &Worker<'_>,
    job: &Job,
    start: Option<&StateRecord>,
    end: u64,
    every: u64,
) -> Result<StateRecord> {
    let stop = worker.context.cancel.for_one();
    let folder = tempfile::tempdir_in(worker.into.dir());
    let folder = folder.map_err(|e| Error::storage("can't create a temporary folder").caused_by(e))?;
    let replay = ProgramReplay {
        from: worker.context.store,
        into: worker.into,
        states: job.components.chain(),
        start,
        end,
        every,
        folder,
        stop: &stop,
        reached: Mutex::default(),
    };
    let ran = worker.run_stage(job, &Arc::default(), StageChain::ProgramReplay(&replay), &stop);
    let reached = replay.reached.into_inner().unwrap_or_else(PoisonError::into_inner);
    reached.ok_or_else(|| match ran {
        Err(error) => error.into(),
        Ok(_) => StageError::failed("the stage did not save the requested state").into(),
    })
}

/// A part of a program's chain. Stops the stage when it has saved the last state.
struct ProgramReplay<'a> {
    from: &'a Store,
    into: &'a Store,
    states: StateChain,
    start: Option<&'a StateRecord>,
    end: u64,
    every: u64,
    /// For the checkpoints of the processes.
    folder: TempDir,
    stop: &'a Cancel,
    reached: Mutex<Option<StateRecord>>,
}

impl ProgramChain for ProgramReplay<'_> {
    fn resume(&self, to: &Path) -> Result<Option<ProgramState>> {
        let Some(start) = self.start else { return Ok(None) };
        self.from.write_folder(&start.folder, to)?;
        let curves = self.from.read_state(start)?;
        Ok(Some(ProgramState { epoch: start.epoch, curves, files: start.folder.clone() }))
    }

    fn boundary_after(&self, epoch: u64) -> u64 {
        self.states.boundary_after(epoch, self.every).min(self.end)
    }

    fn stops_at(&self) -> u64 {
        self.end
    }

    fn begin(&self, to: Option<u64>, _has_checkpoint: bool) -> Result<ProcessFolders, StageError> {
        let checkpoint = self.folder.path().join(to.unwrap_or_default().to_string());
        let what = format!("can't create the folder {}", checkpoint.display());
        std::fs::create_dir_all(&checkpoint).map_err(StageError::io(what))?;
        Ok(ProcessFolders { checkpoint: Some(checkpoint), dep_file: self.folder.path().join("files-read") })
    }

    fn note_files(&self) -> Result<(), StageError> {
        Ok(())
    }

    fn end(&self, _succeeded: bool) -> Result<(), StageError> {
        Ok(())
    }

    fn save(&self, epoch: u64, curves: &BTreeMap<String, Tensor>, files: &FolderOnDisk) -> Result<Folder> {
        let position = Position { epoch, step: 0 };
        let new = NewState { folder: Some(files), ..NewState::new(position, REPLAYED, true, curves) };
        let state = self.into.put_state(self.states.keys(), new)?;
        if epoch == self.end {
            *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(state.clone());
            self.stop.cancel();
        }
        Ok(state.folder)
    }

    fn set_best(&self, _epoch: u64) -> Result<()> {
        Ok(())
    }

    fn write(&self, files: &Folder, to: &Path) -> Result<()> {
        Ok(self.into.write_folder(files, to)?)
    }
}
