//! Pull: results and states from the store to the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::blobs::{Download, blob_name, total};
use super::error::{Result, SharedError};
use super::handle::{RECORDS, SharedStore};
use super::record;
use super::transfer::Transfer;
use crate::artifact::BlobEntry;
use crate::key::{Digest, Key};
use crate::store::{FilesRead, Import, ResultRecord, StateQuery, StateRecord, Store};

/// About how many bytes are stored at a time. What is stored stays if the transfer is interrupted.
const BATCH: u64 = 256 << 20;
/// Prefixes that are listed one by one. For more of them, all states are listed.
const MOST_LISTINGS: usize = 500;
/// Epochs of a training whose states are looked for at a time.
const EPOCHS: usize = 64;

/// A result to look for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The key without the files that a program read.
    pub declared: Key,
    /// Whether the stage runs a program, which may have read files.
    pub reads_files: bool,
}

/// A training whose furthest state is looked for.
#[derive(Clone, Copy)]
pub struct WantedState<'a> {
    /// The keys of state(0), state(1), … state(n).
    pub states: &'a [Key],
    /// Which states the training can continue from.
    pub query: StateQuery<'a>,
    /// Only a state after more epochs is of use.
    pub cached: u64,
}

impl WantedState<'_> {
    fn total(&self) -> u64 {
        self.states.len().saturating_sub(1) as u64
    }

    /// The epochs whose states are of use and their keys, the last one first.
    fn epochs(&self) -> Vec<(u64, Key)> {
        let is_boundary = |epoch: &u64| epoch.is_multiple_of(self.query.every) || *epoch == self.total();
        let key = |epoch: u64| Some((epoch, *self.states.get(usize::try_from(epoch).ok()?)?));
        (self.cached.saturating_add(1)..=self.total()).rev().filter(is_boundary).filter_map(key).collect()
    }
}

