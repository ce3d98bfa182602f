//! Opening a database whatever state it is in.
//!
//! The journal is the record and sled an index of it, so most trouble is repaired here without a word:
//!
//! | what is found | what is done |
//! |---|---|
//! | sled is behind the journal (its process was killed) | the rest of the journal is replayed |
//! | sled won't open, or opened without its entries | sled's files are removed, and the journal is replayed |
//! | sled follows a journal that was replaced | the same |
//! | the journal is missing, cut short, or has a damaged header | it is written again from sled |
//! | sled won't open and the journal is damaged or missing | sled's files are set aside, never deleted; what can be read of both is kept |
//! | the database can't be written | a temporary copy serves the readers |
//!
//! Databases of earlier versions have no journal until the first change. Chunks that earlier versions wrote are in sled
//! alone until a collection moves them to packs; the journal's flag [`journal::HAS_CHUNKS`] says so.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::aside::{
    SAVING, finish_moving, remove_file, remove_sled, remove_unfinished_snapshots, save, set_aside, sled_files,
};
use super::engine::{Failure, Setup, flush, open_sled};
use super::journal::{self, Change, Changes, Journal, Position};
use super::{StoreError, disk, quiet};

type Result<T, E = Failure> = std::result::Result<T, E>;

/// Where sled remembers how far it has followed the journal.
const POSITION: &[u8] = b"j";
/// Bytes of a frame when a whole database is written to a journal.
const FRAME: usize = 1 << 20;
/// A copy of more bytes than this is not made in memory.
const IN_MEMORY: u64 = 256 << 20;
/// What it took to open a database.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Where sled's files were set aside, and why.
    pub(super) aside: Option<(PathBuf, String)>,
    /// Entries that were read from there.
    pub(super) saved: usize,
    /// What was wrong with the journal.
    pub(super) journal: Option<String>,
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

/// Opens the database in this folder, and brings it up to date with its journal.
pub(super) fn open(path: &Path, setup: Setup) -> Result<(sled::Db, Option<Journal>, Recovery)> {
    match try_open(path, setup) {
        Err(Failure::Broken(why)) => {
            discard(path, &why)?;
            try_open(path, setup)
        }
        other => other,
    }
}

fn try_open(path: &Path, setup: Setup) -> Result<(sled::Db, Option<Journal>, Recovery)> {
    fs::create_dir_all(path)?;
    let mut recovery = Recovery { aside: finish_moving(path)?, ..Recovery::default() };
    remove_unfinished_snapshots(path)?;
    let mut journal = Journal::open(path, true)?;
    if journal.is_none() && sled_files(path)?.is_empty() {
        // Before sled creates its files, so that nothing depends on these if the process ends while they are created.
        journal = Some(Journal::create(path, 0, |_| Ok::<_, Failure>(()))?);
    }
    let db = open_sled(path, setup)?;
    if let Some(journal) = &mut journal {
        recovery.journal = follow(&db, journal, setup)?;
    }
    if let Some((aside, _)) = &recovery.aside {
        recovery.saved = save(aside, &db, setup, |key| key != POSITION)?;
        flush(&db, path)?;
    }
    if recovery.has_lost_entries() {
        journal = Some(start_journal(&db, path, setup)?);
        remove_file(&path.join(SAVING))?;
    }
    Ok((db, journal, recovery))
}

/// Applies what sled lacks of the journal. Returns what is wrong with the journal, if anything; sled then holds what can
/// be known, and the journal must be written again.
fn follow(db: &sled::Db, journal: &mut Journal, setup: Setup) -> Result<Option<String>> {
    let position = db.get(POSITION)?.and_then(|bytes| Position::decode(&bytes));
    let end = journal.position();
    let start = match position {
        Some(_) if !journal.is_whole() => return Ok(Some("had a damaged header".to_owned())),
        Some(p) if p.id == end.id && p.offset > end.offset => return Ok(Some("was cut short".to_owned())),
        Some(p) if p.id == end.id => p.offset,
        _ => {
            clear(db, setup)?;
            0
        }
    };
    let replay = journal.replay(start, |changes, position| apply(db, changes, position))?;
    if replay.damaged > 0 || !journal.is_whole() {
        return Ok(Some(format!("was damaged in {} places", replay.damaged.max(1))));
    }
    Ok(None)
}

/// Applies changes together with the position that they lead to.
pub(super) fn apply(db: &sled::Db, changes: &[Change<'_>], position: Position) -> Result<()> {
    let mut batch = sled::Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.insert(*key, *value),
            None => batch.remove(*key),
        }
    }
    batch.insert(POSITION, &position.encode());
    Ok(db.apply_batch(batch)?)
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

