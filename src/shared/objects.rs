//! The objects of a shared store by their names. All calls block; calls for many objects have many requests in flight.

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error as StoreFailure, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use tokio::runtime::Runtime;

use super::address::Address;
use super::error::{Result, SharedError};
use super::variables::{Variables, hidden};

/// `store gc` keeps what was written within this time, unless the user chooses another.
pub const GRACE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Requests in flight.
const IN_FLIGHT: usize = 64;
/// No record is larger. A larger object is not read.
const MOST_BYTES: u64 = 256 << 20;
/// How often an operation is tried, and the pause after the first try. Each further pause is three times as long.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 50 });
/// The longest operation. The clients of object stores give up earlier; a file system may never answer.
const LONGEST: Duration = Duration::from_secs(300);
/// Clients that try again themselves: see `cloud`.
const RETRIED: [&str; 3] = ["S3", "GCS", "MicrosoftAzure"];
/// How long to wait for the first answer of a store.
const FIRST_ANSWER: Duration = Duration::from_secs(20);

/// An object in a listing.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) size: u64,
    /// When it was written, in Unix milliseconds on the store's clock.
    pub(super) written_at: i64,
    /// Changes whenever the object is written.
    pub(super) version: String,
}

impl Listed {
    fn of(name: &str, meta: &ObjectMeta) -> Self {
        // The tag may be that of the content.
        let version = format!("{} {}", meta.e_tag.as_deref().unwrap_or_default(), meta.last_modified.to_rfc3339());
        Self { name: name.to_owned(), size: meta.size, written_at: meta.last_modified.timestamp_millis(), version }
    }

    /// How old it is, by the clock of this machine.
    pub(super) fn age(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_millis(u64::try_from(self.written_at).unwrap_or(0)))
    }

    /// Whether it is so old that a machine that needs it writes it again.
    pub(super) fn is_old(&self) -> bool {
        self.age() > GRACE / 2
    }
}

/// The threads of all stores. They are never stopped, because one may wait for a file system that does not answer.
fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if RUNTIME.get().is_none() {
        // If another thread is faster, this one's is dropped.
        let _ = RUNTIME.set(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?);
    }
    RUNTIME.get().ok_or_else(|| io::ErrorKind::Other.into())
}

/// The objects of a store.
pub(super) struct Objects {
    pub(super) store: Arc<dyn ObjectStore>,
    root: Path,
    pub(super) runtime: &'static Runtime,
    address: Address,
    variables: Variables,
}

impl Objects {
    /// Opens a store. Makes no request.
    pub(super) fn open(address: Address, variables: Variables) -> Result<Self> {
        let (store, root) = address.open(&variables)?;
        Self::with_store(store, root, address, variables)
    }

