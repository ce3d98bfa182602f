//! The chunk database: which pieces each blob has, and where they are in the packs.
//!
//! ```text
//! 'p' ‖ name(piece)     its location: the pack's name, offset (u64), length (u32), little-endian
//! 'l' ‖ digest(blob)    the blob's length (u64), then the names of its pieces in order
//! ```
//!
//! sled writes a value at least twice (a node again whenever it grows), reads it with a checksum and two copies, and
//! replays it when it opens. It is good at finding small entries. So the bytes of blobs go to packs, which are written
//! once, and only the locations of their pieces go to the database: 80 bytes for 1 MiB.
//!
//! The order of writing is: pack, sync, rename, sync of the folder; then locations and lists in one frame of the
//! journal. The index names the blob after that. A pack is removed when its last piece is gone, after the removal of
//! the locations is durable. It is written again when more than half of it is gone ([`tidy`]). Packs that no location
//! names are removed too.
//!
//! A piece is verified against its name whenever it is read. A pack that is missing, cut short or damaged makes its
//! blobs corrupt. If a pack can't be read for any other reason (no permission, too many open files, a failing disk),
//! that is an error: the bytes may be intact, so nothing is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::database::Opened;
use super::engine::{Failure, Setup};
use super::error::{Result, StoreError};
use super::journal::Changes;
use super::pack::{self, PackLocation, PackReader};
use super::pack_writer::{self, Written};
use super::tree::{self, PIECE, PieceList};
use crate::artifact::BlobEntry;
use crate::key::Digest;
use crate::system::zeros_on_large_pages;

/// How the chunk database is set up. Changing the segment size raises [`super::FORMAT`].
pub(super) const SETUP: Setup = Setup { segment: 8 << 20, cache: 64 << 20, unjournaled: b"bc", precious: b"bc" };
/// Blobs of fewer bytes than this are read on one thread.
const ALONE: usize = 2 << 20;

/// A blob's bytes: the first ones, if they were requested separately, and the rest.
pub(super) type Parts = (Vec<u8>, Vec<u8>);

/// What is wrong with a blob.
#[derive(Debug)]
pub(super) struct Corruption {
    /// The end of a sentence: "piece 3 of 17 is missing".
    pub(super) why: String,
    /// The pieces at fault.
    pub(super) pieces: Vec<Digest>,
}

impl Corruption {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), pieces: Vec::new() }
    }
}

/// Why a blob was not read from the database.
pub(super) enum ReadError {
    /// The blob is corrupt.
    Corrupt(Corruption),
    /// The database failed.
    Failed(Failure),
}

impl From<Corruption> for ReadError {
    fn from(corruption: Corruption) -> Self {
        Self::Corrupt(corruption)
    }
}

impl From<sled::Error> for ReadError {
    fn from(error: sled::Error) -> Self {
        match error.into() {
            // An entry that sled can't read is corrupt. A failing disk says nothing about it.
            Failure::Broken(why) => Self::Corrupt(Corruption::new(why)),
            other => Self::Failed(other),
        }
    }
}

impl ReadError {
    /// Separates what is wrong with the blob from what is wrong with the database.
    pub(super) fn split<T>(result: Result<T, Self>) -> Result<Result<T, Corruption>, Failure> {
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(Self::Corrupt(corruption)) => Ok(Err(corruption)),
            Err(Self::Failed(failure)) => Err(failure),
        }
    }
}

/// An entry, or what is wrong with it.
pub(super) fn get(db: &sled::Db, key: &[u8]) -> Result<Result<Option<sled::IVec>, Corruption>, Failure> {
    ReadError::split(db.get(key).map_err(ReadError::from))
}

pub(super) fn key(prefix: u8, digest: &Digest) -> [u8; 33] {
    let mut key = [prefix; 33];
    key[1..].copy_from_slice(&digest.0);
    key
}

fn location(db: &sled::Db, piece: &Digest) -> Result<Result<Option<PackLocation>, Corruption>, Failure> {
    Ok(get(db, &key(b'p', piece))?.map(|found| found.and_then(|bytes| PackLocation::decode(&bytes))))
}

