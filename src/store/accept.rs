//! Entering results and states under the keys that they get by an edit that changes nothing.

use std::collections::BTreeMap;

use super::entries;
use super::error::Result;
use super::handle::Store;
use super::holder::now_ms;
use super::lock::Sharing;
use super::record::{Accepted, ResultRecord, StateRecord};
use crate::key::Components;

impl Store {
    /// Enters a result, and the stored states of its chain, under the keys that follow from `components`. These differ
    /// from the result's own components only in the digests of these files. Returns the number of states.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn accept(&self, record: &ResultRecord, components: Components, files: Vec<String>) -> Result<usize> {
        let (before, after) = (record.components.chain(), components.chain());
        let _collecting = self.index.folder.collect_lock(Sharing::Shared)?;
        let states: Vec<StateRecord> = self.chain_states(before.keys())?;
        // States of other versions of the files are not accepted.
        let agrees = |state: &StateRecord| {
            state.files_read.iter().all(|(name, digest)| record.components.files_read.get(name) == Some(digest))
        };
        let renamed = states.into_iter().filter(agrees).filter_map(|state| {
            let key = after.at(state.chain_index())?;
            let read = |(name, digest): (&String, _)| {
                (name.clone(), components.files_read.get(name).copied().unwrap_or(digest))
            };
            let files_read: BTreeMap<_, _> =
                state.files_read.iter().map(|(name, digest)| read((name, *digest))).collect();
            let result = Some(components.declared().key());
            Some(StateRecord { key, towards: after.keys().last().copied(), result, files_read, ..state })
        });
        let renamed: Vec<StateRecord> = renamed.collect();
        let mut provenance = record.provenance.clone();
        provenance.accepted = Some(Accepted { files, of: record.key, at: now_ms() });
        self.put_results(vec![ResultRecord { key: components.key(), components, provenance, ..record.clone() }])?;
        self.index.change(|_, changes| renamed.iter().try_for_each(|state| entries::put_state(changes, state)))?;
        Ok(renamed.len())
    }
}
