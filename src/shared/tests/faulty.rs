//! An object store in memory that fails in all the ways in which real ones do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// How often each fault occurs, in percent of the requests for which it is possible.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    /// An error, and nothing is done.
    pub(super) fail: u64,
    /// It is done, and an error comes back.
    pub(super) lose_answer: u64,
    /// It takes some milliseconds.
    pub(super) delay: u64,
    /// The answer ends early.
    pub(super) cut: u64,
    /// The answer fails in the middle.
    pub(super) break_off: u64,
    /// A bit of the answer is flipped.
    pub(super) flip: u64,
    /// A create replaces what exists.
    pub(super) overwrite: u64,
    /// Some other object is deleted.
    pub(super) delete: u64,
    /// A listing lacks the newest objects.
    pub(super) hide: u64,
}

/// The store.
#[derive(Debug)]
pub(super) struct Faulty {
    pub(super) inner: InMemory,
    seed: u64,
    rates: Mutex<Rates>,
    /// How many requests of each kind there were for each object.
    requests: Mutex<BTreeMap<(&'static str, String), u64>>,
    /// The objects in the order of their writing.
    written: Mutex<Vec<Path>>,
    /// How much older all objects seem to be that were written before a time.
    age: Mutex<(Duration, SystemTime)>,
    /// What happens before a request, and how many requests are before it.
    meanwhile: Mutex<Option<(usize, Meanwhile)>>,
}

/// What another machine does between two requests.
struct Meanwhile(Box<dyn FnOnce() + Send>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Faulty {
    pub(super) fn new(seed: u64, rates: Rates) -> Self {
        let (requests, written, meanwhile) = Default::default();
        let age = Mutex::new((Duration::ZERO, UNIX_EPOCH));
        Self { inner: InMemory::new(), seed, rates: Mutex::new(rates), requests, written, age, meanwhile }
    }

    pub(super) fn set(&self, rates: Rates) {
        *self.rates.lock().unwrap() = rates;
    }

    /// Lets all objects of this moment be older.
    pub(super) fn age(&self, age: Duration) {
        *self.age.lock().unwrap() = (age, SystemTime::now());
    }

    /// An object as it is seen.
    fn aged(&self) -> impl Fn(ObjectMeta) -> ObjectMeta + Send + use<> {
        let (age, before) = *self.age.lock().unwrap();
        move |mut meta| {
            if SystemTime::from(meta.last_modified) <= before {
                meta.last_modified -= age;
            }
            meta
        }
    }

    /// Lets another machine do something after this many more requests.
    pub(super) fn meanwhile(&self, after: usize, act: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some((after, Meanwhile(Box::new(act))));
    }

    /// Forgets what another machine would do. False if it was done.
    pub(super) fn forget_meanwhile(&self) -> bool {
        self.meanwhile.lock().unwrap().take().is_some()
    }

    fn is_asked(&self) {
        let mut meanwhile = self.meanwhile.lock().unwrap();
        let Some((after, act)) = meanwhile.take() else { return };
        if after > 0 {
            *meanwhile = Some((after - 1, act));
            return;
        }
        drop(meanwhile);
        // Another thread, because it waits for requests of its own.
        std::thread::spawn(act.0).join().unwrap();
    }

    fn rates(&self) -> Rates {
        *self.rates.lock().unwrap()
    }

    fn counted(&self) -> MutexGuard<'_, BTreeMap<(&'static str, String), u64>> {
        self.requests.lock().unwrap()
    }

    /// Requests since the last call, by kind.
    pub(super) fn requests(&self) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        for ((kind, _), count) in std::mem::take(&mut *self.counted()) {
            *sums.entry(kind).or_default() += count;
        }
        sums
    }

    /// A number below 100 for each fault of this request. It depends on the seed, the request and the number of such
    /// requests before it, and not on the order in which threads ask.
    fn dice(&self, kind: &'static str, path: &Path) -> impl FnMut() -> u64 + use<> {
        self.is_asked();
        let mut counted = self.counted();
        let count = counted.entry((kind, path.to_string())).or_default();
        *count += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(&count.to_le_bytes());
        hasher.update(kind.as_bytes()).update(path.as_ref().as_bytes());
        let mut numbers = hasher.finalize_xof();
        move || {
            let mut bytes = [0; 8];
            numbers.fill(&mut bytes);
            u64::from_le_bytes(bytes) % 100
        }
    }

