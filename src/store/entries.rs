//! The entries of the index: what is known about results, states and files, as JSON under one-letter prefixes. The JSON
//! of results and states is preceded by a checksum.
//!
//! ```text
//! 'm' ‖ name                      numbers: `generation` of the chunk database, `lineage`
//! 'r' ‖ key                       ResultRecord
//! 'n' ‖ pipeline ‖ 0 ‖ point      key of the newest result of the point
//! 's' ‖ digest ‖ key              nothing; the digest is of the result's components without the inputs' digests
//! 't' ‖ key ‖ step ‖ class        StateRecord (step: u64, big-endian, so that the furthest comes last); if its program
//!                                 read files: ‖ 0 ‖ digest of their names and digests
//! 'f' ‖ path                      FileRecord
//! 'u' ‖ key                       Usable: what a look-up needs of a result that is not damaged; see `look.rs`
//! 'd' ‖ declared ‖ key            the files that the program of a result read, with their digests; `declared` is the
//!                                 key without them
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::engine::{Failure, Setup};
use super::journal::Changes;
use super::record::{ResultRecord, StateRecord};
use crate::key::{Components, Digest, Hash, InputDigest, Key};

/// How the index is set up. Small segments open faster (4 to 20 ms with 5,000 results of 2.5 KB on a busy machine), but
/// records with hundreds of inputs must not make a node overflow. Changing it raises [`super::FORMAT`].
pub(super) const SETUP: Setup = Setup { segment: 1 << 20, cache: 64 << 20, unjournaled: b"f", precious: b"" };

/// Characters of the checksum before a record.
const CHECK: usize = 32;

type Result<T, E = Failure> = std::result::Result<T, E>;

/// The remembered digest of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    pub(super) size: u64,
    pub(super) modified_ns: i64,
    pub(super) inode: u64,
    pub(super) digest: Digest,
}

/// Digests of files by their name: see [`Components::files_read`].
pub type FilesRead = BTreeMap<String, Digest>;

/// What a look-up needs of a result. Its letter comes after that of the results, so that a recovery that reads a
/// damaged index up to the first damage saves the results first.
#[derive(Clone, Copy)]
pub(super) struct Usable {
    pub(super) digest: Digest,
    pub(super) lineage: u64,
    /// Whether it needs any blob.
    pub(super) blobs: bool,
}

impl Usable {
    fn encode(&self) -> Vec<u8> {
        [self.digest.0.as_slice(), &self.lineage.to_le_bytes(), &[u8::from(self.blobs)]].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (digest, rest) = bytes.split_first_chunk::<32>()?;
        let (lineage, rest) = rest.split_first_chunk::<8>()?;
        let &[blobs] = rest else { return None };
        Some(Self { digest: Digest(*digest), lineage: u64::from_le_bytes(*lineage), blobs: blobs != 0 })
    }
}

/// The short entry of a result; `None` if only its record tells whether it is a hit.
pub(super) fn usable(db: &sled::Db, key: &Key) -> Result<Option<Usable>> {
    Ok(db.get(name(b'u', &[&key.0]))?.and_then(|v| Usable::decode(&v)))
}

/// The short entries of all results, sorted by key. A malformed entry is `None`.
pub(super) fn all_usable(db: &sled::Db) -> impl Iterator<Item = Result<Option<(Key, Usable)>>> {
    db.scan_prefix(b"u").map(|entry| {
        let (name, value) = entry?;
        let key = name.get(1..).and_then(|key| Some(Digest(key.try_into().ok()?)));
        Ok(key.zip(Usable::decode(&value)))
    })
}

/// Reads the newest results of points until `is_enough`, so that their pages are in sled's cache when
/// [`super::Store::note_hits`] reads them at the end of a run.
pub(super) fn touch_newest(db: &sled::Db, is_enough: impl Fn() -> bool) -> Result<()> {
    for entry in db.scan_prefix(b"n").take_while(|_| !is_enough()) {
        entry?;
    }
    Ok(())
}

/// The number of the chunk database's folder; none in a new index.
pub(super) fn generation(db: &sled::Db) -> Result<Option<u64>> {
    number(db, b"mgeneration")
}

