//! Runs for workers on any machine: a pipeline with its files, as they were when the run was pushed.
//!
//! ```text
//! run/<id>           the record: the pipeline's file, its `-S` values, and the names and blobs of all files
//! ```
//!
//! A later edit of the files changes nothing in the run. The files are small, so they are read and written whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::blobs::{blob_name, total};
use super::error::{Result, SharedError};
use super::handle::SharedStore;
use super::record::{self, Named, part};
use super::transfer::Transfer;
use crate::artifact::BlobEntry;
use crate::file::stays_below;
use crate::key::Digest;

/// Bytes of files that are in memory at a time, at most one file more.
const BATCH: u64 = 32 << 20;

/// A pipeline with its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedRun {
    /// The id of the run.
    pub id: String,
    /// The pipeline's file: one of `files`.
    pub pipeline: String,
    /// The stages, points or globs to run; empty for everything.
    pub targets: Vec<String>,
    /// The values of `-S`, in their order.
    pub set: Vec<String>,
    /// The folder of the files on the machine that pushed them.
    pub folder: String,
    /// The files by their paths below the folder.
    pub files: BTreeMap<String, SharedFile>,
}

/// A file of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFile {
    /// Its bytes.
    pub blob: BlobEntry,
    /// Whether it is a program.
    pub is_executable: bool,
}

impl SharedFile {
    /// The file with these bytes.
    pub fn of(bytes: &[u8], is_executable: bool) -> Self {
        Self { blob: BlobEntry::of(bytes), is_executable }
    }
}

impl Named for SharedRun {
    fn object(&self) -> String {
        name(&self.id)
    }

    /// A path must not lead out of the folder to which the files are written.
    fn is_consistent(&self) -> bool {
        self.files.contains_key(&self.pipeline) && self.files.keys().all(|path| stays_below(path))
    }

    fn is_pulled(&self) -> bool {
        false
    }

    fn shareable(&self) -> Self {
        self.clone()
    }
}

/// The name of a run's object.
fn name(id: &str) -> String {
    format!("run/{}", part(id))
}

impl SharedStore {
    /// Writes a run: the bytes of its files, which `read` returns, and then its record.
    ///
    /// # Errors
    /// If the store can't be written, or if a file can't be read or has changed.
    pub fn put_run(
        &self,
        run: &SharedRun,
        read: &dyn Fn(&str) -> std::io::Result<Vec<u8>>,
        transfer: &Transfer<'_>,
    ) -> Result<()> {
        self.require_writes()?;
        self.mark()?;
        let blobs: Vec<BlobEntry> = run.files.values().map(|file| file.blob).collect();
        let (lacking, old) = self.lacking_and_old(&blobs)?;
        let written = [lacking, old].concat();
        self.put_files(run, &written.iter().copied().collect(), read, transfer)?;
        let object = run.object();
        let record = record::encode(run, &object, self.trust.key.as_ref());
        self.objects.put(&object, record)?;
        // A collection may have removed them before the record was there. Now it sees the record.
        let (gone, _) = self.lacking_and_old(&written)?;
        self.put_files(run, &gone.into_iter().collect(), read, transfer)
    }

    /// Writes the files of a run with these bytes.
    fn put_files(
        &self,
        run: &SharedRun,
        needed: &BTreeSet<BlobEntry>,
        read: &dyn Fn(&str) -> std::io::Result<Vec<u8>>,
        transfer: &Transfer<'_>,
    ) -> Result<()> {
        let files = || run.files.iter().filter(|(_, file)| needed.contains(&file.blob));
        transfer.expect(total(files().map(|(_, file)| &file.blob)));
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for (path, SharedFile { blob, .. }) in files() {
            if transfer.is_cancelled() {
                return Err(SharedError::Cancelled);
            }
            let content = read(path).map_err(|e| SharedError::System(format!("can't read {path}"), e))?;
            if BlobEntry::of(&content) != *blob {
                return Err(SharedError::unusable(format!("{path} was edited meanwhile"), "run the command again"));
            }
            batch.push((blob_name(blob), content));
            bytes += blob.size;
            if bytes >= BATCH {
                self.put_batch(&mut batch, &mut bytes, transfer)?;
            }
        }
        self.put_batch(&mut batch, &mut bytes, transfer)
    }

    fn put_batch(&self, batch: &mut Vec<(String, Vec<u8>)>, bytes: &mut u64, transfer: &Transfer<'_>) -> Result<()> {
        self.objects.replace_each(std::mem::take(batch)).into_iter().collect::<Result<Vec<()>>>()?;
        transfer.moved(std::mem::take(bytes));
        Ok(())
    }

    /// Reads a run.
    ///
    /// # Errors
    /// If the store can't be read or has no such run, or if the run is not by someone whom this machine trusts.
    pub fn run(&self, id: &str) -> Result<SharedRun> {
        self.check()?;
        let found = self.read_each::<SharedRun>(&[name(id)])?.pop().flatten();
        match found {
            Some(Ok(signed)) => Ok(signed.record),
            Some(Err(why)) => {
                let message = format!("can't use the run {id} of the store {}: {why}", self.address());
                Err(SharedError::unusable(message, "push it again: `vadpipe push FILE --run`"))
            }
            None => {
                let message = format!("the store {} has no run {id}", self.address());
                Err(SharedError::unusable(message, "`vadpipe push FILE --run` makes one"))
            }
        }
    }

    /// Writes the files of a run to an empty folder.
    ///
    /// # Errors
    /// If the store can't be read, if a file is missing there or altered, or if a file can't be written.
    pub fn write_run(&self, run: &SharedRun, folder: &Path) -> Result<()> {
        let files: Vec<(&String, &SharedFile)> = run.files.iter().collect();
        for files in batches(&files) {
            let names: Vec<String> = files.iter().map(|(_, file)| blob_name(&file.blob)).collect();
            for ((path, file), content) in files.iter().zip(self.objects.get_each(&names)) {
                let content = content?.filter(|content| Digest::of(content) == file.blob.digest);
                let content = content.ok_or_else(|| {
                    let message =
                        format!("the store {} has lost the file {path} of the run {}", self.address(), run.id);
                    SharedError::unusable(message, "push it again: `vadpipe push FILE --run`")
                })?;
                let failed = |e| SharedError::System(format!("can't write {}", folder.join(path).display()), e);
                write(&folder.join(path), &content, file.is_executable).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Files that are read at a time.
fn batches<'r>(files: &'r [(&'r String, &'r SharedFile)]) -> Vec<&'r [(&'r String, &'r SharedFile)]> {
    let mut bytes = 0;
    let is_same = |_: &(&String, &SharedFile), (_, next): &(&String, &SharedFile)| {
        bytes = if bytes >= BATCH { 0 } else { bytes + next.blob.size };
        bytes < BATCH
    };
    files.chunk_by(is_same).collect()
}

fn write(path: &Path, content: &[u8], is_executable: bool) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, content)?;
    if is_executable { fs::set_permissions(path, Permissions::from_mode(0o755)) } else { Ok(()) }
}
