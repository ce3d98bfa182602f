//! The objects of a shared store by their names. All calls block; calls for many objects have many requests in flight.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error as StoreFailure, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use tokio::runtime::Runtime;

use super::address::{Address, Variables, hidden};
use super::error::{Result, SharedError};

/// Requests in flight.
const IN_FLIGHT: usize = 64;
/// No record is larger. A larger object is not read.
const MOST_BYTES: u64 = 256 << 20;
/// How often an operation is tried, and the pause after the first try. Each further pause is three times as long.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(50);

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

/// The objects of a store.
pub(super) struct Objects {
    pub(super) store: Arc<dyn ObjectStore>,
    root: Path,
    pub(super) runtime: Runtime,
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
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime =
            runtime.map_err(|e| SharedError::System("can't start threads for the shared store".to_owned(), e))?;
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
        self.each(names, |name| async move {
            let path = self.path(name);
            let read = || async {
                let found = self.store.get(&path).await?;
                if found.meta.size > MOST_BYTES {
                    return Ok(Bytes::new());
                }
                found.bytes().await
            };
            match retried(read).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(StoreFailure::NotFound { .. }) => Ok(None),
                Err(error) => Err(self.failed(&format!("read {name}"), &error)),
            }
        })
    }

    /// Reads an object. `None` if it does not exist.
    pub(super) fn get(&self, name: &str) -> Result<Option<Bytes>> {
        self.get_each(&[name.to_owned()]).pop().unwrap_or(Ok(None))
    }

    /// The sizes of objects. `None` for one that does not exist.
    pub(super) fn sizes(&self, names: &[String]) -> Vec<Result<Option<u64>>> {
        self.each(names, |name| async move {
            let path = self.path(name);
            match retried(|| self.store.head(&path)).await {
                Ok(meta) => Ok(Some(meta.size)),
                Err(StoreFailure::NotFound { .. }) => Ok(None),
                Err(error) => Err(self.failed(&format!("look for {name}"), &error)),
            }
        })
    }

    /// Creates objects. False for one that exists; it stays as it is.
    pub(super) fn create_each(&self, objects: Vec<(String, Vec<u8>)>) -> Vec<Result<bool>> {
        self.each(objects, |(name, bytes)| async move {
            let (path, bytes) = (self.path(&name), Bytes::from(bytes));
            let options = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match retried(|| self.store.put_opts(&path, bytes.clone().into(), options())).await {
                Ok(_) => Ok(true),
                Err(StoreFailure::AlreadyExists { .. } | StoreFailure::Precondition { .. }) => Ok(false),
                Err(error) => Err(self.failed(&format!("write {name}"), &error)),
            }
        })
    }

    /// Writes objects. Replaces those that exist.
    pub(super) fn replace_each(&self, objects: Vec<(String, Vec<u8>)>) -> Vec<Result<()>> {
        self.each(objects, |(name, bytes)| async move {
            let (path, bytes) = (self.path(&name), Bytes::from(bytes));
            match retried(|| self.store.put(&path, bytes.clone().into())).await {
                Ok(_) => Ok(()),
                Err(error) => Err(self.failed(&format!("write {name}"), &error)),
            }
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
            let name = |path: &Path| {
                let parts: Vec<String> = path.prefix_match(&self.root)?.map(|part| part.as_ref().to_owned()).collect();
                Some(parts.join("/"))
            };
            let object = |meta: object_store::ObjectMeta| {
                let written_at = meta.last_modified.timestamp_millis();
                let version = meta.e_tag.unwrap_or_else(|| meta.last_modified.to_rfc3339());
                Some(Listed { name: name(&meta.location)?, size: meta.size, written_at, version })
            };
            Ok(listed.into_iter().filter_map(object).collect())
        })
    }

    /// The name of any object, if there is one.
    pub(super) fn first(&self) -> Result<Option<String>> {
        let first = || async { self.store.list(Some(&self.root)).next().await.transpose() };
        match self.runtime.block_on(retried(first)) {
            Ok(first) => Ok(first.map(|object| object.location.to_string())),
            Err(StoreFailure::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("list the objects", &error)),
        }
    }

    /// Removes objects. One that does not exist is no error.
    pub(super) fn remove_each(&self, names: &[String]) -> Vec<Result<()>> {
        self.each(names, |name| async move {
            let path = self.path(name);
            match retried(|| self.store.delete(&path)).await {
                Ok(()) | Err(StoreFailure::NotFound { .. }) => Ok(()),
                Err(error) => Err(self.failed(&format!("remove {name}"), &error)),
            }
        })
    }

    fn each<A, T, F: Future<Output = T>>(&self, items: impl IntoIterator<Item = A>, f: impl Fn(A) -> F) -> Vec<T> {
        self.runtime.block_on(stream::iter(items.into_iter().map(f)).buffered(IN_FLIGHT).collect())
    }

    /// The error of an operation. A refusal of the credentials is the user's to mend. The server's text may repeat
    /// credentials, so it is not shown then.
    pub(super) fn failed(&self, what: &str, error: &StoreFailure) -> SharedError {
        let address = &self.address;
        let hint = "docs/shared-store.md lists the variables for each kind of store";
        match error {
            StoreFailure::Unauthenticated { .. } => {
                SharedError::unusable(format!("the store {address} does not accept the credentials"), hint)
            }
            StoreFailure::PermissionDenied { .. } => {
                SharedError::unusable(format!("the store {address} does not allow to {what}"), "")
            }
            StoreFailure::NotSupported { .. } | StoreFailure::NotImplemented { .. } => {
                SharedError::unusable(format!("the store {address} can't {what}: it lacks an operation"), "")
            }
            error => SharedError::Failed {
                what: what.to_owned(),
                address: address.to_string(),
                why: hidden(&root_cause(error), &self.variables),
            },
        }
    }
}

/// The innermost cause of an error: the outer ones repeat it.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Tries an operation again if it may succeed then.
pub(super) async fn retried<T, F>(operation: impl Fn() -> F) -> object_store::Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match operation().await {
            Err(StoreFailure::Generic { .. } | StoreFailure::JoinError { .. }) => tokio::time::sleep(pause).await,
            done => return done,
        }
        pause *= 3;
    }
    operation().await
}
