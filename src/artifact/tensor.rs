//! Tensors on the host, and the safetensors files that they are stored in.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use safetensors::SafeTensorError;
use safetensors::tensor::{Metadata, SafeTensors, TensorInfo, TensorView};

use super::fault;
use crate::system::{vec_on_large_pages, zeros_on_large_pages};

/// The type of a tensor's elements: any that a safetensors file can hold.
pub use safetensors::tensor::Dtype as ElementType;

/// The bytes of a tensor of this shape. `None` if that is too many, or no whole number.
pub(crate) fn byte_count(element: ElementType, shape: &[usize]) -> Option<usize> {
    let bits = shape.iter().try_fold(element.bitsize(), |bits, side| bits.checked_mul(*side))?;
    bits.is_multiple_of(8).then_some(bits / 8)
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
#[derive(Clone)]
pub struct Tensor {
    element: ElementType,
    shape: Vec<usize>,
    bytes: Arc<Vec<u8>>,
    /// Set once it is known.
    is_finite: OnceLock<bool>,
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        (self.element, &self.shape, &self.bytes) == (other.element, &other.shape, &other.bytes)
    }
}
impl Eq for Tensor {}

/// An error in a tensor's bytes, or in how a tensor is used.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// The number of elements does not match the shape.
    #[error("{elements} elements do not fill a tensor of shape {shape:?}")]
    Shape {
        /// The number of elements.
        elements: usize,
        /// The requested shape.
        shape: Vec<usize>,
    },
    /// The caller requested another element type.
    #[error("the tensor holds {found:?}, not {wanted:?}")]
    Type {
        /// The type of the tensor's elements.
        found: ElementType,
        /// The requested type.
        wanted: ElementType,
    },
    /// The bytes are not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// Tensors that do not fit into a file, or a blob without its one tensor.
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
        let from: &[u8] = bytemuck::cast_slice(elements);
        let mut bytes = vec_on_large_pages(from.len());
        bytes.extend_from_slice(from);
        Self::from_bytes(T::TYPE, shape, bytes)
    }

    /// Makes a [`Tensor::new`] in the memory of `spare`, if that has as many bytes and no other owner. The first use
    /// of new memory takes longer than the copy. Several threads copy, and find out whether the elements are finite.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn new_in<T: Element + Sync>(
        spare: Option<Self>,
        shape: impl Into<Vec<usize>>,
        elements: &[T],
    ) -> Result<Self, TensorError> {
        const PART: usize = 1 << 20;
        let from: &[u8] = bytemuck::cast_slice(elements);
        let spare =
            spare.and_then(|tensor| Arc::try_unwrap(tensor.bytes).ok()).filter(|bytes| bytes.len() == from.len());
        let mut bytes = spare.unwrap_or_else(|| zeros_on_large_pages(from.len()));
        let parts = bytes.par_chunks_mut(PART).zip(from.par_chunks(PART)).map(|(to, from)| {
            to.copy_from_slice(from);
            // The bytes are in the core's cache now.
            are_finite(T::TYPE, to)
        });
        let is_finite = parts.reduce(|| true, |left, right| left & right);
        let tensor = Self::from_bytes(T::TYPE, shape, bytes)?;
        Ok(Self { is_finite: OnceLock::from(is_finite), ..tensor })
    }

    /// A tensor whose elements are set by `fill`. They are 0 before. Saves the copy that [`Tensor::new`] makes.
    ///
    /// # Errors
    /// If the shape overflows.
    pub fn filled<T: Element>(shape: impl Into<Vec<usize>>, fill: impl FnOnce(&mut [T])) -> Result<Self, TensorError> {
        let shape = shape.into();
        let Some(size) = shape.iter().try_fold(size_of::<T>(), |n, d| n.checked_mul(*d)) else {
            return Err(TensorError::Shape { elements: 0, shape });
        };
        let mut bytes = zeros_on_large_pages(size);
        match bytemuck::try_cast_slice_mut(&mut bytes) {
            Ok(elements) => fill(elements),
            // Allocators usually align large buffers well enough, but do not guarantee it.
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
        Self::of(T::TYPE, vec![elements.len()], bytemuck::cast_slice(elements).to_vec())
    }

    /// A tensor from its little-endian bytes.
    ///
    /// # Errors
    /// If the number of bytes does not fit the shape.
    pub fn from_bytes(element: ElementType, shape: impl Into<Vec<usize>>, bytes: Vec<u8>) -> Result<Self, TensorError> {
        let shape = shape.into();
        if byte_count(element, &shape) != Some(bytes.len()) {
            return Err(TensorError::Shape { elements: bytes.len() * 8 / element.bitsize(), shape });
        }
        Ok(Self::of(element, shape, bytes))
    }

    fn of(element: ElementType, shape: Vec<usize>, bytes: Vec<u8>) -> Self {
        Self { element, shape, bytes: Arc::new(bytes), is_finite: OnceLock::new() }
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

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether no element is an infinity or a NaN. Looks only at elements of the types f32 and f64.
    pub fn is_finite(&self) -> bool {
        *self.is_finite.get_or_init(|| are_finite(self.element, &self.bytes))
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// If the tensor holds another type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        if self.element != T::TYPE {
            return Err(TensorError::Type { found: self.element, wanted: T::TYPE });
        }
        Ok(bytemuck::pod_collect_to_vec(&self.bytes))
    }

    /// The elements, row-major; copied only if they are not aligned.
    ///
    /// # Errors
    /// If the tensor holds another type.
    pub fn to_slice<T: Element>(&self) -> Result<Cow<'_, [T]>, TensorError> {
        match bytemuck::try_cast_slice(&self.bytes) {
            Ok(elements) if self.element == T::TYPE => Ok(Cow::Borrowed(elements)),
            _ => self.to_vec().map(Cow::Owned),
        }
    }

    /// The blob: a safetensors file with this one tensor.
    ///
    /// # Errors
    /// Only if the shape overflows, which [`Tensor::from_bytes`] rules out.
    pub fn to_blob(&self) -> Result<Vec<u8>, TensorError> {
        to_safetensors([(BLOB_NAME, self)])
    }

    /// The part of the blob before [`Tensor::bytes`]. Writing or reading the two parts separately saves a copy of a
    /// large tensor.
    ///
    /// # Errors
    /// If the shape overflows.
    pub(crate) fn blob_header(element: ElementType, shape: &[usize]) -> Result<Vec<u8>, TensorError> {
        let overflow = || TensorError::Unsupported(format!("a tensor of shape {shape:?} has too many elements"));
        let len = byte_count(element, shape).ok_or_else(overflow)?;
        let info = TensorInfo { dtype: element, shape: shape.to_vec(), data_offsets: (0, len) };
        let metadata = Metadata::new(None, vec![(BLOB_NAME.to_owned(), info)])?;
        let mut json = serde_json::to_vec(&metadata).map_err(|e| TensorError::Unsupported(e.to_string()))?;
        // The padding aligns the elements, as safetensors does.
        json.resize(json.len().next_multiple_of(8), b' ');
        Ok([&(json.len() as u64).to_le_bytes(), json.as_slice()].concat())
    }

    /// Reads a blob that [`Tensor::to_blob`] wrote.
    ///
    /// # Errors
    /// If the bytes are not such a blob.
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

