//! Images and curves of the results that are compared.

use std::collections::BTreeSet;

use super::sides::Side;
use crate::artifact::{ElementType, Tensor, TensorEntry};
use crate::error::{Error, Result};
use crate::report::{Comparison, Curve, Picture, image};
use crate::store::{ResultRecord, Store};

/// A page with more points is too large for a browser.
const MOST_POINTS: usize = 40;
/// More images of one stack show nothing new.
const MOST_IMAGES: usize = 40;
const ACROSS: usize = 10;
const HISTORY: &str = "history.";

/// Adds the images and curves of each pair. Returns how many pairs were left out.
pub(super) fn add(store: &Store, found: &mut Comparison, sides: &[[Side; 2]]) -> Result<usize> {
    for (pair, [a, b]) in found.changed.iter_mut().zip(sides).take(MOST_POINTS) {
        let records = [a.record.as_ref(), b.record.as_ref()];
        for name in names(records, |name, entry| is_stack(entry) || (is_curve(name, entry))) {
            let entry = |r: Option<&ResultRecord>| r.and_then(|r| r.manifest.tensors.get(&name)).cloned();
            let [a, b] = records.map(entry);
            if let Some(measure) = name.strip_prefix(HISTORY) {
                let values = [curve(store, a.as_ref())?, curve(store, b.as_ref())?];
                pair.curves.push(Curve { name: measure.to_owned(), values });
            } else {
                let (a, b) = (stack(store, a.as_ref())?, stack(store, b.as_ref())?);
                pair.pictures.push(Picture { name, a, b });
            }
        }
        let files = records.iter().flatten().flat_map(|r| r.manifest.files.keys());
        let files: BTreeSet<&String> = files.filter(|name| name.ends_with(".png")).collect();
        for name in files {
            let read =
                |r: Option<&ResultRecord>| r.and_then(|r| r.manifest.files.get(name)).map(|f| store.read_file(f));
            let (a, b) = (read(records[0]).transpose()?, read(records[1]).transpose()?);
            pair.pictures.push(Picture { name: name.clone(), a, b });
        }
    }
    Ok(found.changed.len().saturating_sub(MOST_POINTS))
}

fn names(records: [Option<&ResultRecord>; 2], wanted: impl Fn(&str, &TensorEntry) -> bool) -> BTreeSet<String> {
    let all = records.into_iter().flatten().flat_map(|r| &r.manifest.tensors);
    all.filter(|(name, entry)| wanted(name, entry)).map(|(name, _)| name.clone()).collect()
}

fn is_stack(entry: &TensorEntry) -> bool {
    // A larger stack is a data set.
    entry.element == ElementType::U8 && entry.shape.len() == 3 && (1..=400).contains(&entry.shape[0])
}

fn is_curve(name: &str, entry: &TensorEntry) -> bool {
    let float = matches!(entry.element, ElementType::F32 | ElementType::F64);
    name.starts_with(HISTORY) && entry.shape.len() == 1 && float
}

fn stack(store: &Store, entry: Option<&TensorEntry>) -> Result<Option<Vec<u8>>> {
    let Some(entry) = entry.filter(|e| is_stack(e)) else { return Ok(None) };
    let failed = |e: &dyn std::fmt::Display| Error::storage(format!("images can't be drawn: {e}"));
    let all = store.read_tensor(entry)?;
    let count = entry.shape[0].min(MOST_IMAGES);
    let bytes = all.bytes()[..all.bytes().len() / entry.shape[0] * count].to_vec();
    let shown = Tensor::from_bytes(ElementType::U8, [count, entry.shape[1], entry.shape[2]], bytes);
    let shown = shown.map_err(|e| failed(&e))?;
    image::grid(&shown, ACROSS, 2).map(Some).map_err(|e| failed(&e))
}

fn curve(store: &Store, entry: Option<&TensorEntry>) -> Result<Vec<f64>> {
    let Some(entry) = entry else { return Ok(Vec::new()) };
    let failed = |e: crate::artifact::TensorError| Error::storage("a curve can't be read").caused_by(e);
    let tensor = store.read_tensor(entry)?;
    match tensor.element() {
        ElementType::F32 => Ok(tensor.to_vec::<f32>().map_err(failed)?.into_iter().map(f64::from).collect()),
        _ => tensor.to_vec::<f64>().map_err(failed),
    }
}
