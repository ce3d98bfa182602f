//! What a stage makes: named tensors, plain files, metrics and facts; and how each becomes bytes.
//!
//! Every tensor and every file is one *blob*. A tensor's blob is a safetensors file that holds this one tensor under the
//! fixed name `tensor` and has no metadata map, so equal tensors are equal bytes whatever they are called, and are stored
//! once. An artifact's identity is the digest of its [`Manifest`]. Nothing in an artifact may depend on the time, the
//! host, the device, the number of threads or on what was cached: that is provenance and belongs to the run record.

mod fault;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo, TensorView};
use serde::{Deserialize, Serialize};

use crate::key::{Digest, Hash};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ElementType {
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// Unsigned byte: images and labels.
    U8,
    /// 32-bit unsigned integer: indices.
    U32,
    /// 64-bit integer.
    I64,
}

impl ElementType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F32 | Self::U32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F64 => Dtype::F64,
            Self::U8 => Dtype::U8,
            Self::U32 => Dtype::U32,
            Self::I64 => Dtype::I64,
        }
    }

    fn from_dtype(dtype: Dtype) -> Option<Self> {
        [Self::F32, Self::F64, Self::U8, Self::U32, Self::I64].into_iter().find(|t| t.dtype() == dtype)
    }
}

/// A Rust type that a tensor can hold.
pub trait Element: bytemuck::Pod {
    /// Its element type.
    const TYPE: ElementType;
}
impl Element for f32 {
    const TYPE: ElementType = ElementType::F32;
}
impl Element for f64 {
    const TYPE: ElementType = ElementType::F64;
}
impl Element for u8 {
    const TYPE: ElementType = ElementType::U8;
}
impl Element for u32 {
    const TYPE: ElementType = ElementType::U32;
}
impl Element for i64 {
    const TYPE: ElementType = ElementType::I64;
}

/// A tensor on the host: row-major, little-endian, cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Tensor {
    element: ElementType,
    shape: Vec<usize>,
    bytes: Arc<Vec<u8>>,
}

/// What can be wrong with the bytes of a tensor or with how it is used.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// The number of elements is not what the shape says.
    #[error("{elements} elements do not fill a tensor of shape {shape:?}")]
    Shape {
        /// How many there are.
        elements: usize,
        /// The shape asked for.
        shape: Vec<usize>,
    },
    /// Another element type was asked for.
    #[error("the tensor holds {found:?}, not {wanted:?}")]
    Type {
        /// What it holds.
        found: ElementType,
        /// What was asked for.
        wanted: ElementType,
    },
    /// The bytes are not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// A type that vadpipe does not handle, or not the one tensor that a blob holds.
    #[error("{0}")]
    Unsupported(String),
}

impl From<SafeTensorError> for TensorError {
    fn from(error: SafeTensorError) -> Self {
        Self::Unsupported(error.to_string())
    }
}

impl Tensor {
    /// A tensor of this shape from its elements in row-major order.
    ///
    /// # Errors
    /// If the number of elements is not the product of the shape.
    pub fn new<T: Element>(shape: impl Into<Vec<usize>>, elements: &[T]) -> Result<Self, TensorError> {
        Self::from_bytes(T::TYPE, shape, bytemuck::cast_slice(elements).to_vec())
    }

    /// A tensor whose elements `fill` writes; they are 0 before. Without the copy that [`Tensor::new`] makes.
    ///
    /// # Errors
    /// If the shape overflows.
    pub fn filled<T: Element>(shape: impl Into<Vec<usize>>, fill: impl FnOnce(&mut [T])) -> Result<Self, TensorError> {
        let shape = shape.into();
        let Some(size) = shape.iter().try_fold(size_of::<T>(), |n, d| n.checked_mul(*d)) else {
            return Err(TensorError::Shape { elements: 0, shape });
        };
        let mut bytes = vec![0u8; size];
        match bytemuck::try_cast_slice_mut(&mut bytes) {
            Ok(elements) => fill(elements),
            // No allocator gives out so little alignment for large memory, but it may.
            Err(_) => {
                let mut elements = bytemuck::zeroed_vec(size / size_of::<T>());
                fill(&mut elements);
                bytes.copy_from_slice(bytemuck::cast_slice(&elements));
            }
        }
        Self::from_bytes(T::TYPE, shape, bytes)
    }

    /// A tensor of one dimension.
    pub fn vector<T: Element>(elements: &[T]) -> Self {
        Self { element: T::TYPE, shape: vec![elements.len()], bytes: Arc::new(bytemuck::cast_slice(elements).to_vec()) }
    }

    /// A tensor from its little-endian bytes.
    ///
    /// # Errors
    /// If the number of bytes does not fit the shape.
    pub fn from_bytes(element: ElementType, shape: impl Into<Vec<usize>>, bytes: Vec<u8>) -> Result<Self, TensorError> {
        let shape = shape.into();
        let wanted = shape.iter().try_fold(element.size(), |n, d| n.checked_mul(*d));
        if wanted != Some(bytes.len()) {
            return Err(TensorError::Shape { elements: bytes.len() / element.size(), shape });
        }
        Ok(Self { element, shape, bytes: Arc::new(bytes) })
    }

