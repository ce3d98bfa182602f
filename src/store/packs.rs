//! Pack files, which hold the bytes of blobs. The chunk database knows their pieces.
//!
//! ```text
//! chunks-<generation>/packs/<name>   pieces one after the other, and nothing else
//! 'p' ‖ name(piece)                  where it is: the pack's name, offset (u64), length (u32), little-endian
//! 'l' ‖ digest(blob)                 the blob's length (u64), then the names of its pieces in order
//! ```
//!
//! sled writes a value at least twice (a node again whenever it grows), reads it with a checksum and two copies, and
//! replays it as it opens. It is good at finding small entries. So the bytes go to files that are written once, front to
//! back, and only the places of their pieces ([`tree`]) go to the database: 80 bytes for 1 MiB.
//!
//! The order of writing is: pack, sync, rename, sync of the folder; then places and lists in one frame of the journal.
//! The index names the blob after that. A pack is named by the names of its pieces, so writing the same again replaces
//! it by the same. A pack never changes. It is removed when its last piece is gone, after the removal of the places is
//! durable; it is written again without the rest when more than half of it is gone ([`tidy`]). What was written and never
//! named is removed then, too.
//! A piece is verified against its name whenever it is read; a pack that is missing, cut short or damaged is a flaw of
//! the blobs in it, as a missing chunk is. Whatever else keeps a pack from being read (no permission, no more open files, a
//! failing disk) is an error and no flaw: the bytes may be as they were, so nothing is forgotten for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::blobs::{Flaw, List, get, key};
use super::content::Parts;
use super::database::Opened;
use super::disk;
use super::engine::Failure;
use super::journal::Changes;
use super::pack_writer::{self, Pack};
use super::tree::{self, PIECE};
use super::{Result, StoreError};
use crate::artifact::BlobEntry;
use crate::key::Digest;

/// Blobs of fewer bytes than this are read on one thread.
const ALONE: usize = 2 << 20;

/// The folder of packs beside a database.
pub(super) fn folder(database: &Path) -> PathBuf {
    database.join("packs")
}

/// Where a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) pack: Digest,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Place {
    pub(super) fn encode(&self) -> [u8; 44] {
        let mut bytes = [0; 44];
        bytes[..32].copy_from_slice(&self.pack.0);
        bytes[32..40].copy_from_slice(&self.offset.to_le_bytes());
        bytes[40..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (pack, rest) = bytes.split_first_chunk::<32>()?;
        let (offset, len) = rest.split_first_chunk::<8>()?;
        let (offset, len) = (u64::from_le_bytes(*offset), u32::from_le_bytes(len.try_into().ok()?));
        // No piece is longer, and memory of this length will be asked for. No file is longer, and the system would
        // refuse to read there, which is not to be taken for a failing disk.
        if len as usize > PIECE || offset > i64::MAX as u64 - PIECE as u64 {
            return None;
        }
        Some(Self { pack: Digest(*pack), offset, len })
    }
}

/// Which of these pieces have a place in a pack that exists.
pub(super) fn known(db: &sled::Db, database: &Path, pieces: &[Digest]) -> Result<Vec<bool>, Failure> {
    let (folder, mut packs) = (folder(database), BTreeMap::new());
    let mut exists = |pack: Digest| *packs.entry(pack).or_insert_with(|| folder.join(pack.to_string()).is_file());
    let mut known = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let place = db.get(key(b'p', piece))?.and_then(|bytes| Place::decode(&bytes));
        known.push(place.is_some_and(|place| exists(place.pack)));
    }
    Ok(known)
}

/// Adds the places of pieces, which must be durable.
pub(super) fn put_places(changes: &mut Changes, places: &BTreeMap<Digest, Place>) {
    places.iter().for_each(|(piece, place)| changes.insert(key(b'p', piece), place.encode()));
}

/// Where a blob's pieces are, in their order; or what is wrong with an entry.
pub(super) type Places = Vec<Result<Place, String>>;

/// A blob whose pieces were found. Its packs are opened one by one as they are read, and may be removed until then: a
/// flaw is one only if the blob is still in the same places afterwards.
pub(super) struct Located {
    list: List,
    places: Places,
    folder: PathBuf,
}

/// Looks for a blob's pieces; none if the database has no list of them.
pub(super) fn locate(
    db: &sled::Db,
    database: &Path,
    entry: &BlobEntry,
) -> Result<Option<Result<Located, Flaw>>, Failure> {
    let bytes = match get(db, &key(b'l', &entry.digest))? {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(flaw) => return Ok(Some(Err(flaw))),
    };
    let list = List::decode(&bytes, PIECE);
    let right = |l: &List| l.size == entry.size && tree::root(&l.chunks, l.size) == Some(entry.digest);
    let Some(list) = list.filter(right) else {
        return Ok(Some(Err(Flaw::new("its list of pieces is damaged"))));
    };
    let mut located = Located { places: Vec::with_capacity(list.chunks.len()), folder: folder(database), list };
    for piece in &located.list.chunks {
        let place = match get(db, &key(b'p', piece))? {
            Ok(found) => found.and_then(|bytes| Place::decode(&bytes)).ok_or_else(|| "is missing".to_owned()),
            Err(flaw) => Err(format!("can't be found ({})", flaw.why)),
        };
        located.places.push(place);
    }
    Ok(Some(Ok(located)))
}

