//! Writes packs: hashing on all threads, writing by one at a time, syncing beside both.
//!
//! A blob is handled in groups of 4 pieces (4 MiB). Each thread takes the next group and hashes it. Whoever finds that
//! the group whose turn it is has been hashed and that nobody writes asks which of its pieces are stored already and
//! appends the others; the rest hash on, up to 16 groups ahead, which hides the time that the database takes to open. So a pack
//! has the same bytes whatever the number of threads, and hashing costs no time of its own where writing takes as long.
//! Writing fills the page cache only; another thread has the kernel carry it to the disk meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use super::blobs::{List, Source};
use super::packs::Place;
use super::tree::{self, PIECE};
use super::{Result, StoreError, disk};
use crate::key::Digest;

/// Pieces that are hashed at a time.
const GROUP: usize = 4;
/// Groups that may be hashed ahead of the one that is written.
const AHEAD: usize = 16;
/// Bytes after which they are carried to the disk.
const SYNC: u64 = 16 << 20;
/// A file that is being written is locked; one that isn't and is so old was left by a killed process.
const ABANDONED: Duration = Duration::from_secs(60);
/// So many bytes are written on one thread.
const ALONE: u64 = 2 << 20;
/// More threads than this only wait for the disk.
const THREADS: usize = 4;

/// How many threads work on a blob.
pub(super) fn threads() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from).min(THREADS))
}

/// Makes a folder of packs, durably.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// A pack that is being written, under a temporary name. Dropped before [`Pack::finish`], it is no more.
pub(super) struct Pack {
    file: tempfile::NamedTempFile,
    folder: PathBuf,
    offset: u64,
    pieces: BTreeMap<Digest, (u64, u32)>,
    name: blake3::Hasher,
}

impl Pack {
    pub(super) fn begin(folder: &Path) -> io::Result<Self> {
        let file = disk::temporary(folder)?;
        file.as_file().lock()?;
        let (pieces, name) = (BTreeMap::new(), blake3::Hasher::new());
        Ok(Self { file, folder: folder.to_owned(), offset: 0, pieces, name })
    }

    pub(super) fn push(&mut self, piece: Digest, parts: [&[u8]; 2]) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        parts.iter().try_for_each(|part| self.file.write_all(part))?;
        self.pieces.insert(piece, (self.offset, u32::try_from(len).map_err(io::Error::other)?));
        self.offset += len as u64;
        self.name.update(&piece.0);
        Ok(())
    }

    /// Makes it durable under its own name, and returns where its pieces are.
    pub(super) fn finish(self) -> io::Result<BTreeMap<Digest, Place>> {
        let pack = Digest(*self.name.finalize().as_bytes());
        if self.pieces.is_empty() {
            return Ok(BTreeMap::new());
        }
        self.file.as_file().sync_all()?;
        self.file.persist(self.folder.join(pack.to_string())).map_err(|e| e.error)?;
        File::open(&self.folder)?.sync_all()?;
        let place = |(piece, (offset, len))| (piece, Place { pack, offset, len });
        Ok(self.pieces.into_iter().map(place).collect())
    }
}

/// Removes what killed processes had begun.
pub(super) fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(disk::TEMPORARY)) {
        let changed = entry.metadata().and_then(|m| m.modified());
        let old = changed.is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age > ABANDONED));
        if old && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// What came of writing blobs.
#[derive(Default)]
pub(super) struct Written {
    /// The blobs' digests and lists, in their order.
    pub(super) lists: Vec<(Digest, List)>,
    /// Where the new pieces are.
    pub(super) places: BTreeMap<Digest, Place>,
    /// Pieces that were not written since they have a place already.
    pub(super) known: BTreeSet<Digest>,
}

/// Pieces next to each other in a blob.
struct Group {
    source: usize,
    first: usize,
    pieces: usize,
}

/// What the threads share.
struct Work {
    /// The group whose turn it is to be written.
    turn: usize,
    /// Names of the pieces of groups that were hashed and not yet written.
    hashed: BTreeMap<usize, Vec<Digest>>,
    /// What whoever writes works on; none while somebody does.
    target: Option<Target>,
    failed: Option<StoreError>,
}