/// Which of these pieces have a location in a pack that exists.
pub(super) fn known(o: &Opened, pieces: &[Digest]) -> Result<Vec<bool>, Failure> {
    let (folder, mut packs) = (pack::folder(o.path()), BTreeMap::new());
    let mut exists = |pack: Digest| *packs.entry(pack).or_insert_with(|| folder.join(pack.to_string()).is_file());
    let mut known = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let location = o.db.get(key(b'p', piece))?.and_then(|bytes| PackLocation::decode(&bytes));
        known.push(location.is_some_and(|location| exists(location.pack)));
    }
    Ok(known)
}

/// Whether all pieces of a blob have a location in a pack that exists.
pub(super) fn has(o: &Opened, blob: &BlobEntry) -> Result<bool, Failure> {
    let list = o.db.get(key(b'l', &blob.digest))?.and_then(|list| PieceList::decode(&list, PIECE));
    list.map_or(Ok(false), |list| Ok(!known(o, &list.pieces)?.contains(&false)))
}

/// Adds the locations of pieces, which must be durable.
pub(super) fn put_locations(changes: &mut Changes, locations: &BTreeMap<Digest, PackLocation>) {
    locations.iter().for_each(|(piece, location)| changes.insert(key(b'p', piece), location.encode()));
}

/// Adds blobs that were written to a pack. False if a piece that was reused is gone; then nothing was added.
pub(super) fn commit(o: &Opened, written: &Written) -> Result<bool, Failure> {
    let mut changes = Changes::default();
    for (digest, list) in &written.lists {
        // An existing list may be damaged in such a way that it can't be replaced.
        if !o.db.contains_key(key(b'l', digest))? {
            changes.insert(key(b'l', digest), list.encode());
        }
    }
    if known(o, &written.reused.iter().copied().collect::<Vec<_>>())?.contains(&false) {
        return Ok(false);
    }
    // Also adds the locations for blobs that had a list: their pack may have been missing.
    put_locations(&mut changes, &written.locations);
    o.write(&changes)?;
    Ok(true)
}

/// The location of each piece of a blob, in their order, or what is wrong with its entry.
pub(super) type Locations = Vec<Result<PackLocation, String>>;

/// A blob whose pieces were found. Its packs are opened one by one as they are read, and may be removed before that. So
/// the blob is corrupt only if it still has the same locations afterwards.
pub(super) struct Located {
    list: PieceList,
    pub(super) locations: Locations,
    folder: PathBuf,
}

/// Looks up a blob's pieces; `None` if the database has no list of them.
pub(super) fn locate(db: &sled::Db, database: &Path, entry: &BlobEntry) -> Result<Option<Located>, ReadError> {
    let Some(list) = db.get(key(b'l', &entry.digest))? else { return Ok(None) };
    let list = right_list(&list, entry)?;
    let mut locations = Vec::with_capacity(list.pieces.len());
    for piece in &list.pieces {
        locations.push(match location(db, piece).map_err(ReadError::Failed)? {
            Ok(found) => found.ok_or_else(|| "is missing".to_owned()),
            Err(corruption) => Err(format!("can't be found ({})", corruption.why)),
        });
    }
    Ok(Some(Located { list, locations, folder: pack::folder(database) }))
}

fn right_list(bytes: &[u8], entry: &BlobEntry) -> Result<PieceList, Corruption> {
    let is_right = |l: &PieceList| l.size == entry.size && tree::root(&l.pieces, l.size) == Some(entry.digest);
    let list = PieceList::decode(bytes, PIECE).filter(is_right);
    list.ok_or_else(|| Corruption::new("its list of pieces is damaged"))
}

/// As [`locate`], in entries that `get` returns.
pub(super) fn locate_among<'e>(
    get: impl Fn(&[u8]) -> Option<&'e [u8]>,
    database: &Path,
    entry: &BlobEntry,
) -> Result<Located, Corruption> {
    let list = get(&key(b'l', &entry.digest)).ok_or_else(|| Corruption::new("it is missing"))?;
    let list = right_list(list, entry)?;
    let location = |piece| get(&key(b'p', piece)).and_then(PackLocation::decode);
    let locations = list.pieces.iter().map(|piece| location(piece).ok_or_else(|| "is missing".to_owned())).collect();
    Ok(Located { list, locations, folder: pack::folder(database) })
}

