//! Blobs by their digest: which there are, and which can go.
//!
//! The bytes of blobs are in packs (`packs.rs`). The chunk database knows the list of each blob's pieces and the place of
//! each piece. Earlier versions kept small blobs (format 2) or all blobs (format 1) in the database itself:
//!
//! ```text
//! 'c' ‖ digest(chunk)   the chunk: up to 64 KiB
//! 'b' ‖ digest(blob)    the blob's length (u64, little-endian), then the digests of its chunks in order
//! ```
//!
//! They are still read. The next collection moves them to packs ([`move_to_packs`]).

use std::collections::BTreeSet;

use super::database::Opened;
use super::engine::{Failure, Setup};
use super::journal::Changes;
use super::pack_writer::{self, Written};
use super::packs;
use super::tree::PIECE;
use crate::artifact::BlobEntry;
use crate::key::Digest;

/// How the chunk database is set up. A change of the segments is one of [`super::FORMAT`].
pub(super) const SETUP: Setup = Setup { segment: 8 << 20, cache: 64 << 20, unjournaled: b"bc", precious: b"bc" };
/// Bytes of a chunk.
pub(super) const CHUNK: usize = 64 << 10;

/// About how many bytes on disk an almost empty database takes.
const EMPTY: u64 = 512 << 10;
/// Bytes of chunks that are moved to one pack.
const MOVED: usize = 64 << 20;
const DIGEST: usize = 32;

/// Why a blob can't be had.
#[derive(Debug)]
pub(super) struct Flaw {
    /// A sentence's end: "chunk 3 of 17 is missing".
    pub(super) why: String,
    /// The chunks at fault.
    pub(super) chunks: Vec<Digest>,
}

impl Flaw {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), chunks: Vec::new() }
    }
}

/// A blob about to be written, in two parts: a tensor's header is not in one piece with its elements.
pub(super) struct Source<'a> {
    /// The first bytes: fewer than a piece.
    pub(super) head: Vec<u8>,
    /// The others.
    pub(super) body: &'a [u8],
}

impl Source<'_> {
    pub(super) fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// A piece's bytes, as [`super::tree`] counts pieces.
    pub(super) fn piece(&self, index: usize) -> [&[u8]; 2] {
        let (start, end) = (index * PIECE, ((index + 1) * PIECE).min(self.len()));
        let head = self.head.len();
        let part = &self.head[start.min(head)..end.min(head)];
        [part, &self.body[start.max(head) - head..end.max(head) - head]]
    }
}

/// A blob's list of chunks, or of pieces in packs.
#[derive(Clone)]
pub(super) struct List {
    pub(super) size: u64,
    pub(super) chunks: Vec<Digest>,
}

impl List {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + DIGEST * self.chunks.len());
        bytes.extend_from_slice(&self.size.to_le_bytes());
        self.chunks.iter().for_each(|c| bytes.extend_from_slice(&c.0));
        bytes
    }

    /// None unless the number of chunks, of so many bytes each, fits the length: a wrong length can't ask for absurd
    /// amounts of memory.
    pub(super) fn decode(bytes: &[u8], chunk: usize) -> Option<Self> {
        let (size, digests) = bytes.split_first_chunk::<8>()?;
        let (chunks, rest) = digests.as_chunks::<DIGEST>();
        let size = u64::from_le_bytes(*size);
        let fits = rest.is_empty() && chunks.len() as u64 == size.div_ceil(chunk as u64);
        fits.then(|| Self { size, chunks: chunks.iter().map(|c| Digest(*c)).collect() })
    }
}

pub(super) fn key(prefix: u8, digest: &Digest) -> [u8; 1 + DIGEST] {
    let mut key = [prefix; 1 + DIGEST];
    key[1..].copy_from_slice(&digest.0);
    key
}

/// Whether the blob is there, going by its list of pieces or chunks.
pub(super) fn has(db: &sled::Db, blob: &Digest) -> Result<bool, Failure> {
    Ok(db.contains_key(key(b'l', blob))? || db.contains_key(key(b'b', blob))?)
}

