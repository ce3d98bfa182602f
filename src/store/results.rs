//! Results: looking them up and storing them.

use std::collections::BTreeMap;
use std::fs;

use super::lock::Sharing;
use super::record::now_ms;
use super::{FORMAT, NewResult, Result, ResultRecord, Store, StoreError, index};
use crate::artifact::Manifest;
use crate::key::{Components, Key};

impl Store {
    /// The result of this key, whether or not its bytes are still there: see [`Store::is_present`].
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn result(&self, key: &Key) -> Result<Option<ResultRecord>> {
        self.inner.read_index(|db| index::result(db, key))
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
                manifest,
                provenance,
                damaged: false,
                lineage,
            }
        };
        let records: Vec<ResultRecord> = new.into_iter().zip(manifests).map(record).collect();
        // A vadpipe that still reads an earlier format would remove a result and leave behind what tells a hit.
        let compact = self.has_our_format()?;
        self.inner.change_index(|_, batch| {
            for record in &records {
                index::put_result(batch, record)?;
                if !compact {
                    index::remove_usable(batch, &record.key);
                }
                index::put_newest(batch, &record.pipeline, &record.point, &record.key);
            }
            Ok(())
        })?;
        Ok(records)
    }

    /// Whether no earlier vadpipe writes to this cache.
    fn has_our_format(&self) -> Result<bool> {
        self.inner.prepare()?;
        let path = self.inner.dir.join("FORMAT");
        let text = fs::read_to_string(&path).map_err(StoreError::io("can't read", &path))?;
        Ok(text.trim().parse() == Ok(FORMAT))
    }

    /// Notes that these points used these results, so that [`Store::newest`] follows: `(point, key)`. Writes only what
    /// is not so already, in one batch, and without waiting for the disk: it serves explanations only.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn note_hits(&self, pipeline: &str, hits: &[(&str, Key)]) -> Result<()> {
        self.inner.read_index(|db| {
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
            if new.is_empty() {
                return Ok(());
            }
            let mut batch = sled::Batch::default();
            for (point, key) in hits.iter().filter(|(point, _)| new.contains_key(point.as_bytes())) {
                index::put_newest(&mut batch, pipeline, point, key);
            }
            Ok(db.apply_batch(batch)?)
        })
    }
}
