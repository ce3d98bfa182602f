//! Blobs in the chunk database.
//!
//! ```text
//! 'c' ‖ digest(chunk)   the chunk: up to 64 KiB
//! 'b' ‖ digest(blob)    the blob's length (u64, little-endian), then the digests of its chunks in order
//! ```
//!
//! sled keeps 16 to 26 values in a node, so a node of chunks holds up to 1.7 MB: with segments of 8 MiB it stays below
//! the quarter above which sled writes a node into a file of its own that it never syncs. Measured with 100 MB states
//! that replace each other, two being kept: 220–590 MB/s written (a plain file: 264), about 500 MB on disk, no growth.

use std::collections::BTreeSet;

use super::database::{Failure, Setup};
use super::quiet;
use crate::artifact::BlobEntry;
use crate::key::Digest;

/// How the chunk database is set up. A change of the segments is one of [`super::FORMAT`].
pub(super) const SETUP: Setup = Setup { segment: 8 << 20, cache: 64 << 20 };
/// Bytes of a chunk.
pub(super) const CHUNK: usize = 64 << 10;

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

/// A blob's list of chunks.
pub(super) struct ChunkList {
    size: u64,
    chunks: Vec<Digest>,
}

impl ChunkList {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + DIGEST * self.chunks.len());
        bytes.extend_from_slice(&self.size.to_le_bytes());
        self.chunks.iter().for_each(|c| bytes.extend_from_slice(&c.0));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (size, digests) = bytes.split_first_chunk::<8>()?;
        let (chunks, rest) = digests.as_chunks::<DIGEST>();
        let size = u64::from_le_bytes(*size);
        let fits = rest.is_empty() && chunks.len() as u64 == size.div_ceil(CHUNK as u64);
        fits.then(|| Self { size, chunks: chunks.iter().map(|c| Digest(*c)).collect() })
    }
}

fn key(prefix: u8, digest: &Digest) -> [u8; 1 + DIGEST] {
    let mut key = [prefix; 1 + DIGEST];
    key[1..].copy_from_slice(&digest.0);
    key
}

/// Whether the blob is there, going by its list of chunks.
pub(super) fn has(db: &sled::Db, blob: &Digest) -> Result<bool, Failure> {
    Ok(db.contains_key(key(b'b', blob))?)
}

/// Writes what is new among a blob's chunks. The list goes to [`put_list`] after a flush.
///
/// In the order of their digests, here and in [`read`]: neighbours share a node, and a node of 1 MB that is not in
/// sled's cache is read as a whole.
pub(super) fn put_chunks(db: &sled::Db, bytes: &[u8]) -> Result<ChunkList, Failure> {
    let chunks: Vec<Digest> = bytes.chunks(CHUNK).map(Digest::of).collect();
    let mut ordered: Vec<_> = chunks.iter().zip(bytes.chunks(CHUNK)).collect();
    ordered.sort_unstable_by_key(|(digest, _)| **digest);
    for (digest, chunk) in ordered {
        let key = key(b'c', digest);
        if !db.contains_key(key)? {
            db.insert(key, chunk)?;
        }
    }
    Ok(ChunkList { size: bytes.len() as u64, chunks })
}

/// Writes a blob's list of chunks, which must be durable.
pub(super) fn put_list(db: &sled::Db, blob: &Digest, list: &ChunkList) -> Result<(), Failure> {
    db.insert(key(b'b', blob), list.encode())?;
    Ok(())
}

/// What sled can't read is a flaw of this blob; a failing disk is not.
fn get(db: &sled::Db, key: &[u8]) -> Result<Result<Option<sled::IVec>, Flaw>, Failure> {
    match db.get(key).map_err(Failure::from) {
        Ok(found) => Ok(Ok(found)),
        Err(Failure::Broken(why)) => Ok(Err(Flaw::new(why))),
        Err(other) => Err(other),
    }
}

fn list(db: &sled::Db, entry: &BlobEntry) -> Result<Result<ChunkList, Flaw>, Failure> {
    let found = match get(db, &key(b'b', &entry.digest))? {
        Ok(found) => found,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let Some(bytes) = found else { return Ok(Err(Flaw::new("it is missing"))) };
    let list = ChunkList::decode(&bytes).filter(|l| l.size == entry.size);
    Ok(list.ok_or_else(|| Flaw::new("its list of chunks is damaged")))
}

/// A blob's bytes, verified.
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
    for chunk in &flaw.chunks {
        db.remove(key(b'c', chunk))?;
    }
    Ok(())
}

/// Removes these blobs and those of their chunks that no other blob has.
pub(super) fn remove(db: &sled::Db, blobs: &BTreeSet<Digest>) -> Result<(), Failure> {
    let mut gone = BTreeSet::new();
    let mut kept = BTreeSet::new();
    for item in db.scan_prefix(b"b") {
        let (name, value) = item?;
        let Some(list) = ChunkList::decode(&value) else { continue };
        let removed = name[1..].try_into().is_ok_and(|d| blobs.contains(&Digest(d)));
        if removed { &mut gone } else { &mut kept }.extend(list.chunks);
    }
    // The lists first: a list may never name what is missing.
    for blob in blobs {
        db.remove(key(b'b', blob))?;
    }
    db.flush()?;
    for chunk in gone.difference(&kept) {
        db.remove(key(b'c', chunk))?;
    }
    Ok(())
}

/// Copies blobs to another database, verifying each, and returns those that could not be had. Nothing may refer to the
/// copies before a flush.
pub(super) fn copy(from: &sled::Db, to: &sled::Db, blobs: &BTreeSet<BlobKey>) -> Result<BTreeSet<Digest>, Failure> {
    let mut lost = BTreeSet::new();
    for BlobKey(digest, size) in blobs {
        let entry = BlobEntry { digest: *digest, size: *size };
        // A panic is this blob's loss, not everybody's.
        let read = quiet::catch(|| read(from, &entry)).unwrap_or_else(|panic| Ok(Err(Flaw::new(panic))))?;
        match read {
            Ok(bytes) => {
                let list = put_chunks(to, &bytes)?;
                put_list(to, digest, &list)?;
            }
            Err(_) => {
                lost.insert(*digest);
            }
        }
    }
    Ok(lost)
}

/// About how many bytes on disk a new database takes that so many bytes of blobs are copied into: measured are 58 MB for
/// 21 MB, 530 MB for 320 MB.
pub(super) fn fresh_bytes(bytes: u64) -> u64 {
    let segment = SETUP.segment as u64;
    bytes + (2 * bytes).clamp(segment, bytes / 2 + 3 * segment)
}

/// A [`BlobEntry`] that can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlobKey(pub(super) Digest, pub(super) u64);

impl From<BlobEntry> for BlobKey {
    fn from(entry: BlobEntry) -> Self {
        Self(entry.digest, entry.size)
    }
}
