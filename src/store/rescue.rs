//! What becomes of a damaged database: what can be read of it is saved into a fresh one, and it is set aside under another name,
//! never deleted. A kill at any moment leaves the old one in its place, or the new one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::database::{self, Failure, Place, flush};
use super::inner::{Inner, failed, is_there, things, write_atomically};
use super::{Result, StoreError, blobs, index};

/// What could be read of a damaged index, complete, until it takes that one's place.
pub(super) const SAVED_INDEX: &str = "index-saved";
/// A file in a damaged database's folder that says why it is out of use, from before it is until it is set aside.
const MARK: &str = "damaged";

/// Removes the folder of a chunk database that is out of use; one that is so because it is damaged is set aside.
/// Returns where that is.
pub(super) fn retire(path: &Path) -> Result<Option<PathBuf>> {
    match is_there(&path.join(MARK))? {
        true => database::set_aside(path).map(Some),
        false => remove_folder(path).map(|()| None),
    }
}

/// Removes a folder if it is there.
fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("can't remove", path)(e)),
        _ => Ok(()),
    }
}

/// Renames a folder within the cache's, durably.
fn rename(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    let renamed = fs::rename(from, to).and_then(|()| File::open(folder)?.sync_all());
    renamed.map_err(StoreError::io("can't rename", from))
}

/// Where the index is, and what to do when it is damaged.
pub(super) struct IndexPlace<'a>(pub(super) &'a Arc<Inner>);

impl Place for IndexPlace<'_> {
    fn path(&self) -> Result<PathBuf> {
        let (path, saved) = (self.0.dir.join("index"), self.0.dir.join(SAVED_INDEX));
        // Somebody was killed between the two renames of `replace`.
        if !is_there(&path)? && is_there(&saved)? {
            rename(&saved, &path)?;
        }
        Ok(path)
    }

    /// Saves what entries can be read. They are complete under a name of their own before the damaged index goes, so that
    /// a kill at any moment leaves the one or the other.
    fn replace(&self, path: &Path, why: &str) -> Result<()> {
        let inner = self.0;
        let fresh = inner.dir.join("index-new");
        let complete = inner.dir.join(SAVED_INDEX);
        remove_folder(&fresh)?;
        remove_folder(&complete)?;
        let saved = inner.index.open_failed(path).and_then(|old| {
            let new = inner.index.open_apart(&fresh)?;
            let n = index::copy(&old, &new)?;
            flush(&new, &fresh).map(|()| n)
        });
        let saved = match saved {
            Ok(saved) => saved,
            Err(Failure::Broken(_)) => 0,
            // A full disk, say: everything stays as it was.
            Err(failure) => {
                let _ = remove_folder(&fresh);
                return Err(failed(failure, path));
            }
        };
        if saved > 0 {
            rename(&fresh, &complete)?;
        }
        let aside = database::set_aside(path)?;
        if saved > 0 {
            rename(&complete, path)?;
        }
        let (path, aside) = (path.display(), aside.display());
        inner.warn(format!(
            "the index {path} is damaged ({why}) and was set aside as {aside}; {saved} entries were saved"
        ));
        Ok(())
    }
}

/// Where the current chunk database is, and what to do when it is damaged.
pub(super) struct ChunksPlace<'a>(pub(super) &'a Arc<Inner>);

impl Place for ChunksPlace<'_> {
    /// A folder that is not there is about to be made: what the index says was in it is a miss from now on.
    fn path(&self) -> Result<PathBuf> {
        let inner = self.0;
        let path = inner.chunks_path()?;
        if !is_there(&path.join("db"))? {
            inner.change_index(|db, batch| {
                let generation = index::generation(db)?;
                let generation = generation.unwrap_or_else(|| inner.generations().last().copied().unwrap_or(0));
                index::set_chunks(batch, generation, index::lineage(db)? + 1);
                Ok(())
            })?;
        }
        Ok(path)
    }

    /// Saves what can be read into a new generation. If nothing can, a new lineage makes all that was there a miss.
    fn replace(&self, path: &Path, why: &str) -> Result<()> {
        let inner = self.0;
        let generation = inner.next_generation();
        let wanted = inner.wanted_blobs()?;
        inner.raise_format_for(&wanted)?;
        let saved = inner.chunks.open_failed(path).map_err(|f| failed(f, path)).and_then(|old| {
            let to = inner.generation_path(generation);
            let new = inner.open_chunks(&to)?;
            let (from, to) = (blobs::At { db: &old, path }, blobs::At { db: &new, path: &to });
            blobs::copy(&from, &to, &wanted).map_err(|f| failed(f, to.path))
        });
        let opened = saved.is_ok();
        let lost = match saved {
            Ok(lost) => lost,
            Err(StoreError::Database { .. }) => BTreeSet::new(),
            // A full disk, say: everything stays as it was.
            Err(error) => {
                let _ = remove_folder(&inner.generation_path(generation));
                return Err(error);
            }
        };
        // First the index, then the folder: after a kill in between, what was saved is in use, and the mark keeps a collection
        // from removing what was not.
        let mark = path.join(MARK);
        let flipped = write_atomically(&mark, format!("{why}\n").as_bytes()).and_then(|()| {
            inner.change_index(|db, batch| {
                let lineage = index::lineage(db)? + u64::from(!opened);
                index::set_chunks(batch, generation, lineage);
                Ok(())
            })
        });
        flipped.inspect_err(|_| {
            let _ = fs::remove_file(&mark);
            let _ = remove_folder(&inner.generation_path(generation));
        })?;
        let forgotten = inner.lose(&lost)?.len();
        let what = match opened {
            true => format!(
                "{} of {} blobs were saved; lost: {}",
                wanted.len() - lost.len(),
                wanted.len(),
                things(forgotten)
            ),
            false => "what was in it will be made again".to_owned(),
        };
        let aside = match database::set_aside(path) {
            Ok(aside) => format!("was set aside as {}", aside.display()),
            // It is no more in use, and the next collection tries again.
            Err(error) => format!("is left behind ({error})"),
        };
        inner.warn(format!("the database {} is damaged ({why}) and {aside}; {what}", path.display()));
        Ok(())
    }
}
