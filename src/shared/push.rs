//! Push: results and states from the cache to the store.

use std::collections::BTreeSet;

use super::blobs::{self, blob_name};
use super::error::Result;
use super::handle::SharedStore;
use super::record::{self, Named, Refusal, Signed};
use super::signature::SecretKey;
use super::transfer::Transfer;
use crate::artifact::BlobEntry;
use crate::store::{Import, ResultRecord, StateRecord, Store};

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

impl SharedStore {
    /// Copies results and states from the cache to the store, first their blobs. If the store has another result under
    /// the same key, that one stays, and the own one is added as a word about it. A record of the store that is
    /// damaged, or that this machine does not trust, is replaced. Results that the user accepted by hand are left out,
    /// and so are states in mid-epoch, which may have checksums instead of hashes.
    ///
    /// # Errors
    /// If the store can't be read or written, or if this machine may not write to it.
    pub fn push(&self, cache: &Store, records: Import, transfer: &Transfer<'_>) -> Result<Pushed> {
        self.require_writes()?;
        self.mark()?;
        let mut pushed = Pushed::default();
        let is_sound = |record: &ResultRecord| !record.damaged && record.provenance.accepted.is_none();
        let results: Vec<ResultRecord> = records.results.into_iter().filter(is_sound).collect();
        let mut compared = self.compare(results, &mut pushed)?;
        let states = records.states.into_iter().filter(|state| state.step == 0).collect();
        let (new_states, other_states) = self.compare_states(states, &mut compared.refused)?;
        // Also those that the records of the store need: some may have been lost.
        let others = Import { results: std::mem::take(&mut compared.agreeing), states: other_states };
        let mut new = Import { results: compared.lacking, states: new_states };
        let (written, damaged) = self.push_blobs(cache, &new, &others, transfer)?;
        new.remove(&damaged);
        let late = self.write(new.results, &compared.refused, &mut pushed.results)?;
        self.write(new.states, &compared.refused, &mut pushed.states)?;
        // A collection may have removed them before the records were there. Now it sees the records.
        let (gone, _) = self.lacking_and_old(&written)?;
        self.upload(cache, &gone, transfer)?;
        // Another machine was faster.
        self.compare(late, &mut pushed)?;
        Ok(pushed)
    }

    /// Compares results with those of the store. Adds words about those that the store has.
    fn compare(&self, results: Vec<ResultRecord>, pushed: &mut Pushed) -> Result<Compared> {
        let names: Vec<String> = results.iter().map(Named::object).collect();
        let (mut compared, mut words) = (Compared::default(), Vec::new());
        let key = self.trust.key.as_ref();
        let stored = self.read_each::<ResultRecord>(&names)?;
        for ((own, name), stored) in results.into_iter().zip(names).zip(stored) {
            let Signed { record, signer } = match stored {
                Some(Ok(stored)) => stored,
                Some(Err(Refusal::Newer(_))) => continue,
                Some(Err(_)) => {
                    compared.refused.insert(name);
                    compared.lacking.push(own);
                    continue;
                }
                None => {
                    compared.lacking.push(own);
                    continue;
                }
            };
            let agrees = record.digest == own.digest;
            if !agrees && !self.has_blobs_of(&record)? {
                // Nobody can use the other result.
                compared.refused.insert(name);
                compared.lacking.push(own);
                continue;
            }
            let is_new_word = !agrees || (key.is_some() && key.map(SecretKey::public) != signer);
            if is_new_word && !own.is_pulled() {
                words.push((record::word(&own, key.map(SecretKey::public)), self.word(&own)));
            }
            if agrees { compared.agreeing.push(own) } else { pushed.others.push(record) }
        }
        self.objects.create_each(words).into_iter().collect::<Result<Vec<bool>>>()?;
        Ok(compared)
    }

    /// The states that the store lacks or whose record is refused, and the others. Adds the refused ones to `refused`.
    fn compare_states(
        &self,
        states: Vec<StateRecord>,
        refused: &mut BTreeSet<String>,
    ) -> Result<(Vec<StateRecord>, Vec<StateRecord>)> {
        let names: Vec<String> = states.iter().map(Named::object).collect();
        let stored = self.read_each::<StateRecord>(&names)?;
        let (mut lacking, mut others) = (Vec::new(), Vec::new());
        for ((state, name), stored) in states.into_iter().zip(names).zip(stored) {
            match stored {
                Some(Ok(_)) => others.push(state),
                Some(Err(Refusal::Newer(_))) => {}
                Some(Err(_)) => {
                    refused.insert(name);
                    lacking.push(state);
                }
                None => lacking.push(state),
            }
        }
        Ok((lacking, others))
    }