/// What is being written.
struct Target {
    pack: Option<Pack>,
    names: Vec<Vec<Digest>>,
    known: BTreeSet<Digest>,
}

struct Writer<'a> {
    sources: &'a [&'a Source<'a>],
    folder: &'a Path,
    known: &'a (dyn Fn(&[Digest]) -> Result<Vec<bool>> + Sync),
    groups: Vec<Group>,
    next: AtomicUsize,
    work: Mutex<Work>,
    turned: Condvar,
    sync: Syncer,
}

/// Hashes blobs and writes what is new of them to a pack, durably. `known` tells which pieces have a place already.
pub(super) fn write(
    sources: &[&Source<'_>],
    folder: &Path,
    known: &(dyn Fn(&[Digest]) -> Result<Vec<bool>> + Sync),
) -> Result<Written> {
    let mut groups = Vec::new();
    for (source, blob) in sources.iter().enumerate() {
        let pieces = blob.len().div_ceil(PIECE);
        let firsts = (0..pieces).step_by(GROUP);
        groups.extend(firsts.map(|first| Group { source, first, pieces: GROUP.min(pieces - first) }));
    }
    let names = vec![Vec::new(); sources.len()];
    let target = Some(Target { pack: None, names, known: BTreeSet::new() });
    let work = Work { turn: 0, hashed: BTreeMap::new(), target, failed: None };
    let (work, turned, sync) = (Mutex::new(work), Condvar::new(), Syncer::default());
    let writer = Writer { sources, folder, known, groups, next: AtomicUsize::new(0), work, turned, sync };
    std::thread::scope(|scope| {
        let bytes = sources.iter().map(|s| s.len() as u64).sum::<u64>();
        let (large, threads) = (bytes > SYNC, if bytes < ALONE { 1 } else { threads() });
        let stop = StopAtEnd(&writer.sync);
        // Where no more threads are to be had, fewer do; without the syncing one, all is synced at the end.
        let spawn = std::thread::Builder::new;
        let syncing = large.then(|| spawn().spawn_scoped(scope, || writer.sync.run()).ok()).flatten();
        let others = (1..threads.min(writer.groups.len()))
            .map_while(|_| spawn().spawn_scoped(scope, || writer.work_along()).ok())
            .collect::<Vec<_>>();
        writer.work_along();
        others.into_iter().for_each(|other| drop(other.join()));
        drop(stop);
        syncing.map(std::thread::ScopedJoinHandle::join);
    });
    writer.finish()
}

/// Makes the others stop if the thread that holds it panics: its group would never have its turn.
struct FailOnPanic<'a>(&'a Writer<'a>);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().failed.get_or_insert_with(|| self.0.broken());
            self.0.turned.notify_all();
        }
    }
}