/// Writes a journal with all entries of the database, in the place of the one it has.
pub(super) fn start_journal(db: &sled::Db, path: &Path, setup: Setup) -> Result<Journal> {
    let mut precious = setup.precious.iter();
    let has_chunks = precious.any(|letter| db.scan_prefix([*letter]).next().is_some());
    let flags = if has_chunks { journal::HAS_CHUNKS } else { 0 };
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
    db.insert(POSITION, journal.position().encode().as_slice())?;
    Ok(journal)
}

/// Gives up sled's files, so that the next opening builds the database again from the journal. They are set aside if the
/// journal doesn't hold everything.
pub(super) fn discard(path: &Path, why: &str) -> Result<()> {
    let is_complete = match Journal::open(path, false)? {
        Some(mut journal) => {
            let replay = journal.replay(0, |_, _| Ok::<_, Failure>(()))?;
            journal.is_whole() && !journal.has_chunks() && replay.damaged == 0
        }
        None => false,
    };
    match is_complete {
        true => Ok(remove_sled(path)?),
        false => set_aside(path, why),
    }
}

/// Writes the journal again with what the database holds now, and builds sled's files again, which don't shrink
/// themselves. Chunks of earlier versions keep sled's files in their place.
pub(super) fn compact(path: &Path, setup: Setup) -> Result<()> {
    let (db, _, _) = open(path, setup)?;
    let journal = start_journal(&db, path, setup)?;
    if journal.has_chunks() {
        return flush(&db, path);
    }
    let _ = quiet::catch(|| drop(db));
    remove_sled(path)?;
    open(path, setup).map(drop)
}

/// Repairs a database that differs from its journal. A whole journal is right; else sled is, which no read has found
/// damaged.
pub(super) fn rebuild(path: &Path, setup: Setup) -> Result<()> {
    let (db, journal, _) = open(path, setup)?;
    if let Some(mut journal) = journal {
        let replay = journal.replay(0, |_, _| Ok::<_, Failure>(()))?;
        if journal.is_whole() && replay.damaged == 0 {
            clear(&db, setup)?;
            journal.replay(0, |changes, position| apply(&db, changes, position))?;
            return flush(&db, path);
        }
    }
    start_journal(&db, path, setup).map(drop)
}

/// Compares a database with its journal, and returns what is wrong.
pub(super) fn check(db: &sled::Db, path: &Path, setup: Setup) -> Result<Vec<String>> {
    let Some(mut journal) = Journal::open(path, false)? else { return Ok(Vec::new()) };
    let mut entries: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let replay = journal.replay(0, |changes, _| {
        for (key, value) in changes {
            match value {
                Some(value) => drop(entries.insert(key.to_vec(), value.to_vec())),
                None => drop(entries.remove(*key)),
            }
        }
        Ok::<_, Failure>(())
    })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
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

/// A copy of a database that can't be written; removed when dropped.
pub(super) struct TemporaryCopy {
    _folder: TempDir,
    refusal: StoreError,
    /// Whether changes go to the journal of the database itself.
    pub(super) is_for_collection: bool,
}

impl TemporaryCopy {
    /// Why the database itself could not be opened: what an attempt to change the copy is answered with.
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

/// Opens a temporary copy of the database in this folder, brought up to date with its journal. For a collection the
/// journal is returned, too, if it can be written.
pub(super) fn open_copy(
    path: &Path,
    setup: Setup,
    refusal: StoreError,
    is_for_collection: bool,
) -> Result<(sled::Db, Option<Journal>, TemporaryCopy)> {
    let mut size = 0;
    for name in sled_files(path)? {
        size += fs::metadata(path.join(&name))?.len();
    }
    let memory = Path::new("/dev/shm");
    let place = if size <= IN_MEMORY && memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = tempfile::Builder::new().prefix("vadpipe-index-").tempdir_in(place)?;
    for name in sled_files(path)?.iter().filter(|n| !n.ends_with(".generating")) {
        disk::copy(&path.join(name), &folder.path().join(name))?;
    }
    let attempt = || -> Result<_> {
        let db = open_sled(folder.path(), setup)?;
        let mut journal = Journal::open(path, is_for_collection)?;
        let trouble = journal.as_mut().map(|journal| follow(&db, journal, setup)).transpose()?.flatten();
        // A journal that has to be written again must not be appended to.
        Ok((db, journal.filter(|_| is_for_collection && trouble.is_none())))
    };
    let (db, journal) = match attempt() {
        Err(Failure::Broken(_)) if journal::path(path).exists() => {
            remove_sled(folder.path())?;
            attempt()
        }
        other => other,
    }?;
    let is_for_collection = journal.is_some();
    Ok((db, journal, TemporaryCopy { _folder: folder, refusal, is_for_collection }))
}
