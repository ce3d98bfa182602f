//! Blobs in the chunk database.
//!
//! ```text
//! 'c' ‖ digest(chunk)   the chunk: up to 64 KiB
//! 'b' ‖ digest(blob)    the blob's length (u64, little-endian), then the digests of its chunks in order
//! ```
//!
//! Here are the small blobs; large ones are in packs (`packs.rs`, with their keys `p` and `l` in the same database), but for
//! those in caches of format 1, which had all of them here. They are read as ever, and the next collection moves them.
//!
//! sled keeps 16 to 26 values in a node, so a node of chunks holds up to 1.7 MB: with segments of 8 MiB it stays below
//! the quarter above which sled writes a node into a file of its own that it never syncs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::database::{Failure, Opened, Setup, flush};
use super::pack_writer::Written;
use super::tree::PIECE;
use super::{packs, quiet};
use crate::artifact::BlobEntry;
use crate::key::Digest;

/// How the chunk database is set up. A change of the segments is one of [`super::FORMAT`].
pub(super) const SETUP: Setup = Setup { segment: 8 << 20, cache: 64 << 20 };
/// Bytes of a chunk.
pub(super) const CHUNK: usize = 64 << 10;

/// About how many bytes on disk an almost empty database takes.
const EMPTY: u64 = 512 << 10;
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

    /// All of it in one.
    pub(super) fn bytes(&self) -> Vec<u8> {
        [&self.head, self.body].concat()
    }
}

/// A blob's list of chunks, or of pieces in packs.
#[derive(Clone)]
pub(super) struct List {
    pub(super) size: u64,
    pub(super) chunks: Vec<Digest>,
}