/// The blobs that have a piece in a pack of one of these pieces: what may be damaged with them.
pub(super) fn neighbours(db: &sled::Db, pieces: &[Digest]) -> Result<Vec<BlobEntry>, Failure> {
    let place = |piece: &Digest| -> Result<Option<Place>, Failure> {
        Ok(get(db, &key(b'p', piece))?.ok().flatten().and_then(|bytes| Place::decode(&bytes)))
    };
    let mut packs = BTreeSet::new();
    for piece in pieces {
        packs.extend(place(piece)?.map(|place| place.pack));
    }
    let mut found = Vec::new();
    for item in db.scan_prefix(b"l") {
        let (name, value) = item?;
        let (Ok(digest), Some(list)) = (name[1..].try_into().map(Digest), List::decode(&value, PIECE)) else {
            continue;
        };
        for piece in &list.chunks {
            if place(piece)?.is_some_and(|place| packs.contains(&place.pack)) {
                found.push(BlobEntry { digest, size: list.size });
                break;
            }
        }
    }
    Ok(found)
}

/// Why a piece was not read.
enum Trouble {
    /// It is damaged or gone: the end of a sentence.
    Flaw(String),
    /// Nobody knows how it is.
    Error(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::NotFound => Self::Flaw("is missing (its pack is gone)".to_owned()),
            io::ErrorKind::UnexpectedEof => Self::Flaw("is missing (its pack is cut short)".to_owned()),
            _ => Self::Error(e),
        }
    }
}

/// A pack can't be read, which says nothing of what is in it.
fn unreadable(pack: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let what = format!("can't read {}", pack.display());
    |source| StoreError::Io { what, source }
}

/// A piece to be read, and the two parts of memory where it goes.
struct Job<'a> {
    index: usize,
    parts: [&'a mut [u8]; 2],
}

impl Located {
    /// The places, to see whether they change.
    pub(super) fn places(&self) -> Places {
        self.places.clone()
    }

    /// The blob's verified bytes: the first `head` of them, and the rest. On several threads; each verifies a piece while
    /// that is in its cache, and has one pack open at a time.
    ///
    /// # Errors
    /// If a pack can't be read for a reason that is no flaw of its.
    pub(super) fn read(&self, head: usize) -> Result<Result<Parts, Flaw>> {
        let Ok(size) = usize::try_from(self.list.size) else {
            return Ok(Err(Flaw::new("it is larger than memory")));
        };
        if size == 0 {
            return Ok(Ok((Vec::new(), Vec::new())));
        }
        // The header of a tensor is shorter than a piece; whoever asks for more than that has the wrong blob.
        let head = if head < PIECE.min(size) { head } else { 0 };
        let (mut first, mut rest) = (vec![0; head], vec![0; size - head]);
        let mut jobs = Vec::with_capacity(self.places.len());
        let (start, others) = rest.split_at_mut(PIECE.min(size) - head);
        jobs.push(Job { index: 0, parts: [&mut first, start] });
        let others = others.chunks_mut(PIECE).enumerate();
        jobs.extend(others.map(|(i, part)| Job { index: i + 1, parts: [&mut [], part] }));
        let threads = if size < ALONE { 1 } else { pack_writer::threads() };
        let jobs = Mutex::new(jobs.into_iter());
        let run = || -> Result<Vec<(usize, String)>> {
            let (mut flaws, mut last) = (Vec::new(), None);
            loop {
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(job) = job else { return Ok(flaws) };
                let index = job.index;
                match self.fill(job, &mut last)? {
                    Ok(()) => {}
                    Err(why) => flaws.push((index, why)),
                }
            }
        };
        let found: Result<Vec<Vec<(usize, String)>>> = std::thread::scope(|scope| {
            // Where no more threads are to be had, fewer do.
            let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, run).ok();
            let others: Vec<_> = (1..threads).map_while(spawn).collect();
            let failed = || Err(unreadable(&self.folder)(io::Error::other("a thread failed")));
            let own = run();
            let others = others.into_iter().map(|other| other.join().unwrap_or_else(|_| failed()));
            std::iter::once(own).chain(others).collect()
        });
        let mut flaws = found?.concat();
        flaws.sort();
        Ok(match flaws.first() {
            None => Ok((first, rest)),
            Some((i, why)) => Err(Flaw {
                why: format!("piece {} of {} {why}", i + 1, self.places.len()),
                chunks: flaws.iter().map(|(i, _)| self.list.chunks[*i]).collect(),
            }),
        })
    }

    /// Reads and verifies a piece; says what is wrong with it. `last` is the pack that is open.
    fn fill(&self, job: Job<'_>, last: &mut Option<(Digest, File)>) -> Result<Result<(), String>> {
        let Job { index, parts: [first, second] } = job;
        let place = match &self.places[index] {
            Ok(place) if place.len as usize == first.len() + second.len() => place,
            Ok(_) => return Ok(Err("has another length".to_owned())),
            Err(why) => return Ok(Err(why.clone())),
        };
        let path = self.folder.join(place.pack.to_string());
        let mut read = || -> Result<(), Trouble> {
            let open = match last.take().filter(|(pack, _)| *pack == place.pack) {
                Some(open) => open,
                None => (place.pack, disk::open_regular(OpenOptions::new().read(true), &path)?),
            };
            let (_, pack) = last.insert(open);
            pack.read_exact_at(first, place.offset)?;
            pack.read_exact_at(second, place.offset + first.len() as u64)?;
            match tree::name(index, self.list.size, [first, second]) == self.list.chunks[index] {
                true => Ok(()),
                false => Err(Trouble::Flaw("has other bytes".to_owned())),
            }
        };
        match read() {
            Ok(()) => Ok(Ok(())),
            Err(Trouble::Flaw(why)) => Ok(Err(why)),
            Err(Trouble::Error(e)) => Err(unreadable(&path)(e)),
        }
    }
}

