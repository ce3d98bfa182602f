//! The result of a stage: named tensors, plain files, metrics and facts.
//!
//! Every tensor and every file is one *blob*. A tensor's blob is a safetensors file that holds only this tensor, under
//! the fixed name `tensor`, and has no metadata map. Equal tensors are therefore equal bytes, and are stored once even
//! if their names differ. An artifact's identity is the digest of its [`Manifest`]. An artifact must not depend on the
//! time, the host, the device, the number of threads or the cache: these are provenance and belong in the run record.

mod blob;
mod candle;
mod capability;
mod fault;
mod folder;
pub(crate) mod metrics;
mod tensor;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::blob::{BlobEntry, TensorEntry};
pub use self::capability::Capability;
pub(crate) use self::capability::NOT_LOGGED;
pub use self::folder::{
    FileOnDisk, Folder, FolderError, FolderOnDisk, TensorFile, TensorFileOnDisk, TensorOnDisk, is_tensor_file,
};
pub(crate) use self::tensor::byte_count;
pub use self::tensor::{Element, ElementType, Tensor, TensorError, from_safetensors, to_safetensors};
use crate::key::{Digest, Hash};

/// A stage's result, in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Artifact {
    /// Named tensors.
    pub tensors: BTreeMap<String, Tensor>,
    /// Plain files, by name, such as a `command`'s outputs or `report.html`. `.png` files are exported unchanged.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The metrics that `vadpipe metrics` shows. They may be NaN or infinite.
    pub metrics: BTreeMap<String, f64>,
    /// Facts that readers need to interpret the artifact: `classes`, `distribution`, `split`, … They describe the
    /// result itself, and never how it was produced.
    pub facts: BTreeMap<String, serde_json::Value>,
    /// Tensors in files on the disk, by name. Use it for what may be larger than the memory.
    pub tensors_on_disk: BTreeMap<String, TensorOnDisk>,
    /// Plain files on the disk, by name, as `tensors_on_disk`.
    pub files_on_disk: BTreeMap<String, FileOnDisk>,
    /// The last state of a training program, which is in the store already.
    pub state: Folder,
    /// The names of the capabilities that it provides, see [`Capability`]. Set from the stage's kind after the stage
    /// has run. Not part of the artifact's identity.
    pub provides: BTreeSet<String>,
}

/// The contents of an artifact, by digest. A manifest is small, and planning needs nothing else.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// The kind of the stage that produced it.
    pub kind: String,
    /// Named tensors.
    pub tensors: BTreeMap<String, TensorEntry>,
    /// Named files.
    pub files: BTreeMap<String, BlobEntry>,
    /// Metrics.
    #[serde(with = "metrics")]
    pub metrics: BTreeMap<String, f64>,
    /// Facts.
    pub facts: BTreeMap<String, serde_json::Value>,
    /// The last state of a training program.
    #[serde(default, skip_serializing_if = "Folder::is_empty")]
    pub state: Folder,
}

/// Equal metrics have the same bits, so NaN equals itself.
impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        let Self { kind, tensors, files, metrics, facts, state } = self;
        (kind, tensors, files, facts, state) == (&other.kind, &other.tensors, &other.files, &other.facts, &other.state)
            && metrics.len() == other.metrics.len()
            && metrics.iter().zip(&other.metrics).all(|((a, x), (b, y))| a == b && x.to_bits() == y.to_bits())
    }
}

impl Manifest {
    /// The blobs that it needs.
    pub fn blobs(&self) -> impl Iterator<Item = BlobEntry> {
        let tensors = self.tensors.values().map(|tensor| tensor.blob);
        tensors.chain(self.files.values().copied()).chain(self.state.blobs())
    }

    /// The identity of the result. It enters the keys of the stages that read it.
    pub fn digest(&self) -> Digest {
        let mut h = Hash::new("manifest");
        h.text(&self.kind);
        h.count(self.tensors.len());
        for (name, t) in &self.tensors {
            h.text(name).text(&format!("{:?}", t.element)).count(t.shape.len());
            for d in &t.shape {
                h.count(*d);
            }
            h.digest(&t.blob.digest);
        }
        h.count(self.files.len());
        for (name, blob) in &self.files {
            h.text(name).digest(&blob.digest);
        }
        h.count(self.metrics.len());
        for (name, metric) in &self.metrics {
            h.text(name).float(*metric);
        }
        h.count(self.facts.len());
        for (name, fact) in &self.facts {
            // serde_json orders maps by key, so this text is canonical.
            h.text(name).text(&fact.to_string());
        }
        // Added later: the digests of other results stay as they were.
        if !self.state.is_empty() {
            self.state.hash(h.text("state"));
        }
        h.finish()
    }
}
