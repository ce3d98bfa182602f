//! Writes blobs to a pack: hashing on several threads, writing on one, syncing in the background.
//!
//! A blob is hashed in groups of 4 pieces (4 MiB). Each thread takes the next group and hashes it. The calling thread
//! appends the new pieces of hashed groups in their order, and hashes a group itself when none is ready. So a pack has
//! the same bytes whatever the number of threads, and hashing takes no extra time if writing takes as long. Writing
//! fills the page cache only. Meanwhile, another thread makes the kernel write the file to the disk.
//!
//! [`Pace::Background`] and [`Pace::Temporary`] leave the cores and the page cache to others: one thread does all, and
//! gives way to other threads.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use super::error::{Result, StoreError};
use super::pack::{self, NewPack, PackLocation};
use super::tree::{self, PIECE, PieceList};
use crate::artifact::BlobEntry;
use crate::file;
use crate::key::Digest;

/// Pieces that are hashed at a time. If one thread does everything, it is one piece, so that it is still in the core's
/// cache when it is written.
const GROUP: usize = 4;
/// Bytes after which the kernel is made to write to the disk.
const SYNC: u64 = 16 << 20;
/// Fewer bytes than this are written on one thread.
const ALONE: u64 = 2 << 20;
/// The niceness of a thread that gives way: it gets a tenth of a core that others want.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;
/// More threads than this only wait for the disk.
const THREADS: usize = 4;

/// How many threads work on a blob.
pub(super) fn threads() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from).min(THREADS))
}

/// How blobs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as possible: on several threads. The page cache keeps them, because they are read soon.
    Fast,
    /// With little of the processor's time, because a training goes on meanwhile: on one thread that gives way to
    /// others, and past the page cache if it is much.
    Background,
    /// As [`Pace::Background`], with checksums instead of hashes. For blobs that never leave this cache.
    Temporary,
}

/// A blob to be written, in two parts, because a tensor's header is not contiguous with its elements.
pub(super) struct Source<'a> {
    /// The first bytes: fewer than a piece.
    pub(super) head: Vec<u8>,
    /// The other bytes.
    pub(super) body: Body<'a>,
}

/// The bytes of a blob after its head.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    /// In memory.
    Bytes(&'a [u8]),
    /// In a file, which must not change while it is written. One piece at a time is in memory.
    File { path: &'a Path, offset: u64, size: usize },
}

impl Source<'_> {
    fn len(&self) -> usize {
        self.head.len()
            + match self.body {
                Body::Bytes(bytes) => bytes.len(),
                Body::File { size, .. } => size,
            }
    }

    /// Calls `f` with the bytes of each of these pieces.
    fn each_piece<T>(
        &self,
        pieces: Range<usize>,
        mut f: impl FnMut(usize, [&[u8]; 2]) -> io::Result<T>,
    ) -> io::Result<Vec<T>> {
        let (head, mut buffer) = (self.head.len(), Vec::new());
        let file = match self.body {
            Body::Bytes(_) => None,
            Body::File { path, .. } => Some(file::open(path)?),
        };
        let mut all = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let (start, end) = (piece * PIECE, ((piece + 1) * PIECE).min(self.len()));
            let part = start.max(head) - head..end.max(head) - head;
            let body = match (self.body, &file) {
                (Body::Bytes(bytes), _) => &bytes[part],
                (Body::File { offset, .. }, Some(file)) => {
                    buffer.resize(part.len(), 0);
                    file.read_exact_at(&mut buffer, offset + part.start as u64)?;
                    &buffer
                }
                (Body::File { .. }, None) => &[],
            };
            all.push(f(piece, [&self.head[start.min(head)..end.min(head)], body])?);
        }
        Ok(all)
    }
}

/// The blobs that were written.
#[derive(Default)]
pub(super) struct Written {
    /// The blobs' digests and pieces, in their order.
    pub(super) lists: Vec<(Digest, PieceList)>,
    /// Where the new pieces are.
    pub(super) locations: BTreeMap<Digest, PackLocation>,
    /// Pieces that were not written, because they have a location already.
    pub(super) reused: BTreeSet<Digest>,
}

/// Pieces next to each other in a blob.
struct Group {
    source: usize,
    first: usize,
    pieces: usize,
}

/// The blobs, and the next group that no thread has taken.
struct Work<'a> {
    sources: &'a [Source<'a>],
    groups: Vec<Group>,
    next: AtomicUsize,
    pace: Pace,
}

/// The number of a group, and the names of its pieces.
type Hashed = (usize, io::Result<Vec<Digest>>);

