//! Reading files that a user names: only regular files, and never more than they may hold.
//!
//! Opening a FIFO waits for a writer, and a device such as `/dev/zero` never ends. So a file is opened without waiting,
//! and its type is checked before anything is read from it.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is something else: a FIFO, a device, a socket, a directory.
    #[error("it is {0}, not a regular file")]
    NotRegular(&'static str),
    /// It is longer than such a file may be.
    #[error("it has more than {limit} bytes, the limit for this file")]
    TooLong {
        /// The most bytes that it may have.
        limit: u64,
    },
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FileError {
    /// Whether an error of the system is about this file, as opposed to a shortage such as too many open files.
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

/// Opens a regular file for reading; links are followed. Never waits.
///
/// # Errors
/// See [`FileError`].
pub fn open(path: &Path) -> Result<File, FileError> {
    open_with(OpenOptions::new().read(true), path)
}

/// Opens or creates a regular file as the options say; links are followed. Never waits.
///
/// # Errors
/// See [`FileError`].
pub fn open_with(options: &OpenOptions, path: &Path) -> Result<File, FileError> {
    // A device may act on being opened, and a socket can't be opened.
    match std::fs::metadata(path) {
        Ok(metadata) => check(&metadata)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.clone().custom_flags(flags.bits().cast_signed()).open(path)?;
    // Another file may have taken its place.
    check(&file.metadata()?)?;
    Ok(file)
}

/// The content of a regular file of at most `limit` bytes; links are followed. Never waits.
///
/// # Errors
/// See [`FileError`].
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    read_from(open(path)?, limit)
}

/// The content of an open file, which must be a regular one of at most `limit` bytes.
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
    // It may grow while it is read.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(FileError::TooLong { limit }) } else { Ok(bytes) }
}

fn check(metadata: &Metadata) -> Result<(), FileError> {
    if metadata.is_file() { Ok(()) } else { Err(FileError::NotRegular(kind(metadata.file_type()))) }
}

/// "a FIFO", "a directory", …: for messages about anything but a regular file.
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
