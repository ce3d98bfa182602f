//! What `verify` finds about a training program.
//!
//! The whole training runs again. If a state or the result differs, the program is *not reproducible*: an extension
//! keeps the recipe, but not the bytes. Otherwise one process trains the epochs of the first two segments. If its state
//! differs from that of two processes, the *state is incomplete*: the program remembers something that it does not
//! save. That is harmless as long as each process trains one segment.
//!
//! A warm training is one process, so it is compared the other way round: two processes train the first two segments.
//! There, an incomplete state matters, because a training that is interrupted or extended goes on in another process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tempfile::TempDir;

use super::difference;
use crate::artifact::{Folder, FolderOnDisk, Tensor};
use crate::error::{Error, Result};
use crate::exec::job::Job;
use crate::exec::worker::{StageChain, Worker};
use crate::key::{Position, StateChain, boundary_after};
use crate::stage::{Cancel, ProcessFolders, ProgramChain, ProgramState, StageError};
use crate::store::{Difference, EpochRange, NewState, ResultRecord, StateRecord, Store};

/// The numerics class of states that are only compared.
const REPLAYED: &str = "replayed";

/// What was found about a training program that ran again as a whole.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ProgramVerdict {
    /// The first epoch that differed, if it can be told.
    pub epoch: Option<u64>,
    /// What differs if one process trains the epochs of two.
    pub incomplete: Option<Difference>,
    /// The epochs of the first two segments. `None` if the training is shorter, so that its state was not checked.
    pub compared: Option<u64>,
}

/// What was found about a part of a training program's chain.
#[derive(Clone, Debug, Default)]
pub(super) struct CheckedStretch {
    /// How its last state differs from the stored one.
    pub difference: Option<Difference>,
    /// The first epoch that differed, if it can be told.
    pub epoch: Option<u64>,
    /// What differs if one process trains the epochs of two.
    pub incomplete: Option<Difference>,
    /// The epochs that were trained in both ways.
    pub pair: Option<EpochRange>,
}

/// The epochs whose states are needed to judge a program: those that are stored, and the first two boundaries.
pub(super) fn needed_states(worker: &Worker<'_>, job: &Job, every: u64) -> Result<BTreeSet<u64>> {
    let stored = stored_states(worker, job, worker.context.store)?;
    Ok(stored.into_iter().map(|state| state.epoch).chain([every, 2 * every]).collect())
}

/// The states of a chain in a store whose files are as they were, from the first to the last.
pub(super) fn stored_states(worker: &Worker<'_>, job: &Job, store: &Store) -> Result<Vec<StateRecord>> {
    let query = worker.context.spec.resumable(job.point, &job.class);
    Ok(store.resumable_states(job.components.chain().keys(), &query)?)
}

/// Compares the result and the states of a training with those of its second run, which are in `worker.into`.
pub(super) fn judge(
    worker: &Worker<'_>,
    job: &Job,
    stored: &ResultRecord,
    again: &ResultRecord,
) -> Result<(Option<Difference>, ProgramVerdict)> {
    let now = stored_states(worker, job, worker.into)?;
    if !is_warm(worker, job) {
        return match of_second_run(worker, job, (stored, again), &now)? {
            (None, _) => {
                let (incomplete, compared) = first_segments(worker, job, &now)?;
                Ok((None, ProgramVerdict { epoch: None, incomplete, compared }))
            }
            (found, epoch) => Ok((found, ProgramVerdict { epoch, ..ProgramVerdict::default() })),
        };
    }
    // Where the first run was interrupted, it went on in another process. So a difference may have two reasons.
    if let Some((found, epoch)) = first_segment_again(worker, job, &now)? {
        return Ok((Some(found), ProgramVerdict { epoch: Some(epoch), ..ProgramVerdict::default() }));
    }
    let (incomplete, compared) = first_segments(worker, job, &now)?;
    let (difference, epoch) = of_second_run(worker, job, (stored, again), &now)?;
    Ok((difference, ProgramVerdict { epoch, incomplete, compared }))
}