/// The lineage of the packs. It is raised when all packs are lost, so that all earlier results that need packs are
/// misses.
pub(super) fn lineage(db: &sled::Db) -> Result<u64> {
    Ok(number(db, b"mlineage")?.unwrap_or(0))
}

/// Sets the generation and the lineage of the chunk database.
pub(super) fn set_chunks(batch: &mut Changes, generation: u64, lineage: u64) {
    batch.insert(b"mgeneration", generation.to_le_bytes());
    batch.insert(b"mlineage", lineage.to_le_bytes());
}

fn number(db: &sled::Db, name: &[u8]) -> Result<Option<u64>> {
    Ok(db.get(name)?.and_then(|v| Some(u64::from_le_bytes(v.as_ref().try_into().ok()?))))
}

/// The name of an entry: the letter of its kind, and then these parts.
pub(super) fn name(prefix: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut name = vec![prefix];
    parts.iter().for_each(|p| name.extend_from_slice(p));
    name
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    // Only a map whose keys aren't strings can fail, and there is none.
    serde_json::to_vec(value).map_err(|e| Failure::Io(e.into()))
}

/// A record that can be verified after it is read.
trait Verified: for<'a> Deserialize<'a> {
    /// Whether its content is consistent.
    fn is_right(&self) -> bool {
        true
    }
}

impl Verified for ResultRecord {
    fn is_right(&self) -> bool {
        self.is_consistent()
    }
}

impl Verified for StateRecord {}

impl Verified for FilesRead {}

impl Verified for FileRecord {}

/// An entry that can't be read or was altered counts as missing: what it described is computed again. Entries of
/// earlier versions have no checksum. They are verified by their content, which takes twenty times as long.
fn parse<T: Verified>(bytes: &[u8]) -> Option<T> {
    if bytes.first() == Some(&b'{') {
        return serde_json::from_slice(bytes).ok().filter(T::is_right);
    }
    let (check, text) = bytes.split_at_checked(CHECK)?;
    (check == self::check(text).as_bytes()).then(|| serde_json::from_slice(text).ok())?
}

/// A record as it is written: its checksum, then JSON.
pub(super) fn checked<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let text = json(value)?;
    Ok([self::check(&text).as_bytes(), &text].concat())
}

/// The first half of a text's digest, in hexadecimal digits.
fn check(text: &[u8]) -> String {
    hex::encode(&Digest::of(text).0[..CHECK / 2])
}

/// An entry can't be read or was altered.
#[derive(Debug)]
pub(super) struct Altered;

/// The record of a result as its entry holds it; none if the entry can't be read or was altered.
pub(super) fn parse_result(entry: &[u8]) -> Option<ResultRecord> {
    parse(entry)
}

/// As [`parse_result`], for a state.
pub(super) fn parse_state(entry: &[u8]) -> Option<StateRecord> {
    parse(entry)
}

/// The pipeline and the point in the name of the entry of a newest result.
pub(super) fn parse_newest(name: &[u8]) -> Option<(String, String)> {
    let name = String::from_utf8_lossy(name.strip_prefix(b"n")?);
    let (pipeline, point) = name.split_once('\0')?;
    Some((pipeline.to_owned(), point.to_owned()))
}

/// The result of a key.
pub(super) fn result(db: &sled::Db, key: &Key) -> Result<Option<Result<ResultRecord, Altered>>> {
    let Some(entry) = db.get(name(b'r', &[&key.0]))? else { return Ok(None) };
    let record = parse(&entry).filter(|record: &ResultRecord| record.key == *key);
    Ok(Some(record.ok_or(Altered)))
}

/// Removes an entry that [`all_results`] or [`all_states`] refuses, by its key.
pub(super) fn remove_refused(changes: &mut Changes, key: &[u8]) {
    changes.remove(key);
    if let Some((b'r', digest)) = key.split_first() {
        changes.remove(name(b'u', &[digest]));
    }
}

/// All results, and the keys of entries that can't be read or were altered.
pub(super) fn all_results(db: &sled::Db) -> Result<(Vec<ResultRecord>, Vec<Vec<u8>>)> {
    all(db, b"r")
}

