//! Small files of results, such as reports: `small/<digest>`, each a file of its own.
//!
//! Opening the chunk database takes the longer the more it holds, and every run reads a report. So files of up to 1 MiB
//! stand beside it, unless an artifact has many of them: then one flush for all is quicker than one for each. Whoever
//! reads a blob looks here first and then among the chunks; caches from before these files read as ever.
//!
//! A file is written under another name, synced and renamed, and the folder is synced before the index names the blob.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Result, StoreError, disk};
use crate::artifact::BlobEntry;
use crate::key::Digest;

/// Bytes of the largest.
const LARGEST: usize = 1 << 20;
/// So many of one artifact at most.
const MANY: usize = 32;

fn folder(dir: &Path) -> PathBuf {
    dir.join("small")
}

fn path(dir: &Path, blob: Digest) -> PathBuf {
    folder(dir).join(blob.to_string())
}

/// Which of an artifact's files go here, by name.
pub(super) fn choose(files: &BTreeMap<String, Vec<u8>>) -> BTreeSet<&String> {
    let fitting = || files.iter().filter(|(_, content)| content.len() <= LARGEST);
    if fitting().count() > MANY { BTreeSet::new() } else { fitting().map(|(name, _)| name).collect() }
}

/// Whether the blob is here, going by its length.
pub(super) fn has(dir: &Path, blob: Digest, size: u64) -> bool {
    size <= LARGEST as u64 && fs::metadata(path(dir, blob)).is_ok_and(|m| m.is_file() && m.len() == size)
}

/// A blob's bytes, verified; or what is wrong with them; or none if it is not here.
pub(super) fn read(dir: &Path, entry: &BlobEntry) -> Result<Option<Result<Vec<u8>, String>>> {
    if entry.size > LARGEST as u64 {
        return Ok(None);
    }
    let path = path(dir, entry.digest);
    match disk::read(&path, LARGEST as u64) {
        Ok(bytes) if bytes.len() as u64 == entry.size && Digest::of(&bytes) == entry.digest => Ok(Some(Ok(bytes))),
        Ok(_) => Ok(Some(Err("its file has other bytes".to_owned()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(Some(Err("its file has other bytes".to_owned()))),
        // What keeps it from being read says nothing of what is in it.
        Err(source) => Err(StoreError::Io { what: format!("can't read {}", path.display()), source }),
    }
}

/// Writes blobs; durable when this returns. What is there already is read, so that damage doesn't stay.
pub(super) fn write(dir: &Path, blobs: &BTreeMap<Digest, &[u8]>) -> Result<()> {
    if blobs.is_empty() {
        return Ok(());
    }
    let folder = folder(dir);
    let write = || {
        if !folder.exists() {
            fs::create_dir_all(&folder)?;
            File::open(dir)?.sync_all()?;
        }
        for (digest, bytes) in blobs {
            let path = path(dir, *digest);
            if disk::read(&path, LARGEST as u64).is_ok_and(|there| there == *bytes) {
                continue;
            }
            let mut file = disk::temporary(&folder)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|e| e.error)?;
        }
        File::open(&folder)?.sync_all()
    };
    write().map_err(StoreError::io("can't write to", &folder))
}

/// Removes a blob that is known to be bad.
pub(super) fn remove(dir: &Path, blob: Digest) {
    let _ = fs::remove_file(path(dir, blob));
}

/// The files of all other blobs than these.
pub(super) fn others(dir: &Path, keep: &BTreeMap<Digest, u64>) -> Vec<PathBuf> {
    let keep: BTreeSet<String> = keep.keys().map(Digest::to_string).collect();
    let Ok(entries) = fs::read_dir(folder(dir)) else { return Vec::new() };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    // A file with another name is not ours, or is one that is being written; `sweep.rs` removes the latter.
    names.filter(|n| n.parse::<Digest>().is_ok() && !keep.contains(n)).map(|n| folder(dir).join(n)).collect()
}
