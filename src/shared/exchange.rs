//! The open store: how it is checked, what is known about it, and push.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::blobs::{self, blob_name};
use super::error::{Result, SharedError};
use super::objects::Objects;
use super::record::{self, Named, Signed};
use super::signature::{PublicKey, SecretKey};
use super::transfer::Transfer;
use super::variables::Variables;
use crate::artifact::BlobEntry;
use crate::key::Key;
use crate::store::{Import, ResultRecord, StateRecord, Store};

/// The object that says that this is a store of vadpipe.
const MARKER: &str = "vadpipe.json";
/// The format of the store.
const FORMAT: u32 = 1;
/// Warnings about objects of one call. More are only counted.
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
    /// The names of objects that were found damaged. A push replaces them.
    damaged: Mutex<BTreeSet<String>>,
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
        let (is_checked, is_marked, is_given_up, warnings, damaged) = Default::default();
        Self { objects, trust, writes, is_checked, is_marked, is_given_up, warnings, damaged }
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

    /// Adds a warning, unless there is the same one.
    pub(super) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Notes damaged objects, given with a warning each. Warns about the first of them.
    pub(super) fn refuse(&self, damaged: Vec<(String, String)>) {
        let (names, warnings): (Vec<String>, Vec<String>) = damaged.into_iter().unzip();
        self.damaged().extend(names);
        self.warn_of_some(warnings);
    }

    fn warn_of_some(&self, mut warnings: Vec<String>) {
        let more = warnings.len().saturating_sub(WARNINGS);
        warnings.truncate(WARNINGS);
        warnings.into_iter().for_each(|warning| self.warn(warning));
        if more > 0 {
            self.warn(format!("{more} more objects of the store {} are ignored", self.address()));
        }
    }

    fn damaged(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks once that this is a store of vadpipe, or nothing yet.
    ///
    /// # Errors
    /// If it holds something else, if a later vadpipe wrote it, or if it can't be reached.
    pub fn check(&self) -> Result<()> {
        let address = self.address();
        if self.is_checked.get().is_some() {
            let is_marked = self.is_marked.load(Ordering::Relaxed);
            // A folder may be unmounted. Then nothing must be written to what is below it.
            return match address.folder().filter(|folder| is_marked && !folder.join(MARKER).exists()) {
                Some(_) => Err(SharedError::Failed {
                    what: format!("find {MARKER}"),
                    address: address.to_string(),
                    why: "it was there before".to_owned(),
                }),
                None => Ok(()),
            };
        }
        if let Some(folder) = address.folder().filter(|folder| !folder.is_dir()) {
            let is_file = folder.exists();
            if is_file || !self.writes {
                let why = if is_file { "it is a file" } else { "no such folder" };
                let hint = "check the address; with --store-write, the first push creates the folder";
                return Err(SharedError::unusable(format!("there is no store {address}: {why}"), hint));
            }
        }
        match self.objects.get_soon(MARKER)? {
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
                // Someone may have removed the marker. The next push writes it again.
                if let Some(other) = self.objects.first()?.filter(|name| !record::is_name(name)) {
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
    fn mark(&self) -> Result<()> {
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
    pub(super) fn read<T: Named>(&self, names: &[String]) -> Result<Vec<Option<Signed<T>>>> {
        let mut refused = Vec::new();
        let mut records = Vec::with_capacity(names.len());
        for (name, bytes) in names.iter().zip(self.objects.get_each(names)) {
            let Some(bytes) = bytes? else {
                records.push(None);
                continue;
            };
            let decoded = record::decode(&bytes, name, true);
            if decoded.is_ok() || record::is_of_later_format(&bytes) {
                self.damaged().remove(name);
            } else {
                self.damaged().insert(name.clone());
            }
            let accepted = decoded.and_then(|signed| self.trust.check(signed.signer).map(|()| signed));
            let refuse = |why| refused.push(format!("{name} of the store {} is ignored: {why}", self.address()));
            records.push(accepted.map_err(refuse).ok());
        }
        self.warn_of_some(refused);
        Ok(records)
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
        // Also those that the store has: their blobs may be missing.
        let mut sources = Import { results: results.clone(), states: states.clone() };
        let results = self.settle(results, &mut pushed)?;
        let names: Vec<String> = states.iter().map(Named::object).collect();
        let stored = self.read::<StateRecord>(&names)?;
        let states: Vec<_> =
            states.into_iter().zip(stored).filter(|(_, stored)| stored.is_none()).map(|s| s.0).collect();
        sources.results.retain(|result| !pushed.others.iter().any(|other| other.key == result.key));
        let mut records = Import { results, states };
        records.remove(&self.push_blobs(cache, &sources, transfer)?);
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
            if !agrees && !self.has_blobs_of(&record)? {
                // Nobody can use the other result.
                self.damaged().insert(own.object());
                lacking.push(own);
                continue;
            }
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

    /// Whether the store has all blobs of a result, as far as their lengths and earlier pulls say.
    fn has_blobs_of(&self, result: &ResultRecord) -> Result<bool> {
        let blobs: Vec<BlobEntry> = result.blobs().collect();
        let names: Vec<String> = blobs.iter().map(blob_name).collect();
        let sizes = self.objects.sizes(&names).into_iter().collect::<Result<Vec<_>>>()?;
        let damaged = self.damaged();
        Ok(blobs.iter().zip(sizes).all(|(blob, size)| size == Some(blob.size))
            && !names.iter().any(|name| damaged.contains(name)))
    }

    /// Writes the blobs of records that the store lacks. Returns those that are damaged in the cache.
    fn push_blobs(&self, cache: &Store, records: &Import, transfer: &Transfer<'_>) -> Result<BTreeSet<BlobEntry>> {
        let blobs: Vec<BlobEntry> = records.blobs().collect::<BTreeSet<_>>().into_iter().collect();
        let names: Vec<String> = blobs.iter().map(blob_name).collect();
        let mut lacking = Vec::new();
        for ((blob, name), size) in blobs.into_iter().zip(&names).zip(self.objects.sizes(&names)) {
            // A blob of another length is cut off.
            if size? != Some(blob.size) || self.damaged().contains(name) {
                lacking.push(blob);
            }
        }
        transfer.expect(blobs::total(&lacking));
        let damaged = blobs::upload(&self.objects, cache, &lacking, transfer)?;
        let written: BTreeSet<String> = lacking.iter().map(blob_name).collect();
        self.damaged().retain(|name| !written.contains(name));
        for (_, error) in &damaged {
            self.warn(error.to_string());
        }
        Ok(damaged.into_iter().map(|(blob, _)| blob).collect())
    }

    /// Writes records. Returns for each whether the store had none that can be read.
    fn create<T: Named>(&self, records: &[T]) -> Result<Vec<bool>> {
        let object = |record: &T| {
            let name = record.object();
            let bytes = record::encode(record, &name, self.trust.key.as_ref());
            (name, bytes)
        };
        let objects: Vec<(String, Vec<u8>)> = records.iter().map(object).collect();
        let damaged: Vec<_> = objects.iter().filter(|(name, _)| self.damaged().contains(name)).cloned().collect();
        let names: BTreeSet<String> = damaged.iter().map(|(name, _)| name.clone()).collect();
        self.objects.replace_each(damaged).into_iter().collect::<Result<()>>()?;
        let created = self.objects.create_each(objects.clone()).into_iter().zip(&objects);
        let created =
            created.map(|(created, (name, _))| Ok(created? || names.contains(name))).collect::<Result<Vec<bool>>>()?;
        self.damaged().retain(|name| !names.contains(name));
        Ok(created)
    }
}
