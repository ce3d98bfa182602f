//! Push and pull.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

use super::address::{Address, Variables};
use super::blobs::{self, Download, blob_name};
use super::error::{Result, SharedError};
use super::objects::Objects;
use super::record::{self, Named, Signed};
use super::signature::{PublicKey, SecretKey};
use super::transfer::Transfer;
use crate::artifact::BlobEntry;
use crate::key::{Digest, Key};
use crate::store::{FilesRead, Import, ResultRecord, StateQuery, StateRecord, Store, StoreError};

/// The object that says that this is a store of vadpipe.
const MARKER: &str = "vadpipe.json";
/// The format of the store.
const FORMAT: u32 = 1;
/// About how many bytes are stored at a time. What is stored stays if the transfer is interrupted.
const BATCH: u64 = 256 << 20;
/// Records that are looked for at a time.
const RECORDS: usize = 512;
/// Warnings about records of one call. More are only counted.
const WARNINGS: usize = 5;

/// Who signs and who is trusted.
#[derive(Debug, Default)]
pub struct Trust {
    /// The key that signs what this machine pushes.
    pub key: Option<SecretKey>,
    /// The names and the keys of those whose records are taken, besides one's own. Empty to take unsigned records and
    /// those of everybody.
    pub trusted: BTreeMap<String, PublicKey>,
}

impl Trust {
    /// Whether a record is taken.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, signer: Option<PublicKey>) -> Result<(), String> {
        if self.trusted.is_empty() {
            return Ok(());
        }
        match signer {
            None => Err("it is not signed, and the configuration names trusted keys".to_owned()),
            Some(key) if self.trusted.values().any(|trusted| *trusted == key) => Ok(()),
            Some(key) if self.key.as_ref().is_some_and(|own| own.public() == key) => Ok(()),
            Some(key) => Err(format!("it is signed by {}, which is not a trusted key", key.short())),
        }
    }
}

/// A result to look for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The key without the files that a program read.
    pub declared: Key,
    /// Whether the stage runs a program, which may have read files.
    pub reads_files: bool,
}

/// What a pull brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Results that the cache did not have.
    pub results: usize,
    /// States that the cache did not have.
    pub states: usize,
}

/// What a push did.
#[derive(Debug, Default)]
pub struct Pushed {
    /// Results that the store did not have.
    pub results: usize,
    /// States that the store did not have.
    pub states: usize,
    /// Results of the store under the same keys with other bytes. They were there first, and count.
    pub others: Vec<ResultRecord>,
}

/// A shared store, open.
pub struct SharedStore {
    pub(super) objects: Objects,
    trust: Trust,
    /// Whether this machine may write to it.
    writes: bool,
    is_checked: OnceLock<()>,
    is_marked: AtomicBool,
    is_given_up: AtomicBool,
    warnings: Mutex<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    format: u32,
}

impl SharedStore {
    /// Opens a store. Makes no request.
    ///
    /// # Errors
    /// If this program was built without this kind of store, or if settings are missing or wrong.
    pub fn open(address: Address, variables: Variables, trust: Trust, writes: bool) -> Result<Self> {
        Ok(Self::of(Objects::open(address, variables)?, trust, writes))
    }

    /// Uses a store that is open.
    ///
    /// # Errors
    /// If the system refuses threads.
    pub fn with_store(store: Arc<dyn ObjectStore>, address: Address, trust: Trust, writes: bool) -> Result<Self> {
        let root = object_store::path::Path::default();
        Ok(Self::of(Objects::with_store(store, root, address, Variables::new())?, trust, writes))
    }

    fn of(objects: Objects, trust: Trust, writes: bool) -> Self {
        let (is_checked, is_marked, is_given_up, warnings) = Default::default();
        Self { objects, trust, writes, is_checked, is_marked, is_given_up, warnings }
    }

    /// Its address.
    pub fn address(&self) -> &Address {
        self.objects.address()
    }

    /// Whether this machine may write to it.
    pub fn writes(&self) -> bool {
        self.writes
    }

    /// Warnings for the user since the last call. Each is a sentence without a full stop.
    pub fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a run does without the store from now on: see [`SharedStore::give_up`].
    pub fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    /// Notes that the store failed, so that a run does not wait for it again and again. Returns a warning, but only the
    /// first time.
    pub fn give_up(&self, warning: impl FnOnce() -> String) -> Option<String> {
        (!self.is_given_up.swap(true, Ordering::Relaxed)).then(warning)
    }

    pub(super) fn warn(&self, warning: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
    }

