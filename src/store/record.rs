//! The records of the cache: results, states of trainings, and runs. On disk all of them are JSON.
//!
//! A new field gets `#[serde(default)]`; any other change raises [`super::FORMAT`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::holder::Holder;
use crate::artifact::{BlobEntry, Capability, Folder, Manifest, TensorEntry};
use crate::key::{Components, Digest, Key, Position};
use crate::status::{RunStatus, StageStatus};
use crate::system::Usage;

/// More epochs than any training has.
const MOST_EPOCHS: u64 = 100_000_000;

/// Where a result comes from. Never part of its identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// vadpipe's version.
    pub version: String,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// Numerics class: `cpu-avx512`, `cuda3-sm90x132-…`, …
    pub class: String,
    /// Number of threads it could use.
    pub threads: usize,
    /// Wall-clock seconds it took.
    pub seconds: f64,
    /// What it used of the machine, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Unix milliseconds.
    pub finished_at: i64,
    /// The run that computed it.
    pub run: String,
    /// The machine.
    pub host: String,
    /// The file of the program that it ran, if it ran one that `PATH` finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Whether it came from a shared store.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pulled: bool,
    /// If the user accepted edits of files as changing nothing: `vadpipe accept`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
}

/// Edits of files that the user accepted as changing nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The files.
    pub files: Vec<String>,
    /// The key of the result before the edits.
    pub of: Key,
    /// Unix milliseconds.
    pub at: i64,
}

/// A finished result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// Its identity.
    pub key: Key,
    /// The pipeline that computed it.
    pub pipeline: String,
    /// The point that computed it.
    pub point: String,
    /// Everything that entered the key.
    pub components: Components,
    /// Its tensors, files, metrics and facts.
    pub manifest: Manifest,
    /// The manifest's digest.
    pub digest: Digest,
    /// The names of what it provides; see [`ResultRecord::provides`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provides: Option<BTreeSet<String>>,
    /// Where it comes from.
    pub provenance: Provenance,
    /// Bytes of it were found missing or altered: it is a miss, but its digest stays known.
    #[serde(default)]
    pub damaged: bool,
    /// The lineage of the packs that hold its bytes; see [`super::Store::are_present`].
    pub lineage: u64,
}

impl ResultRecord {
    /// The blobs it needs.
    pub fn blobs(&self) -> impl Iterator<Item = BlobEntry> {
        self.manifest.blobs()
    }

    /// Whether its key is that of its components, and its digest that of its manifest.
    pub fn is_consistent(&self) -> bool {
        // The key of a training takes a hash for each epoch. An altered record must not make that endless.
        let segments = self.components.segments.iter().flatten();
        let epochs = segments.fold(0, |sum: u64, segment| sum.saturating_add(segment.epochs));
        epochs <= MOST_EPOCHS && self.digest == self.manifest.digest() && self.key == self.components.key()
    }

    /// The names of what it provides. A record of an earlier version doesn't hold them; it provides what its kind does.
    pub fn provides(&self, of_kind: &[Capability]) -> BTreeSet<String> {
        let names = || of_kind.iter().map(|capability| capability.name().to_owned()).collect();
        self.provides.clone().unwrap_or_else(names)
    }
}

/// A stored state of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateRecord {
    /// The key of state(`epoch`), or of state(`epoch` + 1) for a partial one.
    pub key: Key,
    /// The key of the last state of the training that saved it. It says which training owns the state where chains
    /// share a beginning. None in states of earlier versions.
    #[serde(default)]
    pub towards: Option<Key>,
    /// The key of that training's result, as far as it is known before the training ends, if it is not `towards`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Key>,
    /// Finished epochs.
    pub epoch: u64,
    /// Finished steps of the next epoch; 0 for a state at the end of an epoch.
    pub step: u64,
    /// Numerics class.
    pub class: String,
    /// Whether it stays when a later one is stored.
    pub pinned: bool,
    /// Its tensors. In mid-epoch their digests may be made of checksums, which mean nothing outside this cache.
    pub tensors: BTreeMap<String, TensorEntry>,
    /// Its files, if it is the state of a program.
    #[serde(default, skip_serializing_if = "Folder::is_empty")]
    pub folder: Folder,
    /// The files that the program has read so far although its stage does not name them: see
    /// [`Components::files_read`]. The state counts only as long as they have these digests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files_read: BTreeMap<String, Digest>,
    /// Unix milliseconds.
    pub saved_at: i64,
    /// Whether it came from a shared store.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pulled: bool,
    /// As in [`ResultRecord`].
    pub lineage: u64,
}

