//! Small files of results, such as reports: `small/<digest>`, each a file of its own.
//!
//! Opening the chunk database takes longer the more it holds, and every run reads a report. So files of up to 1 MiB are
//! stored beside it. If an artifact has many of them, they go to a pack, because one sync for all is faster than one
//! for each. A reader of a blob looks here first and then in the packs.
//!
//! A file is written under another name, synced and renamed. The folder is synced before the index names the blob.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk;
use super::error::{Result, StoreError};
use crate::artifact::BlobEntry;
use crate::file;
use crate::key::Digest;

/// Bytes of the largest small file.
const LARGEST: usize = 1 << 20;
/// The most small files of one artifact.
const MANY: usize = 32;

/// The folder of small files.
pub(super) struct SmallFiles(PathBuf);

impl SmallFiles {
    pub(super) fn new(dir: &Path) -> Self {
        Self(dir.join("small"))
    }

    fn path(&self, blob: Digest) -> PathBuf {
        self.0.join(blob.to_string())
    }

    /// The names of an artifact's files that belong here.
    pub(super) fn choose(files: &BTreeMap<String, Vec<u8>>) -> BTreeSet<&String> {
        let fitting = || files.iter().filter(|(_, content)| content.len() <= LARGEST);
        if fitting().count() > MANY { BTreeSet::new() } else { fitting().map(|(name, _)| name).collect() }
    }

    /// Whether the blob is here, judging by its length.
    pub(super) fn has(&self, blob: &BlobEntry) -> bool {
        let has_length = |m: fs::Metadata| m.is_file() && m.len() == blob.size;
        blob.size <= LARGEST as u64 && fs::metadata(self.path(blob.digest)).is_ok_and(has_length)
    }

    /// A blob's verified bytes, or what is wrong with it, or none if it is not here.
    pub(super) fn read(&self, blob: &BlobEntry) -> Result<Option<Result<Vec<u8>, String>>> {
        if blob.size > LARGEST as u64 {
            return Ok(None);
        }
        let path = self.path(blob.digest);
        match disk::read(&path, LARGEST as u64) {
            Ok(bytes) if BlobEntry::of(&bytes) == *blob => Ok(Some(Ok(bytes))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) if e.kind() != io::ErrorKind::InvalidData => Err(StoreError::unreadable(&path)(e)),
            // Other bytes, or too many.
            _ => Ok(Some(Err("its file is altered".to_owned()))),
        }
    }

    /// Writes blobs, durably. Existing files are read, so that damage doesn't stay.
    pub(super) fn write(&self, blobs: &BTreeMap<Digest, &[u8]>) -> Result<()> {
        if blobs.is_empty() {
            return Ok(());
        }
        let write = || {
            disk::create_folder(&self.0)?;
            for (digest, bytes) in blobs {
                let path = self.path(*digest);
                if !disk::read(&path, LARGEST as u64).is_ok_and(|found| found == *bytes) {
                    file::replace_synced(&path, bytes)?;
                }
            }
            disk::sync_folder(&self.0)
        };
        write().map_err(StoreError::io("can't write to", &self.0))
    }

    /// Removes a corrupt blob.
    pub(super) fn remove(&self, blob: Digest) {
        let _ = fs::remove_file(self.path(blob));
    }

    /// The files of all blobs except these. Files with other names are not ours, or are being written.
    pub(super) fn others(&self, keep: &BTreeSet<BlobEntry>) -> Vec<PathBuf> {
        let keep: BTreeSet<Digest> = keep.iter().map(|blob| blob.digest).collect();
        let is_other = |path: &PathBuf| disk::name(path).parse().is_ok_and(|digest: Digest| !keep.contains(&digest));
        disk::entries(&self.0).unwrap_or_default().into_iter().filter(is_other).collect()
    }
}
