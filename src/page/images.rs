//! Images and files of results.

use std::time::{Duration, Instant};

use super::details::is_text;
use super::model::Model;
use crate::artifact::{BlobEntry, ElementType, Tensor, TensorEntry};
use crate::report::{image, is_picture, media_type};
use crate::store::{BlobReader, ResultRecord, StateRecord};

/// A file or a tensor with more bytes is not sent.
const LARGEST: u64 = 64 << 20;
/// Of files with more bytes only one is read at a time.
pub(super) const LARGE: u64 = 4 << 20;
/// Images in one picture.
const MOST: usize = 400;
/// Pixels of one picture, each of which takes two bytes.
const MOST_PIXELS: usize = 16 << 20;
/// How long a tensor is kept that no page asks for.
const KEPT: Duration = Duration::from_secs(60);

/// The images of a stack that are drawn.
pub(super) struct Selection {
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) columns: usize,
    pub(super) scale: usize,
}

/// Bytes for the browser, and how it may use them.
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    pub(super) media_type: &'static str,
    /// Whether the browser saves it instead of showing it.
    pub(super) is_download: bool,
}

/// The tensor that was read last, so that its images can be sent one by one.
#[derive(Default)]
pub(super) struct LastTensor(Option<Kept>);

struct Kept {
    blob: BlobEntry,
    tensor: Tensor,
    used_at: Instant,
}

impl LastTensor {
    /// Frees the memory if no page has asked for the tensor for a while.
    pub(super) fn forget_old(&mut self) {
        self.0.take_if(|kept| kept.used_at.elapsed() >= KEPT);
    }
}

/// The result of a point.
pub(super) fn record(model: &Model, number: usize) -> Option<ResultRecord> {
    model.reader.result(&model.points.get(number)?.result.as_ref()?.key)
}

/// The state of a point's training after this epoch.
pub(super) fn state(model: &Model, number: usize, epoch: u64) -> Option<StateRecord> {
    let key = record(model, number)?.components.chain().at(epoch)?;
    model.reader.states(&key).into_iter().find(|state| state.step == 0)
}

/// Images of a tensor as PNG.
///
/// # Errors
/// Why they can't be drawn.
pub(super) fn png(
    blobs: &BlobReader,
    entry: &TensorEntry,
    selection: &Selection,
    last: &mut LastTensor,
) -> Result<Vec<u8>, String> {
    if entry.blob.size > LARGEST || entry.element != ElementType::U8 || entry.shape.len() != 3 {
        return Err("it is not a stack of grey images that can be shown".to_owned());
    }
    // Another tensor is freed before this one is read.
    let kept = match last.0.take().filter(|kept| kept.blob == entry.blob) {
        Some(kept) => kept.tensor,
        None => blobs.tensor(entry).map_err(|error| error.to_string())?,
    };
    let kept = last.0.insert(Kept { blob: entry.blob, tensor: kept, used_at: Instant::now() });
    draw(&kept.tensor, selection)
}

/// Images of a stack as PNG.
///
/// # Errors
/// Why they can't be drawn.
pub(super) fn draw(tensor: &Tensor, selection: &Selection) -> Result<Vec<u8>, String> {
    let &[images, height, width] = tensor.shape() else { return Err("it is not a stack of images".to_owned()) };
    let size = height * width;
    let first = selection.first.min(images);
    let count = selection.count.min(images - first).min(MOST);
    let columns = selection.columns.clamp(1, 64).min(count.max(1));
    let pixels = |scale: usize| {
        let grid = columns.saturating_mul(width + 1).saturating_mul(count.div_ceil(columns).saturating_mul(height + 1));
        grid.saturating_mul(scale * scale)
    };
    if pixels(1) > MOST_PIXELS {
        return Err("the picture would be too large: ask for fewer images".to_owned());
    }
    let scale = (1..=selection.scale.clamp(1, 8)).rev().find(|scale| pixels(*scale) <= MOST_PIXELS).unwrap_or(1);
    let bytes = tensor.bytes().get(first * size..(first + count) * size).unwrap_or_default().to_vec();
    let shown = Tensor::from_bytes(ElementType::U8, [count, height, width], bytes).map_err(|e| e.to_string())?;
    image::grid(&shown, columns, scale).map_err(|e| e.to_string())
}

/// A file of a result or a state. Pages and other files that a browser would run are sent as downloads.
///
/// # Errors
/// Why it can't be sent.
pub(super) fn file(blobs: &BlobReader, name: &str, blob: &BlobEntry) -> Result<Sent, String> {
    if blob.size > LARGEST {
        return Err(format!("it has more than {} MiB: use `vadpipe export`", LARGEST >> 20));
    }
    let bytes = blobs.file(blob).map_err(|error| error.to_string())?;
    let picture = media_type(name).filter(|_| is_picture(name));
    let text = is_text(name).then_some("text/plain; charset=utf-8");
    let media_type = picture.or(text);
    let is_download = media_type.is_none();
    Ok(Sent { bytes, media_type: media_type.unwrap_or("application/octet-stream"), is_download })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picture_has_a_limited_number_of_pixels() {
        let tensor = Tensor::new([2, 3_000, 2_000], &vec![7u8; 12_000_000]).unwrap();
        let selection = |count, scale| Selection { first: 0, count, columns: 2, scale };
        let size = |png: &[u8]| {
            let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
            (number(16), number(20))
        };
        assert_eq!(size(&draw(&tensor, &selection(1, 1)).unwrap()), (2_000, 3_000));
        assert_eq!(size(&draw(&tensor, &selection(2, 8)).unwrap()), (4_001, 3_000), "it is not enlarged");
        let long = Tensor::new([1, 1, 20 << 20], &vec![7u8; 20 << 20]).unwrap();
        assert!(draw(&long, &selection(1, 1)).is_err());
    }

    #[test]
    fn tensor_that_no_page_asks_for_is_forgotten() {
        let kept = |used_at| LastTensor(Some(Kept { blob: blob(), tensor: Tensor::vector(&[1.0f32]), used_at }));
        let mut last = kept(Instant::now());
        last.forget_old();
        assert!(last.0.is_some());
        let mut last = kept(Instant::now().checked_sub(KEPT).unwrap());
        last.forget_old();
        assert!(last.0.is_none());
    }

    fn blob() -> BlobEntry {
        BlobEntry { digest: crate::key::Digest::of(b"x"), size: 1 }
    }
}
