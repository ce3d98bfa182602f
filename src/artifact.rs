//! What a stage makes: named tensors, plain files, metrics and facts.
//!
//! Every tensor and every file is one *blob*. A tensor's blob is a safetensors file that holds this one tensor under the
//! fixed name `tensor` and has no metadata map, so equal tensors are equal bytes whatever they are called, and are stored
//! once. An artifact's identity is the digest of its [`Manifest`]. An artifact must not depend on the time, the host, the
//! device, the number of threads or the cache: those are provenance and belong to the run record.

mod capability;
mod fault;
mod tensor;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::capability::Capability;
pub use self::tensor::{Element, ElementType, Tensor, TensorError, from_safetensors, to_safetensors};
use crate::key::{Digest, Hash};

/// What a stage made, in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Artifact {
    /// Named tensors.
    pub tensors: BTreeMap<String, Tensor>,
    /// Plain files, by name, such as a `command`'s outputs or `report.html`. `.png` files are exported as such.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The figures that `vadpipe metrics` shows. Finite.
    pub metrics: BTreeMap<String, f64>,
    /// Facts that readers need to interpret the artifact: `classes`, `distribution`, `split`, … They describe the result,
    /// never how it was made.
    pub facts: BTreeMap<String, serde_json::Value>,
    /// The names of what it provides, see [`Capability`]. Set from the stage's kind when the stage has run; not part of the
    /// artifact's identity.
    pub provides: BTreeSet<String>,
}

/// What an artifact is made of, by digest: small, and enough to plan with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The stage kind that made it.
    pub kind: String,
    /// Named tensors.
    pub tensors: BTreeMap<String, TensorEntry>,
    /// Named files.
    pub files: BTreeMap<String, BlobEntry>,
    /// Metrics.
    pub metrics: BTreeMap<String, f64>,
    /// Facts.
    pub facts: BTreeMap<String, serde_json::Value>,
}

/// A tensor in a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// Element type.
    pub element: ElementType,
    /// Shape.
    pub shape: Vec<usize>,
    /// Where its bytes are.
    pub blob: BlobEntry,
}

/// A blob in a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobEntry {
    /// Digest of all its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl BlobEntry {
    /// The entry of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), size: bytes.len() as u64 }
    }
}

impl Manifest {
    /// The identity of the result: what enters the keys of the stages that read it.
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
        h.finish()
    }
}
