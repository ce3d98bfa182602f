//! What results and states are made of: writing and reading blobs, wherever they stand.
//!
//! A blob is looked for among the small files, then in the packs, then among the chunks of earlier versions. A tensor's header and its
//! elements are written and read apart, so that a large tensor is never copied on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::blobs::{self, Flaw, Source};
use super::database::Opened;
use super::disk::exists;
use super::engine::Failure;
use super::inner::things;
use super::lock::Sharing;
use super::pack_writer::{self, Written};
use super::{Result, Store, StoreError, index, packs, small};
use crate::artifact::{Artifact, BlobEntry, Manifest, Tensor, TensorEntry};
use crate::key::Digest;

/// So often a write begins anew because what it took for stored was removed meanwhile.
const ATTEMPTS: usize = 3;
/// So often a read begins anew because what it was about to read was moved meanwhile.
const MOVES: usize = 20;

/// A blob's bytes: the first so many, if they were asked for apart, and the others.
pub(super) type Parts = (Vec<u8>, Vec<u8>);
/// The folder of the chunk database, and where in it a blob's pieces are, as a read went by them.
type Seen = (PathBuf, Option<packs::Places>);

impl Store {
    /// A tensor's verified content.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is missing or has other bytes: what relies on it is a miss from then on.
    pub fn read_tensor(&self, entry: &TensorEntry) -> Result<Tensor> {
        let header = Tensor::blob_header(entry.element, &entry.shape).unwrap_or_default();
        let (head, body) = self.read_parts(&entry.blob, header.len())?;
        let tensor = match head.is_empty() {
            true => Tensor::from_blob(&body).ok(),
            false if head == header => Tensor::from_bytes(entry.element, entry.shape.as_slice(), body).ok(),
            false => Tensor::from_blob(&[head, body].concat()).ok(),
        };
        let tensor = tensor.filter(|t| t.element() == entry.element && t.shape() == entry.shape);
        // The bytes are what was stored, but not what the manifest says: somebody wrote the index wrongly.
        tensor.ok_or_else(|| {
            let why = "it is not the tensor that the manifest names".to_owned();
            self.damaged(&entry.blob.digest, why, &BTreeSet::from([entry.blob.digest]))
        })
    }

    /// A blob's verified bytes.
    ///
    /// # Errors
    /// As [`Store::read_tensor`].
    pub fn read_file(&self, entry: &BlobEntry) -> Result<Vec<u8>> {
        Ok(self.read_parts(entry, 0)?.1)
    }

    fn read_parts(&self, entry: &BlobEntry, head: usize) -> Result<Parts> {
        let flaw = match self.find_blob(entry, head)? {
            Ok(parts) => return Ok(parts),
            Err(flaw) => flaw,
        };
        // Nobody writes, moves or removes blobs while it is decided what is damaged.
        let _alone = match self.inner.collect_lock(Sharing::Exclusive) {
            Ok(lock) => lock,
            // Nothing can be forgotten here.
            Err(StoreError::ReadOnly { .. } | StoreError::Full { .. }) => {
                let (what, why) = (format!("blob {}", entry.digest.short()), flaw.why);
                return Err(StoreError::Damaged { what, why, blob: entry.digest, forgotten: Vec::new() });
            }
            Err(error) => return Err(error),
        };
        // What is open may be a copy that is behind.
        self.inner.chunks.close_now();
        let flaw = match self.find_blob(entry, head)? {
            Ok(parts) => return Ok(parts),
            Err(flaw) => flaw,
        };
        let mut lost = BTreeSet::from([entry.digest]);
        for (neighbour, flaw) in self.flawed_neighbours(&flaw)? {
            self.remove_flawed(&neighbour, &flaw);
            lost.insert(neighbour.digest);
        }
        self.remove_flawed(entry, &flaw);
        Err(self.damaged(&entry.digest, flaw.why, &lost))
    }