    /// Uses a store that is open.
    pub(super) fn with_store(
        store: Arc<dyn ObjectStore>,
        root: Path,
        address: Address,
        variables: Variables,
    ) -> Result<Self> {
        let runtime =
            runtime().map_err(|e| SharedError::System("can't start threads for shared stores".to_owned(), e))?;
        Ok(Self { store, root, runtime, address, variables })
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The path of an object.
    pub(super) fn path(&self, name: &str) -> Path {
        name.split('/').filter(|part| !part.is_empty()).fold(self.root.clone(), |path, part| path.join(part))
    }

    /// Reads objects. `None` for one that does not exist.
    pub(super) fn get_each(&self, names: &[String]) -> Vec<Result<Option<Bytes>>> {
        self.each(names, |name| self.read(name))
    }

    /// Reads an object. `None` if it does not exist. Fails if no answer comes soon, so that nobody waits long for a
    /// store that can't be reached.
    pub(super) fn get_soon(&self, name: &str) -> Result<Option<Bytes>> {
        let answer = async { tokio::time::timeout(FIRST_ANSWER, self.read(name)).await };
        self.runtime.block_on(answer).unwrap_or_else(|_| {
            let (what, address) = (format!("read {name}"), self.address.to_string());
            Err(SharedError::Failed { what, address, why: format!("no answer within {} s", FIRST_ANSWER.as_secs()) })
        })
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let path = self.path(name);
        let read = || async {
            let found = self.store.get(&path).await?;
            if found.meta.size > MOST_BYTES {
                return Ok(Bytes::new());
            }
            let size = found.meta.size;
            whole(found.bytes().await?, size)
        };
        match retried(read).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreFailure::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(&format!("read {name}"), &error)),
        }
    }

    /// The sizes of objects and when they were written. `None` for one that does not exist.
    pub(super) fn look_at_each(&self, names: &[String]) -> Vec<Result<Option<Listed>>> {
        self.each(names, |name| async move {
            let path = self.path(name);
            match retried(|| self.store.head(&path)).await {
                Ok(meta) => Ok(Some(Listed::of(name, &meta))),
                Err(StoreFailure::NotFound { .. }) => Ok(None),
                Err(error) => Err(self.failed(&format!("look for {name}"), &error)),
            }
        })
    }

    /// Creates objects. False for one that exists; it stays as it is.
    pub(super) fn create_each(&self, objects: Vec<(String, Vec<u8>)>) -> Vec<Result<bool>> {
        self.each(objects, |(name, bytes)| async move {
            match self.create_once(&self.path(&name), bytes.into()).await {
                Ok(()) => Ok(true),
                Err(StoreFailure::AlreadyExists { .. } | StoreFailure::Precondition { .. }) => Ok(false),
                Err(error) => Err(self.failed(&format!("write {name}"), &error)),
            }
        })
    }

    async fn create_once(&self, path: &Path, bytes: Bytes) -> object_store::Result<()> {
        let options = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match retried(|| self.store.put_opts(path, bytes.clone().into(), options())).await {
            // Some servers can't do both in one operation. Nothing relies on that it is one.
            Err(error) if matches!(Refusal::of(&error, &root_cause(&error)), Some(Refusal::NoOperation)) => {
                match retried(|| self.store.head(path)).await {
                    Ok(_) => Err(StoreFailure::AlreadyExists { path: path.to_string(), source: error.into() }),
                    Err(StoreFailure::NotFound { .. }) => {
                        retried(|| self.store.put(path, bytes.clone().into())).await.map(drop)
                    }
                    Err(error) => Err(error),
                }
            }
            created => created.map(drop),
        }
    }

    /// Writes objects. Replaces those that exist.
    pub(super) fn replace_each(&self, objects: Vec<(String, Vec<u8>)>) -> Vec<Result<()>> {
        self.each(objects, |(name, bytes)| async move {
            let (path, bytes) = (self.path(&name), Bytes::from(bytes));
            let put = retried(|| self.store.put(&path, bytes.clone().into())).await;
            put.map(drop).map_err(|error| self.failed(&format!("write {name}"), &error))
        })
    }

    /// Creates an object. False if it exists.
    pub(super) fn create(&self, name: &str, bytes: Vec<u8>) -> Result<bool> {
        self.create_each(vec![(name.to_owned(), bytes)]).pop().unwrap_or(Ok(false))
    }

    /// All objects whose names begin with one of these prefixes, which end with `/`, or are empty for all objects.
    pub(super) fn list_each(&self, prefixes: &[String]) -> Vec<Result<Vec<Listed>>> {
        self.each(prefixes, |prefix| async move {
            let path = self.path(prefix);
            let listed = retried(|| self.store.list(Some(&path)).try_collect::<Vec<_>>()).await;
            let mut listed = match listed {
                Err(StoreFailure::NotFound { .. }) => Vec::new(),
                listed => listed.map_err(|e| self.failed(&format!("list {prefix}"), &e))?,
            };
            listed.sort_by(|a, b| a.location.cmp(&b.location));
            let object = |meta: ObjectMeta| Some(Listed::of(&self.name(&meta.location)?, &meta));
            Ok(listed.into_iter().filter_map(object).collect())
        })
    }

    /// The name of the object with this path.
    fn name(&self, path: &Path) -> Option<String> {
        let parts: Vec<String> = path.prefix_match(&self.root)?.map(|part| part.as_ref().to_owned()).collect();
        Some(parts.join("/"))
    }

    /// The name of any object below this prefix, if there is one.
    pub(super) fn first(&self, prefix: &str) -> Result<Option<String>> {
        let path = self.path(prefix);
        let first = || async { self.store.list(Some(&path)).next().await.transpose() };
        match self.runtime.block_on(retried(first)) {
            Ok(first) => Ok(first.and_then(|object| self.name(&object.location))),
            Err(StoreFailure::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("list the objects", &error)),
        }
    }

    /// The folders right below a prefix that ends with `/`, by their names in it.
    pub(super) fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let path = self.path(prefix);
        match self.runtime.block_on(retried(|| self.store.list_with_delimiter(Some(&path)))) {
            Ok(listed) => {
                let names = listed.common_prefixes.into_iter();
                Ok(names.filter_map(|folder| folder.filename().map(str::to_owned)).collect())
            }
            Err(StoreFailure::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(self.failed(&format!("list {prefix}"), &error)),
        }
    }

    /// Creates or replaces an object.
    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.replace_each(vec![(name.to_owned(), bytes)]).into_iter().collect()
    }

    /// Removes objects. One that does not exist is no error.
    pub(super) fn remove_each(&self, names: &[String]) -> Vec<Result<()>> {
        self.remove_older_each(names, Duration::ZERO)
    }

    /// Removes objects, except those that were written within this time. One that does not exist is no error.
    pub(super) fn remove_older_each(&self, names: &[String], grace: Duration) -> Vec<Result<()>> {
        self.each(names, |name| async move {
            let path = self.path(name);
            if !grace.is_zero() {
                // A machine that needs it may have written it again since it was listed.
                match retried(|| self.store.head(&path)).await {
                    Ok(meta) if Listed::of(name, &meta).age() < grace => return Ok(()),
                    Ok(_) => {}
                    Err(StoreFailure::NotFound { .. }) => return Ok(()),
                    Err(error) => return Err(self.failed(&format!("look for {name}"), &error)),
                }
            }
            match retried(|| self.store.delete(&path)).await {
                Ok(()) | Err(StoreFailure::NotFound { .. }) => Ok(()),
                Err(error) => Err(self.failed(&format!("remove {name}"), &error)),
            }
        })
    }

    pub(super) fn each<A, T, F: Future<Output = T>>(
        &self,
        items: impl IntoIterator<Item = A>,
        f: impl Fn(A) -> F,
    ) -> Vec<T> {
        self.runtime.block_on(stream::iter(items.into_iter().map(f)).buffered(IN_FLIGHT).collect())
    }

    /// The error of an operation. If the credentials are refused, the user has to act. The server's text may repeat
    /// credentials, so only its code is shown then.
    pub(super) fn failed(&self, what: &str, error: &StoreFailure) -> SharedError {
        let address = &self.address;
        let cause = root_cause(error);
        let code = code(&cause);
        let shown = code.map(|code| format!(" ({code})")).unwrap_or_default();
        match Refusal::of(error, &cause) {
            Some(Refusal::NoCredentials) => SharedError::unusable(
                format!("the store {address} does not accept the credentials{shown}"),
                "check the credentials in the environment; docs/shared-store.md lists the variables",
            ),
            Some(Refusal::NotAllowed) => SharedError::unusable(
                format!("permission denied{shown}: can't {what} in the store {address}"),
                "check the credentials in the environment, and what their owner may do",
            ),
            Some(Refusal::NoBucket) => SharedError::unusable(
                format!("there is no store {address}: the server has no such bucket"),
                "check the address and the server; the bucket must exist",
            ),
            Some(Refusal::NoOperation) => {
                SharedError::unusable(format!("the store {address} can't {what}: it lacks an operation"), "")
            }
            None => SharedError::Failed {
                what: what.to_owned(),
                address: address.to_string(),
                why: hidden(&code.map_or_else(|| first_line(&cause), str::to_owned), &self.variables),
            },
        }
    }
}

