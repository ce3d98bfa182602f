//! A folder that a program may read but not change.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::file::{Stamp, stamp};
use crate::stage::StageError;

/// A folder without write permissions. Links in it, and what they lead to, stay as they are. On drop, the owner may
/// write again.
pub(in crate::stages) struct ReadOnly {
    folder: PathBuf,
    stamps: BTreeMap<PathBuf, Stamp>,
}

impl ReadOnly {
    /// Removes the write permissions of a folder and of everything below it.
    ///
    /// # Errors
    /// If a permission can't be changed.
    pub(in crate::stages) fn protect(folder: PathBuf) -> Result<Self, StageError> {
        let mut protected = Self { folder, stamps: BTreeMap::new() };
        protected.protect_again()?;
        Ok(protected)
    }

    /// Protects what is in the folder now.
    ///
    /// # Errors
    /// If a permission can't be changed.
    pub(in crate::stages) fn protect_again(&mut self) -> Result<(), StageError> {
        let what = format!("can't protect the folder {}", self.folder.display());
        let stamps = set(&self.folder, 0o555, 0o444).and_then(|()| stamps(&self.folder));
        self.stamps = stamps.map_err(StageError::io(what))?;
        Ok(())
    }

    /// The folder.
    pub(in crate::stages) fn path(&self) -> &Path {
        &self.folder
    }

    /// Whether anything below the folder was changed, added or removed. A program of the same user can change
    /// permissions.
    pub(in crate::stages) fn is_changed(&self) -> bool {
        // What can't be read was changed.
        stamps(&self.folder).ok().as_ref() != Some(&self.stamps)
    }

    /// Gives the owner the write permissions back. Errors show when the folder is removed.
    pub(in crate::stages) fn release(&self) {
        let _ = set(&self.folder, 0o755, 0o644);
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        self.release();
    }
}

/// Sets the permissions of a folder and of everything below it.
fn set(folder: &Path, of_folders: u32, of_files: u32) -> io::Result<()> {
    // A program may have replaced it by a link.
    if !folder.symlink_metadata()?.is_dir() {
        return Ok(());
    }
    // First the folder itself: otherwise it could not be listed if a program has taken its permissions away.
    fs::set_permissions(folder, Permissions::from_mode(of_folders))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            set(&entry.path(), of_folders, of_files)?;
        } else if kind.is_file() {
            fs::set_permissions(entry.path(), Permissions::from_mode(of_files))?;
        }
    }
    Ok(())
}

fn stamps(folder: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    let (mut stamps, mut open) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let file = entry.metadata()?;
            if file.is_dir() {
                open.push(entry.path());
            }
            stamps.insert(entry.path(), stamp(&file));
        }
    }
    Ok(stamps)
}
