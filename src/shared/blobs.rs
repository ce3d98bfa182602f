//! Blobs up and down as streams: ranges and parts of large blobs, and many small blobs at a time, in bounded memory.

use std::io::{self, Read};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::stream::{self, Stream, StreamExt as _};
use object_store::{ObjectStoreExt as _, WriteMultipart};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use super::error::{Result, SharedError};
use super::objects::{Objects, retried, whole};
use super::transfer::Transfer;
use crate::artifact::BlobEntry;
use crate::key::Digest;
use crate::store::Store;

/// Bytes that are in memory at most, in each direction.
const IN_MEMORY: u64 = 64 << 20;
/// Bytes of a range that is read at once.
const RANGE: u64 = 4 << 20;
/// Bytes of a part of a larger blob that is written at once. S3 has parts of at least 5 MiB and at most 10,000 of them.
const PART: u64 = 8 << 20;
const MOST_PARTS: u64 = 9_000;
/// Requests in flight.
const MOST_REQUESTS: usize = 64;
/// How soon a transfer notices that the user interrupts it.
const TICK: Duration = Duration::from_millis(100);
/// How often the upload of a large blob is tried.
const TRIES: usize = 3;

/// The name of a blob's object.
pub(super) fn blob_name(blob: &BlobEntry) -> String {
    format!("blob/{}", blob.digest)
}

/// The bytes of blobs together.
pub(super) fn total<'a>(blobs: impl IntoIterator<Item = &'a BlobEntry>) -> u64 {
    // A record may name any sizes.
    blobs.into_iter().fold(0, |sum, blob| sum.saturating_add(blob.size))
}

/// Waits for a future. `None` as soon as the user interrupts the transfer.
fn wait<T>(objects: &Objects, transfer: &Transfer<'_>, future: impl Future<Output = T>) -> Option<T> {
    objects.runtime.block_on(async {
        let mut future = std::pin::pin!(future);
        while !transfer.is_cancelled() {
            if let Ok(done) = tokio::time::timeout(TICK, &mut future).await {
                return Some(done);
            }
        }
        None
    })
}

/// The streams of blobs, in their order. Reads ahead of the one that is being read. Ends early if the store fails or if
/// the user interrupts the transfer.
pub(super) struct Download<'a> {
    reading: Arc<Reading<'a>>,
    blobs: std::iter::Enumerate<std::slice::Iter<'a, BlobEntry>>,
}

/// What the streams of a [`Download`] share.
struct Reading<'a> {
    objects: &'a Objects,
    transfer: &'a Transfer<'a>,
    ranges: Mutex<Ranges<'a>>,
    /// The index of the blob that is being read. Ranges of earlier blobs are skipped.
    current: Arc<AtomicUsize>,
    /// Why the download ended early.
    ended: &'a Mutex<Option<SharedError>>,
}

/// Ranges of all blobs of a download, in their order, with the index of their blob.
type Ranges<'a> = Pin<Box<dyn Stream<Item = (usize, Result<Bytes, Unread>)> + Send + 'a>>;

/// Why a range can't be read.
enum Unread {
    /// Its blob is missing or cut off.
    Damaged(String),
    /// The store failed.
    Failed(SharedError),
}