/// [`Tensor::is_finite`] of these bytes.
fn are_finite(element: ElementType, bytes: &[u8]) -> bool {
    /// Looks at many elements of N bytes at once, as vectors.
    fn all<const N: usize>(bytes: &[u8], is_finite: impl Fn(&[u8; N]) -> bool) -> bool {
        let mut many = bytes.as_chunks().0.chunks(1 << 12);
        many.all(|elements| elements.iter().fold(true, |all, element| all & is_finite(element)))
    }
    match element {
        ElementType::F32 => all(bytes, |b| f32::from_le_bytes(*b).is_finite()),
        ElementType::F64 => all(bytes, |b| f64::from_le_bytes(*b).is_finite()),
        _ => true,
    }
}

const BLOB_NAME: &str = "tensor";

/// A safetensors file with several named tensors and no metadata map.
///
/// # Errors
/// If a shape overflows, or if two tensors have the same name.
pub fn to_safetensors<'a, N: AsRef<str> + Ord + std::fmt::Display>(
    tensors: impl IntoIterator<Item = (N, &'a Tensor)>,
) -> Result<Vec<u8>, TensorError> {
    let views = tensors
        .into_iter()
        .map(|(name, t)| Ok((name, TensorView::new(t.element, t.shape.clone(), &t.bytes)?)))
        .collect::<Result<Vec<_>, TensorError>>()?;
    // The crate panics if two names are equal.
    let mut names = BTreeSet::new();
    if let Some((twice, _)) = views.iter().find(|(name, _)| !names.insert(name)) {
        return Err(TensorError::Unsupported(format!("two tensors have the name `{twice}`")));
    }
    Ok(safetensors::serialize(views, None)?)
}

