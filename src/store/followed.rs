//! The entries of a database, followed through its journal. Takes no lock, and sled is not opened.
//!
//! The journal holds every change, so its frames give the entries of the database. Other processes append to it
//! meanwhile: a frame that is not complete yet is read the next time, also if there are complete ones after it. A
//! collection writes a new journal with another id, which is then read from its beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::error::{Result, StoreError};
use super::journal::{FORMAT, Journal, Position, Replay};

/// How often a frame that looks damaged is read again: the process that appends it may not have finished.
const READS: u8 = 5;

/// The entries of a database, up to the last time that its journal was read.
pub(super) struct FollowedEntries {
    folder: PathBuf,
    /// The first letters of the keys that are kept.
    letters: &'static [u8],
    position: Position,
    entries: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// Whether entries were forgotten and the caller was not told yet.
    is_replaced: bool,
    /// Whether the caller wants to know which keys have changed.
    lists_keys: bool,
    /// Where the first frame is that looked damaged, and how many reads found it so.
    damage: Option<(u64, u8)>,
}

/// What a read of the journal has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntryChanges {
    /// These keys were set or removed.
    Keys(BTreeSet<Box<[u8]>>),
    /// There is another journal, so any entry may have changed.
    All,
}

impl FollowedEntries {
    /// The database in this folder; keys with other first letters are ignored. Nothing is read yet.
    pub(super) fn new(folder: PathBuf, letters: &'static [u8]) -> Self {
        let position = Position { id: [0; 16], offset: 0 };
        Self { folder, letters, position, entries: BTreeMap::new(), is_replaced: false, lists_keys: true, damage: None }
    }

    /// The same without lists of changed keys, which take memory.
    pub(super) fn without_lists(self) -> Self {
        Self { lists_keys: false, ..self }
    }

    /// The folder of the database.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads what was appended to the journal since the last call.
    ///
    /// # Errors
    /// If the journal can't be read, or if a later version wrote it.
    pub(super) fn read(&mut self) -> Result<EntryChanges> {
        let keys = self.read_keys()?;
        Ok(if std::mem::take(&mut self.is_replaced) { EntryChanges::All } else { EntryChanges::Keys(keys) })
    }

    fn read_keys(&mut self) -> Result<BTreeSet<Box<[u8]>>> {
        let folder = self.folder.clone();
        let failed = || StoreError::unreadable(&folder);
        let mut keys = BTreeSet::new();
        let Some(mut journal) = Journal::open(&self.folder, false).map_err(failed())? else {
            self.clear();
            return Ok(keys);
        };
        if !journal.is_whole() {
            return Ok(keys);
        }
        if !journal.is_ours() {
            let (dir, found) = (folder, journal.format());
            return Err(StoreError::Newer { dir, found, known: FORMAT });
        }
        let end = journal.position();
        if end.id != self.position.id || end.offset < self.position.offset {
            self.clear();
            self.position = Position { id: end.id, offset: 0 };
        }
        if end.offset == self.position.offset {
            return Ok(keys);
        }
        let is_listed = self.lists_keys && !self.is_replaced;
        let (letters, entries) = (self.letters, &mut self.entries);
        let replay = journal.replay(self.position.offset, |frame, _| {
            for (key, value) in frame.iter().filter(|(key, _)| key.first().is_some_and(|l| letters.contains(l))) {
                let key: Box<[u8]> = (*key).into();
                if is_listed {
                    keys.insert(key.clone());
                }
                match value {
                    Some(value) => drop(entries.insert(key, (*value).into())),
                    None => drop(entries.remove(&key)),
                }
            }
            Ok::<_, std::io::Error>(())
        });
        let found = replay.map_err(failed())?;
        self.position.offset = self.next_offset(found);
        Ok(keys)
    }