    /// The element type.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// If it holds another type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        if self.element != T::TYPE {
            return Err(TensorError::Type { found: self.element, wanted: T::TYPE });
        }
        Ok(bytemuck::pod_collect_to_vec(&self.bytes))
    }

    /// The elements, row-major, where they are if they are aligned.
    ///
    /// # Errors
    /// If it holds another type.
    pub fn to_slice<T: Element>(&self) -> Result<Cow<'_, [T]>, TensorError> {
        match bytemuck::try_cast_slice(&self.bytes) {
            Ok(elements) if self.element == T::TYPE => Ok(Cow::Borrowed(elements)),
            _ => self.to_vec().map(Cow::Owned),
        }
    }

    /// The blob: a safetensors file with this one tensor.
    ///
    /// # Errors
    /// Only if the shape overflows, which [`Tensor::from_bytes`] excludes.
    pub fn to_blob(&self) -> Result<Vec<u8>, TensorError> {
        to_safetensors([(BLOB_NAME, self)])
    }

    /// The beginning of the blob, before [`Tensor::bytes`]: who writes or reads the two apart needs no copy of a large
    /// tensor.
    ///
    /// # Errors
    /// If the shape overflows.
    pub(crate) fn blob_header(element: ElementType, shape: &[usize]) -> Result<Vec<u8>, TensorError> {
        let overflow = || TensorError::Unsupported(format!("a tensor of shape {shape:?} has too many elements"));
        let len = shape.iter().try_fold(element.size(), |n, d| n.checked_mul(*d)).ok_or_else(overflow)?;
        let info = TensorInfo { dtype: element.dtype(), shape: shape.to_vec(), data_offsets: (0, len) };
        let metadata = Metadata::new(None, vec![(BLOB_NAME.to_owned(), info)])?;
        let mut json = serde_json::to_vec(&metadata).map_err(|e| TensorError::Unsupported(e.to_string()))?;
        // As safetensors does, so that elements are aligned.
        json.resize(json.len().next_multiple_of(8), b' ');
        Ok([&(json.len() as u64).to_le_bytes(), json.as_slice()].concat())
    }

    /// Reads what [`Tensor::to_blob`] wrote.
    ///
    /// # Errors
    /// If the bytes are something else.
    pub fn from_blob(blob: &[u8]) -> Result<Self, TensorError> {
        from_safetensors(blob)?
            .remove(BLOB_NAME)
            .ok_or_else(|| TensorError::Unsupported("the blob holds no tensor".to_owned()))
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?} {:?})", self.element, self.shape)
    }
}

const BLOB_NAME: &str = "tensor";

/// A safetensors file of several named tensors, without a metadata map.
///
/// # Errors
/// If a shape overflows, or if two tensors have the same name.
pub fn to_safetensors<'a, N: AsRef<str> + Ord + std::fmt::Display>(
    tensors: impl IntoIterator<Item = (N, &'a Tensor)>,
) -> Result<Vec<u8>, TensorError> {
    let views = tensors
        .into_iter()
        .map(|(name, t)| Ok((name, TensorView::new(t.element.dtype(), t.shape.clone(), &t.bytes)?)))
        .collect::<Result<Vec<_>, TensorError>>()?;
    // The crate panics if two names are equal.
    let mut names = BTreeSet::new();
    if let Some((twice, _)) = views.iter().find(|(name, _)| !names.insert(name)) {
        return Err(TensorError::Unsupported(format!("two tensors have the name `{twice}`")));
    }
    Ok(safetensors::serialize(views, None)?)
}

/// Reads a safetensors file, by anybody.
///
/// # Errors
/// If it is none, or holds a type that vadpipe does not handle.
pub fn from_safetensors(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, TensorError> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| TensorError::Format(fault::explain(bytes, &e)))?;
    file.iter()
        .map(|(name, view)| {
            let element = ElementType::from_dtype(view.dtype()).ok_or_else(|| {
                let known = "F32, F64, U8, U32 and I64";
                TensorError::Unsupported(format!("tensor `{name}` is {:?}; vadpipe reads {known}", view.dtype()))
            })?;
            Ok((name.to_owned(), Tensor::from_bytes(element, view.shape(), view.data().to_vec())?))
        })
        .collect()
}

/// What a stage made, in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Artifact {
    /// Named tensors.
    pub tensors: BTreeMap<String, Tensor>,
    /// Plain files, by name, such as a `command`'s outputs or `report.html`. `.png` files are exported as such.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The figures that `vadpipe metrics` shows. Finite.
    pub metrics: BTreeMap<String, f64>,
    /// Facts that readers of the artifact need to make sense of it: `classes`, `distribution`, `split`, … Only what the
    /// result itself is, never how it was come by.
    pub facts: BTreeMap<String, serde_json::Value>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_in_is_what_is_seen() {
        let tensor = Tensor::filled([2, 3], |elements: &mut [f32]| {
            assert_eq!(elements, [0.0; 6]);
            elements.iter_mut().zip(1u8..).for_each(|(e, n)| *e = f32::from(n));
        });
        let tensor = tensor.unwrap();
        assert_eq!(tensor, Tensor::new([2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap());
        assert_eq!(*tensor.to_slice::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!(tensor.to_slice::<u32>().is_err() && tensor.to_slice::<u8>().is_err(), "another type");
        assert!(Tensor::filled([usize::MAX, 2], |_: &mut [f32]| ()).is_err(), "too large for any machine");
    }
}
