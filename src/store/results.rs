//! Results: storing them and reading their bytes.

use std::collections::{BTreeMap, BTreeSet};

use super::database::Access;
use super::entries;
use super::error::{Result, StoreError};
use super::handle::Store;
use super::holder::now_ms;
use super::journal::Changes;
use super::lock::Sharing;
use super::pack_writer::{Body, Pace, Source};
use super::record::{Provenance, ResultRecord};
use super::small_files::SmallFiles;
use crate::artifact::{
    Artifact, BlobEntry, ElementType, FileOnDisk, Manifest, Tensor, TensorEntry, TensorOnDisk, byte_count,
};
use crate::key::{Components, Key};

/// A result about to be stored.
pub struct NewResult<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The point's name.
    pub point: &'a str,
    /// Everything that entered its key.
    pub components: &'a Components,
    /// Its content. Its manifest's kind is `components.kind`.
    pub artifact: &'a Artifact,
    /// Where it comes from. If `finished_at` is 0, it is set to now.
    pub provenance: Provenance,
}

impl Store {
    /// A tensor's verified content.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is missing or altered. All results and states that need it are misses from then
    /// on.
    pub fn read_tensor(&self, entry: &TensorEntry) -> Result<Tensor> {
        let tensor = tensor_of(entry, self.blobs.read(&entry.blob, header_length(entry))?);
        // The bytes are as stored, but the manifest describes another tensor: the index is wrong.
        tensor.ok_or_else(|| {
            let why = "it is not the tensor that the manifest names".to_owned();
            self.index.damaged(&entry.blob.digest, why, &BTreeSet::from([entry.blob.digest]))
        })
    }

    /// A blob's verified bytes.
    ///
    /// # Errors
    /// As [`Store::read_tensor`].
    pub fn read_file(&self, entry: &BlobEntry) -> Result<Vec<u8>> {
        Ok(self.blobs.read(entry, 0)?.1)
    }

    /// Stores a result. Equal blobs and pieces are stored once.
    ///
    /// # Errors
    /// If the cache can't be written, or a tensor's shape overflows.
    pub fn commit(&self, new: NewResult<'_>) -> Result<ResultRecord> {
        let stored = self.commit_all(vec![new])?.pop();
        stored.ok_or_else(|| StoreError::NotFound("nothing was stored".to_owned()))
    }