/// All states, and the keys of entries that can't be read or were altered.
pub(super) fn all_states(db: &sled::Db) -> Result<(Vec<StateRecord>, Vec<Vec<u8>>)> {
    all(db, b"t")
}

fn all<T: Verified>(db: &sled::Db, prefix: &[u8]) -> Result<(Vec<T>, Vec<Vec<u8>>)> {
    let (mut records, mut refused) = (Vec::new(), Vec::new());
    for item in db.scan_prefix(prefix) {
        let (key, value) = item?;
        match parse(&value) {
            Some(record) => records.push(record),
            None => refused.push(key.to_vec()),
        }
    }
    Ok((records, refused))
}

/// Adds or replaces a result.
pub(super) fn put_result(batch: &mut Changes, record: &ResultRecord) -> Result<()> {
    batch.insert(name(b'r', &[&record.key.0]), checked(record)?);
    batch.insert(name(b's', &[&similar(&record.components).0, &record.key.0]), []);
    if !record.components.files_read.is_empty() {
        put_files_read(batch, record)?;
    }
    let usable = Usable { digest: record.digest, lineage: record.lineage, blobs: record.blobs().next().is_some() };
    match record.damaged {
        true => batch.remove(name(b'u', &[&record.key.0])),
        false => batch.insert(name(b'u', &[&record.key.0]), usable.encode()),
    }
    Ok(())
}

/// Removes a result.
pub(super) fn remove_result(batch: &mut Changes, record: &ResultRecord) {
    batch.remove(name(b'r', &[&record.key.0]));
    batch.remove(name(b's', &[&similar(&record.components).0, &record.key.0]));
    batch.remove(name(b'u', &[&record.key.0]));
    batch.remove(files_read_name(record));
}

/// Adds or replaces the files that the program of a result read.
pub(super) fn put_files_read(batch: &mut Changes, record: &ResultRecord) -> Result<()> {
    batch.insert(files_read_name(record), checked(&record.components.files_read)?);
    Ok(())
}

fn files_read_name(record: &ResultRecord) -> Vec<u8> {
    name(b'd', &[&record.components.declared().key().0, &record.key.0])
}

/// The results whose key without the files that their programs read is `declared`, each with these files. An entry that
/// was altered counts as missing.
pub(super) fn files_read(db: &sled::Db, declared: &Key) -> Result<Vec<(Key, FilesRead)>> {
    let prefix = name(b'd', &[&declared.0]);
    let mut all = Vec::new();
    for item in db.scan_prefix(&prefix) {
        let (name, value) = item?;
        let key = name.get(prefix.len()..).and_then(|key| Some(Digest(key.try_into().ok()?)));
        all.extend(key.zip(parse(&value)));
    }
    Ok(all)
}

/// Whether [`files_read`] would return any result.
pub(super) fn has_files_read(db: &sled::Db, declared: &Key) -> Result<bool> {
    Ok(db.scan_prefix(name(b'd', &[&declared.0])).next().transpose()?.is_some())
}

/// Whether there is a result that differs at most in its inputs' digests.
pub(super) fn has_similar(db: &sled::Db, components: &Components) -> Result<bool> {
    Ok(db.scan_prefix(name(b's', &[&similar(components).0])).next().transpose()?.is_some())
}

/// The digest of components with the inputs' digests and the files that the program read left out: roles and labels
/// stay, and so do the epochs.
fn similar(components: &Components) -> Digest {
    let blank = Digest([0; 32]);
    let mut components = components.declared();
    for input in components.inputs.values_mut() {
        match input {
            InputDigest::One(digest) => *digest = blank,
            InputDigest::Many(many) => many.values_mut().for_each(|digest| *digest = blank),
        }
    }
    Hash::new("similar").digest(&components.key()).finish()
}

/// The key of the newest result of a point.
pub(super) fn newest(db: &sled::Db, pipeline: &str, point: &str) -> Result<Option<Key>> {
    let found = db.get(newest_name(pipeline, point))?;
    Ok(found.and_then(|v| Some(Digest(v.as_ref().try_into().ok()?))))
}

