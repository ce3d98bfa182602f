//! Reads files that a user names, and replaces files atomically.
//!
//! Only regular files are read, and only up to a limit. Opening a FIFO waits for a writer, and a device such as
//! `/dev/zero` never ends. So a file is opened without waiting, and its type is checked before it is read.

pub(crate) mod tail;

use std::collections::BTreeSet;
use std::fs::{File, FileType, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use tempfile::NamedTempFile;

/// The names of unfinished files begin with this.
pub const TEMPORARY: &str = ".tmp";

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is a FIFO, a device, a socket or a directory.
    #[error("it is {0}, not a regular file")]
    NotRegular(&'static str),
    /// It is longer than the limit.
    #[error("it has more than {limit} bytes, the limit for this file")]
    TooLong {
        /// The limit in bytes.
        limit: u64,
    },
    /// The system returned an error.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FileError {
    /// Whether a system error is about this file and not about a shortage, such as too many open files.
    pub fn is_about_file(error: &io::Error) -> bool {
        use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
        matches!(error.kind(), IsADirectory | NotADirectory | NotFound | PermissionDenied)
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io(error) => error,
            FileError::NotRegular(_) => Self::new(io::ErrorKind::InvalidInput, error),
            FileError::TooLong { .. } => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// Whether a relative path stays below the folder to which it is relative, and names something there.
pub fn stays_below(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Opens a regular file for reading without waiting. Links are followed.
///
/// # Errors
/// See [`FileError`].
pub fn open(path: &Path) -> Result<File, FileError> {
    open_with(OpenOptions::new().read(true), path)
}

/// Opens or creates a regular file as the options say, without waiting. Links are followed.
///
/// # Errors
/// See [`FileError`].
pub fn open_with(options: &OpenOptions, path: &Path) -> Result<File, FileError> {
    // Opening a device may have side effects, and a socket can't be opened.
    match std::fs::metadata(path) {
        Ok(metadata) => check(&metadata)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.clone().custom_flags(flags.bits().cast_signed()).open(path)?;
    // The file may have been replaced in the meantime.
    check(&file.metadata()?)?;
    Ok(file)
}

/// The paths of all files below a folder, relative to it. Hidden files and folders and Python's `__pycache__`, which a
/// program may write, are left out, and so are links to folders, which may form a cycle.
///
/// # Errors
/// If a folder can't be listed.
pub fn files_below(folder: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        for entry in std::fs::read_dir(folder.join(&below))? {
            let entry = entry?;
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            if name.as_encoded_bytes().starts_with(b".") || name == "__pycache__" {
                continue;
            }
            if kind.is_dir() {
                open.push(below.join(name));
            } else if !entry.path().is_dir() {
                found.insert(below.join(name));
            }
        }
    }
    Ok(found)
}

/// An absolute path without `.` and `..`. Links are not looked at.
pub fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// Reads a regular file of at most `limit` bytes without waiting. Links are followed.
///
/// # Errors
/// See [`FileError`].
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    read_from(open(path)?, limit)
}

/// Reads an open file, which must be a regular file of at most `limit` bytes.
///
/// # Errors
/// See [`FileError`].
pub fn read_from(file: File, limit: u64) -> Result<Vec<u8>, FileError> {
    let metadata = file.metadata()?;
    check(&metadata)?;
    if metadata.len() > limit {
        return Err(FileError::TooLong { limit });
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(metadata.len()).unwrap_or(usize::MAX)).map_err(io::Error::from)?;
    // The file may grow while it is read.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(FileError::TooLong { limit }) } else { Ok(bytes) }
}

/// Creates a file under a temporary name. It is removed unless it is persisted. The umask decides its permissions.
///
/// # Errors
/// If it can't be created.
pub fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(TEMPORARY).permissions(Permissions::from_mode(0o666)).tempfile_in(folder)
}

/// Creates or replaces a file. Readers see the whole old content or the whole new content. A link is replaced, not
/// followed.
///
/// # Errors
/// If it can't be written; the old file is then unchanged.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = temporary(folder(path))?;
    file.write_all(bytes)?;
    file.persist(path).map(drop).map_err(|e| e.error)
}

/// [`replace`] that also survives a power failure once it has returned.
///
/// # Errors
/// If it can't be written.
pub fn replace_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_synced(path, bytes)?;
    sync_folder(folder(path))
}