    /// Stores several results together, so that they share the syncs of the pack, the chunk database and the index. The
    /// index then has all of them or none.
    ///
    /// # Errors
    /// As [`Store::commit`]; then none is stored.
    pub fn commit_all(&self, new: Vec<NewResult<'_>>) -> Result<Vec<ResultRecord>> {
        let _collecting = self.index.folder.collect_lock(Sharing::Shared)?;
        let artifacts: Vec<_> = new.iter().map(|n| (n.components.kind.as_str(), n.artifact)).collect();
        let manifests = self.write_artifacts(&artifacts)?;
        let now = now_ms();
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
                lineage: 0,
            }
        };
        self.put_results(new.into_iter().zip(manifests).map(record).collect())
    }

    /// Adds results whose blobs are stored to the index. Called while no process collects.
    pub(super) fn put_results(&self, mut records: Vec<ResultRecord>) -> Result<Vec<ResultRecord>> {
        let lineage = self.index.read(entries::lineage)?;
        records.iter_mut().for_each(|record| record.lineage = lineage);
        self.index.change(|db, changes| {
            for record in &records {
                entries::put_result(changes, record)?;
                // Otherwise the look-up would consider only the results whose programs read files.
                if record.components.files_read.is_empty() && entries::has_files_read(db, &record.key)? {
                    entries::put_files_read(changes, record)?;
                }
                entries::put_newest(changes, &record.pipeline, &record.point, &record.key);
            }
            Ok(())
        })?;
        Ok(records)
    }

    /// Writes the blobs of artifacts (each with its kind), durably. Called while no process collects.
    fn write_artifacts(&self, all: &[(&str, &Artifact)]) -> Result<Vec<Manifest>> {
        let (mut small, mut sources) = (BTreeMap::new(), Vec::new());
        let mut files = Vec::with_capacity(all.len());
        for (_, artifact) in all {
            let chosen = SmallFiles::choose(&artifact.files);
            let mut own = Vec::with_capacity(artifact.files.len());
            for (name, content) in &artifact.files {
                let entry = chosen.contains(name).then(|| BlobEntry::of(content));
                match entry {
                    Some(entry) => drop(small.insert(entry.digest, content.as_slice())),
                    None => sources.push(Source { head: Vec::new(), body: Body::Bytes(content) }),
                }
                own.push((name.clone(), entry));
            }
            sources.extend(artifact.files_on_disk.values().map(file_source));
            own.extend(artifact.files_on_disk.keys().map(|name| (name.clone(), None)));
            for tensor in artifact.tensors.values() {
                sources.push(tensor_source(tensor)?);
            }
            for tensor in artifact.tensors_on_disk.values() {
                sources.push(tensor_on_disk(tensor)?);
            }
            files.push(own);
        }
        self.index.small.write(&small)?;
        // In the order of the sources: for each artifact, its files in packs, then its tensors.
        let mut entries = self.blobs.write(&sources, Pace::Fast)?.into_iter();
        let mut manifests = Vec::with_capacity(all.len());
        for ((kind, artifact), own) in all.iter().zip(files) {
            let mut files = BTreeMap::new();
            for (name, small) in own {
                files.extend(small.or_else(|| entries.next()).map(|entry| (name, entry)));
            }
            let in_memory = artifact.tensors.iter().map(|(name, t)| (name, t.element(), t.shape()));
            let on_disk = artifact.tensors_on_disk.iter().map(|(name, t)| (name, t.element, &*t.shape));
            let tensors = in_memory.chain(on_disk).zip(entries.by_ref());
            let entry = |((name, element, shape), blob): ((&String, _, &[usize]), _)| {
                (name.clone(), TensorEntry { element, shape: shape.to_vec(), blob })
            };
            manifests.push(Manifest {
                kind: (*kind).to_owned(),
                tensors: tensors.map(entry).collect(),
                files,
                metrics: artifact.metrics.clone(),
                facts: artifact.facts.clone(),
                state: artifact.state.clone(),
            });
        }
        Ok(manifests)
    }

    /// Writes tensors, durably. Called while no process collects.
    pub(super) fn write_tensors(
        &self,
        tensors: &BTreeMap<String, Tensor>,
        pace: Pace,
    ) -> Result<BTreeMap<String, TensorEntry>> {
        let sources = tensors.values().map(tensor_source).collect::<Result<Vec<_>>>()?;
        let entries = self.blobs.write(&sources, pace)?;
        Ok(tensors.iter().zip(entries).map(|((name, t), blob)| (name.clone(), tensor_entry(t, blob))).collect())
    }

    /// Records that these points used these results, as `(point, key)`, so that [`Store::newest`] returns them. Writes
    /// only what changed, together and without waiting for the disk, because this mainly serves explanations.
    pub fn note_hits(&self, pipeline: &str, hits: &[(&str, Key)]) -> Result<()> {
        let new = self.index.read(|db| {
            let mut new: BTreeMap<&[u8], (&str, Key)> =
                hits.iter().map(|(point, key)| (point.as_bytes(), (*point, *key))).collect();
            // One pass is faster than a search for each point.
            entries::each_newest(db, pipeline, |point, key| {
                if new.get(point).is_some_and(|(_, k)| k.0 == *key) {
                    new.remove(point);
                }
            })?;
            Ok(new.into_values().collect::<Vec<_>>())
        })?;
        if new.is_empty() {
            return Ok(());
        }
        self.index.folder.raise_format()?;
        self.index.with(Access::Write, |o| {
            let mut changes = Changes::default();
            new.iter().for_each(|(point, key)| entries::put_newest(&mut changes, pipeline, point, key));
            o.write_soon(&changes)
        })
    }
}

/// Bytes of a tensor's blob before its elements.
pub(super) fn header_length(entry: &TensorEntry) -> usize {
    Tensor::blob_header(entry.element, &entry.shape).unwrap_or_default().len()
}

/// The tensor that a manifest names, from its blob. The header was read separately if it is long enough. `None` if it
/// is another tensor.
pub(super) fn tensor_of(entry: &TensorEntry, (head, body): (Vec<u8>, Vec<u8>)) -> Option<Tensor> {
    let header = Tensor::blob_header(entry.element, &entry.shape).unwrap_or_default();
    let tensor = match head.is_empty() {
        true => Tensor::from_blob(&body).ok(),
        false if head == header => Tensor::from_bytes(entry.element, entry.shape.as_slice(), body).ok(),
        false => Tensor::from_blob(&[head, body].concat()).ok(),
    };
    tensor.filter(|t| t.element() == entry.element && t.shape() == entry.shape)
}

fn tensor_source(tensor: &Tensor) -> Result<Source<'_>> {
    Ok(Source { head: blob_header(tensor.element(), tensor.shape())?, body: Body::Bytes(tensor.bytes()) })
}

pub(super) fn tensor_on_disk(tensor: &TensorOnDisk) -> Result<Source<'_>> {
    let TensorOnDisk { element, shape, path, offset } = tensor;
    let size = byte_count(*element, shape).unwrap_or_default();
    Ok(Source { head: blob_header(*element, shape)?, body: Body::File { path, offset: *offset, size } })
}

pub(super) fn file_source(file: &FileOnDisk) -> Source<'_> {
    // More bytes than an address has can't be read.
    let size = usize::try_from(file.size).unwrap_or(usize::MAX);
    Source { head: Vec::new(), body: Body::File { path: &file.path, offset: 0, size } }
}

/// The bytes of a tensor's blob before its elements.
pub(super) fn blob_header(element: ElementType, shape: &[usize]) -> Result<Vec<u8>> {
    let header = Tensor::blob_header(element, shape);
    header.map_err(|e| StoreError::NotFound(format!("a tensor can't be stored: {e}")))
}

fn tensor_entry(tensor: &Tensor, blob: BlobEntry) -> TensorEntry {
    TensorEntry { element: tensor.element(), shape: tensor.shape().to_vec(), blob }
}
