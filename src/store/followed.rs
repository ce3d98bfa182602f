//! The entries of a database, followed through its journal. Takes no lock, and sled is not opened.
//!
//! The journal holds every change, so its frames give the entries of the database. Other processes append to it
//! meanwhile: a frame that is not complete yet is read the next time. A collection writes a new journal with another
//! id, which is then read from its beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::error::{Result, StoreError};
use super::journal::{FORMAT, Journal, Position};

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
        Self { folder, letters, position, entries: BTreeMap::new(), is_replaced: false, lists_keys: true }
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
        self.position.offset = replay.map_err(failed())?.end;
        Ok(keys)
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

    /// The entries whose keys begin with this letter.
    pub(super) fn of_letter(&self, letter: u8) -> impl Iterator<Item = (&[u8], &[u8])> {
        let from = (Bound::Included(&[letter][..]), Bound::Unbounded);
        let entries = self.entries.range::<[u8], _>(from);
        entries.take_while(move |(key, _)| key.first() == Some(&letter)).map(|(key, value)| (&**key, &**value))
    }
}