    /// Where the next read begins: at the first damage, until it has been read several times.
    fn next_offset(&mut self, found: Replay) -> u64 {
        let before = self.damage.take();
        let Some(at) = found.damaged_at else { return found.end };
        let reads = before.filter(|(known, _)| *known == at).map_or(1, |(_, reads)| reads + 1);
        if reads >= READS {
            return found.end;
        }
        self.damage = Some((at, reads));
        at
    }

    /// Forgets all entries.
    fn clear(&mut self) {
        self.is_replaced |= !self.entries.is_empty();
        self.entries.clear();
        self.position = Position { id: [0; 16], offset: 0 };
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(key).map(|value| &**value)
    }

    /// The entries whose keys begin with these bytes.
    pub(super) fn with_prefix<'p>(&self, prefix: &'p [u8]) -> impl Iterator<Item = (&[u8], &[u8])> + use<'_, 'p> {
        let entries = self.entries.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        entries.take_while(move |(key, _)| key.starts_with(prefix)).map(|(key, value)| (&**key, &**value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::journal::{Changes, FILE};

    /// A journal with a frame for each of these keys, and where each frame begins.
    fn journal(dir: &Path, keys: &[&str]) -> Vec<u64> {
        let mut begins = Vec::new();
        let journal = Journal::create::<std::io::Error>(dir, 0, |journal| {
            for key in keys {
                begins.push(journal.position().offset);
                let mut changes = Changes::default();
                changes.insert(key, "value");
                journal.append(&changes, false)?;
            }
            Ok(())
        });
        drop(journal.unwrap());
        begins
    }

    /// Changes a byte of the journal, or changes it back.
    fn flip(dir: &Path, at: u64) {
        let mut bytes = std::fs::read(dir.join(FILE)).unwrap();
        bytes[at as usize] ^= 0x40;
        std::fs::write(dir.join(FILE), bytes).unwrap();
    }

    fn keys(followed: &FollowedEntries) -> Vec<String> {
        followed.entries.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    #[test]
    fn frame_that_was_not_complete_is_read_again_after_later_frames() {
        let dir = tempfile::tempdir().unwrap();
        let begins = journal(dir.path(), &["ra", "rb", "rc"]);
        flip(dir.path(), begins[1]);
        let mut followed = FollowedEntries::new(dir.path().to_owned(), b"r");
        followed.read().unwrap();
        assert_eq!(keys(&followed), ["ra", "rc"]);
        flip(dir.path(), begins[1]);
        let changes = followed.read().unwrap();
        assert_eq!(changes, EntryChanges::Keys([Box::from(*b"rb"), Box::from(*b"rc")].into()));
        assert_eq!(keys(&followed), ["ra", "rb", "rc"]);
        assert_eq!(followed.read().unwrap(), EntryChanges::Keys(BTreeSet::new()));
    }

    #[test]
    fn damaged_frame_is_passed_after_some_reads() {
        let dir = tempfile::tempdir().unwrap();
        let begins = journal(dir.path(), &["ra", "rb", "rc"]);
        flip(dir.path(), begins[1]);
        let mut followed = FollowedEntries::new(dir.path().to_owned(), b"r");
        for _ in 0..READS {
            assert_ne!(followed.read().unwrap(), EntryChanges::Keys(BTreeSet::new()));
        }
        assert_eq!(followed.read().unwrap(), EntryChanges::Keys(BTreeSet::new()));
        assert_eq!(keys(&followed), ["ra", "rc"]);
    }

    #[test]
    fn replacement_is_reported_after_a_read_that_failed() {
        let dir = tempfile::tempdir().unwrap();
        journal(dir.path(), &["ra"]);
        let mut followed = FollowedEntries::new(dir.path().to_owned(), b"r");
        followed.read().unwrap();
        // As a read does that finds another journal and then fails.
        followed.clear();
        assert_eq!(followed.read().unwrap(), EntryChanges::All);
        assert_eq!(keys(&followed), ["ra"]);
        assert_eq!(followed.read().unwrap(), EntryChanges::Keys(BTreeSet::new()));
    }
}