impl List {
    fn encode(&self) -> Vec<u8> {
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

/// Whether the blob is there, going by its list of chunks or pieces.
fn has(db: &sled::Db, blob: &Digest) -> Result<bool, Failure> {
    Ok(db.contains_key(key(b'b', blob))? || db.contains_key(key(b'l', blob))?)
}

/// Makes blobs part of the database: `small` ones with their bytes, and those that were written to packs. False if a
/// piece that was taken for stored is so no more; then nothing has been noted.
pub(super) fn commit(o: &Opened, small: &BTreeMap<Digest, Vec<u8>>, packed: &Written) -> Result<bool, Failure> {
    let mut packed_lists = Vec::new();
    for (digest, list) in &packed.lists {
        if !has(&o.db, digest)? {
            packed_lists.push((digest, list));
        }
    }
    let known: Vec<Digest> = packed.known.iter().copied().collect();
    if packs::known(&o.db, &known)?.contains(&false) {
        return Ok(false);
    }
    let mut small_lists = Vec::new();
    for (digest, bytes) in small {
        if !has(&o.db, digest)? {
            small_lists.push((digest, put_chunks(&o.db, bytes)?));
        }
    }
    if packed_lists.is_empty() && small_lists.is_empty() {
        return Ok(true);
    }
    packs::put_places(&o.db, &packed.places)?;
    o.flush()?;
    for (digest, list) in packed_lists {
        o.db.insert(key(b'l', digest), list.encode())?;
    }
    for (digest, list) in &small_lists {
        o.db.insert(key(b'b', digest), list.encode())?;
    }
    o.flush()?;
    Ok(true)
}

/// Writes what is new among a blob's chunks. The list goes after them, after a flush.
///
/// In the order of their digests, here and in [`read`]: neighbours share a node, and a node of 1 MB that is not in
/// sled's cache is read as a whole.
fn put_chunks(db: &sled::Db, bytes: &[u8]) -> Result<List, Failure> {
    let chunks: Vec<Digest> = bytes.chunks(CHUNK).map(Digest::of).collect();
    let mut ordered: Vec<_> = chunks.iter().zip(bytes.chunks(CHUNK)).collect();
    ordered.sort_unstable_by_key(|(digest, _)| **digest);
    for (digest, chunk) in ordered {
        let key = key(b'c', digest);
        if !db.contains_key(key)? {
            db.insert(key, chunk)?;
        }
    }
    Ok(List { size: bytes.len() as u64, chunks })
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

/// Removes what is known to be bad, so that it is written again rather than taken for there.
pub(super) fn remove_flawed(db: &sled::Db, blob: &Digest, flaw: &Flaw) -> Result<(), Failure> {
    db.remove(key(b'b', blob))?;
    db.remove(key(b'l', blob))?;
    for chunk in &flaw.chunks {
        db.remove(key(b'c', chunk))?;
        db.remove(key(b'p', chunk))?;
    }
    Ok(())
}

/// Removes these blobs and those of their chunks and pieces that no other blob has; the disk gets back what was in packs.
/// Only while nobody writes.
pub(super) fn remove(o: &Opened, blobs: &BTreeSet<Digest>) -> Result<(), Failure> {
    let mut batch = sled::Batch::default();
    let mut orphans = Vec::new();
    for (lists, entries, bytes) in [(b'b', b'c', CHUNK), (b'l', b'p', PIECE)] {
        let mut gone = BTreeSet::new();
        let mut kept = BTreeSet::new();
        for item in o.db.scan_prefix([lists]) {
            let (name, value) = item?;
            let Some(list) = List::decode(&value, bytes) else { continue };
            let removed = name[1..].try_into().is_ok_and(|d| blobs.contains(&Digest(d)));
            if removed { &mut gone } else { &mut kept }.extend(list.chunks);
        }
        blobs.iter().for_each(|blob| batch.remove(key(lists, blob).as_slice()));
        orphans.extend(gone.difference(&kept).map(|chunk| key(entries, chunk)));
    }
    // The lists first: a list may never name what is missing.
    o.db.apply_batch(batch)?;
    o.flush()?;
    for orphan in orphans {
        o.db.remove(orphan)?;
    }
    o.flush()?;
    packs::tidy(o)
}

/// A database and the folder it is in.
pub(super) struct At<'a> {
    pub(super) db: &'a sled::Db,
    pub(super) path: &'a Path,
}

/// Copies blobs to another database, durably, verifying each, and returns those that could not be had. Large ones that
/// are in the database itself go to a pack.
pub(super) fn copy(from: &At<'_>, to: &At<'_>, blobs: &BTreeSet<BlobKey>) -> Result<BTreeSet<Digest>, Failure> {
    let mut lost = BTreeSet::new();
    let mut lists: Vec<(u8, Digest, List)> = Vec::new();
    for BlobKey(digest, size) in blobs {
        let entry = BlobEntry { digest: *digest, size: *size };
        // A panic is this blob's loss, not everybody's.
        let copied = quiet::catch(|| copy_one(from, to, &entry)).unwrap_or(Ok(None))?;
        match copied {
            Some((prefix, list)) => lists.push((prefix, *digest, list)),
            None => drop(lost.insert(*digest)),
        }
    }
    let packed = |prefix: u8| prefix == b'l';
    let pieces =
        lists.iter().filter(|(prefix, ..)| packed(*prefix)).flat_map(|(_, _, list)| list.chunks.iter().copied());
    let mut wanted = pieces.collect::<BTreeSet<_>>();
    // Those of blobs that were moved to a pack just now have their places already.
    for (piece, known) in
        wanted.clone().into_iter().zip(packs::known(to.db, &wanted.iter().copied().collect::<Vec<_>>())?)
    {
        if known {
            wanted.remove(&piece);
        }
    }
    let (places, gone) = packs::take_over(from.db, from.path, to.path, &wanted)?;
    packs::put_places(to.db, &places)?;
    flush(to.db, to.path)?;
    for (prefix, digest, list) in &lists {
        if packed(*prefix) && list.chunks.iter().any(|piece| gone.contains(piece)) {
            lost.insert(*digest);
        } else {
            to.db.insert(key(*prefix, digest), list.encode())?;
        }
    }
    flush(to.db, to.path)?;
    Ok(lost)
}

/// Verifies a blob and copies its chunks; pieces in packs are left to [`packs::take_over`]. Returns its list, and the
/// prefix that belongs to; none if the blob could not be had.
fn copy_one(from: &At<'_>, to: &At<'_>, entry: &BlobEntry) -> Result<Option<(u8, List)>, Failure> {
    if let Some(located) = packs::locate(from.db, from.path, entry)? {
        // A pack that can't be opened at this moment may be whole: that is an error, and ends the copying.
        let Ok(located) = located else { return Ok(None) };
        return Ok(located.read(0)?.ok().map(|_| (b'l', located.into_list())));
    }
    let Ok(bytes) = read(from.db, entry)? else { return Ok(None) };
    if !packs::is_packed(entry.size) {
        return Ok(Some((b'b', put_chunks(to.db, &bytes)?)));
    }
    let source = Source { head: Vec::new(), body: &bytes };
    let known = |pieces: &[Digest]| Ok(vec![false; pieces.len()]);
    let written = super::pack_writer::write(&[&source], &packs::folder(to.path), &known)?;
    packs::put_places(to.db, &written.places)?;
    Ok(written.lists.into_iter().next().map(|(_, list)| (b'l', list)))
}

/// About how many bytes on disk a new database and its packs take that these blobs are copied into: measured for those in
/// the database itself are 58 MB for 21 MB, 530 MB for 320 MB. What is in packs takes its own bytes.
pub(super) fn fresh_bytes(blobs: &BTreeSet<BlobKey>) -> u64 {
    let sum = |packed: bool| blobs.iter().map(|b| b.1).filter(|size| packs::is_packed(*size) == packed).sum::<u64>();
    let (small, segment) = (sum(false), SETUP.segment as u64);
    sum(true) + EMPTY + small + (2 * small).min(small / 2 + 3 * segment)
}

/// A [`BlobEntry`] that can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlobKey(pub(super) Digest, pub(super) u64);

impl From<BlobEntry> for BlobKey {
    fn from(entry: BlobEntry) -> Self {
        Self(entry.digest, entry.size)
    }
}
