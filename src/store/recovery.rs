//! Opening a database, whatever state it is in.
//!
//! The journal is the record and sled an index of it, so most faults are repaired here without a message:
//!
//! | fault | repair |
//! |---|---|
//! | sled is behind the journal, because its process was killed | the rest of the journal is replayed |
//! | sled fails to open, or lacks its entries | sled's files are removed, and the journal is replayed |
//! | sled follows a journal that was replaced | the same |
//! | the journal is missing, cut short, or has a damaged header | it is written again from sled |
//! | sled fails to open, and the journal is damaged or missing | sled's files are set aside, readable entries kept |
//! | the database can't be written | readers use a temporary copy |
//!
//! Databases of earlier versions have no journal until the first change. Chunks of earlier versions are in sled alone
//! until a collection moves them to packs; the journal's flag [`journal::HAS_CHUNKS`] says so.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::aside::{
    MOVING, RESTORED, SAVING, close, finish_moving, remove_sled, remove_unfinished_snapshots, save, set_aside,
    sled_files,
};
use super::disk;
use super::engine::{Failure, Setup, catch, flush, open_sled};
use super::error::StoreError;
use super::journal::{self, Change, Changes, FORMAT, Journal, Position};

type Result<T, E = Failure> = std::result::Result<T, E>;

/// Where sled remembers how far it has followed the journal.
const POSITION: &[u8] = b"j";
/// Bytes of a frame when a whole database is written to a journal.
const FRAME: usize = 1 << 20;
/// What the names of copies begin with; the process's id follows.
const COPY: &str = "vadpipe-index-";
/// A copy of more bytes than this is not made in memory.
const IN_MEMORY: u64 = 256 << 20;

/// The repairs made while a database was opened.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Where sled's files were set aside, and why.
    aside: Option<(PathBuf, String)>,
    /// Number of entries that were read from there.
    saved: usize,
    /// What was wrong with the journal.
    journal: Option<String>,
    /// Whether sled lacked changes of the journal.
    pub(super) was_behind: bool,
}

impl Recovery {
    /// Whether entries may have been lost.
    pub(super) fn has_lost_entries(&self) -> bool {
        self.aside.is_some() || self.journal.is_some()
    }

    /// A sentence for the user, without a full stop.
    pub(super) fn describe(&self, path: &Path) -> String {
        let mut parts = Vec::new();
        if let Some((aside, why)) = &self.aside {
            parts.push(format!(
                "the database {} was damaged ({why}) and is kept as {}; {} of its entries were saved",
                path.display(),
                aside.display(),
                self.saved
            ));
        }
        if let Some(what) = &self.journal {
            parts.push(format!("the journal of the database {} {what}", path.display()));
        }
        parts.join("; ")
    }
}

/// Opens the database in this folder and brings it up to date with its journal. `before_journal` is called before a
/// journal is written for a database that has none. After a recovery the caller calls [`finish`].
pub(super) fn open(
    path: &Path,
    setup: Setup,
    before_journal: &dyn Fn() -> Result<(), StoreError>,
) -> Result<(sled::Db, Option<Journal>, Recovery)> {
    let attempt = || catch(|| try_open(path, setup, before_journal));
    match attempt() {
        Err(Failure::Broken(why)) => {
            discard(path, &why)?;
            attempt()
        }
        other => other,
    }
}

