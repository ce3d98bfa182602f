//! Pull: results and states from the store to the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::blobs::{Download, blob_name};
use super::error::{Result, SharedError};
use super::handle::{RECORDS, SharedStore};
use super::record;
use super::transfer::Transfer;
use crate::artifact::BlobEntry;
use crate::key::{Digest, Key};
use crate::store::{FilesRead, Import, ResultRecord, StateQuery, StateRecord, Store, StoreError};

/// About how many bytes are stored at a time. What is stored stays if the transfer is interrupted.
const BATCH: u64 = 256 << 20;
/// States are looked for one by one if this needs at most so many requests, else in a list of all states.
const MOST_LISTINGS: u64 = 500;
/// States of a training that are looked for at the same time.
const AT_A_TIME: usize = 64;

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

impl SharedStore {
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
            if transfer.is_cancelled() {
                return Err(SharedError::Cancelled);
            }
            let found = self.find_results(asked)?.into_iter().flatten();
            let results: Vec<ResultRecord> = found.filter(|r| is_current(&r.components.files_read)).collect();
            pulled.results += self.import(cache, Import { results, ..Import::default() }, transfer)?;
        }
        Ok(pulled)
    }

    /// The names of all states of the store, if so many requests for the states of trainings would be more.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn state_names(&self, requests: u64) -> Result<Option<BTreeSet<String>>> {
        if requests <= MOST_LISTINGS {
            return Ok(None);
        }
        self.check()?;
        let listed = self.objects.list_each(&["state/".to_owned()]).pop().unwrap_or(Ok(Vec::new()))?;
        Ok(Some(listed.into_iter().map(|object| object.name).collect()))
    }

    /// The furthest state in the store that a training can continue from, after more than `cached` epochs. `states` are
    /// the keys of state(0), state(1), … state(n). `names` are those of [`SharedStore::state_names`].
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn find_state(
        &self,
        states: &[Key],
        query: &StateQuery<'_>,
        cached: u64,
        names: Option<&BTreeSet<String>>,
        digest: &dyn Fn(&Path) -> Option<Digest>,
    ) -> Result<Option<StateRecord>> {
        self.check()?;
        let total = states.len().saturating_sub(1) as u64;
        let is_boundary = |epoch: &u64| epoch.is_multiple_of(query.every) || *epoch == total;
        let epochs: Vec<u64> = (cached + 1..=total).rev().filter(is_boundary).collect();
        for epochs in epochs.chunks(AT_A_TIME) {
            let key = |epoch: &u64| usize::try_from(*epoch).ok().and_then(|index| states.get(index)).copied();
            let keys: Vec<Key> = epochs.iter().filter_map(key).collect();
            let prefixes: Vec<String> = keys.iter().map(|key| record::states(key, query.class)).collect();
            let listed: Vec<Vec<String>> = match names {
                Some(names) => prefixes.iter().map(|prefix| below(names, prefix)).collect(),
                None => {
                    let listed = self.objects.list_each(&prefixes).into_iter();
                    let names = listed.map(|l| Ok(l?.into_iter().map(|object| object.name).collect()));
                    names.collect::<Result<_>>()?
                }
            };
            for ((epoch, key), names) in epochs.iter().zip(&keys).zip(listed) {
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
            let failure = Mutex::new(None);
            let fetch = || -> Box<dyn Iterator<Item = Box<dyn std::io::Read + '_>> + '_> {
                Box::new(Download::new(&self.objects, &lacking, transfer, &failure))
            };
            let imported = cache.import(batch.clone(), &lacking, fetch);
            let (blob, why) = match imported {
                Ok(_) => return Ok(batch.results.len() + batch.states.len()),
                Err(StoreError::NotReceived { .. }) if transfer.is_cancelled() => return Err(SharedError::Cancelled),
                Err(StoreError::NotReceived { blob, why }) => (blob, why),
                Err(error) => return Err(error.into()),
            };
            let mut bad = self.incomplete(&lacking)?;
            let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
            // The blob is all right, but the store failed.
            if let Some(error) = failure.filter(|_| !bad.contains_key(&blob)) {
                return Err(error);
            }
            let named = |(blob, why): (&BlobEntry, &String)| {
                format!("{} of the store {} can't be used: {why}", blob_name(blob), self.address())
            };
            bad.entry(blob).or_insert(why);
            self.warn_of_some(bad.iter().map(named).collect());
            if !batch.remove(&bad.into_keys().collect()) {
                return Ok(0);
            }
        }
        Ok(0)
    }

    /// Those of these blobs that are missing or have another length, with what is wrong.
    fn incomplete(&self, blobs: &[BlobEntry]) -> Result<BTreeMap<BlobEntry, String>> {
        let names: Vec<String> = blobs.iter().map(blob_name).collect();
        let mut incomplete = BTreeMap::new();
        for (blob, stored) in blobs.iter().zip(self.objects.look_at_each(&names)) {
            match stored? {
                None => drop(incomplete.insert(*blob, "it is missing".to_owned())),
                Some(stored) if stored.size != blob.size => {
                    let why = format!("it has {} bytes instead of {}", stored.size, blob.size);
                    incomplete.insert(*blob, why);
                }
                Some(_) => {}
            }
        }
        Ok(incomplete)
    }
}

/// The names that begin with a prefix.
fn below(names: &BTreeSet<String>, prefix: &str) -> Vec<String> {
    names.range(prefix.to_owned()..).take_while(|name| name.starts_with(prefix)).cloned().collect()
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
