//! Readers of data files: IDX and safetensors.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use super::Peak;
use crate::artifact::{Tensor, from_safetensors, to_safetensors};
use crate::stages::load_data::idx::{Form, Idx, IdxError, PIXELS, read};

/// What a reader may allocate whatever the input: buffers, the state of a decompressor, the text of an error.
const FIXED: u64 = 256 << 10;
/// The most bytes that one byte of a deflate stream can stand for.
const DEFLATE: u64 = 1032;
/// A vector that grows has its old and its new memory for a moment.
const GROWTH: u64 = 4;
/// The most bytes that one byte of a safetensors header needs once it is parsed: `1,` is a dimension of 8 bytes, and
/// vectors grow.
const HEADER: u64 = 64;
/// Larger inputs are not compressed again, to keep the fuzzer fast.
const SMALL: usize = 1 << 16;

/// Runs a reader and checks that the memory it takes is in proportion to its input.
fn within<T>(limit: u64, peak: Peak, what: &str, mut reader: impl FnMut() -> T) -> T {
    let mut result = None;
    let used = peak(&mut || result = Some(reader()));
    assert!(used <= limit, "reading {what} allocated {used} bytes; the input justifies {limit}");
    let Some(result) = result else { panic!("the reader of {what} was not run") };
    result
}

/// An IDX file, gzipped or not: the content has the size that the header states, and does not change if it is written
/// and read again.
pub(super) fn idx(bytes: &[u8], peak: Peak) {
    let gzipped = bytes.starts_with(&[0x1f, 0x8b]);
    let limit = FIXED + GROWTH * if gzipped { DEFLATE } else { 1 } * bytes.len() as u64;
    for form in [Form::Images, Form::Labels] {
        match within(limit, peak, "an IDX file", || read(bytes, form)) {
            Ok(idx) => is_read_again(&idx, form),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn is_read_again(idx: &Idx, form: Form) {
    let size = if form == Form::Images { PIXELS } else { 1 };
    assert_eq!(idx.data.len(), idx.count * size, "the header states another number of elements");
    let mut file = match form {
        Form::Images => vec![0, 0, 8, 3],
        Form::Labels => vec![0, 0, 8, 1],
    };
    file.extend((idx.count as u32).to_be_bytes());
    if form == Form::Images {
        file.extend([0, 0, 0, 28, 0, 0, 0, 28]);
    }
    file.extend(&idx.data);
    let digest: [u8; 32] = Sha256::digest(&file).into();
    assert_eq!(idx.sha256, digest, "the digest is not that of the decompressed file");
    let same = |again: Result<Idx, IdxError>| {
        let again = again.unwrap_or_else(|e| panic!("a file written from what was read is refused: {e}"));
        assert_eq!((again.count, again.sha256, &again.data), (idx.count, idx.sha256, &idx.data));
    };
    same(read(file.as_slice(), form));
    if file.len() <= SMALL {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let written = encoder.write_all(&file).and_then(|()| encoder.finish());
        same(read(written.unwrap_or_else(|e| panic!("can't compress into memory: {e}")).as_slice(), form));
    }
}

/// A safetensors file: its tensors do not change if they are written and read again, together and each as a blob.
pub(super) fn tensors(bytes: &[u8], peak: Peak) {
    let limit = FIXED + HEADER * bytes.len() as u64;
    match within(limit, peak, "a safetensors file", || from_safetensors(bytes)) {
        Ok(tensors) => {
            let written =
                to_safetensors(&tensors).unwrap_or_else(|e| panic!("tensors that were read can't be written: {e}"));
            let again = from_safetensors(&written).unwrap_or_else(|e| panic!("a written file is refused: {e}"));
            assert_eq!(again, tensors);
            tensors.values().for_each(is_one_blob);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(tensor) = within(limit, peak, "a blob", || Tensor::from_blob(bytes)) {
        is_one_blob(&tensor);
    }
}

fn is_one_blob(tensor: &Tensor) {
    let bits: usize = tensor.shape().iter().product::<usize>() * tensor.element().bitsize();
    assert_eq!(bits.div_ceil(8), tensor.bytes().len(), "the shape does not fit the bytes");
    let blob = tensor.to_blob().unwrap_or_else(|e| panic!("a tensor that was read can't be written: {e}"));
    let again = Tensor::from_blob(&blob).unwrap_or_else(|e| panic!("a written blob is refused: {e}"));
    assert_eq!(again, *tensor);
    let header = Tensor::blob_header(tensor.element(), tensor.shape());
    let header = header.unwrap_or_else(|e| panic!("the header of a tensor that was read can't be written: {e}"));
    assert!(blob == [&header, tensor.bytes()].concat(), "a blob written in two parts has other bytes");
}