/// Reads any safetensors file, not only those that vadpipe wrote.
///
/// # Errors
/// If the bytes are not a safetensors file.
pub fn from_safetensors(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, TensorError> {
    let file = SafeTensors::deserialize(bytes).map_err(|_| TensorError::Format(fault::explain(bytes)))?;
    file.iter()
        .map(|(name, view)| {
            Ok((name.to_owned(), Tensor::from_bytes(view.dtype(), view.shape(), view.data().to_vec())?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensor_uses_the_memory_of_a_spare_one_that_nobody_else_has() {
        let elements: Vec<f32> = (0..700_000).map(|n| n as f32).collect();
        let made = |spare| Tensor::new_in(spare, [700_000], &elements).unwrap();
        let spare = Tensor::vector(&vec![7.0f32; 700_000]);
        let (kept, memory) = (spare.clone(), spare.bytes().as_ptr());
        assert_eq!(made(Some(spare)), Tensor::vector(&elements));
        assert!(
            kept.to_vec::<f32>().unwrap().iter().all(|element| *element == 7.0),
            "another owner keeps its elements"
        );
        let made_in_spare = made(Some(kept));
        assert_eq!((made_in_spare.bytes().as_ptr(), made_in_spare), (memory, Tensor::vector(&elements)));
        assert_eq!(made(Some(Tensor::vector(&[1.0f32]))), Tensor::vector(&elements), "a shorter one is of no use");
    }

    #[test]
    fn tensor_is_finite_without_infinities_and_nans() {
        let mut elements: Vec<f32> = (0..700_000).map(|n| n as f32).collect();
        let copied = |elements: &[f32]| {
            [Some(Tensor::vector(elements)), None].map(|spare| Tensor::new_in(spare, [700_000], elements).unwrap())
        };
        let is_finite = |elements: &[f32]| copied(elements).map(|tensor| tensor.is_finite());
        assert!(is_finite(&elements) == [true; 2] && Tensor::vector(&elements).is_finite());
        for (position, bad) in [(0, f32::NAN), (300_000, f32::INFINITY), (699_999, f32::NEG_INFINITY)] {
            let good = std::mem::replace(&mut elements[position], bad);
            assert_eq!(is_finite(&elements), [false; 2], "{bad} at {position}");
            assert!(!Tensor::vector(&elements).is_finite(), "{bad} at {position}");
            elements[position] = good;
        }
        assert!(Tensor::vector(&[f64::MAX, f64::MIN_POSITIVE]).is_finite());
        assert!(!Tensor::vector(&[0.0, f64::NAN]).is_finite());
        assert!(Tensor::vector(&[u32::MAX, f32::NAN.to_bits()]).is_finite(), "an integer is always finite");
    }

    #[test]
    fn filled_tensor_holds_written_elements() {
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
