//! Results that no other section shows: images, files and tensors under names of their own.

use super::item::Item;
use super::outputs::{FileStatus, Outputs};
use crate::artifact::Capability;
use crate::report::html::{Cell, Html, Table, html};
use crate::report::image::data_uri;
use crate::stage::StageError;

/// An image larger than this is listed and not shown.
const LARGEST: u64 = 8 << 20;
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// With `outputs`, a section of its own shows pictures and tables. Files that it can't show are listed with the reason.
pub(super) fn render(items: &[&Item<'_>], outputs: Option<&Outputs>) -> Result<Html, StageError> {
    items.iter().map(|item| one(item, outputs)).collect()
}

fn one(item: &Item<'_>, outputs: Option<&Outputs>) -> Result<Html, StageError> {
    let manifest = item.manifest();
    let (mut pictures, mut rows) = (Html::default(), Vec::new());
    for (name, blob) in &manifest.files {
        let what = match outputs.and_then(|outputs| outputs.file_status(item, name)) {
            Some(FileStatus::Shown) => continue,
            Some(FileStatus::Hidden(reason)) => reason,
            None => "file",
        };
        if outputs.is_none() && name.ends_with(".png") && blob.size <= LARGEST {
            let bytes = item.input.file(name)?;
            if bytes.starts_with(PNG) {
                pictures.push(html!(
                    "<figure class=\"picture\"><img alt=\"{0}\" src=\"{1}\"><figcaption>{0}</figcaption></figure>\n",
                    name,
                    data_uri(&bytes)
                ));
                continue;
            }
        }
        rows.push(vec![Cell::text(name), Cell::text(what), Cell::number(Some(blob.size as f64))]);
    }
    let is_known = |name: &str| item.declares() && Capability::ALL.iter().any(|capability| capability.defines(name));
    // Like the history of a built-in training. Pages of earlier versions list it.
    let is_drawn = |name: &str| outputs.is_some() && Capability::HISTORY.defines(name);
    for (name, tensor) in manifest.tensors.iter().filter(|(name, _)| !is_known(name) && !is_drawn(name)) {
        let what = format!("{:?} {:?}", tensor.element, tensor.shape).to_lowercase();
        rows.push(vec![Cell::text(name), Cell::text(&what), Cell::number(Some(tensor.blob.size as f64))]);
    }
    if rows.is_empty() && pictures.is_empty() {
        return Ok(Html::default());
    }
    let mut table = Table::default();
    table.column("name", false).column("what", false).column("bytes", true);
    let listed = !rows.is_empty();
    for row in rows {
        table.row(row);
    }
    let table = if listed { table.render("") } else { Html::default() };
    Ok(html!("<h3>{} <small>{}</small></h3>\n{}{}", item.name, item.kind(), pictures, table))
}