/// The names of the states of an epoch, and their key.
type Listed = (u64, Key, Vec<String>);

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
    /// interrupted. Returns how many were copied.
    ///
    /// # Errors
    /// If the store can't be read, or the cache can't be written.
    pub fn pull_results(
        &self,
        cache: &Store,
        asked: &[Asked],
        is_current: &dyn Fn(&FilesRead) -> bool,
        transfer: &Transfer<'_>,
    ) -> Result<usize> {
        let mut pulled = 0;
        for asked in asked.chunks(RECORDS) {
            if transfer.is_cancelled() {
                return Err(SharedError::Cancelled);
            }
            let found = self.find_results(asked)?.into_iter().flatten();
            let results: Vec<ResultRecord> = found.filter(|r| is_current(&r.components.files_read)).collect();
            pulled += self.import(cache, Import { results, ..Import::default() }, transfer)?;
        }
        Ok(pulled)
    }

    /// The furthest states in the store that these trainings can continue from, in their order.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn find_states(
        &self,
        wanted: &[WantedState<'_>],
        digest: &dyn Fn(&Path) -> Option<Digest>,
    ) -> Result<Vec<Option<StateRecord>>> {
        self.find_states_without(&BTreeSet::new(), wanted, digest)
    }

    /// [`SharedStore::find_states`] that need none of the `lost` blobs.
    fn find_states_without(
        &self,
        lost: &BTreeSet<BlobEntry>,
        wanted: &[WantedState<'_>],
        digest: &dyn Fn(&Path) -> Option<Digest>,
    ) -> Result<Vec<Option<StateRecord>>> {
        let mut found: Vec<Option<StateRecord>> = vec![None; wanted.len()];
        let mut epochs: Vec<Vec<(u64, Key)>> = wanted.iter().map(WantedState::epochs).collect();
        let mut all_names = None;
        while epochs.iter().any(|left| !left.is_empty()) {
            self.check()?;
            let asked: Vec<Vec<(u64, Key)>> =
                epochs.iter_mut().map(|left| left.drain(..EPOCHS.min(left.len())).collect()).collect();
            let mut listed = self.list_states(wanted, asked, &mut all_names)?;
            // The last epoch of each training first. Most fit, so the records of the others are not read.
            loop {
                let next: Vec<(usize, Listed)> =
                    listed.iter_mut().enumerate().filter_map(|(i, left)| Some((i, left.pop()?))).collect();
                if next.is_empty() {
                    break;
                }
                let names: Vec<String> = next.iter().flat_map(|(_, (_, _, names))| names.clone()).collect();
                let mut records = self.read::<StateRecord>(&names)?.into_iter();
                for (i, (epoch, key, names)) in next {
                    let records: Vec<_> = records.by_ref().take(names.len()).flatten().collect();
                    let wanted = &wanted[i];
                    let fits = |state: &StateRecord| {
                        let is_of_chain = state.key == key && state.epoch == epoch && state.step == 0;
                        let is_whole = !state.blobs().any(|blob| lost.contains(&blob));
                        is_of_chain && is_whole && wanted.query.accepts(state, wanted.total(), digest)
                    };
                    found[i] = records.into_iter().map(|signed| signed.record).find(fits);
                    if found[i].is_some() {
                        listed[i].clear();
                        epochs[i].clear();
                    }
                }
            }
        }
        Ok(found)
    }

    /// The states of these epochs of each training, the last epoch last. If one list takes fewer requests, `all_names`
    /// is filled with the names of all states.
    fn list_states(
        &self,
        wanted: &[WantedState<'_>],
        asked: Vec<Vec<(u64, Key)>>,
        all_names: &mut Option<BTreeSet<String>>,
    ) -> Result<Vec<Vec<Listed>>> {
        let prefix = |wanted: &WantedState<'_>, key: &Key| record::states(key, wanted.query.class);
        let all = wanted.iter().zip(&asked);
        // Trainings may share their first epochs.
        let prefixes: BTreeSet<String> =
            all.flat_map(|(wanted, epochs)| epochs.iter().map(move |(_, key)| prefix(wanted, key))).collect();
        let prefixes: Vec<String> = prefixes.into_iter().collect();
        let mut names: BTreeMap<&String, Vec<String>> = BTreeMap::new();
        if all_names.is_none() && prefixes.len() > MOST_LISTINGS {
            let all = self.objects.list_each(&["state/".to_owned()]).pop().unwrap_or(Ok(Vec::new()))?;
            *all_names = Some(all.into_iter().map(|object| object.name).collect());
        }
        match all_names {
            Some(all) => names.extend(prefixes.iter().map(|prefix| (prefix, below(all, prefix)))),
            None => {
                for (prefix, listed) in prefixes.iter().zip(self.objects.list_each(&prefixes)) {
                    names.insert(prefix, listed?.into_iter().map(|object| object.name).collect());
                }
            }
        }
        let listed = |(wanted, epochs): (&WantedState<'_>, Vec<(u64, Key)>)| {
            let of = |(epoch, key): (u64, Key)| {
                let names = names.get(&prefix(wanted, &key)).filter(|names| !names.is_empty())?;
                Some((epoch, key, names.clone()))
            };
            epochs.into_iter().rev().filter_map(of).collect()
        };
        Ok(wanted.iter().zip(asked).map(listed).collect())
    }

    /// Copies the furthest state of each training that is further than those of the cache. If the store has lost a part
    /// of it, copies the furthest one that is whole. Returns how many.
    ///
    /// # Errors
    /// If the store can't be read, or the cache can't be written.
    pub fn pull_states(
        &self,
        cache: &Store,
        wanted: &[WantedState<'_>],
        digest: &dyn Fn(&Path) -> Option<Digest>,
        transfer: &Transfer<'_>,
    ) -> Result<usize> {
        let (mut pulled, mut lost) = (0, BTreeSet::new());
        loop {
            let found = self.find_states_without(&lost, wanted, digest)?;
            let states: Vec<StateRecord> = found.into_iter().flatten().collect();
            let needed: Vec<BlobEntry> = states.iter().flat_map(StateRecord::blobs).collect();
            pulled += self.import(cache, Import { states, ..Import::default() }, transfer)?;
            let known = lost.len();
            lost.extend(cache.lacking_blobs(needed)?);
            if lost.len() == known {
                return Ok(pulled);
            }
        }
    }

    /// Copies this result from the store, even if the cache has another one under its key. `None` if a part of it is
    /// missing or altered.
    ///
    /// # Errors
    /// If the store can't be read, or the cache can't be written.
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
        if records.is_empty() {
            return Ok(0);
        }
        let lacking: BTreeSet<BlobEntry> = cache.lacking_blobs(records.blobs())?.into_iter().collect();
        transfer.expect(total(&lacking));
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
        let lacking = cache.lacking_blobs(batch.blobs())?;
        let ended = Mutex::new(None);
        let fetch = || -> Box<dyn Iterator<Item = Box<dyn Read + '_>> + '_> {
            Box::new(Download::new(&self.objects, &lacking, transfer, &ended))
        };
        let lost = cache.import(batch.clone(), &lacking, fetch)?;
        if let Some(error) = ended.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let warning = |(blob, why): &(BlobEntry, String)| {
            format!("{} of the store {} can't be used: {why}", blob_name(blob), self.address())
        };
        self.damaged().extend(lost.iter().map(|(blob, _)| blob_name(blob)));
        self.warn_of_some(lost.iter().map(warning).collect());
        batch.remove(&lost.into_iter().map(|(blob, _)| blob).collect());
        Ok(batch.len())
    }
}

/// The names that begin with a prefix.
fn below(names: &BTreeSet<String>, prefix: &str) -> Vec<String> {
    names.range(prefix.to_owned()..).take_while(|name| name.starts_with(prefix)).cloned().collect()
}

/// Parts of an import whose lacking blobs have about [`BATCH`] bytes.
fn batches(records: Import, lacking: &BTreeSet<BlobEntry>) -> Vec<Import> {
    let mut batches = vec![Import::default()];
    let mut bytes: u64 = 0;
    let mut next = |blobs: &mut dyn Iterator<Item = BlobEntry>, batches: &mut Vec<Import>| {
        let blobs: Vec<BlobEntry> = blobs.filter(|blob| lacking.contains(blob)).collect();
        let size = total(&blobs);
        if bytes > 0 && bytes.saturating_add(size) > BATCH {
            batches.push(Import::default());
            bytes = 0;
        }
        bytes = bytes.saturating_add(size);
    };
    for result in records.results {
        next(&mut result.blobs(), &mut batches);
        batches.last_mut().into_iter().for_each(|batch| batch.results.push(result.clone()));
    }
    for state in records.states {
        next(&mut state.blobs(), &mut batches);
        batches.last_mut().into_iter().for_each(|batch| batch.states.push(state.clone()));
    }
    batches
}