/// Adds blobs that were written to packs. False if a piece that was taken for stored is gone; then nothing was added.
pub(super) fn commit(o: &Opened, written: &Written) -> Result<bool, Failure> {
    let mut changes = Changes::default();
    for (digest, list) in &written.lists {
        // One that an earlier version wrote may be damaged in a way that it can't be removed.
        if !o.db.contains_key(key(b'l', digest))? {
            changes.insert(key(b'l', digest), list.encode());
        }
    }
    let known: Vec<Digest> = written.known.iter().copied().collect();
    if packs::known(&o.db, o.path(), &known)?.contains(&false) {
        return Ok(false);
    }
    // Also of blobs that are listed: their pack may have been gone.
    packs::put_places(&mut changes, &written.places);
    o.write(&changes)?;
    Ok(true)
}

/// What sled can't read is a flaw of this blob; a failing disk is not.
pub(super) fn get(db: &sled::Db, key: &[u8]) -> Result<Result<Option<sled::IVec>, Flaw>, Failure> {
    match db.get(key).map_err(Failure::from) {
        Ok(found) => Ok(Ok(found)),
        Err(Failure::Broken(why)) => Ok(Err(Flaw::new(why))),
        Err(other) => Err(other),
    }
}

fn list(db: &sled::Db, entry: &BlobEntry) -> Result<Result<List, Flaw>, Failure> {
    let found = match get(db, &key(b'b', &entry.digest))? {
        Ok(found) => found,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let Some(bytes) = found else { return Ok(Err(Flaw::new("it is missing"))) };
    let list = List::decode(&bytes, CHUNK).filter(|l| l.size == entry.size);
    Ok(list.ok_or_else(|| Flaw::new("its list of chunks is damaged")))
}

/// The bytes, verified, of a blob in the database itself.
pub(super) fn read(db: &sled::Db, entry: &BlobEntry) -> Result<Result<Vec<u8>, Flaw>, Failure> {
    let list = match list(db, entry)? {
        Ok(list) => list,
        Err(flaw) => return Ok(Err(flaw)),
    };
    // The number of chunks fits the length, so a wrong length can't ask for absurd amounts of memory.
    let Ok(size) = usize::try_from(list.size) else { return Ok(Err(Flaw::new("it is larger than memory"))) };
    let mut bytes = vec![0; size];
    let mut flaws = Vec::new();
    let mut ordered: Vec<_> = list.chunks.iter().zip(bytes.chunks_mut(CHUNK)).enumerate().collect();
    ordered.sort_unstable_by_key(|(_, (digest, _))| **digest);
    for (i, (digest, place)) in ordered {
        match get(db, &key(b'c', digest))? {
            Ok(Some(found)) if found.len() == place.len() => place.copy_from_slice(&found),
            Ok(Some(_)) => flaws.push((i, *digest, "has another length".to_owned())),
            Ok(None) => flaws.push((i, *digest, "is missing".to_owned())),
            Err(flaw) => flaws.push((i, *digest, format!("can't be read ({})", flaw.why))),
        }
    }
    flaws.sort();
    if flaws.is_empty() && Digest::of(&bytes) == entry.digest {
        return Ok(Ok(bytes));
    }
    if flaws.is_empty() {
        let wrong = list.chunks.iter().zip(bytes.chunks(CHUNK)).enumerate();
        let wrong = wrong.filter(|(_, (digest, bytes))| Digest::of(bytes) != **digest);
        flaws.extend(wrong.map(|(i, (digest, _))| (i, *digest, "has other bytes".to_owned())));
    }
    let why = match flaws.first() {
        Some((i, _, why)) => format!("chunk {} of {} {why}", i + 1, list.chunks.len()),
        None => "its list of chunks is of another blob".to_owned(),
    };
    Ok(Err(Flaw { why, chunks: flaws.into_iter().map(|(_, digest, _)| digest).collect() }))
}

/// Removes what is known to be damaged, so that it is written again and not taken for there.
pub(super) fn remove_flawed(o: &Opened, blob: &Digest, flaw: &Flaw) -> Result<(), Failure> {
    let mut changes = Changes::default();
    changes.remove(key(b'l', blob));
    let mut old = vec![key(b'b', blob).to_vec()];
    for chunk in &flaw.chunks {
        changes.remove(key(b'p', chunk));
        old.push(key(b'c', chunk).to_vec());
    }
    o.write(&changes)?;
    o.remove_unjournaled(&old)
}

/// Removes the blobs that `is_dead` picks, and those of their pieces and chunks that no other blob has. The disk gets back
/// what was in packs. Only while nobody writes.
pub(super) fn remove(o: &Opened, is_dead: impl Fn(&Digest) -> bool) -> Result<(), Failure> {
    let (mut changes, mut old) = (Changes::default(), Vec::new());
    for (lists, entries, bytes) in [(b'l', b'p', PIECE), (b'b', b'c', CHUNK)] {
        let (mut dead, mut kept) = (BTreeSet::new(), BTreeSet::new());
        let mut names = Vec::new();
        for item in o.db.scan_prefix([lists]) {
            let (name, value) = item?;
            let pieces = List::decode(&value, bytes).map(|list| list.chunks).unwrap_or_default();
            if name[1..].try_into().is_ok_and(|digest| is_dead(&Digest(digest))) {
                names.push(name.to_vec());
                dead.extend(pieces);
            } else {
                kept.extend(pieces);
            }
        }
        names.extend(dead.difference(&kept).map(|piece| key(entries, piece).to_vec()));
        match lists {
            b'l' => names.iter().for_each(|name| changes.remove(name)),
            _ => old = names,
        }
    }
    o.write(&changes)?;
    if !old.is_empty() {
        o.remove_unjournaled(&old)?;
    }
    packs::tidy(o)
}

/// Moves blobs that an earlier version kept in the database to packs, and returns those that are damaged. Only while
/// nobody writes.
pub(super) fn move_to_packs(o: &Opened) -> Result<BTreeSet<Digest>, Failure> {
    let (mut lost, mut blobs) = (BTreeSet::new(), Vec::new());
    for item in o.db.scan_prefix(b"b") {
        let (name, value) = item?;
        let (Ok(digest), Some(list)) = (name[1..].try_into().map(Digest), List::decode(&value, CHUNK)) else {
            continue;
        };
        blobs.push(BlobEntry { digest, size: list.size });
    }
    let mut group: Vec<Vec<u8>> = Vec::new();
    for blob in &blobs {
        match read(&o.db, blob)? {
            Ok(bytes) => group.push(bytes),
            Err(_) => drop(lost.insert(blob.digest)),
        }
        if group.iter().map(Vec::len).sum::<usize>() >= MOVED {
            write_group(o, &std::mem::take(&mut group))?;
        }
    }
    write_group(o, &group)?;
    let mut old: Vec<Vec<u8>> = Vec::new();
    for item in o.db.scan_prefix(b"b").chain(o.db.scan_prefix(b"c")) {
        old.push(item?.0.to_vec());
    }
    if !old.is_empty() {
        o.remove_unjournaled(&old)?;
    }
    Ok(lost)
}

fn write_group(o: &Opened, group: &[Vec<u8>]) -> Result<(), Failure> {
    if group.is_empty() {
        return Ok(());
    }
    let sources: Vec<_> = group.iter().map(|bytes| Source { head: Vec::new(), body: bytes }).collect();
    let known =
        |pieces: &[Digest]| packs::known(&o.db, o.path(), pieces).map_err(|f| super::engine::failed(f, o.path()));
    let written = pack_writer::write(&sources.iter().collect::<Vec<_>>(), &packs::folder(o.path()), &known)?;
    let mut changes = Changes::default();
    packs::put_places(&mut changes, &written.places);
    for (digest, list) in &written.lists {
        changes.insert(key(b'l', digest), list.encode());
    }
    o.write(&changes)
}

/// About how many bytes on disk a database and its packs take that hold only these blobs.
pub(super) fn fresh_bytes(blobs: &BTreeSet<BlobKey>) -> u64 {
    EMPTY + blobs.iter().map(|b| b.1).sum::<u64>()
}

/// A [`BlobEntry`] that can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlobKey(pub(super) Digest, pub(super) u64);

impl From<BlobEntry> for BlobKey {
    fn from(entry: BlobEntry) -> Self {
        Self(entry.digest, entry.size)
    }
}
