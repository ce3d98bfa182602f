//! What `verify` found: one JSON file for each chain or result that was checked.
//!
//! ```text
//! CACHE/verdicts/KEY.json   Verdict; KEY is that of the last state that was checked or, if the stage is not a
//!                           training, that of the result
//! ```
//!
//! A verdict is in no key and no digest. It counts for every training whose chain has that state, as long as the files
//! that the program read are as they were. A file that can't be read counts as missing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::{self, write_atomically};
use super::entries::FilesRead;
use super::error::{Result, StoreError};
use super::handle::Store;
use crate::key::{Components, Key};

/// Bytes of the longest file.
const LONGEST: u64 = 16 << 20;

/// The part of a result that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// A tensor.
    Tensor,
    /// A file.
    File,
    /// A metric.
    Metric,
    /// A fact.
    Fact,
}

/// The first difference between two results, or between two states of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The part that differs.
    pub part: Part,
    /// Its name.
    pub name: String,
    /// How it differs, in words.
    pub how: String,
    /// The number of elements, for a tensor.
    pub elements: Option<u64>,
    /// The number of elements that differ, for a tensor.
    pub differing: Option<u64>,
    /// The largest absolute difference, for a tensor or a metric. `None` if a number is not finite.
    pub max_abs: Option<f64>,
}

impl Difference {
    /// A difference without numbers.
    pub fn new(part: Part, name: &str, how: impl Into<String>) -> Self {
        Self { part, name: name.to_owned(), how: how.into(), elements: None, differing: None, max_abs: None }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Tensor => "tensor",
            Part::File => "file",
            Part::Metric => "metric",
            Part::Fact => "fact",
        };
        write!(f, "{part} {} {}", self.name, self.how)
    }
}

/// What `verify` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Every byte is the same.
    Exact,
    /// The same work gave other bytes.
    NotReproducible,
    /// A process that continued from a state gave other bytes than one that went on: the program remembers something
    /// that it does not save.
    StateIncomplete,
}

/// Consecutive epochs: those after `from`, up to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRange {
    /// Finished epochs at the beginning.
    pub from: u64,
    /// Finished epochs at the end.
    pub to: u64,
}

impl fmt::Display for EpochRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from + 1, self.to)
    }
}

/// A verdict of `verify`, and what it was based on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What was found.
    pub finding: Finding,
    /// The first difference.
    pub difference: Option<Difference>,
    /// The first epoch that differed, if it can be told.
    pub epoch: Option<u64>,
    /// The last epoch that was checked, if the stage is a training.
    pub epochs: Option<u64>,
    /// Whether one process trains all segments, so that an incomplete state changes the result of a training that is
    /// continued.
    pub warm: bool,
    /// The epochs that were trained again, if it was not everything.
    pub stretches: Option<Vec<EpochRange>>,
    /// The epochs that were trained by one process and by two.
    pub pairs: Vec<EpochRange>,
    /// When, in Unix milliseconds.
    pub at: i64,
    /// The numerics class of the machine.
    pub class: String,
    /// vadpipe's version.
    pub version: String,
    /// The files that the program had read. The verdict counts only as long as they have these digests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files_read: FilesRead,
}

impl Verdict {
    /// Whether it should be shown instead of an earlier one. What was found once stays true, so only a check of the
    /// same epochs refutes it.
    fn outweighs(&self, earlier: &Self) -> bool {
        if self.finding != Finding::Exact || self.files_read != earlier.files_read {
            return true;
        }
        let checks_all = |verdict: &Self| verdict.stretches.is_none();
        match earlier.finding {
            Finding::Exact if checks_all(self) == checks_all(earlier) => self.epochs >= earlier.epochs,
            Finding::Exact => checks_all(self),
            Finding::NotReproducible => checks_all(self) && self.epochs >= earlier.epoch.or(earlier.epochs),
            Finding::StateIncomplete => earlier.pairs.iter().all(|pair| self.pairs.contains(pair)),
        }
    }

