//! Roots: what the newest runs need. `store gc` keeps it.
//!
//! ```text
//! root/<pipeline>/<run>              the names of the records that a run needs, as JSON
//! root/<pipeline>/<run>~<worker>     the same of one of its workers
//! ```
//!
//! A run that may write leaves a root when it starts, and again when it ends and all keys are known.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::error::Result;
use super::handle::SharedStore;
use super::record::{Named, part};
use crate::key::Digest;
use crate::store::{ResultRecord, StateRecord};

/// The beginning of the names of all roots.
pub(super) const ROOTS: &str = "root/";
/// Between the id of a run and that of a worker. No id contains it.
pub(super) const WORKER: char = '~';

/// What a run needs.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Root {
    /// The names of results and states.
    pub(super) records: BTreeSet<String>,
}

impl Root {
    /// Its object: the digest of the JSON, and the JSON.
    fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        [format!("{}\n", Digest::of(&json)).as_bytes(), &json].concat()
    }

    /// Reads an object. `None` if it is damaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (check, json) = bytes.split_at_checked(64)?;
        let json = json.strip_prefix(b"\n")?;
        (check == Digest::of(json).to_string().as_bytes()).then(|| serde_json::from_slice(json).ok())?
    }
}

impl SharedStore {
    /// Notes what a run needs, or one of its workers.
    ///
    /// # Errors
    /// If the store can't be written.
    pub fn put_root(
        &self,
        pipeline: &str,
        (run, worker): (&str, Option<&str>),
        results: &[ResultRecord],
        states: &[StateRecord],
    ) -> Result<()> {
        self.mark()?;
        let mut records: BTreeSet<String> =
            results.iter().map(Named::object).chain(states.iter().map(Named::object)).collect();
        let worker = worker.map(|worker| format!("{WORKER}{}", part(worker))).unwrap_or_default();
        let name = format!("{ROOTS}{}/{}{worker}", part(pipeline), part(run));
        let before = self.objects.get_each(std::slice::from_ref(&name)).pop().transpose()?.flatten();
        records.extend(before.and_then(|bytes| Root::decode(&bytes)).unwrap_or_default().records);
        self.objects.put(&name, Root { records }.encode())
    }
}
