//! Images and files of results.

use std::sync::Arc;

use super::details::is_text;
use super::model::Model;
use crate::artifact::{BlobEntry, ElementType, Tensor, TensorEntry};
use crate::report::{image, is_picture, media_type};
use crate::store::{ResultRecord, StateRecord};

/// A file or a tensor with more bytes is not sent.
const LARGEST: u64 = 64 << 20;
/// Images in one picture.
const MOST: usize = 400;

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
pub(super) type LastTensor = Option<(BlobEntry, Arc<Tensor>)>;

/// The result of a point.
pub(super) fn record(model: &Model, number: usize) -> Option<ResultRecord> {
    model.reader.result(&model.points.get(number)?.result.as_ref()?.key)
}

/// The state of a point's training after this epoch.
pub(super) fn state(model: &Model, number: usize, epoch: u64) -> Option<StateRecord> {
    let key = record(model, number)?.components.chain().at(epoch)?;
    model.reader.states().find(|state| state.key == key && state.step == 0)
}

/// Images of a tensor as PNG.
///
/// # Errors
/// Why they can't be drawn.
pub(super) fn png(
    model: &Model,
    entry: &TensorEntry,
    selection: &Selection,
    last: &mut LastTensor,
) -> Result<Vec<u8>, String> {
    if entry.blob.size > LARGEST || entry.element != ElementType::U8 || entry.shape.len() != 3 {
        return Err("it is not a stack of grey images that can be shown".to_owned());
    }
    let tensor = match last.take().filter(|(blob, _)| *blob == entry.blob) {
        Some((_, tensor)) => tensor,
        None => Arc::new(model.reader.read_tensor(entry).map_err(|error| error.to_string())?),
    };
    *last = Some((entry.blob, Arc::clone(&tensor)));
    draw(&tensor, selection)
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
    let bytes = tensor.bytes().get(first * size..(first + count) * size).unwrap_or_default().to_vec();
    let shown = Tensor::from_bytes(ElementType::U8, [count, height, width], bytes).map_err(|e| e.to_string())?;
    image::grid(&shown, selection.columns.clamp(1, 64), selection.scale.clamp(1, 8)).map_err(|e| e.to_string())
}

/// A file of a result or a state. Pages and other files that a browser would run are sent as downloads.
///
/// # Errors
/// Why it can't be sent.
pub(super) fn file(model: &Model, name: &str, blob: &BlobEntry) -> Result<Sent, String> {
    if blob.size > LARGEST {
        return Err(format!("it has more than {} MiB: use `vadpipe export`", LARGEST >> 20));
    }
    let bytes = model.reader.read_file(blob).map_err(|error| error.to_string())?;
    let picture = media_type(name).filter(|_| is_picture(name));
    let text = is_text(name).then_some("text/plain; charset=utf-8");
    let media_type = picture.or(text);
    let is_download = media_type.is_none();
    Ok(Sent { bytes, media_type: media_type.unwrap_or("application/octet-stream"), is_download })
}
