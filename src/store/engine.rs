//! sled: how it is set up and opened, and what its errors and panics mean.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};

use super::disk;
use super::error::StoreError;

/// How long sled's own lock may outlive its database, or be held by a process that doesn't know our locks.
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
    /// The store is at fault.
    Store(StoreError),
}

impl From<sled::Error> for Failure {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(e) if !is_damage(&e) => Self::Io(e),
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

impl Failure {
    /// Converts a failure of the database in this folder into an error.
    pub(super) fn at(self, path: &Path) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Io(e) => StoreError::io("can't use the database", path)(e),
            Self::Broken(why) => StoreError::Database { path: path.to_owned(), why },
        }
    }
}

/// Whether an error of the file system is about the file's content rather than about the disk.
fn is_damage(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(e.kind(), K::UnexpectedEof | K::InvalidData | K::InvalidInput | K::Other | K::NotFound)
}

/// Opens sled. Its own lock may outlive a database that was just dropped, so this waits for a moment.
pub(super) fn open_sled(path: &Path, setup: Setup) -> Result<sled::Db, Failure> {
    let begin = Instant::now();
    loop {
        let config = sled::Config::new().path(path).cache_capacity(setup.cache).segment_size(setup.segment);
        match catch(|| Ok(config.flush_every_ms(None).open()))? {
            Ok(db) => return Ok(db),
            Err(sled::Error::Io(e)) if e.to_string().contains("could not acquire lock") => {
                if begin.elapsed() > SLED_LOCK {
                    return Err(StoreError::Held { holder: None }.into());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// Makes sled's own files durable, for entries that are not in the journal. sled's flush alone does not survive a power
/// loss, and never syncs the files of large nodes.
pub(super) fn flush(db: &sled::Db, path: &Path) -> Result<(), Failure> {
    db.flush()?;
    File::open(path.join("db"))?.sync_all()?;
    let blobs = path.join("blobs");
    for file in disk::entries(&blobs)? {
        match File::open(file).and_then(|f| f.sync_all()) {
            // sled removes a file when no node needs it.
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    match disk::sync_folder(&blobs) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

thread_local! {
    /// Whether this thread is in [`catch`].
    static IS_CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`. A panic of sled means that the database is broken.
pub(super) fn catch<T>(f: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let was_catching = IS_CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    IS_CATCHING.set(was_catching);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Failure::Broken(text.unwrap_or_else(|| "panic".to_owned())))
    })
}

/// Silences the panics of sled that a [`super::Store`] catches. A damaged database can make sled panic; the store then
/// rebuilds it.
///
/// This installs a panic hook, which passes all other panics to the previous hook. Threads that sled starts are silent
/// too. The library never calls this: the hook belongs to the whole process, so it is for the program to decide.
pub fn silence_caught_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_sleds = std::thread::current().name().is_some_and(|name| name.starts_with("sled-"));
            // A thread that ends has no flag any more, and nothing to silence.
            if !is_sleds && !IS_CATCHING.try_with(Cell::get).unwrap_or(false) {
                before(info);
            }
        }));
    });
}
