//! Tags and notes that users write about results: one file for each result, `notes/KEY.json`.
//!
//! They are in no key, and no run reads them. They stay if their result is removed, because the same result can be made
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::disk;
use super::error::{Result, StoreError};
use crate::key::Key;

/// Bytes of the longest file.
const LONGEST: u64 = 1 << 20;

/// What users wrote about a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The pipeline of the result, for readers of the file.
    pub pipeline: String,
    /// The point of the result.
    pub point: String,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// The text.
    #[serde(default)]
    pub text: String,
}

impl Note {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.text.is_empty()
    }
}

/// The notes of a cache.
#[derive(Clone, Debug)]
pub struct Notes {
    folder: PathBuf,
}

impl Notes {
    /// The notes of the cache in `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self { folder: dir.join("notes") }
    }

    /// When a note was last written or removed. None if the cache never had a note.
    pub fn changed_at(&self) -> Option<SystemTime> {
        self.folder.metadata().ok()?.modified().ok()
    }

    /// All notes. A file that is not a note is left out.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn all(&self) -> Result<BTreeMap<Key, Note>> {
        let paths = disk::entries(&self.folder).map_err(StoreError::io("can't read", &self.folder))?;
        let note = |path: &PathBuf| {
            let key = disk::name(path).strip_suffix(".json")?.parse().ok()?;
            Some((key, serde_json::from_slice(&disk::read(path, LONGEST).ok()?).ok()?))
        };
        Ok(paths.iter().filter_map(note).collect())
    }

    /// The note of a result, if it has one.
    ///
    /// # Errors
    /// If its file can't be read or is not a note.
    pub fn read(&self, key: &Key) -> Result<Option<Note>> {
        let path = self.path(key);
        let bytes = match disk::read(&path, LONGEST) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(StoreError::io("can't read", &path))?,
        };
        let note = serde_json::from_slice(&bytes).map_err(std::io::Error::from);
        note.map(Some).map_err(StoreError::io("can't read", &path))
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{key}.json"))
    }

    /// Writes the note of a result. An empty note is removed.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write(&self, key: &Key, note: &Note) -> Result<()> {
        let path = self.path(key);
        if note.is_empty() {
            return disk::remove_file(&path).map_err(StoreError::io("can't remove", &path));
        }
        disk::create_folder(&self.folder).map_err(StoreError::io("can't create", &self.folder))?;
        // Only a map whose keys aren't strings can fail, and there is none.
        let mut text = serde_json::to_vec_pretty(note).unwrap_or_default();
        text.push(b'\n');
        disk::write_atomically(&path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Digest;

    #[test]
    fn note_is_read_as_it_was_written_and_an_empty_one_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::new(dir.path());
        assert_eq!((notes.all().unwrap(), notes.changed_at()), (BTreeMap::new(), None));
        let key = Digest::of(b"result");
        let tags = ["best".to_owned()].into();
        let note = Note { pipeline: "p".into(), point: "net".into(), tags, text: "a\nb".into() };
        notes.write(&key, &note).unwrap();
        assert_eq!(notes.all().unwrap(), BTreeMap::from([(key, note.clone())]));
        std::fs::write(dir.path().join("notes/README.md"), "mine").unwrap();
        let damaged = Digest::of(b"x");
        std::fs::write(dir.path().join(format!("notes/{damaged}.json")), "{").unwrap();
        assert_eq!(notes.all().unwrap().len(), 1, "other files are left out");
        assert_eq!((notes.read(&key).unwrap(), notes.read(&Digest::of(b"y")).unwrap()), (Some(note.clone()), None));
        assert!(notes.read(&damaged).is_err(), "it is not replaced by an empty one");
        notes.write(&key, &Note { tags: BTreeSet::new(), text: String::new(), ..note }).unwrap();
        assert!(notes.all().unwrap().is_empty());
        notes.write(&key, &Note::default()).unwrap();
    }
}
