//! Results: looking them up and storing them.

use super::lock::Sharing;
use super::record::now_ms;
use super::{NewResult, Result, ResultRecord, Store, index};
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
        let found: Vec<_> = self.inner.read_index(|db| keys.iter().map(|key| index::result(db, key)).collect())?;
        // Where there is no index, nothing was found.
        Ok(if found.is_empty() { vec![None; keys.len()] } else { found })
    }

    /// The result that this point of this pipeline used last: what a miss is explained with (old → new).
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn newest(&self, pipeline: &str, point: &str) -> Result<Option<ResultRecord>> {
        self.inner.read_index(|db| match index::newest(db, pipeline, point)? {
            Some(key) => index::result(db, &key),
            None => Ok(None),
        })
    }

    /// Whether there is a result whose components equal these but for the digests of the inputs.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn exists_but_for_inputs(&self, components: &Components) -> Result<bool> {
        self.inner.read_index(|db| index::has_similar(db, components))
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
        let (generation, lineage) = self.inner.read_index(|db| Ok((index::generation(db)?, index::lineage(db)?)))?;
        let folder = self.inner.generation_path(generation.unwrap_or_default()).exists();
        let present =
            |r: &&ResultRecord| !r.damaged && ((folder && r.lineage == lineage) || self.inner.needs_no_chunks(r));
        Ok(records.iter().map(present).collect())
    }

    /// Stores a result. Equal blobs and chunks are stored once.
    ///
    /// # Errors
    /// If the cache can't be written, or a tensor's shape overflows.
    pub fn commit(&self, new: NewResult<'_>) -> Result<ResultRecord> {
        let _collecting = self.inner.collect_lock(Sharing::Shared)?;
        let manifest = self.write_artifact(&new.components.kind, new.artifact)?;
        let mut provenance = new.provenance;
        if provenance.finished_at == 0 {
            provenance.finished_at = now_ms();
        }
        let mut record = ResultRecord {
            key: new.components.key(),
            pipeline: new.pipeline.to_owned(),
            point: new.point.to_owned(),
            components: new.components.clone(),
            digest: manifest.digest(),
            manifest,
            provenance,
            damaged: false,
            lineage: 0,
        };
        record.lineage = self.inner.read_index(index::lineage)?;
        self.inner.change_index(|_, batch| {
            index::put_result(batch, &record)?;
            index::put_newest(batch, new.pipeline, new.point, &record.key);
            Ok(())
        })?;
        Ok(record)
    }

    /// Notes that these points used these results, so that [`Store::newest`] follows: `(point, key)`. Writes only what
    /// is not so already, in one batch, and without waiting for the disk: it serves explanations only.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn note_hits(&self, pipeline: &str, hits: &[(&str, Key)]) -> Result<()> {
        self.inner.read_index(|db| {
            let mut batch = sled::Batch::default();
            let mut any = false;
            for (point, key) in hits {
                if index::newest(db, pipeline, point)?.as_ref() != Some(key) {
                    index::put_newest(&mut batch, pipeline, point, key);
                    any = true;
                }
            }
            if any { Ok(db.apply_batch(batch)?) } else { Ok(()) }
        })
    }
}
