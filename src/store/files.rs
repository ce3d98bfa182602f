//! Digests of files, remembered by size, modification time and inode.

use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::PoisonError;

use super::database::Access;
use super::entries::{self, FileRecord};
use super::handle::Store;
use super::holder::now_ms;
use crate::file;
use crate::key::Digest;

/// The digest of a file that changed this recently is not remembered: it may change again within the resolution of its
/// modification time.
const YOUNG_NS: i64 = 2_000_000_000;

impl Store {
    /// The digest of a file's content, remembered by size, modification time and inode, as git does.
    ///
    /// # Errors
    /// If the file can't be read. A failure of the index is not an error: the file is then read.
    pub fn file_digest(&self, path: &Path) -> io::Result<Digest> {
        let path = std::path::absolute(path)?;
        let before = std::fs::metadata(&path)?;
        let matches = |r: &FileRecord| stat(&before) == (r.size, r.modified_ns, r.inode);
        let name = path.as_os_str().as_bytes();
        let files = || self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = files().get(&path).filter(|r| matches(r)) {
            return Ok(known.digest);
        }
        let stored = self.index.read(|db| entries::file(db, name)).ok().flatten();
        if let Some(known) = stored.filter(matches) {
            let digest = known.digest;
            files().insert(path, known);
            return Ok(digest);
        }
        let (digest, after) = read(&path)?;
        let (size, modified_ns, inode) = stat(&after);
        let is_old_enough = now_ms().saturating_mul(1_000_000).saturating_sub(modified_ns) > YOUNG_NS;
        if is_old_enough && stat(&before) == stat(&after) {
            let record = FileRecord { size, modified_ns, inode, digest };
            // Computing a digest must not create a cache.
            if self.index.exists().unwrap_or(false) {
                let _ = self.index.with(Access::Write, |o| {
                    let (key, value) = entries::file_entry(name, &record)?;
                    o.remember(&key, &value)
                });
            }
            files().insert(path.clone(), record);
        }
        Ok(digest)
    }
}

fn stat(m: &Metadata) -> (u64, i64, u64) {
    (m.size(), m.mtime().saturating_mul(1_000_000_000).saturating_add(m.mtime_nsec()), m.ino())
}

/// The digest of a file's content, and its metadata after it was read.
fn read(path: &Path) -> io::Result<(Digest, Metadata)> {
    let file = file::open(path)?;
    Ok((Digest::of_reader(&file)?, file.metadata()?))
}
