//! Blobs up and down as streams: ranges and parts of large blobs, and many small blobs at a time, in bounded memory.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use futures_util::stream::{self, Stream, StreamExt as _};
use object_store::{ObjectStoreExt as _, WriteMultipart};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use super::error::{Result, SharedError};
use super::objects::{Objects, retried};
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
/// How often the upload of a large blob is tried.
const TRIES: usize = 3;

/// The name of a blob's object.
pub(super) fn blob_name(blob: &BlobEntry) -> String {
    format!("blob/{}", blob.digest)
}

/// Ranges of all blobs of a download, in their order.
type Ranges<'a> = Pin<Box<dyn Stream<Item = object_store::Result<Bytes>> + Send + 'a>>;

/// The streams of blobs, in their order. Reads ahead of the one that is being read.
pub(super) struct Download<'a> {
    objects: &'a Objects,
    ranges: Arc<Mutex<Ranges<'a>>>,
    transfer: &'a Transfer<'a>,
    failure: &'a Mutex<Option<SharedError>>,
    blobs: std::vec::IntoIter<BlobEntry>,
}

impl<'a> Download<'a> {
    /// `failure` is set if the store fails.
    pub(super) fn new(
        objects: &'a Objects,
        blobs: &[BlobEntry],
        transfer: &'a Transfer<'a>,
        failure: &'a Mutex<Option<SharedError>>,
    ) -> Self {
        let ranges = blobs.to_vec().into_iter().flat_map(|blob| {
            let starts = (0..blob.size).step_by(RANGE as usize);
            starts.map(move |start| (blob, start..blob.size.min(start + RANGE)))
        });
        let read = move |(blob, range): (BlobEntry, std::ops::Range<u64>)| async move {
            let path = objects.path(&blob_name(&blob));
            retried(|| objects.store.get_range(&path, range.clone())).await
        };
        let ranges: Ranges<'a> = Box::pin(stream::iter(ranges.map(read)).buffered(at_a_time(blobs)));
        Self { objects, ranges: Arc::new(Mutex::new(ranges)), transfer, failure, blobs: blobs.to_vec().into_iter() }
    }
}

/// How many ranges are read at a time, so that they fit into memory.
fn at_a_time(blobs: &[BlobEntry]) -> usize {
    let ranges: u64 = blobs.iter().map(|blob| blob.size.div_ceil(RANGE)).sum();
    let bytes: u64 = blobs.iter().map(|blob| blob.size).sum();
    let mean = (bytes / ranges.max(1)).max(1);
    usize::try_from(IN_MEMORY / mean).unwrap_or(MOST_REQUESTS).clamp(8, MOST_REQUESTS)
}

impl<'a> Iterator for Download<'a> {
    type Item = Box<dyn Read + 'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let blob = self.blobs.next()?;
        Some(Box::new(BlobReader {
            objects: self.objects,
            ranges: Arc::clone(&self.ranges),
            transfer: self.transfer,
            failure: self.failure,
            left: blob.size.div_ceil(RANGE),
            bytes: Bytes::new(),
        }))
    }
}

/// The bytes of one blob of a [`Download`].
struct BlobReader<'a> {
    objects: &'a Objects,
    ranges: Arc<Mutex<Ranges<'a>>>,
    transfer: &'a Transfer<'a>,
    failure: &'a Mutex<Option<SharedError>>,
    /// Ranges that are not read yet.
    left: u64,
    bytes: Bytes,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.bytes.is_empty() && self.left > 0 {
            if self.transfer.is_cancelled() {
                return Err(io::Error::other("it was interrupted"));
            }
            self.left -= 1;
            let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
            let next = self.objects.runtime.block_on(ranges.next());
            self.bytes = match next {
                Some(Ok(bytes)) => bytes,
                Some(Err(object_store::Error::NotFound { .. })) => return Err(io::Error::other("it is missing")),
                Some(Err(error)) => {
                    let error = self.objects.failed("read a tensor or a file", &error);
                    let why = io::Error::other(error.to_string());
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Err(why);
                }
                None => return Ok(0),
            };
            self.transfer.moved(self.bytes.len() as u64);
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
            && let Some(done) = objects.runtime.block_on(tasks.join_next())
        {
            check(done.map_err(lost)?)?;
        }
        let sent = match blob.size {
            ..=PART => upload_small(objects, cache, blob, &memory, &mut tasks),
            _ => upload_large(objects, cache, blob, transfer),
        };
        match sent {
            Err(SharedError::Cache(error @ crate::store::StoreError::Damaged { .. })) => damaged.push((*blob, error)),
            sent => sent?,
        }
    }
    while let Some(done) = objects.runtime.block_on(tasks.join_next()) {
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
) -> Result<()> {
    let permits = u32::try_from(blob.size).unwrap_or(u32::MAX).max(1);
    let permit = objects.runtime.block_on(Arc::clone(memory).acquire_many_owned(permits)).ok();
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
            let mut buffer = vec![0; 1 << 20];
            loop {
                let count = match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) if !transfer.is_cancelled() => count,
                    Ok(_) => {
                        let _ = objects.runtime.block_on(upload.abort());
                        return Err(SharedError::Cancelled);
                    }
                    Err(error) => {
                        let _ = objects.runtime.block_on(upload.abort());
                        return Err(SharedError::System("can't read the cache".to_owned(), error));
                    }
                };
                objects.runtime.block_on(upload.wait_for_capacity(in_flight)).map_err(failed)?;
                upload.write(&buffer[..count]);
                transfer.moved(count as u64);
            }
            objects.runtime.block_on(upload.finish()).map_err(failed).map(drop)
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