fn try_open(
    path: &Path,
    setup: Setup,
    before_journal: &dyn Fn() -> Result<(), StoreError>,
) -> Result<(sled::Db, Option<Journal>, Recovery)> {
    fs::create_dir_all(path)?;
    let mut recovery = Recovery { aside: finish_moving(path)?, ..Recovery::default() };
    remove_unfinished_snapshots(path)?;
    let mut journal = open_journal(path, true)?;
    if journal.is_none() && recovery.aside.is_none() && sled_files(path)?.is_empty() {
        // The journal is created before sled's files, so that nothing depends on these if the process ends in between.
        before_journal()?;
        journal = Some(Journal::create(path, 0, |_| Ok::<_, Failure>(()))?);
    }
    let db = open_sled(path, setup)?;
    if let Some(journal) = &mut journal {
        recovery.was_behind = position(&db)? != Some(journal.position());
        recovery.journal = follow(&db, journal, setup)?;
    }
    if let Some((aside, _)) = &recovery.aside {
        // A whole journal knows which entries were removed. The set-aside files may be older.
        let is_right = journal.is_some() && recovery.journal.is_none();
        recovery.saved = save(aside, &db, setup, |key| key != POSITION && !(is_right && is_journaled(key, setup)))?;
        flush(&db, path)?;
    }
    if recovery.has_lost_entries() {
        before_journal()?;
        journal = Some(start_journal(&db, path, setup)?);
    }
    Ok((db, journal, recovery))
}

/// Ends a recovery: the set-aside files are no longer needed.
pub(super) fn finish(path: &Path, recovery: &Recovery) -> Result<()> {
    if let Some((aside, _)) = &recovery.aside {
        fs::write(aside.join(RESTORED), "")?;
    }
    Ok(disk::remove_file(&path.join(SAVING))?)
}

/// Opens the journal of this folder, unless a later version wrote it.
fn open_journal(path: &Path, writable: bool) -> Result<Option<Journal>> {
    let journal = Journal::open(path, writable)?;
    match journal {
        Some(journal) if journal.is_whole() && !journal.is_ours() => {
            let (dir, found) = (path.to_owned(), journal.format());
            Err(StoreError::Newer { dir, found, known: FORMAT }.into())
        }
        other => Ok(other),
    }
}

/// Applies the part of the journal that sled lacks. Returns what is wrong with the journal, if anything; sled then
/// holds all readable entries, and the journal must be written again.
fn follow(db: &sled::Db, journal: &mut Journal, setup: Setup) -> Result<Option<String>> {
    let position = position(db)?;
    let end = journal.position();
    let start = match position {
        Some(p) if journal.is_whole() && p.id == end.id && p.offset > end.offset => {
            return Ok(Some("was cut short".to_owned()));
        }
        Some(p) if journal.is_whole() && p.id == end.id => p.offset,
        _ => {
            // Only a complete journal may replace sled's entries.
            if is_undamaged(journal)? {
                clear(db, setup)?;
            }
            0
        }
    };
    let replay = journal.replay(start, |changes, position| apply(db, changes, position))?;
    if !journal.is_whole() {
        return Ok(Some("had a damaged header".to_owned()));
    }
    let places = replay.damaged;
    Ok((places > 0).then(|| format!("was damaged in {places} places")))
}

/// How far sled has followed its journal.
fn position(db: &sled::Db) -> Result<Option<Position>> {
    Ok(db.get(POSITION)?.and_then(|bytes| Position::decode(&bytes)))
}

/// Whether the header and all frames of a journal are whole.
fn is_undamaged(journal: &mut Journal) -> Result<bool> {
    let replay = journal.replay(0, |_, _| Ok::<_, Failure>(()))?;
    Ok(journal.is_whole() && replay.damaged == 0)
}

/// Whether a database can be built from its journal alone.
fn has_complete_journal(path: &Path) -> Result<bool> {
    match open_journal(path, false)? {
        Some(mut journal) => Ok(!journal.has_chunks() && is_undamaged(&mut journal)?),
        None => Ok(false),
    }
}

/// Applies changes and then the position that they lead to.
///
/// sled writes to disk twice for each batch, so changes that only insert are made one by one, in their order: an entry
/// comes after those that it refers to. After a crash between two of them the position is the old one, and all are made
/// again from the journal. Other changes are visible all at once. The position is not in their batch, because a batch
/// that fails to read a node leaves a part of its changes behind.
pub(super) fn apply(db: &sled::Db, changes: &[Change<'_>], position: Position) -> Result<()> {
    if changes.iter().all(|(_, value)| value.is_some()) {
        for (key, value) in changes {
            db.insert(key, value.unwrap_or_default())?;
        }
    } else {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(*key, *value),
                None => batch.remove(*key),
            }
        }
        db.apply_batch(batch)?;
    }
    db.insert(POSITION, position.encode().as_slice())?;
    Ok(())
}