/// The blobs that share a pack with one of these pieces, and may be damaged too.
pub(super) fn neighbours(db: &sled::Db, pieces: &[Digest]) -> Result<Vec<BlobEntry>, Failure> {
    let pack = |piece: &Digest| Ok::<_, Failure>(location(db, piece)?.ok().flatten().map(|location| location.pack));
    let mut packs = BTreeSet::new();
    for piece in pieces {
        packs.extend(pack(piece)?);
    }
    let mut found = Vec::new();
    for item in db.scan_prefix(b"l") {
        let (name, value) = item?;
        let (Ok(digest), Some(list)) = (name[1..].try_into(), PieceList::decode(&value, PIECE)) else { continue };
        for piece in &list.pieces {
            if pack(piece)?.is_some_and(|pack| packs.contains(&pack)) {
                found.push(BlobEntry { digest: Digest(digest), size: list.size });
                break;
            }
        }
    }
    Ok(found)
}

/// A piece to be read, and the two buffers for it.
struct Job<'a> {
    index: usize,
    parts: [&'a mut [u8]; 2],
}

impl Located {
    /// The blob's verified bytes: the first `head` of them, and the rest. Works on several threads. Each verifies a
    /// piece while it is in the core's cache, and has one pack open at a time.
    ///
    /// # Errors
    /// If a pack can't be read for a reason that says nothing about its bytes.
    pub(super) fn read(&self, head: usize) -> Result<Result<Parts, Corruption>> {
        let Ok(size) = usize::try_from(self.list.size) else {
            return Ok(Err(Corruption::new("it is larger than memory")));
        };
        if size == 0 {
            return Ok(Ok((Vec::new(), Vec::new())));
        }
        // The header of a tensor is shorter than a piece. A longer one was requested for the wrong blob.
        let head = if head < PIECE.min(size) { head } else { 0 };
        let (mut first, mut rest) = (vec![0; head], zeros_on_large_pages(size - head));
        let (start, others) = rest.split_at_mut(PIECE.min(size) - head);
        let others = others.chunks_mut(PIECE).enumerate();
        let others = others.map(|(i, part)| Job { index: i + 1, parts: [&mut [], part] });
        let jobs = Mutex::new(std::iter::once(Job { index: 0, parts: [&mut first, start] }).chain(others));
        let run = || -> Result<Vec<(usize, String)>> {
            let (mut faults, mut reader) = (Vec::new(), PackReader::new(&self.folder));
            loop {
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(job) = job else { return Ok(faults) };
                let index = job.index;
                faults.extend(self.fill(job, &mut reader)?.err().map(|why| (index, why)));
            }
        };
        let threads = if size < ALONE { 1 } else { pack_writer::threads() };
        let found: Result<Vec<Vec<_>>> = std::thread::scope(|scope| {
            // If the system refuses a thread, fewer threads do the work.
            let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, run).ok();
            let others: Vec<_> = (1..threads).map_while(spawn).collect();
            let failed = || Err(StoreError::unreadable(&self.folder)(io::Error::other("a thread failed")));
            let own = run();
            let others = others.into_iter().map(|other| other.join().unwrap_or_else(|_| failed()));
            std::iter::once(own).chain(others).collect()
        });
        let mut faults = found?.concat();
        faults.sort();
        Ok(match faults.first() {
            None => Ok((first, rest)),
            Some((i, why)) => Err(Corruption {
                why: format!("piece {} of {} {why}", i + 1, self.locations.len()),
                pieces: faults.iter().map(|(i, _)| self.list.pieces[*i]).collect(),
            }),
        })
    }

    /// Reads and verifies a piece, or says what is wrong with it.
    fn fill(&self, job: Job<'_>, reader: &mut PackReader) -> Result<Result<(), String>> {
        let Job { index, parts: [first, second] } = job;
        let location = match &self.locations[index] {
            Ok(location) if location.len as usize == first.len() + second.len() => location,
            Ok(_) => return Ok(Err("has the wrong length".to_owned())),
            Err(why) => return Ok(Err(why.clone())),
        };
        let read = reader.read(location, [&mut *first, &mut *second])?;
        let is_right = || tree::is_named(&self.list.pieces[index], index, self.list.size, [first, second]);
        Ok(match read {
            Ok(()) if is_right() => Ok(()),
            Ok(()) => Err("is altered".to_owned()),
            Err(why) => Err(why.to_owned()),
        })
    }
}

/// A blob's bytes as a stream. Each piece is verified before the reader gets it.
pub(super) struct PieceReader {
    located: Located,
    packs: PackReader,
    next: usize,
    piece: Cursor<Vec<u8>>,
}

