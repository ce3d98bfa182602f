//! Blobs and records that come from another store or go to one. The shared store (`shared.rs`) uses it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Read};

use super::entries;
use super::error::{Result, StoreError};
use super::handle::Store;
use super::lock::Sharing;
use super::pack_writer::{self, NotReceived};
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

    /// The number of records.
    pub fn len(&self) -> usize {
        self.results.len() + self.states.len()
    }

    /// Removes the records that need one of these blobs.
    pub fn remove(&mut self, blobs: &BTreeSet<BlobEntry>) {
        self.results.retain(|record| !record.blobs().any(|blob| blobs.contains(&blob)));
        self.states.retain(|record| !record.blobs().any(|blob| blobs.contains(&blob)));
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
        let mut is_readable = true;
        let sent = {
            // No collection may move the blob meanwhile.
            let _collecting = self.index.folder.collect_lock(Sharing::Shared)?;
            send(&mut Noting { stream: self.blobs.stream(blob)?, is_readable: &mut is_readable })
        };
        if !is_readable {
            // If the blob is damaged, what needs it is forgotten.
            self.blobs.read(blob, 0)?;
        }
        sent
    }

    /// Stores records of another store. First stores `lacking`, the blobs that the cache lacks; `fetch` returns the
    /// stream of each, in this order. Large blobs are never whole in memory. Returns the blobs that did not arrive; the
    /// records that need them are not stored.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn import<'a>(
        &self,
        mut records: Import,
        lacking: &[BlobEntry],
        fetch: impl Fn() -> Box<dyn Iterator<Item = Box<dyn Read + 'a>> + 'a>,
    ) -> Result<Vec<NotReceived>> {
        let _collecting = self.index.folder.collect_lock(Sharing::Shared)?;
        let lost = RefCell::default();
        if !lacking.is_empty() {
            self.blobs.commit(|folder| {
                let (written, not_received) = pack_writer::write_streams(lacking, folder, fetch())?;
                lost.replace(not_received);
                Ok(written)
            })?;
        }
        let lost: Vec<NotReceived> = lost.into_inner();
        records.remove(&lost.iter().map(|(blob, _)| *blob).collect());
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
        if !results.is_empty() {
            self.put_results(results)?;
        }
        Ok(lost)
    }
}

/// A stream that notes whether it failed.
struct Noting<'a> {
    stream: Box<dyn Read>,
    is_readable: &'a mut bool,
}

impl Read for Noting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer);
        *self.is_readable &= read.is_ok();
        read
    }
}
