//! sled as we use it: how it is set up and opened, and what its errors mean.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{StoreError, quiet};

/// How long sled's own lock may outlive the database, or be somebody's who doesn't know of ours.
const SLED_LOCK: Duration = Duration::from_secs(5);

/// How sled is set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    /// Bytes of a segment. Nodes of sled's tree (16 to 26 values) above a quarter of it become files of their own.
    pub(super) segment: usize,
    /// Bytes of sled's cache.
    pub(super) cache: u64,
    /// First letters of keys that are not in the journal.
    pub(super) unjournaled: &'static [u8],
    /// Those of them whose entries can't be computed again: chunks that earlier versions wrote.
    pub(super) precious: &'static [u8],
}

/// Why an operation on an open database failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database itself is at fault: an inconsistency or a panic.
    Broken(String),
    /// The file system is at fault.
    Io(io::Error),
    /// Ours.
    Store(StoreError),
}

impl From<sled::Error> for Failure {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(e) if !damage(&e) => Self::Io(e),
            // One of sled's threads panicked, and sled refuses to work in this process. No database is at fault.
            sled::Error::ReportableBug(text) if text.contains("IO thread") => Self::Io(io::Error::other(text)),
            sled::Error::Corruption { .. } => Self::Broken("its file is corrupted".to_owned()),
            other => Self::Broken(other.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Errors of the file system that speak of what is in the file rather than of the disk.
fn damage(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(e.kind(), K::UnexpectedEof | K::InvalidData | K::InvalidInput | K::Other | K::NotFound)
}

/// Opens sled, waiting for its own lock, which may outlive a database that was just dropped.
pub(super) fn open_sled(path: &Path, setup: Setup) -> Result<sled::Db, Failure> {
    let begin = Instant::now();
    loop {
        let config = sled::Config::new().path(path).cache_capacity(setup.cache).segment_size(setup.segment);
        let opened = quiet::catch(|| config.flush_every_ms(None).open());
        match opened {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(e))) if e.to_string().contains("could not acquire lock") => {
                if begin.elapsed() > SLED_LOCK {
                    return Err(StoreError::Held { holder: None }.into());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(Err(e)) => return Err(e.into()),
            Err(panic) => return Err(Failure::Broken(panic)),
        }
    }
}

/// Makes sled's own files durable: for entries that are not in the journal. sled's flush alone is no barrier against a
/// power loss, and never syncs the files that it makes for large nodes.
pub(super) fn flush(db: &sled::Db, path: &Path) -> Result<(), Failure> {
    db.flush()?;
    File::open(path.join("db"))?.sync_all()?;
    let blobs = path.join("blobs");
    let Ok(entries) = fs::read_dir(&blobs) else { return Ok(()) };
    for entry in entries.flatten() {
        match File::open(entry.path()).and_then(|f| f.sync_all()) {
            // sled removes one when it is no longer needed.
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    Ok(File::open(&blobs)?.sync_all()?)
}

/// The error of a failure in this folder.
pub(super) fn failed(failure: Failure, path: &Path) -> StoreError {
    match failure {
        Failure::Store(error) => error,
        Failure::Io(e) => StoreError::io("can't use the database", path)(e),
        Failure::Broken(why) => StoreError::Database { path: path.to_owned(), why },
    }
}