impl Writer<'_> {
    fn broken(&self) -> StoreError {
        StoreError::io("can't write to", self.folder)(io::Error::other("a thread failed"))
    }

    fn work_along(&self) {
        let _guard = FailOnPanic(self);
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = self.groups.get(i) else { return };
            let far = |work: &mut Work| work.turn + AHEAD < i && work.failed.is_none();
            let work = self.turned.wait_while(self.lock(), far).unwrap_or_else(PoisonError::into_inner);
            if work.failed.is_some() {
                return;
            }
            drop(work);
            let source = self.sources[group.source];
            let pieces = group.first..group.first + group.pieces;
            let size = source.len() as u64;
            let names = pieces.map(|piece| tree::name(piece, size, source.piece(piece))).collect();
            let mut work = self.lock();
            work.hashed.insert(i, names);
            self.write_ready(work);
        }
    }

    /// Writes the groups whose turn has come, unless somebody else does.
    fn write_ready<'w>(&'w self, mut work: MutexGuard<'w, Work>) {
        while work.failed.is_none() {
            let turn = work.turn;
            let Some(mut target) = work.target.take() else { return };
            let Some(names) = work.hashed.remove(&turn) else {
                work.target = Some(target);
                return;
            };
            drop(work);
            let written = self.append(&mut target, &self.groups[turn], &names);
            work = self.lock();
            work.target = Some(target);
            work.turn += 1;
            // Another thread may have failed meanwhile.
            work.failed = work.failed.take().or(written.err());
            self.turned.notify_all();
        }
    }

    fn append(&self, target: &mut Target, group: &Group, names: &[Digest]) -> Result<()> {
        let known = (self.known)(names)?;
        for ((i, name), known) in names.iter().enumerate().zip(known) {
            target.names[group.source].push(*name);
            if known {
                target.known.insert(*name);
                continue;
            }
            let failed = || StoreError::io("can't write to", self.folder);
            let pack = match &mut target.pack {
                Some(pack) => pack,
                None => target.pack.insert(self.begin().map_err(failed())?),
            };
            if !pack.pieces.contains_key(name) {
                pack.push(*name, self.sources[group.source].piece(group.first + i)).map_err(failed())?;
            }
            self.sync.written(pack.offset);
        }
        Ok(())
    }

    fn begin(&self) -> io::Result<Pack> {
        make_folder(self.folder)?;
        // A look at all names takes the longer the more packs there are: not for each of ten thousand small results.
        if self.sources.iter().map(|s| s.len() as u64).sum::<u64>() >= ALONE {
            remove_abandoned(self.folder);
        }
        let pack = Pack::begin(self.folder)?;
        self.sync.lock().file = Some(pack.file.as_file().try_clone()?);
        Ok(pack)
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(self) -> Result<Written> {
        let folder = self.folder;
        let broken = || StoreError::io("can't write to", folder)(io::Error::other("a thread failed"));
        let work = self.work.into_inner().unwrap_or_else(PoisonError::into_inner);
        let target = match (work.failed, work.target) {
            (Some(error), _) => return Err(error),
            (None, Some(target)) => target,
            (None, None) => return Err(broken()),
        };
        let synced = self.sync.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        // The kernel tells an error of writing once per open file.
        let finished = synced.failed.map_or(Ok(()), Err).and_then(|()| target.pack.map(Pack::finish).transpose());
        let places = finished.map_err(StoreError::io("can't write to", self.folder))?.unwrap_or_default();
        let mut lists = Vec::with_capacity(self.sources.len());
        for (source, chunks) in self.sources.iter().zip(target.names) {
            let size = source.len() as u64;
            // Only a thread that failed leaves a list short.
            let digest = tree::root(&chunks, size).ok_or_else(broken)?;
            lists.push((digest, List { size, chunks }));
        }
        Ok(Written { lists, places, known: target.known })
    }
}

/// Has the kernel write a file to the disk while it grows.
#[derive(Default)]
struct Syncer {
    state: Mutex<Syncing>,
    changed: Condvar,
}

#[derive(Default)]
struct Syncing {
    file: Option<File>,
    written: u64,
    synced: u64,
    done: bool,
    failed: Option<io::Error>,
}

/// Ends the syncing thread even if whoever holds this panics, who would wait for it else.
struct StopAtEnd<'a>(&'a Syncer);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Syncer {
    fn lock(&self) -> MutexGuard<'_, Syncing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self, bytes: u64) {
        let mut state = self.lock();
        state.written = bytes;
        if state.written >= state.synced + SYNC {
            self.changed.notify_all();
        }
    }

    fn stop(&self) {
        self.lock().done = true;
        self.changed.notify_all();
    }

    fn run(&self) {
        loop {
            let idle = |s: &mut Syncing| !s.done && (s.file.is_none() || s.written < s.synced + SYNC);
            let mut state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            if state.done {
                return;
            }
            let Some(file) = state.file.take() else { continue };
            state.synced = state.written;
            drop(state);
            let result = file.sync_data();
            let mut state = self.lock();
            state.file = Some(file);
            if let Err(error) = result {
                state.failed = Some(error);
                return;
            }
        }
    }
}
