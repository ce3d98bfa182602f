//! Files of the cache: opening, reading and writing them with care.
//!
//! The cache is a folder that anybody may change. So nothing here waits for a pipe, follows a length that a file claims,
//! or leaves a file half written under its final name.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Result, StoreError};
use crate::file::{self, FileError};
pub(super) use crate::file::{TEMPORARY, sync_folder, temporary};

/// Opens a regular file as the options say ([`file::open`] is for reading only). A pipe, a device or a folder is an error, and
/// opening it does not wait.
pub(super) fn open_regular(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = options.clone().custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    Err(not_regular(FileError::NotRegular(file::kind(kind))))
}

fn not_regular(error: FileError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// Reads a regular file of at most `limit` bytes. Other files are [`io::ErrorKind::InvalidInput`], longer ones
/// [`io::ErrorKind::InvalidData`].
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    file::read(path, limit).map_err(|error| match error {
        FileError::Io(error) => error,
        FileError::TooLong { .. } => io::Error::new(io::ErrorKind::InvalidData, error),
        FileError::NotRegular(_) => not_regular(error),
    })
}

/// Writes a file completely or not at all, durably.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    file::replace_durably(path, bytes).map_err(StoreError::io("can't write", path))
}

/// Whether something exists at this path. If that can't be determined it is an error, because what seems to be gone is
/// computed again.
pub(super) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|source| StoreError::Io { what: format!("can't read {}", path.display()), source })
}

/// Removes a folder if it exists.
pub(super) fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("can't remove", path)(e)),
        _ => Ok(()),
    }
}

/// Renames within the cache, durably.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    let renamed = fs::rename(from, to).and_then(|()| sync_folder(folder));
    renamed.map_err(StoreError::io("can't rename", from))
}

/// Renames a folder to `<name>-damaged-<n>` with the first number that is free, and returns the new path.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf> {
    let aside = free_name(path);
    rename(path, &aside).map(|()| aside)
}

/// The first free path `<path>-damaged-<n>`.
pub(super) fn free_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let numbered = (1_u64..).map(|n| path.with_file_name(format!("{name}-damaged-{n}")));
    // The numbers don't end before a free one is found.
    numbered.into_iter().find(|path| fs::symlink_metadata(path).is_err()).unwrap_or_default()
}

/// Copies a file, or a folder with all that is in it.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Removes files in a folder that processes left which were killed while they wrote them. Only while nobody writes there.
pub(super) fn remove_temporary(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(TEMPORARY)) {
        let _ = fs::remove_file(entry.path());
    }
}
