//! Tests of the shared store over a store in memory, which can be made to fail, and helpers that they share.

mod collection;
mod events;
mod exchange;
mod faults;
mod faulty;
mod runs;

use std::path::Path;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use object_store::{ObjectStore as _, ObjectStoreExt as _};

use self::faulty::{Faulty, Rates};
use super::*;
use crate::key::{Digest, Key};
use crate::store::tests::store;
use crate::store::{Import, ResultRecord, StateQuery, StateRecord, Store};

/// A machine with a cache of its own.
struct Machine {
    dir: tempfile::TempDir,
    cache: Store,
    shared: SharedStore,
}

impl Machine {
    fn new(store: &Arc<Faulty>) -> Self {
        Self::with_trust(store, Trust::default())
    }

    fn with_trust(remote: &Arc<Faulty>, trust: Trust) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::parse("memory:", Path::new("")).unwrap();
        let shared = SharedStore::with_store(Arc::clone(remote) as _, address, trust, true).unwrap();
        Self { cache: store(dir.path()), dir, shared }
    }

    fn push(&self, results: Vec<ResultRecord>, states: Vec<StateRecord>) -> Result<Pushed, SharedError> {
        self.shared.push(&self.cache, Import { results, states }, &Transfer::default())
    }

    fn push_result(&self, result: &ResultRecord) -> Pushed {
        self.push(vec![result.clone()], Vec::new()).unwrap()
    }

    fn pull_from(&self, asked: &[Asked]) -> Result<usize, SharedError> {
        self.shared.pull_results(&self.cache, asked, &|_| true, &Transfer::default())
    }

    fn pull(&self, keys: &[Key]) -> Result<usize, SharedError> {
        self.pull_from(&keys.iter().map(|key| Asked { declared: *key, reads_files: false }).collect::<Vec<_>>())
    }

    /// Whether a look-up hits, and with which digest.
    fn hit(&self, key: &Key) -> Option<Digest> {
        self.cache.look(|look| look.hit(key)).unwrap()
    }

    fn is_healthy(&self) -> bool {
        self.cache.doctor(false, &mut |_, _| ()).unwrap().is_healthy()
    }
}

impl SharedStore {
    /// [`SharedStore::find_states`] of one training.
    fn find_state(
        &self,
        states: &[Key],
        query: &StateQuery<'_>,
        cached: u64,
        digest: &dyn Fn(&Path) -> Option<Digest>,
    ) -> Result<Option<StateRecord>, SharedError> {
        let found = self.find_states(&[WantedState { states, query: *query, cached }], digest)?;
        Ok(found.into_iter().next().flatten())
    }
}

fn faultless() -> Arc<Faulty> {
    Arc::new(Faulty::new(0, Rates::default()))
}

fn blocking<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// The names of all objects.
fn objects(store: &Faulty) -> Vec<String> {
    let all = blocking(store.inner.list(None).try_collect::<Vec<_>>()).unwrap();
    all.into_iter().map(|object| object.location.to_string()).collect()
}

fn get(store: &Faulty, name: &str) -> Vec<u8> {
    blocking(async { store.inner.get(&name.into()).await.unwrap().bytes().await.unwrap() }).into()
}

fn put(store: &Faulty, name: &str, bytes: Vec<u8>) {
    blocking(store.inner.put(&name.into(), bytes.into())).unwrap();
}

fn remove(store: &Faulty, name: &str) {
    blocking(store.inner.delete(&name.into())).unwrap();
}