impl<'a> Download<'a> {
    /// Begins a download. If it ends early, the reason is left in `ended`.
    pub(super) fn new(
        objects: &'a Objects,
        blobs: &'a [BlobEntry],
        transfer: &'a Transfer<'a>,
        ended: &'a Mutex<Option<SharedError>>,
    ) -> Self {
        let current = Arc::new(AtomicUsize::new(0));
        let needed = Arc::clone(&current);
        let ranges = blobs.iter().enumerate().flat_map(move |(index, blob)| {
            let needed = Arc::clone(&needed);
            let starts = (0..blob.size).step_by(RANGE as usize);
            let starts = starts.take_while(move |_| needed.load(Ordering::Relaxed) <= index);
            starts.map(move |start| (index, blob, start..blob.size.min(start + RANGE)))
        });
        let read = move |(index, blob, range)| async move { (index, read_range(objects, blob, range).await) };
        let ranges = Mutex::new(Box::pin(stream::iter(ranges.map(read)).buffered(at_a_time(blobs))) as Ranges<'a>);
        let reading = Arc::new(Reading { objects, transfer, ranges, current, ended });
        Self { reading, blobs: blobs.iter().enumerate() }
    }
}

async fn read_range(objects: &Objects, blob: &BlobEntry, range: Range<u64>) -> Result<Bytes, Unread> {
    let (name, missing) = (blob_name(blob), || Unread::Damaged("it is missing".to_owned()));
    let path = objects.path(&name);
    let read = || async { whole(objects.store.get_range(&path, range.clone()).await?, range.end - range.start) };
    let error = match retried(read).await {
        Ok(bytes) => return Ok(bytes),
        Err(object_store::Error::NotFound { .. }) => return Err(missing()),
        Err(error) => error,
    };
    // The error may be that a range is beyond the end.
    match objects.store.head(&path).await {
        Ok(meta) if meta.size < blob.size => {
            Err(Unread::Damaged(format!("{} of {} bytes are missing", blob.size - meta.size, blob.size)))
        }
        Err(object_store::Error::NotFound { .. }) => Err(missing()),
        _ => Err(Unread::Failed(objects.failed(&format!("read {name}"), &error))),
    }
}

/// How many ranges are read at a time, so that they fit into memory.
fn at_a_time(blobs: &[BlobEntry]) -> usize {
    let ranges: u64 = blobs.iter().fold(0, |sum: u64, blob| sum.saturating_add(blob.size.div_ceil(RANGE)));
    let mean = (total(blobs) / ranges.max(1)).max(1);
    usize::try_from(IN_MEMORY / mean).unwrap_or(MOST_REQUESTS).clamp(8, MOST_REQUESTS)
}

impl<'a> Iterator for Download<'a> {
    type Item = Box<dyn Read + 'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (index, blob) = self.blobs.next().filter(|_| self.reading.is_going_on())?;
        self.reading.current.store(index, Ordering::Relaxed);
        let reading = Arc::clone(&self.reading);
        Some(Box::new(BlobReader { reading, index, left: blob.size.div_ceil(RANGE), bytes: Bytes::new() }))
    }
}

impl Reading<'_> {
    fn is_going_on(&self) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn end(&self, why: SharedError) -> io::Error {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        io::Error::other("the transfer broke off")
    }

    /// The next range of this blob.
    fn next(&self, index: usize) -> io::Result<Bytes> {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match wait(self.objects, self.transfer, ranges.next()) {
                None => return Err(self.end(SharedError::Cancelled)),
                // A range of a blob that is damaged before it.
                Some(Some((of, _))) if of != index => {}
                Some(Some((_, Ok(bytes)))) => return Ok(bytes),
                Some(Some((_, Err(Unread::Damaged(why))))) => return Err(io::Error::other(why)),
                Some(Some((_, Err(Unread::Failed(error))))) => return Err(self.end(error)),
                Some(None) => return Err(io::Error::other("a range is missing")),
            }
        }
    }
}

/// The bytes of one blob of a [`Download`].
struct BlobReader<'a> {
    reading: Arc<Reading<'a>>,
    index: usize,
    /// Ranges that are not read yet.
    left: u64,
    bytes: Bytes,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() && self.left > 0 {
            self.left -= 1;
            self.bytes = self.reading.next(self.index)?;
            self.reading.transfer.moved(self.bytes.len() as u64);
        }
        let count = self.bytes.len().min(buffer.len());
        self.bytes.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// The digest of a blob's bytes. `None` if it does not exist.
///
/// # Errors
/// If the store can't be read.
pub(super) fn digest(objects: &Objects, name: &str, size: u64) -> Result<Option<Digest>> {
    let path = objects.path(name);
    let mut hasher = blake3::Hasher::new();
    for start in (0..size).step_by(RANGE as usize) {
        let range = start..size.min(start + RANGE);
        match objects.runtime.block_on(retried(|| objects.store.get_range(&path, range.clone()))) {
            Ok(bytes) => drop(hasher.update(&bytes)),
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(objects.failed(&format!("read {name}"), &error)),
        }
    }
    Ok(Some(Digest(*hasher.finalize().as_bytes())))
}

