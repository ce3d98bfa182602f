//! What machines say about a result: the record of the store, and the words of those who made it again.

use std::collections::BTreeMap;

use super::error::Result;
use super::handle::SharedStore;
use super::record::{self, Signed};
use super::signature::{PublicKey, SecretKey};
use crate::artifact::Manifest;
use crate::key::Digest;
use crate::store::{Part, ResultRecord};

/// What one machine says about a result.
#[derive(Clone, Debug)]
pub struct Voice {
    /// The machine that made it.
    pub host: String,
    /// The key that signed it.
    pub signer: Option<PublicKey>,
    /// The name of a trusted signer.
    pub name: Option<String>,
    /// The digest of its result.
    pub digest: Digest,
    /// Where its result first differs from that of the store. `None` if it agrees.
    pub differs: Option<(Part, String)>,
}

/// All voices about a result. The first is the record of the store, which counts.
#[derive(Clone, Debug)]
pub struct Voices {
    /// The record of the store.
    pub record: ResultRecord,
    /// What machines say.
    pub voices: Vec<Voice>,
}

impl SharedStore {
    /// Adds a word about a result that this machine has made again, unless it signed the store's record itself.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub fn attest(&self, again: &ResultRecord) -> Result<()> {
        self.check()?;
        let again = ResultRecord { lineage: 0, ..again.clone() };
        let name = record::Named::object(&again);
        let stored = self.read::<ResultRecord>(std::slice::from_ref(&name))?.pop().flatten();
        let own = self.trust.key.as_ref().map(SecretKey::public);
        match stored {
            Some(Signed { record, signer }) if record.digest != again.digest || signer != own || own.is_none() => {
                self.objects.create(&record::word(&again, own), self.word(&again)).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// The object of a word about a result.
    pub(super) fn word(&self, own: &ResultRecord) -> Vec<u8> {
        let key = self.trust.key.as_ref();
        record::encode(own, &record::word(own, key.map(SecretKey::public)), key)
    }

    /// What machines say about these results, as far as the store has them.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn voices(&self, results: &[ResultRecord]) -> Result<Vec<Option<Voices>>> {
        self.check()?;
        let names: Vec<String> = results.iter().map(record::Named::object).collect();
        let prefixes: Vec<String> = names.iter().map(|name| record::words(name)).collect();
        let listed = self.objects.list_each(&prefixes).into_iter().collect::<Result<Vec<_>>>()?;
        let stored = self.read::<ResultRecord>(&names)?;
        let mut all = Vec::with_capacity(results.len());
        for (stored, listed) in stored.into_iter().zip(listed) {
            let Some(stored) = stored else {
                all.push(None);
                continue;
            };
            let names: Vec<String> = listed.into_iter().map(|object| object.name).collect();
            let words = self.read_words(&names)?;
            let record = stored.record.clone();
            let voices = std::iter::once(&stored).chain(&words).map(|word| self.voice(word, &record)).collect();
            all.push(Some(Voices { record, voices }));
        }
        Ok(all)
    }

    /// All results about which a word differs from the store's record.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn disputed(&self) -> Result<Vec<Voices>> {
        self.check()?;
        let listed = self.objects.list_each(&["word/".to_owned()]).pop().unwrap_or(Ok(Vec::new()))?;
        let names: Vec<String> = listed.into_iter().map(|object| object.name).collect();
        let words = self.read_words(&names)?;
        let mut results: Vec<ResultRecord> = words.into_iter().map(|word| word.record).collect();
        results.sort_by_key(|record| record.key);
        results.dedup_by_key(|record| record.key);
        let differs = |voices: &Voices| voices.voices.iter().any(|voice| voice.differs.is_some());
        Ok(self.voices(&results)?.into_iter().flatten().filter(differs).collect())
    }

    fn read_words(&self, names: &[String]) -> Result<Vec<Signed<ResultRecord>>> {
        let mut words = Vec::new();
        for (name, bytes) in names.iter().zip(self.objects.get_each(names)) {
            match bytes?.map(|bytes| record::decode_word(&bytes, name)) {
                Some(Ok(word)) => words.push(word),
                Some(Err(why)) => self.warn(format!("{name} of the store {} is ignored: {why}", self.address())),
                None => {}
            }
        }
        Ok(words)
    }

    fn voice(&self, word: &Signed<ResultRecord>, stored: &ResultRecord) -> Voice {
        let Signed { record, signer } = word;
        let named = self.trust.trusted.iter().find(|(_, key)| Some(**key) == *signer);
        let own = self.trust.key.as_ref().filter(|key| Some(key.public()) == *signer);
        Voice {
            host: record.provenance.host.clone(),
            signer: *signer,
            name: named.map(|(name, _)| name.clone()).or_else(|| own.map(|_| "you".to_owned())),
            digest: record.digest,
            differs: (record.digest != stored.digest).then(|| first_difference(&stored.manifest, &record.manifest)),
        }
    }
}

/// The first part in which two manifests differ.
fn first_difference(old: &Manifest, new: &Manifest) -> (Part, String) {
    let bits = |manifest: &Manifest| -> BTreeMap<String, u64> {
        manifest.metrics.iter().map(|(name, metric)| (name.clone(), metric.to_bits())).collect()
    };
    let tensor = first(&old.tensors, &new.tensors).map(|name| (Part::Tensor, name));
    let file = || first(&old.files, &new.files).map(|name| (Part::File, name));
    let metric = || first(&bits(old), &bits(new)).map(|name| (Part::Metric, name));
    let fact = || first(&old.facts, &new.facts).map(|name| (Part::Fact, name));
    let found = tensor.or_else(file).or_else(metric).or_else(fact);
    // Only the state of a training program is left.
    found.unwrap_or((Part::File, "state".to_owned()))
}

/// The first name whose values differ.
fn first<V: PartialEq>(old: &BTreeMap<String, V>, new: &BTreeMap<String, V>) -> Option<String> {
    old.keys().chain(new.keys()).find(|name| old.get(*name) != new.get(*name)).cloned()
}