impl Work<'_> {
    /// Hashes the next group, if there is one.
    fn hash_next(&self) -> Option<Hashed> {
        let i = self.next.fetch_add(1, Ordering::Relaxed);
        let group = self.groups.get(i)?;
        let source = &self.sources[group.source];
        let pieces = group.first..group.first + group.pieces;
        let name = |piece, parts: [&[u8]; 2]| match self.pace {
            Pace::Fast | Pace::Background => tree::name(piece, source.len() as u64, parts),
            Pace::Temporary => tree::checksum(piece, parts),
        };
        Some((i, source.each_piece(pieces, |piece, parts| Ok(name(piece, parts)))))
    }

    fn bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.len() as u64).sum()
    }
}

/// Which of these pieces have a location already.
pub(super) type Known<'a> = dyn Fn(&[Digest]) -> Result<Vec<bool>> + Sync + 'a;

/// Hashes blobs and writes their new pieces to a pack, durably. `known` says which pieces have a location already.
pub(super) fn write(sources: &[Source<'_>], folder: &Path, known: &Known<'_>, pace: Pace) -> Result<Written> {
    let group = if pace == Pace::Fast { GROUP } else { 1 };
    let mut groups = Vec::new();
    for (source, blob) in sources.iter().enumerate() {
        let pieces = blob.len().div_ceil(PIECE);
        let firsts = (0..pieces).step_by(group);
        groups.extend(firsts.map(|first| Group { source, first, pieces: group.min(pieces - first) }));
    }
    let work = Work { sources, groups, next: AtomicUsize::new(0), pace };
    if work.bytes() < ALONE {
        return write_on(1, &work, folder, known);
    }
    if pace == Pace::Fast {
        return write_on(threads().min(work.groups.len()), &work, folder, known);
    }
    let run = || {
        give_way();
        write_on(1, &work, folder, known)
    };
    std::thread::scope(|scope| match Builder::new().spawn_scoped(scope, run) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(_) => write_on(1, &work, folder, known),
    })
}

/// Lowers the priority of the calling thread: other threads go first.
fn give_way() {
    // On other systems this would lower the priority of the whole process. A refusal does no harm.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// Hashes and writes on this many threads, of which the calling one is the first.
fn write_on(threads: usize, work: &Work<'_>, folder: &Path, known: &Known<'_>) -> Result<Written> {
    std::thread::scope(|scope| {
        let (send, hashed) = mpsc::channel();
        for _ in 1..threads {
            let send = send.clone();
            // The send fails when the calling thread has failed.
            let run = move || while work.hash_next().is_some_and(|hashed| send.send(hashed).is_ok()) {};
            // If the system refuses a thread, fewer threads do the work.
            let _ = Builder::new().spawn_scoped(scope, run);
        }
        drop(send);
        let names = vec![Vec::new(); work.sources.len()];
        let writer = Writer { work, folder, known, names, reused: BTreeSet::new(), pack: None, sync: None };
        writer.write(&hashed, scope)
    })
}

/// A blob that did not arrive, and why: the end of a sentence.
pub type NotReceived = (BlobEntry, String);

/// Writes blobs from streams, one for each blob, to one pack, durably. Keeps one piece in memory. Leaves out the blobs
/// whose streams fail or end early, or whose bytes don't match the digest. If there are fewer streams, the last blobs
/// are left out.
pub(super) fn write_streams<'a>(
    blobs: &[BlobEntry],
    folder: &Path,
    mut streams: impl Iterator<Item = Box<dyn Read + 'a>>,
) -> Result<(Written, Vec<NotReceived>)> {
    let failed = || StoreError::io("can't write to", folder);
    let (mut pack, mut lists) = (NewPack::begin(folder).map_err(failed())?, Vec::new());
    let mut lost = Vec::new();
    for blob in blobs {
        let received = match streams.next() {
            Some(mut stream) => receive(blob, &mut *stream, &mut pack).map_err(failed())?,
            None => Err("the transfer broke off".to_owned()),
        };
        match received {
            Ok(pieces) => lists.push((blob.digest, PieceList { size: blob.size, pieces })),
            Err(why) => lost.push((*blob, why)),
        }
    }
    let locations = if lists.is_empty() { BTreeMap::new() } else { pack.finish().map_err(failed())? };
    Ok((Written { lists, locations, reused: BTreeSet::new() }, lost))
}

/// Writes a blob from a stream to a pack and returns its pieces, or why it did not arrive.
fn receive(blob: &BlobEntry, stream: &mut dyn Read, pack: &mut NewPack) -> io::Result<Result<Vec<Digest>, String>> {
    let (mut pieces, mut piece, mut left) = (Vec::new(), Vec::new(), blob.size);
    while left > 0 {
        piece.clear();
        if let Err(error) = stream.take(left.min(PIECE as u64)).read_to_end(&mut piece) {
            return Ok(Err(error.to_string()));
        }
        if piece.is_empty() {
            return Ok(Err(format!("{left} of {} bytes are missing", blob.size)));
        }
        left -= piece.len() as u64;
        let digest = tree::name(pieces.len(), blob.size, [&piece, &[]]);
        let is_wrong = blob.size <= PIECE as u64 && digest != blob.digest;
        if !is_wrong && !pack.has(&digest) {
            pack.push(digest, [&piece, &[]])?;
        }
        pieces.push(digest);
    }
    Ok(match tree::root(&pieces, blob.size) == Some(blob.digest) {
        true => Ok(pieces),
        false => Err("it is altered".to_owned()),
    })
}