/// [`replace`] whose content is durable. Its name is durable once its folder is synced.
///
/// # Errors
/// If it can't be written.
pub fn replace_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = temporary(folder(path))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|e| e.error)
}

/// Removes a folder with everything below it, also if a program has taken write permissions away.
///
/// # Errors
/// If something can't be removed. A folder that does not exist is not an error.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(folder)?;
            std::fs::remove_dir_all(folder)
        }
        other => other,
    }
}

/// The inode, the length and the time of the last change of a file. No program can set that time.
pub type Stamp = (u64, u64, i64, i64);

/// The stamp of a file.
pub fn stamp(file: &Metadata) -> Stamp {
    (file.ino(), file.len(), file.ctime(), file.ctime_nsec())
}

/// Creates an empty folder, or empties it as [`remove_folder`] does.
///
/// # Errors
/// If something can't be removed, or the folder can't be created.
pub fn empty_folder(folder: &Path) -> io::Result<()> {
    remove_folder(folder)?;
    std::fs::create_dir(folder)
}

/// Gives the owner all permissions for a folder and the folders below it. Links are not followed.
fn make_writable(folder: &Path) -> io::Result<()> {
    if !folder.symlink_metadata()?.is_dir() {
        return Ok(());
    }
    std::fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    std::fs::read_dir(folder)?.try_for_each(|entry| make_writable(&entry?.path()))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// If the folder can't be synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The folder of a file; the current one for a bare name.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn check(metadata: &Metadata) -> Result<(), FileError> {
    if metadata.is_file() { Ok(()) } else { Err(FileError::NotRegular(kind(metadata.file_type()))) }
}

/// "a FIFO", "a directory", …: the type of a file that is not regular.
pub fn kind(file_type: FileType) -> &'static str {
    match file_type {
        t if t.is_dir() => "a directory",
        t if t.is_fifo() => "a FIFO",
        t if t.is_socket() => "a socket",
        t if t.is_char_device() || t.is_block_device() => "a device",
        t if t.is_symlink() => "a symbolic link",
        _ => "a special file",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn refused(path: &Path) -> String {
        read(path, 100).unwrap_err().to_string()
    }

    #[test]
    fn special_files_are_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        assert_eq!(refused(&at("fifo")), "it is a FIFO, not a regular file");
        assert_eq!(refused(&at("socket")), "it is a socket, not a regular file");
        assert_eq!(refused(dir.path()), "it is a directory, not a regular file");
        assert_eq!(refused(Path::new("/dev/zero")), "it is a device, not a regular file");
        std::os::unix::fs::symlink(at("fifo"), at("link")).unwrap();
        assert_eq!(refused(&at("link")), "it is a FIFO, not a regular file");
        assert!(matches!(read(&at("gone"), 100), Err(FileError::Io(e)) if e.kind() == io::ErrorKind::NotFound));
        std::fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link to file")).unwrap();
        assert_eq!(read(&at("link to file"), 100).unwrap(), b"text");
    }

    #[test]
    fn replacement_is_whole_and_does_not_follow_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let [target, link] = ["target", "link"].map(|name| dir.path().join(name));
        std::fs::write(&target, "old").unwrap();
        for replace in [replace, replace_durably] {
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(&target, &link).unwrap();
            replace(&link, b"new").unwrap();
            assert_eq!(
                (std::fs::read(&target).unwrap(), std::fs::read(&link).unwrap()),
                (b"old".into(), b"new".into())
            );
            assert!(link.symlink_metadata().unwrap().is_file());
            // A folder can't be replaced, and the attempt leaves no temporary file.
            assert!(replace(dir.path(), b"").is_err());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!([folder(Path::new("a")), folder(Path::new("b/a"))], [Path::new("."), Path::new("b")]);
    }

    #[test]
    fn file_over_the_limit_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read(&path, 100).unwrap(), [7; 100]);
        assert_eq!(read(&path, 99).unwrap_err().to_string(), "it has more than 99 bytes, the limit for this file");
        // A sparse file of a tebibyte takes no disk, and must take no memory.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(read(&path, 99), Err(FileError::TooLong { limit: 99 })));
    }
}