impl StateRecord {
    /// Bytes of its tensors, before they are cut into pieces.
    pub fn bytes(&self) -> u64 {
        self.blobs().map(|blob| blob.size).sum()
    }

    /// The blobs it needs.
    pub fn blobs(&self) -> impl Iterator<Item = BlobEntry> {
        self.tensors.values().map(|t| t.blob).chain(self.folder.blobs())
    }

    /// The training that saved it: the key of its result.
    pub(super) fn owner(&self) -> Option<Key> {
        self.result.or(self.towards)
    }

    /// Where it is on its chain.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, step: self.step }
    }

    /// The index of its key in its chain.
    pub(super) fn chain_index(&self) -> u64 {
        self.epoch + u64::from(self.step > 0)
    }

    /// Whether both are stored under the same name.
    pub(super) fn has_name_of(&self, other: &Self) -> bool {
        (self.key, self.step, &self.class, &self.files_read) == (other.key, other.step, &other.class, &other.files_read)
    }
}

/// A stage in a run record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRun {
    /// The point's name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its key, once known.
    pub key: Option<Key>,
    /// How it ended.
    pub outcome: StageStatus,
    /// Wall-clock seconds of this run.
    pub seconds: f64,
    /// The result's digest.
    pub digest: Option<Digest>,
    /// For a training that continued: the epoch it continued at.
    pub resumed_at: Option<u64>,
    /// For a training that ran to its end: how fast it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<TrainingRate>,
    /// The worker that ran it, if the run had several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// How fast a training was. Later runs estimate their time from it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingRate {
    /// A digest of what the time depends on.
    pub workload: Digest,
    /// Seconds per sample.
    pub seconds_per_sample: f64,
}

/// What the user and the project say about a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLabel {
    /// A name by which it can be found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The git commit of the pipeline's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
}

/// A git commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// All digits of its id.
    pub id: String,
    /// Whether tracked files differed from it.
    pub modified: bool,
}

/// A run. Written when it starts, replaced when it ends. What it names is a root for `gc`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The version of this record: 1.
    pub format: u32,
    /// See [`super::new_run_id`]: ids sort by time.
    pub id: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline's file, as given.
    pub file: String,
    /// The command line after the program's name.
    pub args: Vec<String>,
    /// Its name, its note and its commit.
    #[serde(default)]
    pub label: RunLabel,
    /// Unix milliseconds.
    pub started_at: i64,
    /// Unix milliseconds.
    pub finished_at: Option<i64>,
    /// How it ended.
    pub status: RunStatus,
    /// The process that runs it.
    pub holder: Holder,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// Numerics class.
    pub class: String,
    /// Number of threads.
    pub threads: usize,
    /// vadpipe's version.
    pub version: String,
    /// The stages, in plan order.
    pub stages: Vec<StageRun>,
    /// Keys of the states that its trainings could continue from when it began. Another training may have saved them.
    /// The states that the run itself saves are known by [`StateRecord::towards`].
    pub states: Vec<Key>,
}

/// The version of [`RunRecord`].
pub const RUN_FORMAT: u32 = 1;

impl RunRecord {
    /// Whether it has not finished and its process may live (on this machine or another).
    pub fn is_running(&self) -> bool {
        self.finished_at.is_none() && self.holder.may_live()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Artifact;
    use crate::store::tests::{commit, components, store};

    #[test]
    fn record_of_an_earlier_version_provides_what_its_kind_does() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let artifact = Artifact { provides: BTreeSet::from(["tokens".to_owned()]), ..Artifact::default() };
        let record = commit(&store, "x", &components("a", 1), &artifact);
        let of_kind = [Capability::LATENTS];
        assert_eq!(record.provides(&of_kind), BTreeSet::from(["tokens".to_owned()]));
        let mut json = serde_json::to_value(&record).unwrap();
        json.as_object_mut().unwrap().remove("provides").unwrap();
        let earlier: ResultRecord = serde_json::from_value(json).unwrap();
        assert_eq!(earlier.provides(&of_kind), BTreeSet::from(["latents".to_owned()]));
        assert_eq!(earlier.digest, record.digest, "not part of the identity");
    }
}