/// The work of the calling thread.
struct Writer<'a, 'scope> {
    work: &'a Work<'a>,
    folder: &'a Path,
    known: &'a Known<'a>,
    names: Vec<Vec<Digest>>,
    reused: BTreeSet<Digest>,
    pack: Option<NewPack>,
    sync: Option<SyncThread<'scope>>,
}

/// A thread that syncs the pack whenever it gets a message.
struct SyncThread<'scope> {
    request: Sender<()>,
    requested: u64,
    thread: ScopedJoinHandle<'scope, io::Result<()>>,
}

impl<'scope> Writer<'_, 'scope> {
    fn write(mut self, hashed: &Receiver<Hashed>, scope: &'scope Scope<'scope, '_>) -> Result<Written> {
        let mut ready = BTreeMap::new();
        for turn in 0..self.work.groups.len() {
            let names = loop {
                if let Some(names) = ready.remove(&turn) {
                    break names;
                }
                let next = match hashed.try_recv() {
                    Ok(next) => Some(next),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                        self.work.hash_next().or_else(|| hashed.recv().ok())
                    }
                };
                // Only a thread that failed leaves a group out.
                ready.extend([next.ok_or_else(|| self.failed("a thread failed"))?]);
            };
            let names = names.map_err(StoreError::io("can't read what goes to", self.folder))?;
            self.append(turn, &names, scope)?;
        }
        self.finish()
    }

    fn failed(&self, why: &'static str) -> StoreError {
        StoreError::io("can't write to", self.folder)(io::Error::other(why))
    }

    fn append(&mut self, turn: usize, names: &[Digest], scope: &'scope Scope<'scope, '_>) -> Result<()> {
        let work = self.work;
        let group = &work.groups[turn];
        let known = (self.known)(names)?;
        let failed = StoreError::io("can't write to", self.folder);
        self.names[group.source].extend_from_slice(names);
        let source = &work.sources[group.source];
        let written = names.iter().zip(known).enumerate().try_for_each(|(i, (name, known))| {
            if known {
                self.reused.insert(*name);
                return Ok(());
            }
            let piece = group.first + i;
            source.each_piece(piece..piece + 1, |_, parts| self.push(*name, parts, scope)).map(drop)
        });
        written.map_err(failed)
    }

    fn push(&mut self, name: Digest, piece: [&[u8]; 2], scope: &'scope Scope<'scope, '_>) -> io::Result<()> {
        let pack = match &mut self.pack {
            Some(pack) => pack,
            None => {
                let bytes = self.work.bytes();
                // Listing the folder takes longer the more packs there are, so small writes skip it.
                if bytes >= ALONE {
                    pack::remove_abandoned(self.folder);
                }
                let mut pack = NewPack::begin(self.folder)?;
                if self.work.pace != Pace::Fast && bytes >= ALONE {
                    pack.make_direct();
                } else if bytes > SYNC {
                    let (request, requests) = mpsc::channel();
                    let file = pack.handle()?;
                    let run = move || {
                        requests.iter().try_for_each(|()| {
                            // One sync serves all requests so far.
                            while requests.try_recv().is_ok() {}
                            file.sync_data()
                        })
                    };
                    // Without this thread, everything is synced at the end.
                    let thread = Builder::new().spawn_scoped(scope, run).ok();
                    self.sync = thread.map(|thread| SyncThread { request, requested: 0, thread });
                }
                self.pack.insert(pack)
            }
        };
        if !pack.has(&name) {
            pack.push(name, piece)?;
        }
        if let Some(sync) = self.sync.as_mut().filter(|sync| pack.offset >= sync.requested + SYNC) {
            sync.requested = pack.offset;
            // It fails if a sync has failed, which is found at the end.
            let _ = sync.request.send(());
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Written> {
        // The kernel reports a failed write only once per open file, so an error of the sync thread must not be
        // ignored.
        let synced = self.sync.take().map_or(Ok(()), |sync| {
            drop(sync.request);
            sync.thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread failed")))
        });
        let finished = synced.and_then(|()| self.pack.take().map(NewPack::finish).transpose());
        let locations = finished.map_err(StoreError::io("can't write to", self.folder))?.unwrap_or_default();
        let mut lists = Vec::with_capacity(self.names.len());
        for (source, pieces) in self.work.sources.iter().zip(std::mem::take(&mut self.names)) {
            let size = source.len() as u64;
            let digest = tree::root(&pieces, size).ok_or_else(|| self.failed("a thread failed"))?;
            lists.push((digest, PieceList { size, pieces }));
        }
        Ok(Written { lists, locations, reused: self.reused })
    }
}
