//! Digests of files, remembered by size, modification time and inode.

use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::PoisonError;

use super::Store;
use super::database::Access;
use super::index::{self, FileRecord};
use super::record::now_ms;
use crate::file::{self, FileError};
use crate::key::Digest;

/// A file changed this recently may change again within the resolution of its time: its digest is not remembered.
const YOUNG_NS: i64 = 2_000_000_000;

impl Store {
    /// The digest of a file's content; remembered by size, modification time and inode, as git does.
    ///
    /// # Errors
    /// As reading the file. A failing index is no error: then the file is read.
    pub fn file_digest(&self, path: &Path) -> io::Result<Digest> {
        let path = std::path::absolute(path)?;
        let before = std::fs::metadata(&path)?;
        let matches = |r: &FileRecord| stat(&before) == (r.size, r.modified_ns, r.inode);
        let name = path.as_os_str().as_bytes();
        {
            let files = self.inner.files.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = files.get(&path).filter(|r| matches(r)) {
                return Ok(known.digest);
            }
        }
        let stored = self.inner.read_index(|db| index::file(db, name)).ok().flatten();
        if let Some(known) = stored.filter(matches) {
            let digest = known.digest;
            self.inner.files.lock().unwrap_or_else(PoisonError::into_inner).insert(path, known);
            return Ok(digest);
        }
        let (digest, after) = read(&path)?;
        let (size, modified_ns, inode) = stat(&after);
        let old_enough = now_ms().saturating_mul(1_000_000).saturating_sub(modified_ns) > YOUNG_NS;
        if old_enough && stat(&before) == stat(&after) {
            let record = FileRecord { size, modified_ns, inode, digest };
            // Only where there is an index already: looking at a pipeline creates no cache.
            if self.inner.has_index().unwrap_or(false) {
                let _ = self.inner.index(Access::Write, |o| {
                    let (key, value) = index::file_entry(name, &record)?;
                    o.remember(&key, &value)
                });
            }
            self.inner.files.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone(), record);
        }
        Ok(digest)
    }
}

fn stat(m: &Metadata) -> (u64, i64, u64) {
    (m.size(), m.mtime().saturating_mul(1_000_000_000).saturating_add(m.mtime_nsec()), m.ino())
}

/// Digest of the content, and what the file was after it was read.
fn read(path: &Path) -> io::Result<(Digest, Metadata)> {
    let mut file = file::open(path).map_err(|error| match error {
        FileError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidInput, other),
    })?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
    }
    Ok((Digest(*hasher.finalize().as_bytes()), file.metadata()?))
}
