//! A cache for a program that only watches: reads what other processes write, takes no lock, and changes nothing.
//!
//! [`super::Store`] opens sled for its look-ups, which takes the lock of the database and may repair it. A reader
//! follows the journals instead (see `followed.rs`), and reads packs and small files, which never change. So runs never
//! wait for it. Damage is an error of the read, and nothing is forgotten.
//!
//! Results that only sled knows, in a cache that no version with journals has changed, are not seen.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blob_reader::BlobReader;
use super::disk;
use super::entries;
use super::error::{Result, StoreError};
use super::followed::{EntryChanges, FollowedEntries};
use super::journal::FORMAT;
use super::notes::Notes;
use super::record::{ResultRecord, StateRecord};
use super::run_folder::RunFolder;
use crate::file::stays_below;
use crate::key::{Digest, Key};

/// Bytes of the longest FORMAT.
const LONGEST_FORMAT: u64 = 64;

/// A cache that is only read.
pub struct CacheReader {
    dir: PathBuf,
    index: FollowedEntries,
    blobs: Arc<BlobReader>,
}

/// What has changed in a cache since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Whether anything may have changed, because the cache was collected or replaced.
    pub is_replaced: bool,
    /// Keys of results that were stored, changed or removed.
    pub results: BTreeSet<Key>,
    /// Points, as (pipeline, point), whose newest result is another one now.
    pub newest: BTreeSet<(String, String)>,
    /// Whether states of trainings were stored or removed.
    pub has_states: bool,
}

impl Refreshed {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl CacheReader {
    /// The cache in this folder. Call [`CacheReader::refresh`] to read it.
    ///
    /// # Errors
    /// If the folder is not a cache, or if a later vadpipe wrote it.
    pub fn open(dir: &Path) -> Result<Self> {
        check_format(dir)?;
        let index = FollowedEntries::new(dir.join("index"), b"mnrt");
        Ok(Self { dir: dir.to_owned(), index, blobs: Arc::new(BlobReader::new(dir)) })
    }

    /// The cache's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads what has changed since the last call.
    ///
    /// # Errors
    /// If the cache can't be read, or if a later vadpipe has changed it.
    pub fn refresh(&mut self) -> Result<Refreshed> {
        let mut refreshed = Refreshed::default();
        let changes = self.index.read()?;
        self.blobs.set_generation(self.generation());
        let keys = match changes {
            EntryChanges::All => return Ok(Refreshed { is_replaced: true, ..refreshed }),
            EntryChanges::Keys(keys) => keys,
        };
        for key in keys {
            match key.split_first() {
                Some((b'r', digest)) => refreshed.results.extend(digest.try_into().map(Digest)),
                Some((b'n', _)) => refreshed.newest.extend(entries::parse_newest(&key)),
                Some((b't', _)) => refreshed.has_states = true,
                _ => {}
            }
        }
        Ok(refreshed)
    }

    /// The number of the chunk database, which a collection replaces.
    fn generation(&self) -> u64 {
        let stored = self.index.get(b"mgeneration").and_then(|number| number.try_into().ok());
        stored.map_or(0, u64::from_le_bytes)
    }

    /// Checks that the cache is still there.
    ///
    /// # Errors
    /// As [`CacheReader::open`].
    pub fn check(&self) -> Result<()> {
        check_format(&self.dir)
    }

    /// The result of this key, if it is stored and not damaged.
    pub fn result(&self, key: &Key) -> Option<ResultRecord> {
        let entry = self.index.get(&entries::name(b'r', &[&key.0]))?;
        entries::parse_result(entry).filter(|record| record.key == *key && !record.damaged)
    }

    /// All points with the key of each one's newest result: (pipeline, point, key).
    pub fn all_newest(&self) -> impl Iterator<Item = (String, String, Key)> {
        self.index.with_prefix(b"n").filter_map(|(name, key)| {
            let (pipeline, point) = entries::parse_newest(name)?;
            Some((pipeline, point, Digest(key.try_into().ok()?)))
        })
    }

    /// The key of the newest result of a point.
    pub fn newest(&self, pipeline: &str, point: &str) -> Option<Key> {
        Some(Digest(self.index.get(&entries::newest_name(pipeline, point))?.try_into().ok()?))
    }

    /// All results that are not damaged.
    pub fn results(&self) -> impl Iterator<Item = ResultRecord> {
        let records = self.index.with_prefix(b"r").filter_map(|(_, entry)| entries::parse_result(entry));
        records.filter(|record| !record.damaged)
    }

    /// The states that are stored under a key, in the order of their steps.
    pub fn states(&self, key: &Key) -> Vec<StateRecord> {
        let name = entries::name(b't', &[&key.0]);
        self.index.with_prefix(&name).filter_map(|(_, entry)| entries::parse_state(entry)).collect()
    }

    /// Reads tensors and files.
    pub fn blobs(&self) -> Arc<BlobReader> {
        Arc::clone(&self.blobs)
    }

    /// The tags and notes of users.
    pub fn notes(&self) -> Notes {
        Notes::new(&self.dir)
    }

    /// The folder of the run records.
    pub fn runs(&self) -> RunFolder {
        RunFolder::new(&self.dir)
    }

