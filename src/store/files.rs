//! Digests of files, remembered by size, modification time and inode.

use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use super::database::Access;
use super::entries::{self, FileRecord};
use super::handle::Store;
use super::holder::now_ms;
use crate::file;
use crate::key::{Digest, Hash};

/// The digest of a file that changed this recently is not remembered: it may change again within the resolution of its
/// modification time.
const YOUNG_NS: i64 = 2_000_000_000;

/// The digest of a file, and what to remember if the index does not have it.
pub(super) struct FileDigest {
    digest: Digest,
    new: Option<(PathBuf, FileRecord)>,
}

impl Store {
    /// The digest of a file's content, remembered by size, modification time and inode, as git does.
    ///
    /// # Errors
    /// If the file can't be read. A failure of the index is not an error: the file is then read.
    pub fn file_digest(&self, path: &Path) -> io::Result<Digest> {
        let stored = |name: &[u8]| self.index.read(|db| entries::file(db, name)).ok().flatten();
        let FileDigest { digest, new } = self.find_file_digest(path, stored)?;
        self.remember_files(new);
        Ok(digest)
    }

    /// The digest of a file or a folder, see [`digest_now`]. `None` if it can't be read.
    pub fn digest_now(&self, path: &Path) -> Option<Digest> {
        digest_now(path, &|path| self.file_digest(path)).ok()
    }

    /// [`Store::file_digest`] with `stored` to look up an entry of the index.
    pub(super) fn find_file_digest(
        &self,
        path: &Path,
        stored: impl Fn(&[u8]) -> Option<FileRecord>,
    ) -> io::Result<FileDigest> {
        let path = std::path::absolute(path)?;
        let before = std::fs::metadata(&path)?;
        let matches = |r: &FileRecord| stat(&before) == (r.size, r.modified_ns, r.inode);
        let files = || self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = files().get(&path).filter(|r| matches(r)) {
            return Ok(FileDigest { digest: known.digest, new: None });
        }
        if let Some(known) = stored(path.as_os_str().as_bytes()).filter(matches) {
            let digest = known.digest;
            files().insert(path, known);
            return Ok(FileDigest { digest, new: None });
        }
        let (digest, after) = read(&path)?;
        let (size, modified_ns, inode) = stat(&after);
        let is_old_enough = now_ms().saturating_mul(1_000_000).saturating_sub(modified_ns) > YOUNG_NS;
        let mut new = None;
        if is_old_enough && stat(&before) == stat(&after) {
            let record = FileRecord { size, modified_ns, inode, digest };
            files().insert(path.clone(), record.clone());
            new = Some((path, record));
        }
        Ok(FileDigest { digest, new })
    }

    /// Writes digests of files to the index. Errors are ignored, because the digests can be computed again.
    pub(super) fn remember_files(&self, new: impl IntoIterator<Item = (PathBuf, FileRecord)>) {
        let new: Vec<_> = new.into_iter().collect();
        // Computing a digest must not create a cache.
        if new.is_empty() || !self.index.exists().unwrap_or(false) {
            return;
        }
        let _ = self.index.with(Access::Write, |o| {
            for (path, record) in &new {
                let (key, value) = entries::file_entry(path.as_os_str().as_bytes(), record)?;
                o.remember(&key, &value)?;
            }
            Ok(())
        });
    }
}

impl FileDigest {
    /// The digest. Adds what to remember to `new`.
    pub(super) fn take(self, new: &mut Vec<(PathBuf, FileRecord)>) -> Digest {
        new.extend(self.new);
        self.digest
    }
}

/// The digest of a file's content, or of the names and the contents of all files below a folder.
///
/// # Errors
/// If a file or a folder can't be read.
pub fn digest_now(path: &Path, file_digest: &dyn Fn(&Path) -> io::Result<Digest>) -> io::Result<Digest> {
    if !path.is_dir() {
        return file_digest(path);
    }
    let files = file::files_below(path)?;
    let mut hash = Hash::new("folder");
    hash.count(files.len());
    for name in files {
        hash.digest(&Digest::of(name.as_os_str().as_bytes())).digest(&file_digest(&path.join(&name))?);
    }
    Ok(hash.finish())
}

fn stat(m: &Metadata) -> (u64, i64, u64) {
    (m.size(), m.mtime().saturating_mul(1_000_000_000).saturating_add(m.mtime_nsec()), m.ino())
}

/// The digest of a file's content, and its metadata after it was read.
fn read(path: &Path) -> io::Result<(Digest, Metadata)> {
    let file = file::open(path)?;
    Ok((Digest::of_reader(&file)?, file.metadata()?))
}
