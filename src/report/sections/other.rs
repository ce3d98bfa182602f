//! Results that no other section shows: files and tensors under names of their own.

use super::item::Item;
use super::outputs::{FileStatus, Outputs};
use crate::artifact::Capability;
use crate::report::html::{Cell, Html, Table, html};
use crate::stage::StageError;

/// `outputs` shows pictures and tables. Files that it can't show are listed with the reason.
pub(super) fn render(items: &[&Item<'_>], outputs: &Outputs) -> Result<Html, StageError> {
    items.iter().map(|item| one(item, outputs)).collect()
}

fn one(item: &Item<'_>, outputs: &Outputs) -> Result<Html, StageError> {
    let manifest = item.manifest();
    let mut rows = Vec::new();
    for (name, blob) in &manifest.files {
        let what = match outputs.file_status(item, name) {
            Some(FileStatus::Shown) => continue,
            Some(FileStatus::Hidden(reason)) => reason,
            None => "file",
        };
        rows.push(vec![Cell::text(name), Cell::text(what), Cell::number(Some(blob.size as f64))]);
    }
    let is_known = |name: &str| item.declares() && Capability::ALL.iter().any(|capability| capability.defines(name));
    let is_drawn = |name: &str| Capability::HISTORY.defines(name);
    for (name, tensor) in manifest.tensors.iter().filter(|(name, _)| !is_known(name) && !is_drawn(name)) {
        let what = format!("{:?} {:?}", tensor.element, tensor.shape).to_lowercase();
        rows.push(vec![Cell::text(name), Cell::text(&what), Cell::number(Some(tensor.blob.size as f64))]);
    }
    if rows.is_empty() {
        return Ok(Html::default());
    }
    let mut table = Table::default();
    table.column("name", false).column("what", false).column("bytes", true);
    for row in rows {
        table.row(row);
    }
    Ok(html!(
        "<h3>{} <small>{}</small></h3>\n{}",
        item.name,
        item.kind(),
        table.render_as(&format!("files of {}", item.name))
    ))
}
