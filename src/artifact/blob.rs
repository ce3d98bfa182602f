//! The entries of a manifest: what names a blob.

use serde::{Deserialize, Serialize};

use super::tensor::ElementType;
use crate::key::Digest;

/// A tensor in a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// Element type.
    pub element: ElementType,
    /// Shape.
    pub shape: Vec<usize>,
    /// The blob with its bytes.
    pub blob: BlobEntry,
}

/// A blob in a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobEntry {
    /// Digest of all its bytes; for some blobs of states in mid-epoch, which stay in their cache, of checksums.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl BlobEntry {
    /// The entry for a blob with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), size: bytes.len() as u64 }
    }
}
