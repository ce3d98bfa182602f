//! Results: looking them up, storing them, reading what they are made of.

use std::collections::{BTreeMap, BTreeSet};

use super::database::Failure;
use super::inner::things;
use super::lock::Sharing;
use super::record::now_ms;
use super::{NewResult, Result, ResultRecord, Store, StoreError, blobs, index, small};
use crate::artifact::{Artifact, BlobEntry, Manifest, Tensor, TensorEntry};
use crate::key::{Components, Digest, Key};

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

    /// Stores several results with one flush of each kind for all: chunks, lists of chunks, index. All or none of them are
    /// in the index then.
    ///
    /// # Errors
    /// As [`Store::commit`]; then none is stored.
    pub fn commit_all(&self, new: Vec<NewResult<'_>>) -> Result<Vec<ResultRecord>> {
        let (mut small, mut chunked) = (BTreeMap::new(), BTreeMap::new());
        let mut records = Vec::with_capacity(new.len());
        let now = now_ms();
        for NewResult { pipeline, point, components, artifact, mut provenance } in new {
            let (manifest, mut bytes) = encode_artifact(&components.kind, artifact)?;
            let own = small::choose(&artifact.files).into_iter();
            small.extend(own.filter_map(|digest| Some((digest, bytes.remove(&digest)?))));
            chunked.append(&mut bytes);
            if provenance.finished_at == 0 {
                provenance.finished_at = now;
            }
            records.push(ResultRecord {
                key: components.key(),
                pipeline: pipeline.to_owned(),
                point: point.to_owned(),
                components: components.clone(),
                digest: manifest.digest(),
                manifest,
                provenance,
                damaged: false,
                lineage: 0,
            });
        }
        let _collecting = self.inner.collect_lock(Sharing::Shared)?;
        small::write(&self.inner.dir, &small)?;
        self.write_blobs(&chunked)?;
        let lineage = self.inner.read_index(index::lineage)?;
        records.iter_mut().for_each(|record| record.lineage = lineage);
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

    /// A tensor's verified content.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is missing or has other bytes: what relies on it is a miss from then on.
    pub fn read_tensor(&self, entry: &TensorEntry) -> Result<Tensor> {
        let bytes = self.read_file(&entry.blob)?;
        let tensor = Tensor::from_blob(&bytes).ok();
        let tensor = tensor.filter(|t| t.element() == entry.element && t.shape() == entry.shape);
        // The bytes are what was stored, but not what the manifest says: somebody wrote the index wrongly.
        tensor
            .ok_or_else(|| self.damaged(&entry.blob.digest, "it is not the tensor that the manifest names".to_owned()))
    }

    /// A blob's verified bytes.
    ///
    /// # Errors
    /// As [`Store::read_tensor`].
    pub fn read_file(&self, entry: &BlobEntry) -> Result<Vec<u8>> {
        match self.find_blob(entry)? {
            Ok(bytes) => Ok(bytes),
            Err(flaw) => {
                self.remove_flawed(entry, &flaw);
                Err(self.damaged(&entry.digest, flaw.why))
            }
        }
    }

    /// A blob's verified bytes, or what is wrong with it.
    pub(super) fn find_blob(&self, entry: &BlobEntry) -> Result<Result<Vec<u8>, blobs::Flaw>> {
        let small = match small::read(&self.inner.dir, entry)? {
            Some(Ok(bytes)) => return Ok(Ok(bytes)),
            Some(Err(why)) => Some(why),
            None => None,
        };
        // A database is not made to look for something in it.
        let among_chunks = match self.inner.chunks_path()?.exists() {
            true => self.inner.chunks(|o| blobs::read(&o.db, entry))?,
            false => Err(blobs::Flaw::new("it is missing")),
        };
        Ok(among_chunks.map_err(|flaw| small.map_or(flaw, blobs::Flaw::new)))
    }

    /// Takes a flawed blob out of the small files and the chunks, so that it is not taken for there when it is made again. What can't be
    /// removed either makes the next write save the rest into a new database.
    pub(super) fn remove_flawed(&self, entry: &BlobEntry, flaw: &blobs::Flaw) {
        small::remove(&self.inner.dir, entry.digest);
        if !self.inner.chunks_path().is_ok_and(|p| p.exists()) {
            return;
        }
        let _ = self.inner.chunks(|o| match blobs::remove_flawed(&o.db, &entry.digest, flaw) {
            Err(Failure::Broken(_)) => Ok(()),
            other => other,
        });
    }

    /// Makes whatever relies on this blob a miss, and the error that says so.
    fn damaged(&self, blob: &Digest, why: String) -> StoreError {
        let what = format!("blob {}", blob.short());
        match self.inner.lose(&BTreeSet::from([*blob])) {
            Ok(forgotten) => {
                self.inner.warn(format!("{what} is damaged: {why}; relied on by {}", things(forgotten.len())));
                StoreError::Damaged { what, why, blob: *blob, forgotten }
            }
            Err(error) => error,
        }
    }

    /// Writes blobs: chunks, flush, lists of chunks, flush.
    pub(super) fn write_blobs(&self, new: &BTreeMap<Digest, Vec<u8>>) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        self.inner.chunks(|o| {
            let mut lists = Vec::new();
            for (digest, bytes) in new {
                if !blobs::has(&o.db, digest)? {
                    lists.push((digest, blobs::put_chunks(&o.db, bytes)?));
                }
            }
            if lists.is_empty() {
                return Ok(());
            }
            o.flush()?;
            for (digest, list) in &lists {
                blobs::put_list(&o.db, digest, list)?;
            }
            o.flush()
        })
    }
}

/// A tensor's entry, and its blob for [`Store::write_blobs`].
pub(super) fn encode_tensor(tensor: &Tensor, bytes: &mut BTreeMap<Digest, Vec<u8>>) -> Result<TensorEntry> {
    let blob = tensor.to_blob().map_err(|e| StoreError::NotFound(format!("a tensor can't be stored: {e}")))?;
    let entry = BlobEntry::of(&blob);
    bytes.insert(entry.digest, blob);
    Ok(TensorEntry { element: tensor.element(), shape: tensor.shape().to_vec(), blob: entry })
}

fn encode_artifact(kind: &str, artifact: &Artifact) -> Result<(Manifest, BTreeMap<Digest, Vec<u8>>)> {
    let mut bytes = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in &artifact.tensors {
        tensors.insert(name.clone(), encode_tensor(tensor, &mut bytes)?);
    }
    let mut files = BTreeMap::new();
    for (name, content) in &artifact.files {
        let entry = BlobEntry::of(content);
        bytes.insert(entry.digest, content.clone());
        files.insert(name.clone(), entry);
    }
    let (metrics, facts) = (artifact.metrics.clone(), artifact.facts.clone());
    Ok((Manifest { kind: kind.to_owned(), tensors, files, metrics, facts }, bytes))
}