    /// What was found, in a word or two.
    pub fn word(&self) -> &'static str {
        match self.finding {
            Finding::Exact => "exact",
            Finding::NotReproducible => "not reproducible",
            Finding::StateIncomplete => "state incomplete",
        }
    }

    /// What was found, and in which epochs if not all of `total` were checked.
    pub fn words(&self, total: u64) -> String {
        let checked = |stretches: &[EpochRange]| stretches.iter().map(|stretch| stretch.to - stretch.from).sum::<u64>();
        match (self.finding, self.stretches.as_deref().map(checked), self.epochs) {
            (Finding::Exact, Some(checked), _) if checked < total => format!("exact in {checked} of {total} epochs"),
            (Finding::Exact, None, Some(epochs)) if epochs < total => format!("exact up to epoch {epochs}"),
            _ => self.word().to_owned(),
        }
    }

    /// What was found, and what differs.
    pub fn found(&self) -> String {
        let epoch = self.epoch.map(|epoch| format!(" from epoch {epoch} on")).unwrap_or_default();
        let difference = self.difference.as_ref().map(|difference| format!(": {difference}")).unwrap_or_default();
        format!("{}{epoch}{difference}", self.word())
    }

    /// What was checked.
    pub fn checked(&self) -> String {
        let list = |ranges: &[EpochRange]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let again = match (&self.stretches, self.epochs) {
            (None, None) => "the stage ran again".to_owned(),
            (None, Some(epochs)) => format!("all {epochs} epochs trained again"),
            (Some(stretches), _) => format!("epochs {} trained again", list(stretches)),
        };
        match &*self.pairs {
            [] => again,
            pairs => format!("{again}, and {} in one process and in two", list(pairs)),
        }
    }

    /// What the finding means for the user, if it is not exact.
    pub fn consequence(&self) -> Option<&'static str> {
        match self.finding {
            Finding::Exact => None,
            Finding::NotReproducible => Some("an extension keeps the recipe, but not the bytes"),
            Finding::StateIncomplete if self.warm => {
                Some("with `warm = true`, the result depends on where the training was interrupted or extended")
            }
            Finding::StateIncomplete => Some("the result depends on `segment_epochs`, but not on interruptions"),
        }
    }
}

/// All verdicts of a cache.
#[derive(Clone, Debug, Default)]
pub struct Verdicts(BTreeMap<Key, Verdict>);

impl Verdicts {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The verdict about a training with these states, or about a result with the only key. `has_files` tells whether
    /// files are as they were.
    pub fn about(&self, keys: &[Key], has_files: impl Fn(&FilesRead) -> bool) -> Option<&Verdict> {
        let mut found: Vec<&Verdict> = keys.iter().filter_map(|key| self.0.get(key)).collect();
        found.retain(|verdict| has_files(&verdict.files_read));
        found.sort_by_key(|verdict| verdict.at);
        found.into_iter().reduce(|earlier, later| if later.outweighs(earlier) { later } else { earlier })
    }
}

impl Store {
    /// Records what `verify` found about the state or the result with this key.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn put_verdict(&self, key: &Key, verdict: &Verdict) -> Result<()> {
        let path = self.index.folder.create("verdicts")?.join(format!("{key}.json"));
        if read(&path).is_some_and(|earlier| !verdict.outweighs(&earlier)) {
            return Ok(());
        }
        let text = serde_json::to_vec(verdict).map_err(|e| StoreError::io("can't write", &path)(e.into()))?;
        write_atomically(&path, &text)
    }

    /// What `verify` found so far.
    pub fn verdicts(&self) -> Verdicts {
        let paths = self.verdict_files().into_iter();
        Verdicts(paths.filter_map(|(key, path)| Some((key, read(&path)?))).collect())
    }

    /// What `verify` found about the result with these components and this key, or about a training that begins with
    /// the same epochs. `base` is the pipeline's folder.
    pub fn verdict<'v>(
        &self,
        all: &'v Verdicts,
        components: &Components,
        key: Key,
        base: &Path,
    ) -> Option<&'v Verdict> {
        if all.is_empty() {
            return None;
        }
        let chain = components.chain();
        let keys = if chain.keys().is_empty() { &[key][..] } else { chain.keys() };
        all.about(keys, |files| files.iter().all(|(name, digest)| self.digest_now(&base.join(name)) == Some(*digest)))
    }

    /// The files with verdicts, by the key that they are about.
    pub(super) fn verdict_files(&self) -> Vec<(Key, PathBuf)> {
        let paths = disk::entries(&self.dir().join("verdicts")).unwrap_or_default().into_iter();
        let key = |path: &Path| disk::name(path).strip_suffix(".json")?.parse().ok();
        paths.filter_map(|path| Some((key(&path)?, path))).collect()
    }
}