    /// Checks once that this is a store of vadpipe, or nothing yet.
    ///
    /// # Errors
    /// If it holds something else, if a later vadpipe wrote it, or if it can't be reached.
    pub fn check(&self) -> Result<()> {
        if self.is_checked.get().is_some() {
            return Ok(());
        }
        let address = self.address();
        if let Some(folder) = address.folder().filter(|folder| !folder.is_dir()) {
            let is_file = folder.exists();
            if is_file || !self.writes {
                let why = if is_file { "it is a file" } else { "no such folder" };
                let hint = "check the address; with --store-write, the first push creates the folder";
                return Err(SharedError::unusable(format!("there is no store {address}: {why}"), hint));
            }
        }
        match self.objects.get(MARKER)? {
            Some(bytes) => match serde_json::from_slice::<Marker>(&bytes) {
                Ok(Marker { format }) if format <= FORMAT => self.is_marked.store(true, Ordering::Relaxed),
                Ok(Marker { format }) => {
                    let message =
                        format!("the store {address} has format {format}; this vadpipe reads formats up to {FORMAT}");
                    return Err(SharedError::unusable(message, "use the vadpipe that wrote it or a later one"));
                }
                Err(_) => return Err(self.is_something_else(MARKER)),
            },
            None => {
                if let Some(other) = self.objects.first()? {
                    return Err(self.is_something_else(&other));
                }
            }
        }
        let _ = self.is_checked.set(());
        Ok(())
    }

    fn is_something_else(&self, name: &str) -> SharedError {
        SharedError::unusable(
            format!("{} is not a store of vadpipe: it holds {name}", self.address()),
            "give an empty folder or an own path in the bucket, such as s3://BUCKET/vadpipe",
        )
    }

    /// Makes the store one of vadpipe before the first write.
    pub(super) fn mark(&self) -> Result<()> {
        self.check()?;
        if !self.is_marked.load(Ordering::Relaxed) {
            let marker = serde_json::to_vec(&Marker { format: FORMAT }).unwrap_or_default();
            self.objects.create(MARKER, marker)?;
            self.is_marked.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The records of results, in the order of `asked`. A stage that runs a program may have several: one for each
    /// version of the files that it read. Refused records are left out, with a warning.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn find_results(&self, asked: &[Asked]) -> Result<Vec<Vec<ResultRecord>>> {
        self.check()?;
        let mut names = vec![Vec::new(); asked.len()];
        let (listed, plain): (Vec<_>, Vec<_>) = (0..asked.len()).partition(|i| asked[*i].reads_files);
        for i in plain {
            names[i].push(record::result_without_files(&asked[i].declared));
        }
        let prefixes: Vec<String> = listed.iter().map(|i| record::results(&asked[*i].declared)).collect();
        for (i, found) in listed.into_iter().zip(self.objects.list_each(&prefixes)) {
            names[i].extend(found?.into_iter().map(|object| object.name));
        }
        let all: Vec<String> = names.concat();
        let mut records = self.read::<ResultRecord>(&all)?.into_iter();
        let found =
            |names: Vec<String>| records.by_ref().take(names.len()).flatten().map(|signed| signed.record).collect();
        Ok(names.into_iter().map(found).collect())
    }

    /// Reads records. `None` for one that is missing or refused. Warns about those that are refused.
    fn read<T: Named>(&self, names: &[String]) -> Result<Vec<Option<Signed<T>>>> {
        let mut refused = Vec::new();
        let mut records = Vec::with_capacity(names.len());
        for (name, bytes) in names.iter().zip(self.objects.get_each(names)) {
            let record = bytes?.map(|bytes| self.accept(&bytes, name));
            records.push(match record {
                Some(Ok(record)) => Some(record),
                Some(Err(why)) => {
                    refused.push(format!("{name} of the store {} is ignored: {why}", self.address()));
                    None
                }
                None => None,
            });
        }
        let more = refused.len().saturating_sub(WARNINGS);
        refused.truncate(WARNINGS);
        refused.into_iter().for_each(|warning| self.warn(warning));
        if more > 0 {
            self.warn(format!("{more} more records of the store {} are ignored", self.address()));
        }
        Ok(records)
    }

    fn accept<T: Named>(&self, bytes: &Bytes, name: &str) -> Result<Signed<T>, String> {
        let signed = record::decode(bytes, name, true)?;
        self.trust.check(signed.signer)?;
        Ok(signed)
    }

    /// Copies results from the store that the cache lacks. `is_current` says whether the files that a program read are
    /// as it read them. A missing or altered object is a warning. Results that are stored stay if the transfer is
    /// interrupted.
    ///
    /// # Errors
    /// If the store can't be read, or the cache can't be written.
    pub fn pull_results(
        &self,
        cache: &Store,
        asked: &[Asked],
        is_current: &dyn Fn(&FilesRead) -> bool,
        transfer: &Transfer<'_>,
    ) -> Result<Pulled> {
        let mut pulled = Pulled::default();
        for asked in asked.chunks(RECORDS) {
            let found = self.find_results(asked)?.into_iter().flatten();
            let results: Vec<ResultRecord> = found.filter(|r| is_current(&r.components.files_read)).collect();
            pulled.results += self.import(cache, Import { results, ..Import::default() }, transfer)?;
        }
        Ok(pulled)
    }

    /// The furthest state in the store that a training can continue from, after more than `cached` epochs. `states` are
    /// the keys of state(0), state(1), … state(n).
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn find_state(
        &self,
        states: &[Key],
        query: &StateQuery<'_>,
        cached: u64,
        digest: &dyn Fn(&std::path::Path) -> Option<Digest>,
    ) -> Result<Option<StateRecord>> {
        self.check()?;
        let total = states.len().saturating_sub(1) as u64;
        let is_boundary = |epoch: &u64| epoch.is_multiple_of(query.every) || *epoch == total;
        let epochs: Vec<u64> = (cached + 1..=total).rev().filter(is_boundary).collect();
        for epochs in epochs.chunks(64) {
            let key = |epoch: &u64| usize::try_from(*epoch).ok().and_then(|index| states.get(index)).copied();
            let keys: Vec<Key> = epochs.iter().filter_map(key).collect();
            let prefixes: Vec<String> = keys.iter().map(|key| record::states(key, query.class)).collect();
            for ((epoch, key), listed) in epochs.iter().zip(&keys).zip(self.objects.list_each(&prefixes)) {
                let names: Vec<String> = listed?.into_iter().map(|object| object.name).collect();
                let records = self.read::<StateRecord>(&names)?.into_iter().flatten().map(|signed| signed.record);
                let fits = |state: &StateRecord| {
                    let is_of_chain = state.key == *key && state.epoch == *epoch && state.step == 0;
                    is_of_chain && query.accepts(state, total, digest)
                };
                if let Some(state) = records.into_iter().find(fits) {
                    return Ok(Some(state));
                }
            }
        }
        Ok(None)
    }

    /// Copies a state from the store to the cache. Returns whether it did.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn pull_state(&self, cache: &Store, state: StateRecord, transfer: &Transfer<'_>) -> Result<bool> {
        Ok(self.import(cache, Import { states: vec![state], ..Import::default() }, transfer)? > 0)
    }