/// Copies blobs from the cache to the store. Returns the blobs that the cache could not read, which are damaged.
///
/// # Errors
/// If the store fails.
pub(super) fn upload(
    objects: &Objects,
    cache: &Store,
    blobs: &[BlobEntry],
    transfer: &Transfer<'_>,
) -> Result<Vec<(BlobEntry, crate::store::StoreError)>> {
    let memory = Arc::new(Semaphore::new(IN_MEMORY as usize));
    let mut tasks: JoinSet<(BlobEntry, object_store::Result<()>)> = JoinSet::new();
    let mut damaged = Vec::new();
    let check = |(blob, done): (BlobEntry, object_store::Result<()>)| {
        done.map_err(|error| objects.failed(&format!("write {}", blob_name(&blob)), &error))?;
        transfer.moved(blob.size);
        Ok::<_, SharedError>(())
    };
    for blob in blobs {
        if transfer.is_cancelled() {
            return Err(SharedError::Cancelled);
        }
        while let Some(done) = tasks.try_join_next() {
            check(done.map_err(lost)?)?;
        }
        if tasks.len() >= MOST_REQUESTS
            && let Some(done) = wait(objects, transfer, tasks.join_next()).ok_or(SharedError::Cancelled)?
        {
            check(done.map_err(lost)?)?;
        }
        let sent = match blob.size {
            ..=PART => upload_small(objects, cache, blob, &memory, &mut tasks, transfer),
            _ => upload_large(objects, cache, blob, transfer),
        };
        match sent {
            Err(SharedError::Cache(error @ crate::store::StoreError::Damaged { .. })) => damaged.push((*blob, error)),
            sent => sent?,
        }
    }
    while let Some(done) = wait(objects, transfer, tasks.join_next()).ok_or(SharedError::Cancelled)? {
        check(done.map_err(lost)?)?;
    }
    Ok(damaged)
}

fn lost(error: JoinError) -> SharedError {
    SharedError::System("a thread failed".to_owned(), io::Error::other(error))
}

/// Reads a blob and writes it in the background.
fn upload_small(
    objects: &Objects,
    cache: &Store,
    blob: &BlobEntry,
    memory: &Arc<Semaphore>,
    tasks: &mut JoinSet<(BlobEntry, object_store::Result<()>)>,
    transfer: &Transfer<'_>,
) -> Result<()> {
    let permits = u32::try_from(blob.size).unwrap_or(u32::MAX).max(1);
    let permit = Arc::clone(memory).acquire_many_owned(permits);
    let permit = wait(objects, transfer, permit).ok_or(SharedError::Cancelled)?.ok();
    let bytes: Bytes = cache.send_blob(blob, |stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map_err(|e| SharedError::System("can't read the cache".to_owned(), e))?;
        Ok::<_, SharedError>(bytes.into())
    })?;
    let (store, path, blob) = (Arc::clone(&objects.store), objects.path(&blob_name(blob)), *blob);
    let write = async move {
        let _permit = permit;
        (blob, retried(|| store.put(&path, bytes.clone().into())).await.map(drop))
    };
    tasks.spawn_on(write, objects.runtime.handle());
    Ok(())
}

/// Writes a blob in parts while it is read.
fn upload_large(objects: &Objects, cache: &Store, blob: &BlobEntry, transfer: &Transfer<'_>) -> Result<()> {
    let part = PART.max(blob.size.div_ceil(MOST_PARTS));
    let path = objects.path(&blob_name(blob));
    let failed = |error: object_store::Error| objects.failed(&format!("write {}", blob_name(blob)), &error);
    let in_flight = usize::try_from(IN_MEMORY / part).unwrap_or(1).max(1);
    let once = || {
        cache.send_blob(blob, |stream| {
            let upload = objects.runtime.block_on(retried(|| objects.store.put_multipart(&path))).map_err(failed)?;
            // Its methods start tasks.
            let _in_runtime = objects.runtime.enter();
            let mut upload = WriteMultipart::new_with_chunk_size(upload, part as usize);
            let mut sent = Ok(());
            let mut buffer = vec![0; 1 << 20];
            while sent.is_ok() {
                let count = match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) => {
                        sent = Err(SharedError::System("can't read the cache".to_owned(), error));
                        break;
                    }
                };
                match wait(objects, transfer, upload.wait_for_capacity(in_flight)) {
                    Some(Ok(())) => upload.write(&buffer[..count]),
                    Some(Err(error)) => sent = Err(failed(error)),
                    None => sent = Err(SharedError::Cancelled),
                }
                transfer.moved(count as u64);
            }
            if sent.is_err() {
                // Otherwise a server keeps the parts.
                let _ = objects.runtime.block_on(upload.abort());
                return sent;
            }
            wait(objects, transfer, upload.finish()).ok_or(SharedError::Cancelled)?.map_err(failed).map(drop)
        })
    };
    let mut tries = 1;
    loop {
        match once() {
            Err(SharedError::Failed { .. }) if tries < TRIES => tries += 1,
            done => return done,
        }
    }
}
