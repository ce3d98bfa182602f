//! The short entries of results in memory.
//!
//! They are read while the pipeline is parsed. A plan of thousands of points then finds its keys in a sorted list. This
//! takes a third of the time that sled takes. No other process can change an index that is open here, or its copy. A
//! change that this process makes gives the open index another version, and a list counts for one version only.

use std::sync::{Arc, Mutex, PoisonError};

use super::engine::Failure;
use super::entries::{self, Usable};
use crate::key::Key;

/// Short entries of results, sorted by key.
pub(super) struct UsableResults(Vec<(Key, Usable)>);

impl UsableResults {
    /// Reads them until `is_needed`, and then knows only a part of them.
    pub(super) fn read(db: &sled::Db, is_needed: impl Fn() -> bool) -> Result<Self, Failure> {
        let mut all = Vec::new();
        for entry in entries::all_usable(db).take_while(|_| !is_needed()) {
            all.extend(entry?);
        }
        Ok(Self(all))
    }

    /// The short entry of a result, if it was read.
    pub(super) fn get(&self, key: &Key) -> Option<Usable> {
        let found = self.0.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        Some(self.0[found].1)
    }
}

/// What was read ahead, and the version of the open index that it was read from.
#[derive(Default)]
pub(super) struct ReadAhead(Mutex<Option<(u64, Arc<UsableResults>)>>);

impl ReadAhead {
    /// Keeps a list that was read from this version.
    pub(super) fn keep(&self, version: u64, results: UsableResults) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((version, Arc::new(results)));
    }

    /// The list of this version, if there is one. Another version's is dropped.
    pub(super) fn results(&self, version: u64) -> Option<Arc<UsableResults>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take_if(|(of, _)| *of != version);
        kept.as_ref().map(|(_, results)| Arc::clone(results))
    }
}
