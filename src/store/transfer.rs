//! Blobs and records that come from another store or go to one. The shared store (`shared.rs`) uses it.

use std::collections::BTreeSet;
use std::io::Read;

use super::entries;
use super::error::{Result, StoreError};
use super::handle::Store;
use super::lock::Sharing;
use super::pack_writer;
use super::record::{ResultRecord, StateRecord};
use crate::artifact::BlobEntry;

/// Results and states of another store.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// Results.
    pub results: Vec<ResultRecord>,
    /// States of trainings.
    pub states: Vec<StateRecord>,
}

impl Import {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.results.is_empty() && self.states.is_empty()
    }

    /// All blobs, those of the first records first.
    pub fn blobs(&self) -> impl Iterator<Item = BlobEntry> {
        self.results.iter().flat_map(ResultRecord::blobs).chain(self.states.iter().flat_map(StateRecord::blobs))
    }

    /// Removes the records that need one of these blobs. Returns whether there were any.
    pub fn remove(&mut self, blobs: &BTreeSet<BlobEntry>) -> bool {
        let before = self.results.len() + self.states.len();
        self.results.retain(|record| !record.blobs().any(|blob| blobs.contains(&blob)));
        self.states.retain(|record| !record.blobs().any(|blob| blobs.contains(&blob)));
        self.results.len() + self.states.len() < before
    }
}

/// A stream that notes whether it failed.
struct Watched {
    stream: Box<dyn Read>,
    failed: bool,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.stream.read(buffer);
        self.failed |= read.is_err();
        read
    }
}

impl Store {
    /// Those of these blobs that the cache does not have, each once, in their order.
    pub fn lacking_blobs(&self, blobs: impl IntoIterator<Item = BlobEntry>) -> Result<Vec<BlobEntry>> {
        let mut seen = BTreeSet::new();
        let blobs: Vec<BlobEntry> = blobs.into_iter().filter(|blob| seen.insert(*blob)).collect();
        let stored = self.blobs.has_each(&blobs)?;
        Ok(blobs.into_iter().zip(stored).filter_map(|(blob, stored)| (!stored).then_some(blob)).collect())
    }

    /// Calls `send` with a blob's verified bytes as a stream. A large blob is never whole in memory.
    ///
    /// # Errors
    /// As [`Store::read_tensor`], and those of `send`.
    pub fn send_blob<T, E: From<StoreError>>(
        &self,
        blob: &BlobEntry,
        send: impl FnOnce(&mut dyn Read) -> Result<T, E>,
    ) -> Result<T, E> {
        let (sent, is_readable) = {
            // No collection may move the blob meanwhile.
            let _collecting = self.index.folder.collect_lock(Sharing::Shared)?;
            let mut stream = Watched { stream: self.blobs.stream(blob)?, failed: false };
            (send(&mut stream), !stream.failed)
        };
        if sent.is_err() && !is_readable {
            // The blob is damaged, so what needs it is forgotten.
            self.blobs.read(blob, 0)?;
        }
        sent
    }

    /// Stores records of another store. First stores `lacking`, the blobs that the cache lacks; `fetch` returns the
    /// stream of each, in this order. Large blobs are never whole in memory.
    ///
    /// # Errors
    /// [`StoreError::NotReceived`] if a blob does not arrive; then nothing is stored. If the cache can't be written.
    pub fn import<'a>(
        &self,
        records: Import,
        lacking: &[BlobEntry],
        fetch: impl Fn() -> Box<dyn Iterator<Item = Box<dyn Read + 'a>> + 'a>,
    ) -> Result<Vec<ResultRecord>> {
        let _collecting = self.index.folder.collect_lock(Sharing::Shared)?;
        if !lacking.is_empty() {
            self.blobs.commit(|folder| pack_writer::write_streams(lacking, folder, fetch()))?;
        }
        let Import { mut results, states } = records;
        results.iter_mut().for_each(|record| record.provenance.pulled = true);
        if !states.is_empty() {
            let lineage = self.index.read(entries::lineage)?;
            self.index.change(|db, changes| {
                for state in &states {
                    let stored = entries::states(db, &state.key)?;
                    if !stored.iter().any(|other| other.has_name_of(state) && other.lineage == lineage) {
                        entries::put_state(changes, &StateRecord { lineage, pulled: true, ..state.clone() })?;
                    }
                }
                Ok(())
            })?;
        }
        if results.is_empty() { Ok(results) } else { self.put_results(results) }
    }
}
