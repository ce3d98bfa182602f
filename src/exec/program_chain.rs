//! The chain of a training program: a state is a folder, and each process has a checkpoint of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::artifact::{Folder, FolderOnDisk, Tensor};
use crate::error::Error;
use crate::exec::chain::StoredChain;
use crate::exec::checkpoint::Checkpoint;
use crate::exec::stage_folders::StageFolders;
use crate::key::Hash;
use crate::stage::{Position, ProcessFolders, ProgramChain, ProgramState, StageError};
use crate::store::{FilesRead, Store};

/// The chain of one training program, in the store.
pub(crate) struct StoredProgramChain<'a> {
    chain: &'a StoredChain<'a>,
    folders: &'a StageFolders<'a>,
    store: &'a Store,
    moving: Mutex<Moving>,
}

#[derive(Default)]
struct Moving {
    /// The files that the program has read so far, in this run and before the state that it continued from.
    files_read: FilesRead,
    /// The files of the state that the next process starts from.
    state: Folder,
    /// The checkpoint of the process that runs.
    checkpoint: Option<Checkpoint>,
}

impl<'a> StoredProgramChain<'a> {
    /// The chain of the program that runs in these folders.
    pub(crate) fn new(chain: &'a StoredChain<'a>, folders: &'a StageFolders<'a>, store: &'a Store) -> Self {
        Self { chain, folders, store, moving: Mutex::default() }
    }

    /// The files that the program has read, and the checkpoint of its last process.
    pub(crate) fn finish(self) -> (FilesRead, Option<Checkpoint>) {
        let Moving { files_read, checkpoint, .. } = self.moving.into_inner().unwrap_or_else(PoisonError::into_inner);
        (files_read, checkpoint)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Moving> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProgramChain for StoredProgramChain<'_> {
    fn resume(&self, to: &Path) -> Result<Option<ProgramState>, Error> {
        let Some((state, curves)) = self.chain.resume_files(to)? else { return Ok(None) };
        let mut moving = self.lock();
        (moving.files_read, moving.state) = (state.files_read, state.folder.clone());
        drop(moving);
        Ok(Some(ProgramState { epoch: state.epoch, curves, files: state.folder }))
    }

    fn boundary_after(&self, epoch: u64) -> u64 {
        self.chain.boundary_after(epoch)
    }

    fn stops_at(&self) -> u64 {
        self.chain.stops_at()
    }

    fn begin(&self, to: Option<u64>, has_checkpoint: bool) -> Result<ProcessFolders, StageError> {
        let end = to.and_then(|epoch| self.chain.key(epoch)).unwrap_or_else(|| self.chain.result());
        // Under the same keys, a process may start from other bytes: the files that it reads are in no key of a state.
        let start = self.lock().state.digest();
        let key = Hash::new("process").digest(&end).digest(&start).text(self.chain.class()).finish();
        let checkpoint = match has_checkpoint {
            true => self.folders.open_checkpoint(self.store.dir(), &key)?,
            false => None,
        };
        let process = ProcessFolders {
            checkpoint: checkpoint.as_ref().map(Checkpoint::files),
            dep_file: self.folders.dep_file(checkpoint.as_ref()),
        };
        self.lock().checkpoint = checkpoint;
        Ok(process)
    }

    fn note_files(&self) -> Result<(), StageError> {
        self.folders.check_files("while the stage ran")?;
        let mut moving = self.lock();
        for (name, digest) in self.folders.files_read(moving.checkpoint.as_ref())? {
            let conflicts = moving.files_read.get(&name).is_some_and(|before| *before != digest);
            // Two processes have read two versions of the file. No file has this digest.
            let unmatched = || Hash::new("two versions").text(&name).digest(&digest).finish();
            let digest = if conflicts { unmatched() } else { digest };
            moving.files_read.insert(name, digest);
        }
        Ok(())
    }

    fn end(&self, succeeded: bool) -> Result<(), StageError> {
        if succeeded {
            self.note_files()?;
            return self.folders.remember_written(self.lock().checkpoint.as_ref());
        }
        self.lock().checkpoint.iter().for_each(|checkpoint| self.folders.remember(checkpoint));
        Ok(())
    }

    fn save(&self, epoch: u64, curves: &BTreeMap<String, Tensor>, files: &FolderOnDisk) -> Result<Folder, Error> {
        let files_read = self.lock().files_read.clone();
        let state = self.chain.store(Position { epoch, step: 0 }, curves, Some(files), &files_read)?;
        let mut moving = self.lock();
        moving.state.clone_from(&state.folder);
        let checkpoint = moving.checkpoint.take();
        drop(moving);
        checkpoint.iter().for_each(Checkpoint::remove);
        Ok(state.folder)
    }

    fn set_best(&self, epoch: u64) -> Result<(), Error> {
        self.chain.set_best(epoch)
    }

    fn write(&self, files: &Folder, to: &Path) -> Result<(), Error> {
        Ok(self.store.write_folder(files, to)?)
    }
}