/// Removes all entries that the journal holds.
fn clear(db: &sled::Db, setup: Setup) -> Result<()> {
    for item in db.iter() {
        let (key, _) = item?;
        if is_journaled(&key, setup) || *key == *POSITION {
            db.remove(key)?;
        }
    }
    Ok(())
}

fn is_journaled(key: &[u8], setup: Setup) -> bool {
    key != POSITION && key.first().is_some_and(|letter| !setup.unjournaled.contains(letter))
}

/// Writes a journal with all entries of the database, and replaces the one it has.
pub(super) fn start_journal(db: &sled::Db, path: &Path, setup: Setup) -> Result<Journal> {
    let mut precious = setup.precious.iter();
    let has_chunks = precious.any(|letter| db.scan_prefix([*letter]).next().is_some());
    let flags = if has_chunks { journal::HAS_CHUNKS } else { 0 };
    disk::remove_temporary(path);
    let journal = Journal::create(path, flags, |journal| {
        let mut changes = Changes::default();
        for item in db.iter() {
            let (key, value) = item?;
            if is_journaled(&key, setup) {
                changes.insert(key, value);
            }
            if changes.len() >= FRAME {
                journal.append(&std::mem::take(&mut changes), false)?;
            }
        }
        journal.append(&changes, false)?;
        Ok::<_, Failure>(())
    })?;
    db.insert(POSITION, journal.position().encode())?;
    Ok(journal)
}

/// Gives up sled's files, so that the next opening builds the database again from the journal. If the journal is not
/// complete, they are set aside.
pub(super) fn discard(path: &Path, why: &str) -> Result<()> {
    match has_complete_journal(path)? {
        true => Ok(remove_sled(path)?),
        false => set_aside(path, why),
    }
}

/// Writes the journal again with the present entries, and builds sled's files again, because sled doesn't shrink them.
/// Chunks of earlier versions exist in sled only, so sled's files stay if there are any.
pub(super) fn compact(path: &Path, setup: Setup) -> Result<()> {
    catch(|| {
        let (db, _, recovery) = open(path, setup, &|| Ok(()))?;
        if recovery.has_lost_entries() {
            // The next opening warns the user, and the next collection compacts.
            return Ok(());
        }
        let journal = start_journal(&db, path, setup)?;
        if journal.has_chunks() {
            return flush(&db, path);
        }
        close(db);
        remove_sled(path)?;
        open(path, setup, &|| Ok(())).map(drop)
    })
}

/// Repairs a database that differs from its journal. A whole journal is right. Otherwise sled is right, because no read
/// of it has failed.
pub(super) fn rebuild(path: &Path, setup: Setup) -> Result<()> {
    catch(|| {
        let (db, journal, _) = open(path, setup, &|| Ok(()))?;
        if let Some(mut journal) = journal
            && is_undamaged(&mut journal)?
        {
            clear(&db, setup)?;
            journal.replay(0, |changes, position| apply(&db, changes, position))?;
            return flush(&db, path);
        }
        start_journal(&db, path, setup).map(drop)
    })
}