    /// Copies this result from the store, even if the cache has another one under its key. `None` if a part of it is
    /// missing or altered.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn pull_record(
        &self,
        cache: &Store,
        result: ResultRecord,
        transfer: &Transfer<'_>,
    ) -> Result<Option<ResultRecord>> {
        let pulled = self.import(cache, Import { results: vec![result.clone()], ..Import::default() }, transfer)?;
        Ok(if pulled > 0 { cache.result(&result.key)? } else { None })
    }

    /// Stores records with their blobs in the cache, some at a time. Returns how many. Records of which a blob is
    /// missing or altered are left out, with a warning.
    fn import(&self, cache: &Store, records: Import, transfer: &Transfer<'_>) -> Result<usize> {
        let lacking: BTreeSet<BlobEntry> = cache.lacking_blobs(records.blobs())?.into_iter().collect();
        transfer.expect(lacking.iter().map(|blob| blob.size).sum());
        let mut stored = 0;
        for batch in batches(records, &lacking) {
            if transfer.is_cancelled() {
                return Err(SharedError::Cancelled);
            }
            stored += self.import_batch(cache, batch, transfer)?;
        }
        Ok(stored)
    }

    fn import_batch(&self, cache: &Store, mut batch: Import, transfer: &Transfer<'_>) -> Result<usize> {
        while !batch.is_empty() {
            let lacking = cache.lacking_blobs(batch.blobs())?;
            let fetch = || -> Box<dyn Iterator<Item = Box<dyn std::io::Read + '_>> + '_> {
                Box::new(Download::new(&self.objects, &lacking, transfer))
            };
            match cache.import(batch.clone(), &lacking, fetch) {
                Ok(_) => return Ok(batch.results.len() + batch.states.len()),
                Err(StoreError::NotReceived { .. }) if transfer.is_cancelled() => return Err(SharedError::Cancelled),
                Err(StoreError::NotReceived { blob, why }) => {
                    let name = blob_name(&blob);
                    self.warn(format!("{name} of the store {} can't be used: {why}", self.address()));
                    if !batch.remove(&BTreeSet::from([blob])) {
                        return Ok(0);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(0)
    }

    /// Copies results and states from the cache to the store, first their blobs. If the store has another result under
    /// the same key, that one stays, and the own one is added as a word about it.
    ///
    /// # Errors
    /// If the store can't be read or written, or if this machine may not write to it.
    pub fn push(&self, cache: &Store, records: Import, transfer: &Transfer<'_>) -> Result<Pushed> {
        if !self.writes {
            let hint = "give --store-write, or set `write = true` under [store] in the configuration";
            return Err(SharedError::unusable(
                format!("the store {} is only read from this machine", self.address()),
                hint,
            ));
        }
        self.mark()?;
        let mut pushed = Pushed::default();
        let blank = |record: ResultRecord| ResultRecord { lineage: 0, ..record };
        let results: Vec<_> = records.results.into_iter().filter(|r| !r.damaged).map(blank).collect();
        let states: Vec<_> = records.states.into_iter().map(|state| StateRecord { lineage: 0, ..state }).collect();
        let results = self.settle(results, &mut pushed)?;
        let names: Vec<String> = states.iter().map(Named::object).collect();
        let stored = self.objects.sizes(&names).into_iter().collect::<Result<Vec<_>>>()?;
        let states: Vec<_> =
            states.into_iter().zip(stored).filter(|(_, stored)| stored.is_none()).map(|s| s.0).collect();
        let mut records = Import { results, states };
        self.push_blobs(cache, &mut records, transfer)?;
        let results = self.create(&records.results)?;
        let states = self.create(&records.states)?;
        pushed.states += states.into_iter().filter(|created| *created).count();
        let mut late = Vec::new();
        for (record, created) in records.results.into_iter().zip(results) {
            if created { pushed.results += 1 } else { late.push(record) }
        }
        // Another machine was faster.
        self.settle(late, &mut pushed)?;
        Ok(pushed)
    }

    /// Compares results with those of the store, and returns those that the store lacks.
    fn settle(&self, results: Vec<ResultRecord>, pushed: &mut Pushed) -> Result<Vec<ResultRecord>> {
        let names: Vec<String> = results.iter().map(Named::object).collect();
        let (mut lacking, mut words) = (Vec::new(), Vec::new());
        for (own, stored) in results.into_iter().zip(self.read::<ResultRecord>(&names)?) {
            let Some(Signed { record, signer }) = stored else {
                lacking.push(own);
                continue;
            };
            let key = self.trust.key.as_ref();
            let agrees = record.digest == own.digest;
            if !agrees || (signer.is_some() && key.is_some_and(|key| Some(key.public()) != signer)) {
                let name = record::word(&own, key.map(SecretKey::public));
                words.push((name.clone(), record::encode(&own, &name, key)));
            }
            if !agrees {
                pushed.others.push(record);
            }
        }
        self.objects.create_each(words).into_iter().collect::<Result<Vec<bool>>>()?;
        Ok(lacking)
    }

    /// Writes the blobs of records that the store lacks. Removes the records of which the cache has a damaged blob.
    fn push_blobs(&self, cache: &Store, records: &mut Import, transfer: &Transfer<'_>) -> Result<()> {
        let blobs: Vec<BlobEntry> = records.blobs().collect::<BTreeSet<_>>().into_iter().collect();
        let names: Vec<String> = blobs.iter().map(blob_name).collect();
        let mut lacking = Vec::new();
        for (blob, size) in blobs.into_iter().zip(self.objects.sizes(&names)) {
            // A blob of another length is cut off.
            if size? != Some(blob.size) {
                lacking.push(blob);
            }
        }
        transfer.expect(lacking.iter().map(|blob| blob.size).sum());
        let damaged = blobs::upload(&self.objects, cache, &lacking, transfer)?;
        for (_, error) in &damaged {
            self.warn(error.to_string());
        }
        records.remove(&damaged.into_iter().map(|(blob, _)| blob).collect());
        Ok(())
    }

    fn create<T: Named>(&self, records: &[T]) -> Result<Vec<bool>> {
        let object = |record: &T| {
            let name = record.object();
            let bytes = record::encode(record, &name, self.trust.key.as_ref());
            (name, bytes)
        };
        self.objects.create_each(records.iter().map(object).collect()).into_iter().collect()
    }
}

/// Parts of an import whose lacking blobs have about [`BATCH`] bytes.
fn batches(records: Import, lacking: &BTreeSet<BlobEntry>) -> Vec<Import> {
    let mut batches = vec![Import::default()];
    let mut bytes = 0;
    let mut next = |blobs: u64, batches: &mut Vec<Import>| {
        if bytes > 0 && bytes + blobs > BATCH {
            batches.push(Import::default());
            bytes = 0;
        }
        bytes += blobs;
    };
    let size = |blobs: &mut dyn Iterator<Item = BlobEntry>| blobs.filter(|b| lacking.contains(b)).map(|b| b.size).sum();
    for result in records.results {
        next(size(&mut result.blobs()), &mut batches);
        batches.last_mut().into_iter().for_each(|batch| batch.results.push(result.clone()));
    }
    for state in records.states {
        next(size(&mut state.blobs()), &mut batches);
        batches.last_mut().into_iter().for_each(|batch| batch.states.push(state.clone()));
    }
    batches
}