/// An answer of a server that stays the same until the user acts.
enum Refusal {
    NoCredentials,
    NotAllowed,
    NoBucket,
    NoOperation,
}

impl Refusal {
    /// The refusal in an error with this root cause. The clients have no type for those of a listing.
    fn of(error: &StoreFailure, cause: &str) -> Option<Self> {
        match code(cause) {
            Some("NotImplemented") => return Some(Self::NoOperation),
            Some("NoSuchBucket" | "ContainerNotFound") => return Some(Self::NoBucket),
            Some(
                "AuthenticationFailed"
                | "ExpiredToken"
                | "InvalidAccessKeyId"
                | "InvalidToken"
                | "SignatureDoesNotMatch"
                | "TokenRefreshRequired",
            ) => return Some(Self::NoCredentials),
            _ => {}
        }
        match error {
            StoreFailure::Unauthenticated { .. } => Some(Self::NoCredentials),
            StoreFailure::PermissionDenied { .. } => Some(Self::NotAllowed),
            StoreFailure::NotSupported { .. } | StoreFailure::NotImplemented { .. } => Some(Self::NoOperation),
            _ if cause.contains("status code: 401") => Some(Self::NoCredentials),
            _ if cause.contains("status code: 403") => Some(Self::NotAllowed),
            _ => None,
        }
    }
}

/// The code in the text of an error of S3 or Azure, such as `NoSuchBucket`.
fn code(text: &str) -> Option<&str> {
    let (code, _) = text.split_once("<Code>")?.1.split_once("</Code>")?;
    (code.len() <= 50 && code.chars().all(char::is_alphanumeric)).then_some(code)
}

/// The first line of a text, at most 300 characters.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

/// The innermost cause of an error: the outer ones repeat it.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// An answer, if it has all bytes. One that is cut off is an error that is tried again.
pub(super) fn whole(bytes: Bytes, size: u64) -> object_store::Result<Bytes> {
    if bytes.len() as u64 == size {
        return Ok(bytes);
    }
    Err(StoreFailure::Generic { store: "shared", source: format!("{} of {size} bytes came", bytes.len()).into() })
}

/// Tries an operation again if it may succeed then.
pub(super) async fn retried<T, F>(operation: impl Fn() -> F) -> object_store::Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    let mut pause = PAUSE;
    for last in (0..TRIES).map(|number| number + 1 == TRIES) {
        let Ok(done) = tokio::time::timeout(LONGEST, operation()).await else { break };
        match done {
            Err(StoreFailure::Generic { store, .. }) if !last && !RETRIED.contains(&store) => {}
            Err(StoreFailure::JoinError { .. }) if !last => {}
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause *= 3;
    }
    let why = format!("no answer within {} s", LONGEST.as_secs());
    Err(StoreFailure::Generic { store: "shared", source: why.into() })
}
