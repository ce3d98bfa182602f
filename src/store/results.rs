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
        let (manifest, mut bytes) = encode_artifact(&new.components.kind, new.artifact)?;
        let small = small::choose(&new.artifact.files).into_iter();
        let small = small.filter_map(|digest| Some((digest, bytes.remove(&digest)?))).collect();
        let _collecting = self.inner.collect_lock(Sharing::Shared)?;
        small::write(&self.inner.dir, &small)?;
        self.write_blobs(&bytes)?;
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