    /// A blob's verified bytes, or what is wrong with it. The first `head` stand apart if it is a large one.
    pub(super) fn find_blob(&self, entry: &BlobEntry, head: usize) -> Result<Result<Parts, Flaw>> {
        let whole = |bytes| (Vec::new(), bytes);
        let small = match small::read(&self.inner.dir, entry)? {
            Some(Ok(bytes)) => return Ok(Ok(whole(bytes))),
            Some(Err(why)) => Some(why),
            None => None,
        };
        let mut before: Option<Seen> = None;
        for _ in 0..MOVES {
            let (found, seen) = self.find_among_chunks(entry, head)?;
            let flaw = match found {
                Ok(parts) => return Ok(Ok(parts)),
                Err(flaw) => flaw,
            };
            // A collection (of another process, too) moves and removes what is read beside it. Only what is not as it should
            // be in the same place twice is a flaw.
            if seen.is_none() || seen == before {
                return Ok(Err(small.map_or(flaw, Flaw::new)));
            }
            before = seen;
        }
        let why = "what is stored is moved again and again while it is read".to_owned();
        Err(StoreError::Database { path: self.inner.chunks_path()?, why })
    }

    /// A blob among the chunks and in packs. A flaw comes with what the read went by, unless that can't have changed.
    fn find_among_chunks(&self, entry: &BlobEntry, head: usize) -> Result<(Result<Parts, Flaw>, Option<Seen>)> {
        /// Where it was found.
        enum Found {
            Packed(PathBuf, packs::Located),
            Chunked(Result<Vec<u8>, Flaw>),
        }
        // Reading must not create the database.
        if !self.inner.has_chunks()? {
            return Ok((Err(Flaw::new("it is missing")), Some((self.inner.chunks_path()?, None))));
        }
        let found = self.inner.read_chunks(|o| match packs::locate(&o.db, o.path(), entry)? {
            Some(Ok(located)) => Ok(Found::Packed(o.path().to_owned(), located)),
            Some(Err(flaw)) => Ok(Found::Chunked(Err(flaw))),
            None => Ok(Found::Chunked(blobs::read(&o.db, entry)?)),
        })?;
        // Others may have the database while packs are read.
        Ok(match found {
            Found::Packed(path, located) => (located.read(head)?, Some((path, Some(located.places())))),
            Found::Chunked(bytes) => (bytes.map(|bytes| (Vec::new(), bytes)), None),
        })
    }

    /// Takes a flawed blob out of the small files and the packs, so that it is not taken for there when it is computed
    /// again. Only while nobody writes.
    pub(super) fn remove_flawed(&self, entry: &BlobEntry, flaw: &Flaw) {
        small::remove(&self.inner.dir, entry.digest);
        if !self.inner.has_chunks().unwrap_or(false) {
            return;
        }
        let _ = self.inner.change_chunks(|o| match blobs::remove_flawed(o, &entry.digest, flaw) {
            Err(Failure::Broken(_)) => Ok(()),
            other => other,
        });
    }

    /// Other blobs in the packs of a damaged one that are damaged too. They would be taken for there when their results are
    /// computed again.
    fn flawed_neighbours(&self, flaw: &Flaw) -> Result<Vec<(BlobEntry, Flaw)>> {
        if flaw.chunks.is_empty() || !self.inner.has_chunks()? {
            return Ok(Vec::new());
        }
        let mut flawed = Vec::new();
        for entry in self.inner.read_chunks(|o| packs::neighbours(&o.db, &flaw.chunks))? {
            if let Err(flaw) = self.find_blob(&entry, 0)? {
                flawed.push((entry, flaw));
            }
        }
        Ok(flawed)
    }

    /// Makes what relies on lost blobs a miss, and the error that says so of one of them.
    fn damaged(&self, blob: &Digest, why: String, lost: &BTreeSet<Digest>) -> StoreError {
        let what = format!("blob {}", blob.short());
        match self.inner.lose(lost) {
            Ok(forgotten) => {
                self.inner.warn(format!("{what} is damaged: {why}; relied on by {}", things(forgotten.len())));
                StoreError::Damaged { what, why, blob: *blob, forgotten }
            }
            Err(error) => error,
        }
    }