    async fn before(&self, dice: &mut impl FnMut() -> u64) -> Result<()> {
        let rates = self.rates();
        if dice() < rates.delay {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        if dice() < rates.delete {
            let all: Vec<ObjectMeta> = self.inner.list(None).try_collect().await?;
            if !all.is_empty() {
                self.inner.delete(&all[dice() as usize % all.len()].location).await?;
            }
        }
        if dice() < rates.fail { Err(fault("no answer")) } else { Ok(()) }
    }

    fn after<T>(&self, dice: &mut impl FnMut() -> u64, done: T) -> Result<T> {
        if dice() < self.rates().lose_answer { Err(fault("the answer was lost")) } else { Ok(done) }
    }
}

pub(super) fn fault(why: &str) -> Error {
    Error::Generic { store: "faulty", source: why.into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let mut dice = self.dice("put", path);
        self.before(&mut dice).await?;
        if dice() < self.rates().overwrite {
            options.mode = PutMode::Overwrite;
        }
        let done = self.inner.put_opts(path, payload, options).await?;
        self.written.lock().unwrap().push(path.clone());
        self.after(&mut dice, done)
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let mut dice = self.dice("multipart", path);
        self.before(&mut dice).await?;
        let mut throws = Vec::new();
        throws.resize_with(50, &mut dice);
        let upload = self.inner.put_multipart_opts(path, options).await?;
        Ok(Box::new(FaultyUpload { upload, rates: self.rates(), throws }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let is_head = options.head;
        let mut dice = self.dice(if is_head { "head" } else { "get" }, path);
        self.before(&mut dice).await?;
        let mut found = self.inner.get_opts(path, options).await?;
        found.meta = self.aged()(found.meta);
        if is_head {
            return Ok(found);
        }
        let (meta, range, rates) = (found.meta.clone(), found.range.clone(), self.rates());
        let (attributes, extensions) = (found.attributes.clone(), found.extensions.clone());
        let mut bytes: Vec<u8> = found.bytes().await?.into();
        let somewhere = dice() as usize * bytes.len() / 100;
        let mut end = None;
        if dice() < rates.flip && !bytes.is_empty() {
            bytes[somewhere] ^= 0x10;
        }
        if dice() < rates.cut {
            bytes.truncate(somewhere);
        } else if dice() < rates.break_off {
            bytes.truncate(somewhere);
            end = Some(Err(fault("the connection was closed")));
        }
        let payload = GetResultPayload::Stream(stream::iter([Ok(Bytes::from(bytes))].into_iter().chain(end)).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.is_asked();
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let mut dice = self.dice("list", prefix.unwrap_or(&Path::default()));
        if dice() < self.rates().fail {
            return stream::iter([Err(fault("no answer"))]).boxed();
        }
        let written = self.written.lock().unwrap();
        let newest = if dice() < self.rates().hide { dice() as usize % 10 } else { 0 };
        let hidden: Vec<Path> = written.iter().rev().take(newest).cloned().collect();
        let shown = move |object: &ObjectMeta| futures_util::future::ready(!hidden.contains(&object.location));
        self.inner.list(prefix).try_filter(shown).map_ok(self.aged()).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.before(&mut self.dice("copy", from)).await?;
        self.inner.copy_opts(from, to, options).await
    }
}

/// An upload of a [`Faulty`].
#[derive(Debug)]
struct FaultyUpload {
    upload: Box<dyn MultipartUpload>,
    rates: Rates,
    throws: Vec<u64>,
}

impl FaultyUpload {
    fn throw(&mut self) -> u64 {
        self.throws.pop().unwrap_or(99)
    }
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        if self.throw() < self.rates.fail {
            return Box::pin(async { Err(fault("no answer")) });
        }
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        if self.throw() < self.rates.fail {
            return Err(fault("no answer"));
        }
        let done = self.upload.complete().await?;
        if self.throw() < self.rates.lose_answer { Err(fault("the answer was lost")) } else { Ok(done) }
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