/// Whether one process trains all segments.
pub(super) fn is_warm(worker: &Worker<'_>, job: &Job) -> bool {
    worker.context.point(job.point).parsed.stage.epochs().is_some_and(|epochs| epochs.warm)
}

fn every(worker: &Worker<'_>, job: &Job) -> u64 {
    worker.context.spec.resumable(job.point, "").every
}

/// The first difference between the two runs of a training, and the first epoch that differs. `now` are the states of
/// the second run.
fn of_second_run(
    worker: &Worker<'_>,
    job: &Job,
    (stored, again): (&ResultRecord, &ResultRecord),
    now: &[StateRecord],
) -> Result<(Option<Difference>, Option<u64>)> {
    let before = stored_states(worker, job, worker.context.store)?;
    for (old, new) in before.iter().filter_map(|old| Some((old, now.iter().find(|new| new.key == old.key)?))) {
        let (old_state, new_state) = ((&**worker.context.store, old), (&**worker.into, new));
        if let Some(found) = compare(worker, old_state, new_state)? {
            let epoch = first_epoch(old_state, new_state)?.unwrap_or(old.epoch);
            return Ok((Some(found), Some(epoch)));
        }
    }
    match stored.digest == again.digest {
        true => Ok((None, None)),
        false => Ok((Some(difference::of_results(worker, stored, again)?), None)),
    }
}

/// Trains the first segment of a warm training again. If it differs, returns how, and the first epoch that differs.
fn first_segment_again(worker: &Worker<'_>, job: &Job, now: &[StateRecord]) -> Result<Option<(Difference, u64)>> {
    let end = every(worker, job);
    let Some(before) = now.iter().find(|state| state.epoch == end) else { return Ok(None) };
    let again = replay(worker, job, None, end, None)?;
    let (before, again) = ((&**worker.into, before), (&**worker.into, &again));
    match compare(worker, before, again)? {
        None => Ok(None),
        Some(found) => Ok(Some((found, first_epoch(before, again)?.unwrap_or(end)))),
    }
}

/// Trains the first two segments in the other way: in one process or, if the training is warm, in two. Returns how the
/// state after them differs, and its epoch, if the training is that long.
fn first_segments(worker: &Worker<'_>, job: &Job, now: &[StateRecord]) -> Result<(Option<Difference>, Option<u64>)> {
    let (every, into) = (every(worker, job), &**worker.into);
    let Some(before) = now.iter().find(|state| state.epoch == 2 * every) else { return Ok((None, None)) };
    let middle = now.iter().find(|state| state.epoch == every).filter(|_| is_warm(worker, job));
    let other = replay(worker, job, middle.map(|state| (into, state)), before.epoch, None)?;
    Ok((compare(worker, (into, before), (into, &other))?, Some(before.epoch)))
}