    /// Writes what artifacts (each with its kind) are made of, durably, with one flush of each kind for all. Called while
    /// nobody collects.
    pub(super) fn write_artifacts(&self, all: &[(&str, &Artifact)]) -> Result<Vec<Manifest>> {
        let (mut small, mut sources) = (BTreeMap::new(), Vec::new());
        let mut files = Vec::with_capacity(all.len());
        for (_, artifact) in all {
            let apart = small::choose(&artifact.files);
            let mut own = Vec::with_capacity(artifact.files.len());
            for (name, content) in &artifact.files {
                let entry = apart.contains(name).then(|| BlobEntry::of(content));
                match entry {
                    Some(entry) => drop(small.insert(entry.digest, content.as_slice())),
                    None => sources.push(Source { head: Vec::new(), body: content }),
                }
                own.push((name.clone(), entry));
            }
            for tensor in artifact.tensors.values() {
                sources.push(tensor_source(tensor)?);
            }
            files.push(own);
        }
        small::write(&self.inner.dir, &small)?;
        // In the order in which they were gathered: of each artifact the files that are not apart, then the tensors.
        let mut entries = self.write_blobs(&sources)?.into_iter();
        let mut manifests = Vec::with_capacity(all.len());
        for ((kind, artifact), own) in all.iter().zip(files) {
            let mut files = BTreeMap::new();
            for (name, apart) in own {
                files.extend(apart.or_else(|| entries.next()).map(|entry| (name, entry)));
            }
            let tensors = artifact.tensors.iter().zip(entries.by_ref());
            let tensors = tensors.map(|((name, t), blob)| (name.clone(), tensor_entry(t, blob))).collect();
            let (metrics, facts) = (artifact.metrics.clone(), artifact.facts.clone());
            manifests.push(Manifest { kind: (*kind).to_owned(), tensors, files, metrics, facts });
        }
        Ok(manifests)
    }

    /// Writes tensors, durably. Called while nobody collects.
    pub(super) fn write_tensors(&self, tensors: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, TensorEntry>> {
        let sources = tensors.values().map(tensor_source).collect::<Result<Vec<_>>>()?;
        let entries = self.write_blobs(&sources)?;
        Ok(tensors.iter().zip(entries).map(|((name, t), blob)| (name.clone(), tensor_entry(t, blob))).collect())
    }

    /// Writes blobs to a pack, and returns their entries.
    fn write_blobs(&self, sources: &[Source<'_>]) -> Result<Vec<BlobEntry>> {
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        let sources: Vec<&Source<'_>> = sources.iter().collect();
        for _ in 0..ATTEMPTS {
            let (path, written) = self.pack(&sources)?;
            // A database that was set aside meanwhile no longer has the places of the pieces.
            if self.inner.change_chunks(|o| Ok(o.path() == path && blobs::commit(o, &written)?))? {
                let entry = |(digest, list): &(Digest, blobs::List)| BlobEntry { digest: *digest, size: list.size };
                return Ok(written.lists.iter().map(entry).collect());
            }
        }
        let why = "what is stored changes again and again while more is written".to_owned();
        Err(StoreError::Database { path: self.inner.chunks_path()?, why })
    }

    /// Creates the folder of packs. If there was one and it is gone, all results that rely on it are misses from now on.
    fn create_packs(&self, o: &Opened) -> Result<(), Failure> {
        // No other process has the database meanwhile, but other threads of this one have.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = packs::folder(o.path());
        if !exists(&folder)? && o.db.scan_prefix(b"p").next().is_some() {
            self.inner.change_index(|db, changes| {
                let generation = index::generation(db)?.unwrap_or_default();
                index::set_chunks(changes, generation, index::lineage(db)? + 1);
                Ok(())
            })?;
        }
        Ok(pack_writer::make_folder(&folder)?)
    }

    /// Writes blobs to a pack beside the database whose folder is returned with the outcome.
    fn pack(&self, sources: &[&Source<'_>]) -> Result<(PathBuf, Written)> {
        // Where there is no database yet, it is created, which changes what the index says about it.
        let path = match self.inner.has_chunks()? {
            true => self.inner.chunks_path()?,
            false => self.inner.change_chunks(|o| Ok(o.path().to_owned()))?,
        };
        if !exists(&packs::folder(&path))? {
            self.inner.change_chunks(|o| self.create_packs(o))?;
        }
        let known = |pieces: &[Digest]| {
            self.inner.touch_index();
            self.inner.change_chunks(|o| packs::known(&o.db, o.path(), pieces))
        };
        let written = pack_writer::write(sources, &packs::folder(&path), &known)?;
        Ok((path, written))
    }
}

fn tensor_source(tensor: &Tensor) -> Result<Source<'_>> {
    let head = Tensor::blob_header(tensor.element(), tensor.shape());
    let head = head.map_err(|e| StoreError::NotFound(format!("a tensor can't be stored: {e}")))?;
    Ok(Source { head, body: tensor.bytes() })
}

fn tensor_entry(tensor: &Tensor, blob: BlobEntry) -> TensorEntry {
    TensorEntry { element: tensor.element(), shape: tensor.shape().to_vec(), blob }
}