/// All places, by pack in the order of their offsets. What can't be read is left out.
fn places(db: &sled::Db) -> Result<BTreeMap<Digest, Vec<(Place, Digest)>>, Failure> {
    let mut packs: BTreeMap<Digest, Vec<(Place, Digest)>> = BTreeMap::new();
    for item in db.scan_prefix(b"p") {
        let (name, value) = item?;
        if let (Some(place), Ok(piece)) = (Place::decode(&value), name[1..].try_into().map(Digest)) {
            packs.entry(place.pack).or_default().push((place, piece));
        }
    }
    packs.values_mut().for_each(|pieces| pieces.sort_unstable());
    Ok(packs)
}

/// Removes packs that hold no piece any more, and writes those anew of which less than half is left. Only while nobody
/// writes; the removal of the places must be durable.
///
/// Removals come first, and all before anything is written: a new pack may get the name of one that a killed process left.
/// What can't be removed or written (on a full disk, say) stays as it is until the next time.
///
/// # Errors
/// Those of the database.
pub(super) fn tidy(o: &Opened) -> Result<(), Failure> {
    let folder = folder(o.path());
    pack_writer::remove_abandoned(&folder);
    let mut packs = places(&o.db)?;
    let mut sparse = Vec::new();
    for (pack, size) in packs_in(&folder) {
        let pieces = packs.remove(&pack).unwrap_or_default();
        let live: u64 = pieces.iter().map(|(place, _)| u64::from(place.len)).sum();
        if pieces.is_empty() {
            let _ = fs::remove_file(folder.join(pack.to_string()));
        } else if 2 * live < size {
            sparse.push((pack, pieces));
        }
    }
    let mut written = BTreeSet::new();
    for (pack, pieces) in sparse {
        let path = folder.join(pack.to_string());
        let Ok((new, lost)) = rewrite(&path, &pieces, &folder) else { continue };
        written.extend(new.values().map(|place| place.pack));
        // A damaged pack is left as it is: whoever reads it says so.
        if lost.is_empty() && !written.contains(&pack) {
            let mut changes = Changes::default();
            put_places(&mut changes, &new);
            o.write(&changes)?;
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

/// The packs in a folder with their bytes, in the order of their names. Another name is that of a file that is being
/// written, or was.
fn packs_in(folder: &Path) -> BTreeMap<Digest, u64> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let pack = |entry: fs::DirEntry| {
        let name = entry.file_name().to_str()?.parse().ok()?;
        Some((name, entry.metadata().map_or(0, |m| m.len())))
    };
    entries.flatten().filter_map(pack).collect()
}

/// Copies these pieces of a pack to a new one, durably, and returns their places and those that are gone.
///
/// # Errors
/// If the pack can't be read for a reason that is no flaw of its, or the new one can't be written.
fn rewrite(
    pack: &Path,
    pieces: &[(Place, Digest)],
    folder: &Path,
) -> io::Result<(BTreeMap<Digest, Place>, BTreeSet<Digest>)> {
    let mut lost = BTreeSet::new();
    let from = match File::open(pack) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok((BTreeMap::new(), pieces.iter().map(|p| p.1).collect()));
        }
        Err(e) => return Err(e),
    };
    pack_writer::make_folder(folder)?;
    let mut new = Pack::begin(folder)?;
    let mut buffer = Vec::new();
    for (place, piece) in pieces {
        buffer.resize(place.len as usize, 0);
        match from.read_exact_at(&mut buffer, place.offset) {
            Ok(()) => new.push(*piece, [&buffer, &[]])?,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => drop(lost.insert(*piece)),
            Err(e) => return Err(e),
        }
    }
    Ok((new.finish()?, lost))
}