/// Trains again from the stored state before this one, and compares the ends. Then trains two segments there in the
/// other way, if there is a state to start from: in one process or, if the training is warm, in two.
pub(super) fn check_stretch(
    worker: &Worker<'_>,
    job: &Job,
    stored: &[StateRecord],
    at: usize,
) -> Result<CheckedStretch> {
    let (store, into, warm) = (&**worker.context.store, &**worker.into, is_warm(worker, job));
    let (every, end) = (every(worker, job), &stored[at]);
    let before = at.checked_sub(1).map(|at| (store, &stored[at]));
    let from = before.map_or(0, |(_, state)| state.epoch);
    let again = replay(worker, job, before, end.epoch, Some(every))?;
    if let Some(difference) = compare(worker, (store, end), (into, &again))? {
        let epoch = first_epoch((store, end), (into, &again))?.or(Some(end.epoch));
        let twice = || compare(worker, (into, &again), (into, &replay(worker, job, before, end.epoch, Some(every))?));
        // A warm process that makes the same bytes twice, but others than the stored ones, which went on from further
        // back.
        let incomplete = if warm && twice()?.is_none() { Some(difference.clone()) } else { None };
        let pair = incomplete.as_ref().map(|_| EpochRange { from, to: end.epoch });
        return Ok(CheckedStretch { difference: Some(difference), epoch, incomplete, pair });
    }
    // The same epochs in one process and in two: where the first starts, and the state that was just made.
    let replayed = |epoch: u64| -> Result<Option<StateRecord>> {
        let states = into.chain_states(job.components.chain().keys())?;
        Ok(states.into_iter().find(|state| state.epoch == epoch && state.class == REPLAYED))
    };
    let (start, made) = if end.epoch - from > every {
        (before, replayed(end.epoch.min(from + 2 * every))?)
    } else {
        (at.checked_sub(2).map(|at| (store, &stored[at])), before.map(|_| again))
    };
    let first = start.map_or(0, |(_, state)| state.epoch);
    let Some(made) = made.filter(|made| made.epoch - first <= 2 * every) else { return Ok(CheckedStretch::default()) };
    let middle = if warm && first == from { replayed(from + every)? } else { None };
    let start = middle.as_ref().map(|state| (into, state)).or(start);
    let other = replay(worker, job, start, made.epoch, None)?;
    let incomplete = compare(worker, (into, &made), (into, &other))?;
    Ok(CheckedStretch {
        incomplete,
        pair: Some(EpochRange { from: first, to: made.epoch }),
        ..CheckedStretch::default()
    })
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
fn first_epoch(old: (&Store, &StateRecord), new: (&Store, &StateRecord)) -> Result<Option<u64>> {
    let (old, new) = (old.0.read_state(old.1)?, new.0.read_state(new.1)?);
    let epochs = old.iter().filter_map(|(name, old)| {
        let new = new.get(name)?.bytes().chunks(8);
        (1..).zip(old.bytes().chunks(8).zip(new)).find(|(_, (old, new))| old != new).map(|(epoch, _)| epoch)
    });
    Ok(epochs.min())
}

/// Trains from a stored state, or from the start, to an epoch. A process trains `every` epochs, or all. Returns the
/// last state, which is in `worker.into`.
fn replay(
    worker: &Worker<'_>,
    job: &Job,
    start: Option<(&Store, &StateRecord)>,
    end: u64,
    every: Option<u64>,
) -> Result<StateRecord> {
    let stop = worker.context.cancel.for_one();
    let folder = tempfile::tempdir_in(worker.into.dir());
    let folder = folder.map_err(|e| Error::storage("can't create a temporary folder").caused_by(e))?;
    let replay = ProgramReplay {
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
    into: &'a Store,
    states: StateChain,
    start: Option<(&'a Store, &'a StateRecord)>,
    end: u64,
    every: Option<u64>,
    /// For the checkpoints of the processes.
    folder: TempDir,
    stop: &'a Cancel,
    reached: Mutex<Option<StateRecord>>,
}

impl ProgramChain for ProgramReplay<'_> {
    fn resume(&self, to: &Path) -> Result<Option<ProgramState>> {
        let Some((store, start)) = self.start else { return Ok(None) };
        store.write_folder(&start.folder, to)?;
        let curves = store.read_state(start)?;
        Ok(Some(ProgramState { epoch: start.epoch, curves, files: start.folder.clone() }))
    }

    fn boundary_after(&self, epoch: u64) -> u64 {
        self.every.map_or(self.end, |every| boundary_after(epoch, every, self.end))
    }

    fn stops_at(&self) -> u64 {
        self.end
    }

    fn begin(&self, to: Option<u64>, has_checkpoint: bool) -> Result<ProcessFolders, StageError> {
        let checkpoint = has_checkpoint.then(|| self.folder.path().join(to.unwrap_or_default().to_string()));
        if let Some(folder) = &checkpoint {
            let what = format!("can't create the folder {}", folder.display());
            std::fs::create_dir_all(folder).map_err(StageError::io(what))?;
        }
        Ok(ProcessFolders { checkpoint, dep_file: self.folder.path().join("files-read") })
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