    /// The file with the log of a point in a run. None if a name leads out of the folder.
    pub fn log_path(&self, run: &str, point: &str) -> Option<PathBuf> {
        let file = format!("{point}.log");
        let is_below = stays_below(run) && stays_below(&file);
        is_below.then(|| self.dir.join("logs").join(run).join(file))
    }
}

/// # Errors
/// If the folder is not a cache, or if a later vadpipe wrote it.
fn check_format(dir: &Path) -> Result<()> {
    let not_a_cache = |why: &str| StoreError::NotACache { dir: dir.to_owned(), why: why.to_owned() };
    let format = disk::read(&dir.join("FORMAT"), LONGEST_FORMAT).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound if dir.is_dir() => not_a_cache("it has no file FORMAT"),
        std::io::ErrorKind::NotFound => not_a_cache("there is no such folder"),
        _ => not_a_cache(&format!("FORMAT: {error}")),
    })?;
    match std::str::from_utf8(&format).ok().and_then(|text| text.trim().parse().ok()) {
        Some(found) if found > FORMAT => Err(StoreError::Newer { dir: dir.to_owned(), found, known: FORMAT }),
        Some(_) => Ok(()),
        None => Err(not_a_cache("its file FORMAT holds no number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{Artifact, Tensor};
    use crate::store::tests::{commit, components, store};

    fn artifact(values: &[f64]) -> Artifact {
        let tensors = [("history.loss".to_owned(), Tensor::vector(values))].into();
        let files = [("a.txt".to_owned(), b"text".to_vec())].into();
        Artifact { tensors, files, metrics: [("loss".to_owned(), values[0])].into(), ..Artifact::default() }
    }

    /// All files of the cache with their bytes.
    fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let files = crate::file::files_below(dir).unwrap();
        files.into_iter().map(|path| (path.clone(), std::fs::read(dir.join(path)).unwrap())).collect()
    }

    #[test]
    fn reader_follows_what_another_process_stores_and_takes_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let first = commit(&store, "net@lr=0.1", &components("a", 1), &artifact(&[0.5, 0.25]));
        let mut reader = CacheReader::open(dir.path()).unwrap();
        assert_eq!(reader.refresh().unwrap().results, BTreeSet::from([first.key]));
        assert!(reader.refresh().unwrap().is_empty());
        // The store has the index open, and holds its lock.
        let second = store.look(|_| Ok(reader.result(&first.key))).unwrap();
        assert_eq!(second.as_ref(), Some(&first));
        let tensor = reader.blobs().tensor(&first.manifest.tensors["history.loss"]).unwrap();
        assert_eq!(tensor.to_vec::<f64>().unwrap(), [0.5, 0.25]);
        assert_eq!(reader.blobs().file(&first.manifest.files["a.txt"]).unwrap(), b"text");
        let second = commit(&store, "net@lr=0.2", &components("b", 1), &artifact(&[0.75, 0.125]));
        assert_eq!(reader.refresh().unwrap().results, BTreeSet::from([second.key]));
        assert!(reader.blobs().tensor(&second.manifest.tensors["history.loss"]).is_ok());
        let points: Vec<String> = reader.all_newest().map(|(_, point, _)| point).collect();
        assert_eq!(points, ["net@lr=0.1", "net@lr=0.2"]);
    }

    #[test]
    fn reading_changes_no_file_and_creates_no_cache() {
        let dir = tempfile::tempdir().unwrap();
        assert!(CacheReader::open(dir.path()).is_err() && contents(dir.path()).is_empty());
        let missing = dir.path().join("none");
        assert!(CacheReader::open(&missing).is_err() && !missing.exists());
        let store = store(dir.path());
        let record = commit(&store, "x", &components("a", 1), &artifact(&[1.0]));
        drop(store);
        std::fs::remove_file(dir.path().join("FORMAT")).unwrap();
        assert!(CacheReader::open(dir.path()).is_err(), "a store would write FORMAT again");
        assert!(!dir.path().join("FORMAT").exists());
        std::fs::write(dir.path().join("FORMAT"), "3\n").unwrap();
        let packs = crate::file::files_below(dir.path()).unwrap();
        let pack = packs.iter().find(|path| path.display().to_string().contains("/packs/")).unwrap();
        std::fs::write(dir.path().join(pack), "damaged").unwrap();
        let before = contents(dir.path());
        let mut reader = CacheReader::open(dir.path()).unwrap();
        reader.refresh().unwrap();
        let error = reader.blobs().tensor(&record.manifest.tensors["history.loss"]).unwrap_err();
        assert!(error.to_string().contains("is damaged in the cache"), "{error}");
        assert!(reader.result(&record.key).is_some(), "nothing is forgotten");
        assert!(contents(dir.path()) == before, "no file has changed");
    }

    #[test]
    fn journal_that_a_collection_wrote_is_read_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let record = commit(&store, "x", &components("a", 1), &artifact(&[1.0]));
        let mut reader = CacheReader::open(dir.path()).unwrap();
        reader.refresh().unwrap();
        store.gc(&crate::store::GcPolicy { keep_runs: 1, named: vec![], dry_run: false }).unwrap();
        assert!(reader.refresh().unwrap().is_replaced);
        assert_eq!(reader.result(&record.key).is_some(), store.result(&record.key).unwrap().is_some());
    }

    #[test]
    fn names_of_a_foreign_record_lead_to_no_file_outside_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        commit(&store(dir.path()), "x", &components("a", 1), &artifact(&[1.0]));
        let reader = CacheReader::open(dir.path()).unwrap();
        let inside = dir.path().join("logs/run-1/net@data=a/b.log");
        assert_eq!(reader.log_path("run-1", "net@data=a/b"), Some(inside));
        for (run, point) in [("..", "x"), ("a/../..", "x"), ("/etc", "x"), ("", "x"), ("r", "../x"), ("r", "/etc/x")] {
            assert_eq!(reader.log_path(run, point), None, "{run} {point}");
        }
    }
}
