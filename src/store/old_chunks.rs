//! Blobs of formats 1 and 2, which are in the chunk database itself: small ones in format 2, all in format 1.
//!
//! ```text
//! 'c' ‖ digest(chunk)   the chunk: up to 64 KiB
//! 'b' ‖ digest(blob)    the blob's length (u64, little-endian), then the digests of its chunks in order
//! ```
//!
//! They are only read. The next collection moves them to packs.

use super::database::Opened;
use super::engine::Failure;
use super::pieces::{self, Corruption, ReadError, key};
use super::tree::PieceList;
use crate::artifact::BlobEntry;
use crate::key::Digest;

/// Bytes of a chunk.
pub(super) const CHUNK: usize = 64 << 10;

/// Whether there is a list of the blob's chunks.
pub(super) fn has(o: &Opened, blob: &BlobEntry) -> Result<bool, Failure> {
    Ok(o.db.contains_key(key(b'b', &blob.digest))?)
}

/// A blob's verified bytes.
pub(super) fn read(db: &sled::Db, entry: &BlobEntry) -> Result<Vec<u8>, ReadError> {
    let Some(list) = db.get(key(b'b', &entry.digest))? else { return Err(Corruption::new("it is missing").into()) };
    let list = PieceList::decode(&list, CHUNK).filter(|l| l.size == entry.size);
    let list = list.ok_or_else(|| Corruption::new("its list of chunks is damaged"))?;
    let size = usize::try_from(list.size).map_err(|_| Corruption::new("it is larger than memory"))?;
    let mut bytes = vec![0; size];
    let mut faults = Vec::new();
    // In the order of the database.
    let mut chunks: Vec<_> = list.pieces.iter().zip(bytes.chunks_mut(CHUNK)).enumerate().collect();
    chunks.sort_unstable_by_key(|(_, (digest, _))| **digest);
    for (i, (digest, chunk)) in chunks {
        match ReadError::split(db.get(key(b'c', digest)).map_err(ReadError::from)).map_err(ReadError::Failed)? {
            Ok(Some(found)) if found.len() == chunk.len() => chunk.copy_from_slice(&found),
            Ok(Some(_)) => faults.push((i, *digest, "has the wrong length".to_owned())),
            Ok(None) => faults.push((i, *digest, "is missing".to_owned())),
            Err(corruption) => faults.push((i, *digest, format!("can't be read ({})", corruption.why))),
        }
    }
    faults.sort();
    if faults.is_empty() && Digest::of(&bytes) == entry.digest {
        return Ok(bytes);
    }
    if faults.is_empty() {
        let altered = list.pieces.iter().zip(bytes.chunks(CHUNK)).enumerate();
        let altered = altered.filter(|(_, (digest, bytes))| Digest::of(bytes) != **digest);
        faults.extend(altered.map(|(i, (digest, _))| (i, *digest, "is altered".to_owned())));
    }
    let why = match faults.first() {
        Some((i, _, why)) => format!("chunk {} of {} {why}", i + 1, list.pieces.len()),
        None => "its list of chunks belongs to another blob".to_owned(),
    };
    Err(Corruption { why, pieces: faults.into_iter().map(|(_, digest, _)| digest).collect() }.into())
}

/// Removes the blobs that `is_dead` picks, and the chunks that no other blob has.
pub(super) fn remove(o: &Opened, is_dead: impl Fn(&Digest) -> bool) -> Result<(), Failure> {
    o.remove_unjournaled(&pieces::unused_keys(&o.db, (b'b', b'c'), CHUNK, is_dead)?)
}

/// Removes a corrupt blob, so that it is written again and not mistaken for a stored one.
pub(super) fn remove_corrupt(o: &Opened, blob: &Digest, corruption: &Corruption) -> Result<(), Failure> {
    let chunks = corruption.pieces.iter().map(|chunk| key(b'c', chunk).to_vec());
    o.remove_unjournaled(&chunks.chain([key(b'b', blob).to_vec()]).collect::<Vec<_>>())
}

/// All blobs.
pub(super) fn all(db: &sled::Db) -> Result<Vec<BlobEntry>, Failure> {
    let mut blobs = Vec::new();
    for item in db.scan_prefix(b"b") {
        let (name, value) = item?;
        if let (Ok(digest), Some(list)) = (name[1..].try_into(), PieceList::decode(&value, CHUNK)) {
            blobs.push(BlobEntry { digest: Digest(digest), size: list.size });
        }
    }
    Ok(blobs)
}

/// Removes all entries.
pub(super) fn remove_all(o: &Opened) -> Result<(), Failure> {
    let entries = o.db.scan_prefix(b"b").chain(o.db.scan_prefix(b"c"));
    o.remove_unjournaled(&entries.map(|item| Ok(item?.0.to_vec())).collect::<Result<Vec<_>, Failure>>()?)
}
