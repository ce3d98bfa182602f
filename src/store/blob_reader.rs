//! Tensors and files of a cache for a program that only watches. Several threads may read at the same time, also while
//! [`super::CacheReader`] is refreshed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::{Result, StoreError};
use super::followed::FollowedEntries;
use super::pieces::{self, Corruption, Parts};
use super::results::{header_length, tensor_of};
use super::small_files::SmallFiles;
use crate::artifact::{BlobEntry, Tensor, TensorEntry};

/// Reads the blobs of a cache. Takes no lock of the cache.
pub struct BlobReader {
    dir: PathBuf,
    small: SmallFiles,
    /// The number of the chunk database. A collection replaces it.
    generation: AtomicU64,
    chunks: Mutex<FollowedEntries>,
}

impl BlobReader {
    pub(super) fn new(dir: &Path) -> Self {
        let (small, chunks) = (SmallFiles::new(dir), Mutex::new(database(dir, 0)));
        Self { dir: dir.to_owned(), small, generation: AtomicU64::new(0), chunks }
    }

    /// Makes later reads use the chunk database of this number. Does not wait for those that run.
    pub(super) fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    /// A tensor's verified content.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is missing or altered.
    pub fn tensor(&self, entry: &TensorEntry) -> Result<Tensor> {
        let parts = self.read(&entry.blob, header_length(entry))?;
        let damaged = || damaged(&entry.blob, "it is not the tensor that the manifest names".to_owned());
        tensor_of(entry, parts).ok_or_else(damaged)
    }

    /// A file's verified bytes.
    ///
    /// # Errors
    /// As [`BlobReader::tensor`].
    pub fn file(&self, entry: &BlobEntry) -> Result<Vec<u8>> {
        Ok(self.read(entry, 0)?.1)
    }

    fn read(&self, entry: &BlobEntry, head: usize) -> Result<Parts> {
        if let Some(Ok(bytes)) = self.small.read(entry)? {
            return Ok((Vec::new(), bytes));
        }
        let mut why = String::new();
        // A collection may move or remove pieces between the look-up and the read, and blobs are added.
        for is_known in [true, false] {
            let located = {
                let mut chunks = self.chunks();
                if !is_known {
                    chunks.read()?;
                }
                pieces::locate_among(|key| chunks.get(key), chunks.folder(), entry)
            };
            let found = match located {
                Ok(located) => located.read(head)?,
                Err(corruption) => Err(corruption),
            };
            match found {
                Ok(parts) => return Ok(parts),
                Err(Corruption { why: reason, .. }) => why = reason,
            }
        }
        Err(damaged(entry, why))
    }

    fn chunks(&self) -> MutexGuard<'_, FollowedEntries> {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let now = database(&self.dir, self.generation.load(Ordering::Relaxed));
        if chunks.folder() != now.folder() {
            *chunks = now;
        }
        chunks
    }
}

/// The chunk database of a generation. It is read when the first blob is read that is not a small file.
fn database(dir: &Path, generation: u64) -> FollowedEntries {
    FollowedEntries::new(dir.join(format!("chunks-{generation}")), b"lp").without_lists()
}

fn damaged(blob: &BlobEntry, why: String) -> StoreError {
    StoreError::Damaged { what: format!("blob {}", blob.digest.short()), why, blob: blob.digest, forgotten: vec![] }
}