    /// Whether the store has all blobs of a result, as far as their lengths and earlier pulls say.
    fn has_blobs_of(&self, result: &ResultRecord) -> Result<bool> {
        let blobs: Vec<BlobEntry> = result.blobs().collect();
        Ok(self.lacking_and_old(&blobs)?.0.is_empty())
    }

    /// Writes the blobs of new and of other records that the store lacks, and again those of new records that a
    /// collection may remove before the records are there. Returns those of new records, and the blobs that are damaged
    /// in the cache.
    fn push_blobs(
        &self,
        cache: &Store,
        new: &Import,
        others: &Import,
        transfer: &Transfer<'_>,
    ) -> Result<(Vec<BlobEntry>, BTreeSet<BlobEntry>)> {
        let of_new: BTreeSet<BlobEntry> = new.blobs().collect();
        let all: BTreeSet<BlobEntry> = of_new.iter().copied().chain(others.blobs()).collect();
        let (lacking, mut old) = self.lacking_and_old(&all.into_iter().collect::<Vec<_>>())?;
        old.retain(|blob| of_new.contains(blob));
        let mut written = [lacking, old].concat();
        let damaged = self.upload(cache, &written, transfer)?;
        written.retain(|blob| of_new.contains(blob) && !damaged.contains(blob));
        Ok((written, damaged))
    }

    /// Those of these blobs that the store lacks, and those that it has for long. A blob of another length is cut off.
    pub(super) fn lacking_and_old(&self, blobs: &[BlobEntry]) -> Result<(Vec<BlobEntry>, Vec<BlobEntry>)> {
        let names: Vec<String> = blobs.iter().map(blob_name).collect();
        let (mut lacking, mut old) = (Vec::new(), Vec::new());
        for ((blob, name), stored) in blobs.iter().zip(&names).zip(self.objects.look_at_each(&names)) {
            match stored?.filter(|_| !self.damaged().contains(name)) {
                Some(stored) if stored.size == blob.size && !stored.is_old() => {}
                Some(stored) if stored.size == blob.size => old.push(*blob),
                _ => lacking.push(*blob),
            }
        }
        Ok((lacking, old))
    }

    /// Writes blobs. Returns those that are damaged in the cache.
    fn upload(&self, cache: &Store, blobs: &[BlobEntry], transfer: &Transfer<'_>) -> Result<BTreeSet<BlobEntry>> {
        transfer.expect(blobs::total(blobs));
        let damaged = blobs::upload(&self.objects, cache, blobs, transfer)?;
        let written: BTreeSet<String> = blobs.iter().map(blob_name).collect();
        self.damaged().retain(|name| !written.contains(name));
        damaged.iter().for_each(|(_, error)| self.warn(error.to_string()));
        Ok(damaged.into_iter().map(|(blob, _)| blob).collect())
    }

    /// Creates records, and replaces those that were refused. Counts them in `written`, and returns those that another
    /// machine has created meanwhile.
    fn write<T: Named>(&self, records: Vec<T>, refused: &BTreeSet<String>, written: &mut usize) -> Result<Vec<T>> {
        let object = |record: &T| {
            let name = record.object();
            let bytes = record::encode(record, &name, self.trust.key.as_ref());
            (name, bytes)
        };
        let objects: Vec<(String, Vec<u8>)> = records.iter().map(object).collect();
        let (replaced, new): (Vec<_>, Vec<_>) = objects.into_iter().partition(|(name, _)| refused.contains(name));
        *written += replaced.len();
        for (name, bytes) in replaced {
            self.objects.put(&name, bytes)?;
        }
        let new_names: Vec<String> = new.iter().map(|(name, _)| name.clone()).collect();
        let mut late = BTreeSet::new();
        for (name, created) in new_names.into_iter().zip(self.objects.create_each(new)) {
            if created? {
                *written += 1;
            } else {
                late.insert(name);
            }
        }
        Ok(records.into_iter().filter(|record| late.contains(&record.object())).collect())
    }
}

/// Results of the cache, compared with those of the store.
#[derive(Default)]
struct Compared {
    /// Those that the store lacks or whose record is refused.
    lacking: Vec<ResultRecord>,
    /// Those that the store has with the same bytes.
    agreeing: Vec<ResultRecord>,
    /// The objects of records that are refused.
    refused: BTreeSet<String>,
}
