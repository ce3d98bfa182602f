//! Exchange of results with a remote store.

use std::collections::BTreeSet;

use super::entries;
use super::error::{Result, StoreError};
use super::handle::Store;
use super::lock::Sharing;
use super::pack_writer;
use super::record::ResultRecord;
use super::remote::{Remote, RemoteError, result_name};
use crate::artifact::BlobEntry;
use crate::key::Key;

impl Store {
    /// Copies a result to a remote store: first its blobs, then its record. Skips objects that are there, and returns
    /// how many it wrote. Large blobs are streamed.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if the cache has no such result, [`StoreError::Damaged`] if its bytes are damaged,
    /// [`StoreError::Remote`] if the remote store fails.
    pub fn push_result(&self, key: &Key, remote: &dyn Remote) -> Result<usize> {
        let record = self.result(key)?.filter(|record| !record.damaged);
        let record = record.ok_or_else(|| StoreError::NotFound(format!("there is no result {}", key.short())))?;
        let mut written = 0;
        for blob in record.blobs().collect::<BTreeSet<_>>() {
            if !remote.has_blob(&blob)? {
                if let Err(error) = self.push_blob(&blob, remote) {
                    // If the blob is damaged, that error is returned instead.
                    self.blobs.read(&blob, 0)?;
                    return Err(error);
                }
                written += 1;
            }
        }
        let record = entries::checked(&ResultRecord { lineage: 0, ..record }).map_err(|f| f.at(self.dir()))?;
        Ok(written + usize::from(remote.put_record(&result_name(key), &record)?))
    }

    fn push_blob(&self, blob: &BlobEntry, remote: &dyn Remote) -> Result<()> {
        // No collection may move the blob meanwhile.
        let _collecting = self.index.folder.collect_lock(Sharing::Shared)?;
        Ok(remote.put_blob(blob, &mut *self.blobs.stream(blob)?)?)
    }

    /// Copies a result from a remote store, unless this cache has it. The record is stored after all blobs have been
    /// verified and stored. `None` if the remote store has no such result, or if a part of it is missing or altered,
    /// which also causes a warning. Large blobs are streamed.
    ///
    /// # Errors
    /// If the remote store fails, or this cache can't be written.
    pub fn pull_result(&self, key: &Key, remote: &dyn Remote) -> Result<Option<ResultRecord>> {
        if let Some(record) = self.result(key)?
            && self.are_present(&[&record])? == [true]
        {
            return Ok(Some(record));
        }
        let name = result_name(key);
        let record = match remote.get_record(&name) {
            Ok(bytes) => entries::parse_result(&bytes, key).ok_or(RemoteError::Altered(name)),
            Err(RemoteError::Missing(_)) => return Ok(None),
            Err(error) => Err(error),
        };
        match record.map_err(StoreError::from).and_then(|record| self.pull_blobs(record, remote)) {
            Ok(record) => Ok(Some(record)),
            Err(StoreError::Remote(error @ (RemoteError::Missing(_) | RemoteError::Altered(_)))) => {
                self.index.folder.warn(format!("the remote result {} is refused: {error}", key.short()));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Stores the blobs of a result that this cache lacks, and then its record.
    fn pull_blobs(&self, record: ResultRecord, remote: &dyn Remote) -> Result<ResultRecord> {
        let _collecting = self.index.folder.collect_lock(Sharing::Shared)?;
        let blobs: Vec<BlobEntry> = record.blobs().collect();
        let stored = self.blobs.has_each(&blobs)?;
        let lacking: BTreeSet<_> = blobs.into_iter().zip(stored).filter(|(_, stored)| !stored).map(|b| b.0).collect();
        if !lacking.is_empty() {
            let open = |blob: &BlobEntry| remote.get_blob(blob);
            self.blobs.commit(|folder| pack_writer::write_streams(&lacking, folder, open))?;
        }
        let stored = self.put_results(vec![record.clone()])?.pop();
        Ok(stored.unwrap_or(record))
    }
}
