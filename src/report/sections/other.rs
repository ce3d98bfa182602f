//! What commands made, and inputs of kinds that the report does not know: their images, files and tensors.

use super::Item;
use crate::report::html::{Cell, Table, Text};
use crate::report::image::data_uri;
use crate::stage::StageError;

/// Kinds whose tensors are shown elsewhere.
const SHOWN: [&str; 8] =
    ["load-data", "train-ad", "train-vad", "fit-latents", "decode", "tsne", "interpolate", "report"];
/// An image larger than this is listed and not shown.
const LARGEST: u64 = 8 << 20;
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

pub(super) fn render(items: &[Item<'_>]) -> Result<String, StageError> {
    let mut out = String::new();
    for item in items {
        let known = SHOWN.contains(&item.kind());
        let manifest = item.manifest();
        let mut pictures = String::new();
        let mut table = Table::default();
        table.column("name", false).column("what", false).column("bytes", true);
        let mut listed = 0;
        for (name, blob) in &manifest.files {
            if name.ends_with(".png") && blob.size <= LARGEST {
                let bytes = item.input.file(name)?;
                if bytes.starts_with(PNG) {
                    let (alt, source) = (Text(name), data_uri(&bytes));
                    pictures.push_str(&format!(
                        "<figure class=\"picture\"><img alt=\"{alt}\" src=\"{source}\"><figcaption>{alt}</figcaption></figure>\n"
                    ));
                    continue;
                }
            }
            listed += 1;
            table.row(vec![Cell::text(name), Cell::text("file"), Cell::number(Some(blob.size as f64))]);
        }
        for (name, tensor) in manifest.tensors.iter().filter(|_| !known) {
            listed += 1;
            let what = format!("{:?} {:?}", tensor.element, tensor.shape).to_lowercase();
            table.row(vec![Cell::text(name), Cell::text(&what), Cell::number(Some(tensor.blob.size as f64))]);
        }
        if listed == 0 && pictures.is_empty() {
            continue;
        }
        out.push_str(&format!("<h3>{} <small>{}</small></h3>\n{pictures}", Text(&item.name), Text(item.kind())));
        if listed > 0 {
            out.push_str(&table.render(""));
        }
    }
    Ok(out)
}