impl PieceReader {
    pub(super) fn new(located: Located) -> Self {
        Self { packs: PackReader::new(&located.folder), located, next: 0, piece: Cursor::default() }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.piece.read(buffer)?;
        let Some(Ok(location)) = self.located.locations.get(self.next).filter(|_| read == 0) else {
            let is_corrupt = read == 0 && self.next < self.located.locations.len();
            return if is_corrupt { Err(io::ErrorKind::InvalidData.into()) } else { Ok(read) };
        };
        let mut piece = std::mem::take(&mut self.piece).into_inner();
        piece.resize(location.len as usize, 0);
        let job = Job { index: self.next, parts: [&mut piece, &mut []] };
        let filled = self.located.fill(job, &mut self.packs).map_err(io::Error::other)?;
        filled.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
        (self.next, self.piece) = (self.next + 1, Cursor::new(piece));
        self.piece.read(buffer)
    }
}

/// Removes a corrupt blob, so that it is written again and not mistaken for a stored one.
pub(super) fn remove_corrupt(o: &Opened, blob: &Digest, corruption: &Corruption) -> Result<(), Failure> {
    let mut changes = Changes::default();
    changes.remove(key(b'l', blob));
    corruption.pieces.iter().for_each(|piece| changes.remove(key(b'p', piece)));
    o.write(&changes)
}

/// Removes the blobs that `is_dead` picks, and the pieces that no other blob has. Frees their space on disk. Only while
/// no process writes.
pub(super) fn remove(o: &Opened, is_dead: impl Fn(&Digest) -> bool) -> Result<(), Failure> {
    let mut changes = Changes::default();
    unused_keys(&o.db, (b'l', b'p'), PIECE, is_dead)?.iter().for_each(|key| changes.remove(key));
    o.write(&changes)?;
    tidy(o)
}

/// The keys of the dead blobs' lists, and of the pieces (of `piece` bytes) that no other blob has.
pub(super) fn unused_keys(
    db: &sled::Db,
    (lists, pieces): (u8, u8),
    piece: usize,
    is_dead: impl Fn(&Digest) -> bool,
) -> Result<Vec<Vec<u8>>, Failure> {
    let (mut dead, mut kept, mut keys) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for item in db.scan_prefix([lists]) {
        let (name, value) = item?;
        let list = PieceList::decode(&value, piece).map(|list| list.pieces).unwrap_or_default();
        if name[1..].try_into().is_ok_and(|digest| is_dead(&Digest(digest))) {
            keys.push(name.to_vec());
            dead.extend(list);
        } else {
            kept.extend(list);
        }
    }
    keys.extend(dead.difference(&kept).map(|piece| key(pieces, piece).to_vec()));
    Ok(keys)
}

/// Removes packs that no longer hold a piece, and rewrites packs of which less than half is left. Only while no process
/// writes. The removal of the locations must be durable.
///
/// All removals come before anything is written, because a new pack may get the name of one that a killed process left.
/// A pack that can't be removed or written (on a full disk, say) stays until the next time.
fn tidy(o: &Opened) -> Result<(), Failure> {
    let folder = pack::folder(o.path());
    pack::remove_abandoned(&folder);
    let mut packs: BTreeMap<Digest, BTreeSet<(PackLocation, Digest)>> = BTreeMap::new();
    for item in o.db.scan_prefix(b"p") {
        let (name, value) = item?;
        if let (Some(location), Ok(piece)) = (PackLocation::decode(&value), name[1..].try_into()) {
            packs.entry(location.pack).or_default().insert((location, Digest(piece)));
        }
    }
    let mut sparse = Vec::new();
    for (pack, length) in pack::lengths(&folder) {
        let pieces = packs.remove(&pack).unwrap_or_default();
        let live: u64 = pieces.iter().map(|(location, _)| u64::from(location.len)).sum();
        if pieces.is_empty() {
            let _ = fs::remove_file(folder.join(pack.to_string()));
        } else if 2 * live < length {
            sparse.push((pack, pieces));
        }
    }
    let mut written = BTreeSet::new();
    for (pack, pieces) in sparse {
        // A damaged pack stays as it is: its reader reports it.
        let Ok(Some(new)) = pack::rewrite(&folder, &pieces) else { continue };
        written.extend(new.values().map(|location| location.pack));
        if !written.contains(&pack) {
            let mut changes = Changes::default();
            put_locations(&mut changes, &new);
            o.write(&changes)?;
            let _ = fs::remove_file(folder.join(pack.to_string()));
        }
    }
    Ok(())
}