/// Compares a database with its journal. Returns the differences.
pub(super) fn check(db: &sled::Db, path: &Path, setup: Setup) -> Result<Vec<String>> {
    let Some(mut journal) = Journal::open(path, false)? else { return Ok(Vec::new()) };
    // If this is a copy of a database, another process may append to the journal meanwhile.
    let position = position(db)?;
    let is_followed = |at: Position| position.is_none_or(|p| p.id != at.id || at.offset <= p.offset);
    let mut entries: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let replay = journal.replay(0, |changes, at| {
        if !is_followed(at) {
            return Ok(());
        }
        for (key, value) in changes {
            match value {
                Some(value) => drop(entries.insert(key.to_vec(), value.to_vec())),
                None => drop(entries.remove(*key)),
            }
        }
        Ok::<_, Failure>(())
    })?;
    let name = disk::name(path);
    if replay.damaged > 0 || !journal.is_whole() {
        return Ok(vec![format!(
            "the journal of the database `{name}` is damaged in {} places",
            replay.damaged.max(1)
        )]);
    }
    let mut different = 0;
    for item in db.iter() {
        let (key, value) = item?;
        if is_journaled(&key, setup) && entries.remove(&*key).is_none_or(|known| known != *value) {
            different += 1;
        }
    }
    different += entries.len();
    let problem = format!("{different} entries of the database `{name}` differ from its journal");
    Ok(if different > 0 { vec![problem] } else { Vec::new() })
}

/// A temporary copy of a database that can't be written. Removed when dropped.
pub(super) struct TemporaryCopy {
    _folder: TempDir,
    refusal: StoreError,
    /// Whether changes go to the journal of the database itself.
    pub(super) is_for_collection: bool,
}

impl TemporaryCopy {
    /// The error of any attempt to change the copy: why the database itself could not be opened.
    pub(super) fn refusal(&self) -> StoreError {
        match &self.refusal {
            StoreError::ReadOnly { path, source } => {
                StoreError::ReadOnly { path: path.clone(), source: io::Error::new(source.kind(), source.to_string()) }
            }
            StoreError::Full { path } => StoreError::Full { path: path.clone() },
            other => StoreError::NotFound(other.to_string()),
        }
    }
}

/// Opens a temporary copy of the database in this folder, brought up to date with its journal. A collection gets the
/// journal too. It removes everything that the copy doesn't name, so it is refused a copy that may lack entries.
pub(super) fn open_copy(
    path: &Path,
    setup: Setup,
    refusal: StoreError,
    is_for_collection: bool,
) -> Result<(sled::Db, Option<Journal>, TemporaryCopy)> {
    // The set-aside entries are not in the database yet.
    if disk::exists(&path.join(MOVING))? || disk::exists(&path.join(SAVING))? {
        return Err(refusal.into());
    }
    let folder = folder_for_copy(path)?;
    for name in sled_files(path)?.iter().filter(|n| !n.ends_with(".generating")) {
        disk::copy(&path.join(name), &folder.path().join(name))?;
    }
    let attempt = || {
        catch(|| {
            let db = open_sled(folder.path(), setup)?;
            let mut journal = open_journal(path, is_for_collection)?;
            let trouble = journal.as_mut().map(|journal| follow(&db, journal, setup)).transpose()?.flatten();
            Ok((db, journal, trouble))
        })
    };
    let (db, journal, trouble) = match attempt() {
        Err(Failure::Broken(_)) if has_complete_journal(path)? => {
            remove_sled(folder.path())?;
            attempt()
        }
        other => other,
    }?;
    if is_for_collection && (journal.is_none() || trouble.is_some()) {
        return Err(refusal.into());
    }
    Ok((db, journal.filter(|_| is_for_collection), TemporaryCopy { _folder: folder, refusal, is_for_collection }))
}

/// A temporary folder for a copy of a database, in memory unless it is large. Removes the folders of killed processes.
fn folder_for_copy(path: &Path) -> Result<TempDir> {
    let mut size = 0;
    for name in sled_files(path)? {
        size += fs::metadata(path.join(&name))?.len();
    }
    let memory = Path::new("/dev/shm");
    let place = if size <= IN_MEMORY && memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let proc = Path::new("/proc");
    for path in disk::entries(&place).unwrap_or_default() {
        let pid = disk::name(&path).strip_prefix(COPY).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !proc.join(pid.to_string()).exists()) && proc.join("self").exists() {
            let _ = fs::remove_dir_all(path);
        }
    }
    Ok(tempfile::Builder::new().prefix(&format!("{COPY}{}-", std::process::id())).tempdir_in(place)?)
}