/// Calls `f` with the name and the newest key of each point of a pipeline.
pub(super) fn each_newest(db: &sled::Db, pipeline: &str, mut f: impl FnMut(&[u8], &[u8])) -> Result<()> {
    let prefix = newest_name(pipeline, "");
    for item in db.scan_prefix(&prefix) {
        let (name, key) = item?;
        f(name.get(prefix.len()..).unwrap_or_default(), &key);
    }
    Ok(())
}

/// All points with the key of each one's newest result, as `(pipeline, point, key)`.
pub(super) fn all_newest(db: &sled::Db) -> Result<Vec<(String, String, Key)>> {
    let mut all = Vec::new();
    for item in db.scan_prefix(b"n") {
        let (name, value) = item?;
        let name = String::from_utf8_lossy(&name[1..]).into_owned();
        let key = value.as_ref().try_into().map(Digest);
        if let (Some((pipeline, point)), Ok(key)) = (name.split_once('\0'), key) {
            all.push((pipeline.to_owned(), point.to_owned(), key));
        }
    }
    Ok(all)
}

/// Sets the key of the newest result of a point.
pub(super) fn put_newest(batch: &mut Changes, pipeline: &str, point: &str, key: &Key) {
    batch.insert(newest_name(pipeline, point), key.0);
}

/// Removes a point.
pub(super) fn remove_newest(batch: &mut Changes, pipeline: &str, point: &str) {
    batch.remove(newest_name(pipeline, point));
}

/// The name of the entry with the newest result of a point.
pub(super) fn newest_name(pipeline: &str, point: &str) -> Vec<u8> {
    name(b'n', &[pipeline.as_bytes(), &[0], point.as_bytes()])
}

/// The states stored under a key, in the order of their steps.
pub(super) fn states(db: &sled::Db, key: &Key) -> Result<Vec<StateRecord>> {
    let mut states = Vec::new();
    for item in db.scan_prefix(name(b't', &[&key.0])) {
        states.extend(parse::<StateRecord>(&item?.1));
    }
    Ok(states)
}

/// The furthest state of this chain that `accepts` returns true for, and whose bytes are there, as far as the index
/// knows. `keys` are the keys of state(0), state(1), … state(n).
pub(super) fn longest_state(
    db: &sled::Db,
    keys: &[Key],
    accepts: impl Fn(&StateRecord) -> bool,
) -> Result<Option<StateRecord>> {
    let lineage = lineage(db)?;
    for (i, key) in keys.iter().enumerate().rev() {
        let is_usable = |s: &StateRecord| s.lineage == lineage && s.chain_index() == i as u64 && accepts(s);
        let stored = states(db, key)?.into_iter().filter(is_usable);
        if let Some(state) = stored.max_by_key(|s| (s.epoch, s.step)) {
            return Ok(Some(state));
        }
    }
    Ok(None)
}

/// Adds or replaces a state.
pub(super) fn put_state(batch: &mut Changes, record: &StateRecord) -> Result<()> {
    batch.insert(state_name(record), checked(record)?);
    Ok(())
}

/// Removes a state.
pub(super) fn remove_state(batch: &mut Changes, record: &StateRecord) {
    batch.remove(state_name(record));
}

fn state_name(record: &StateRecord) -> Vec<u8> {
    let (step, class) = (record.step.to_be_bytes(), record.class.as_bytes());
    if record.files_read.is_empty() {
        return name(b't', &[&record.key.0, &step, class]);
    }
    let mut files = Hash::new("files read");
    for (name, digest) in &record.files_read {
        files.text(name).digest(digest);
    }
    name(b't', &[&record.key.0, &step, class, &[0], &files.finish().0])
}

/// The remembered digest of a file.
pub(super) fn file(db: &sled::Db, path: &[u8]) -> Result<Option<FileRecord>> {
    Ok(db.get(name(b'f', &[path]))?.and_then(|v| parse(&v)))
}

/// The entry that remembers a file: its key and its value. Not in the journal, because it can be computed again.
pub(super) fn file_entry(path: &[u8], record: &FileRecord) -> Result<(Vec<u8>, Vec<u8>)> {
    Ok((name(b'f', &[path]), json(record)?))
}
