//! Results: looking them up and storing them.

use std::collections::BTreeMap;

use super::database::Access;
use super::journal::Changes;
use super::lock::Sharing;
use super::record::now_ms;
use super::{NewResult, Result, ResultRecord, Store, StoreError, index};
use crate::artifact::Manifest;
use crate::key::{Components, Key};

impl Store {
    /// The result of this key, whether or not its bytes are still there: see [`Store::is_present`].
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn result(&self, key: &Key) -> Result<Option<ResultRecord>> {
        Ok(self.results(&[*key])?.pop().flatten())
    }

    /// The results of these keys in their order; one opening for all.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn results(&self, keys: &[Key]) -> Result<Vec<Option<ResultRecord>>> {
        self.look(|look| look.results(keys))
    }

    /// The result that this point of this pipeline used last: what a miss is explained with (old → new).
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn newest(&self, pipeline: &str, point: &str) -> Result<Option<ResultRecord>> {
        self.look(|look| look.newest(pipeline, point))
    }

    /// Whether there is a result whose components equal these but for the digests of the inputs.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn exists_but_for_inputs(&self, components: &Components) -> Result<bool> {
        self.look(|look| look.exists_but_for_inputs(components))
    }

    /// Whether, as far as the index knows, the bytes of this result are there. Opens no chunks, so it is what a plan
    /// asks. False after its bytes were found damaged or the chunks were set aside. A result without tensors and files
    /// is always present.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn is_present(&self, record: &ResultRecord) -> Result<bool> {
        Ok(self.are_present(&[record])?.iter().all(|present| *present))
    }

    /// [`Store::is_present`] for several; one opening for all.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn are_present(&self, records: &[&ResultRecord]) -> Result<Vec<bool>> {
        self.look(|look| Ok(records.iter().map(|r| look.is_present(r)).collect()))
    }

    /// Stores a result. Equal blobs and chunks are stored once.
    ///
    /// # Errors
    /// If the cache can't be written, or a tensor's shape overflows.
    pub fn commit(&self, new: NewResult<'_>) -> Result<ResultRecord> {
        let stored = self.commit_all(vec![new])?.pop();
        stored.ok_or_else(|| StoreError::NotFound("nothing was stored".to_owned()))
    }

    /// Stores several results with one flush of each kind for all: packs, chunks, lists, index. All or none of them are in
    /// the index then.
    ///
    /// # Errors
    /// As [`Store::commit`]; then none is stored.
    pub fn commit_all(&self, new: Vec<NewResult<'_>>) -> Result<Vec<ResultRecord>> {
        let _collecting = self.inner.collect_lock(Sharing::Shared)?;
        let artifacts: Vec<_> = new.iter().map(|n| (n.components.kind.as_str(), n.artifact)).collect();
        let manifests = self.write_artifacts(&artifacts)?;
        let (lineage, now) = (self.inner.read_index(index::lineage)?, now_ms());
        let record = |(new, manifest): (NewResult<'_>, Manifest)| {
            let mut provenance = new.provenance;
            if provenance.finished_at == 0 {
                provenance.finished_at = now;
            }
            ResultRecord {
                key: new.components.key(),
                pipeline: new.pipeline.to_owned(),
                point: new.point.to_owned(),
                components: new.components.clone(),
                digest: manifest.digest(),
                provides: Some(new.artifact.provides.clone()),
                manifest,
                provenance,
                damaged: false,
                lineage,
            }
        };
        let records: Vec<ResultRecord> = new.into_iter().zip(manifests).map(record).collect();
        self.inner.change_index(|_, batch| {
            for record in &records {
                index::put_result(batch, record)?;
                index::put_newest(batch, &record.pipeline, &record.point, &record.key);
            }
            Ok(())
        })?;
        Ok(records)
    }

    /// Notes that these points used these results, so that [`Store::newest`] follows: `(point, key)`. Writes only what
    /// is not so already, in one batch, and without waiting for the disk: it serves explanations only.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn note_hits(&self, pipeline: &str, hits: &[(&str, Key)]) -> Result<()> {
        let new = self.inner.read_index(|db| {
            let mut new: BTreeMap<&[u8], Key> = hits.iter().map(|(point, key)| (point.as_bytes(), *key)).collect();
            // One pass is quicker than a search for each; it reads what the pipeline had before, which is seldom much more.
            let offset = index::newest_offset(pipeline);
            for item in index::newest_of(db, pipeline) {
                let (name, key) = item?;
                let point = name.get(offset..).unwrap_or_default();
                if new.get(point).is_some_and(|k| k.0 == *key) {
                    new.remove(point);
                }
            }
            Ok(new
                .into_iter()
                .map(|(point, key)| (String::from_utf8_lossy(point).into_owned(), key))
                .collect::<Vec<_>>())
        })?;
        if new.is_empty() {
            return Ok(());
        }
        self.inner.raise_format()?;
        self.inner.index(Access::Write, |o| {
            let mut changes = Changes::default();
            new.iter().for_each(|(point, key)| index::put_newest(&mut changes, pipeline, point, key));
            o.write_soon(&changes)
        })
    }
}
