//! Files of the cache.
//!
//! Anybody may change the cache's folder. So nothing here waits for a pipe, trusts a length that a file claims, or
//! leaves half a file under its final name.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::{Result, StoreError};
use crate::file;
pub(super) use crate::file::{TEMPORARY, sync_folder, temporary};

/// Opens a regular file. A pipe, a device or a folder is an error, and opening it does not wait.
pub(super) fn open_regular(options: &OpenOptions, path: &Path) -> io::Result<File> {
    Ok(file::open_with(options, path)?)
}

/// Reads a regular file of at most `limit` bytes. Other files fail with [`io::ErrorKind::InvalidInput`], longer ones
/// with [`io::ErrorKind::InvalidData`].
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    Ok(file::read(path, limit)?)
}

/// Whether a name is that of an incomplete file.
pub(super) fn is_temporary(path: &Path) -> bool {
    name(path).starts_with(TEMPORARY)
}

/// Writes a file completely or not at all, durably.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    file::replace_durably(path, bytes).map_err(StoreError::io("can't write", path))
}

/// Renames within the cache, durably.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    let renamed = fs::rename(from, to).and_then(|()| sync_folder(parent(to)));
    renamed.map_err(StoreError::io("can't rename", from))
}

/// Creates a folder, durably.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    sync_folder(parent(folder))
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Whether something exists at this path. If the system can't tell, that is an error, because what seems to be missing
/// is computed again.
pub(super) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(StoreError::unreadable(path))
}

/// Removes a file if it exists.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The first free path `<path>-damaged-<n>`.
pub(super) fn free_name(path: &Path) -> PathBuf {
    let mut numbered = (1_u64..).map(|n| path.with_file_name(format!("{}-damaged-{n}", name(path))));
    // The numbers don't end before a free one is found.
    numbered.find(|path| fs::symlink_metadata(path).is_err()).unwrap_or_default()
}

/// Copies a file, or a folder with all that is in it.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    entries(from)?.iter().try_for_each(|path| copy(path, &to.join(path.file_name().unwrap_or_default())))
}

/// Removes the incomplete files that killed processes left in a folder. Only while no process writes there.
pub(super) fn remove_temporary(folder: &Path) {
    for path in entries(folder).unwrap_or_default().iter().filter(|p| is_temporary(p)) {
        let _ = fs::remove_file(path);
    }
}

/// The paths in a folder, sorted. Empty if the folder does not exist.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Whether a file was changed longer ago than this.
pub(super) fn is_older(path: &Path, age: Duration) -> bool {
    let changed = fs::metadata(path).and_then(|m| m.modified());
    changed.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|since| since > age))
}

/// The last part of a path.
pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Bytes that everything below a folder takes on disk. Files that vanish in the meantime are not counted.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    let bytes = |path: PathBuf| match fs::symlink_metadata(&path) {
        Ok(m) if m.is_dir() => bytes_below(&path),
        Ok(m) => m.blocks() * 512,
        Err(_) => 0,
    };
    match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| bytes(entry.path())).sum(),
        // It is a file, or gone.
        Err(_) => fs::symlink_metadata(folder).map_or(0, |m| m.blocks() * 512),
    }
}