fn read(path: &Path) -> Option<Verdict> {
    serde_json::from_slice(&disk::read(path, LONGEST).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Digest;
    use crate::store::tests::store;

    fn verdict(finding: Finding, sampled: bool, at: i64) -> Verdict {
        Verdict {
            finding,
            difference: None,
            epoch: None,
            epochs: Some(40),
            warm: false,
            stretches: sampled.then(|| vec![EpochRange { from: 10, to: 20 }]),
            pairs: vec![],
            at,
            class: "cpu".to_owned(),
            version: String::new(),
            files_read: FilesRead::new(),
        }
    }

    #[test]
    fn only_a_check_of_the_same_epochs_refutes_what_was_found() {
        let pairs = |finding, pairs: &[(u64, u64)], epochs| {
            let pairs = pairs.iter().map(|(from, to)| EpochRange { from: *from, to: *to }).collect();
            Verdict { pairs, epochs: Some(epochs), ..verdict(finding, false, 0) }
        };
        let incomplete = pairs(Finding::StateIncomplete, &[(10, 30)], 40);
        assert!(!pairs(Finding::Exact, &[(0, 20)], 40).outweighs(&incomplete), "another pair");
        assert!(pairs(Finding::Exact, &[(0, 20), (10, 30)], 40).outweighs(&incomplete));
        let late = Verdict { epoch: Some(35), ..verdict(Finding::NotReproducible, false, 0) };
        assert!(!pairs(Finding::Exact, &[], 20).outweighs(&late), "a shorter training");
        assert!(pairs(Finding::Exact, &[], 40).outweighs(&late));
    }

    #[test]
    fn exact_is_said_only_of_the_epochs_that_were_checked() {
        let (sampled, whole) = (verdict(Finding::Exact, true, 0), verdict(Finding::Exact, false, 0));
        assert_eq!(sampled.words(40), "exact in 10 of 40 epochs");
        assert_eq!(whole.words(40), "exact");
        assert_eq!(whole.words(60), "exact up to epoch 40");
        assert_eq!(verdict(Finding::NotReproducible, true, 0).words(40), "not reproducible");
        let all = (0..4).map(|i| EpochRange { from: 10 * i, to: 10 * (i + 1) }).collect();
        assert_eq!(Verdict { stretches: Some(all), ..sampled }.words(40), "exact");
    }

    #[test]
    fn sample_does_not_refute_what_was_found() {
        use Finding::{Exact, NotReproducible};
        let dir = tempfile::tempdir().unwrap();
        let (store, key) = (store(dir.path()), Digest::of(b"state"));
        let mut found = Vec::new();
        for (at, (finding, sampled)) in (0..).zip([
            (Exact, true),
            (Exact, false),
            (Exact, true),
            (NotReproducible, true),
            (Exact, true),
            (Exact, false),
        ]) {
            store.put_verdict(&key, &verdict(finding, sampled, at)).unwrap();
            found.push(store.verdicts().about(&[key], |_| true).map(|verdict| verdict.at));
        }
        assert_eq!(found, [Some(0), Some(1), Some(1), Some(3), Some(3), Some(5)]);
        assert!(store.verdicts().about(&[Digest::of(b"other")], |_| true).is_none());
        assert!(store.verdicts().about(&[key], |_| false).is_none(), "a file has changed");
        std::fs::write(dir.path().join("verdicts").join(format!("{key}.json")), "{").unwrap();
        assert!(store.verdicts().is_empty(), "a damaged file counts as missing");
    }
}
