//! The first difference between two results, or between two states of a training.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use half::{bf16, f16};
use serde::Serialize;

use crate::artifact::{ElementType, Folder, Manifest, Tensor};
use crate::error::Result;
use crate::exec::worker::Worker;
use crate::stage::STATE_FOLDER;
use crate::store::{ResultRecord, Store};

/// The part of a result that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// A tensor.
    Tensor,
    /// A file.
    File,
    /// A metric.
    Metric,
    /// A fact.
    Fact,
}

/// The first difference between two results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The part that differs.
    pub part: Part,
    /// Its name.
    pub name: String,
    /// How it differs, in words.
    pub how: String,
    /// The number of elements, for a tensor.
    pub elements: Option<u64>,
    /// The number of elements that differ, for a tensor.
    pub differing: Option<u64>,
    /// The largest absolute difference, for a tensor or a metric. `None` if a number is not finite.
    pub max_abs: Option<f64>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Tensor => "tensor",
            Part::File => "file",
            Part::Metric => "metric",
            Part::Fact => "fact",
        };
        write!(f, "{part} {} {}", self.name, self.how)
    }
}

impl Difference {
    fn new(part: Part, name: &str, how: impl Into<String>) -> Self {
        Self { part, name: name.to_owned(), how: how.into(), elements: None, differing: None, max_abs: None }
    }
}

/// The first difference between two results. Their digests must differ.
pub(super) fn of_results(worker: &Worker<'_>, stored: &ResultRecord, again: &ResultRecord) -> Result<Difference> {
    let (old, new) = (&stored.manifest, &again.manifest);
    for (name, entry) in &old.tensors {
        match new.tensors.get(name) {
            None => return Ok(Difference::new(Part::Tensor, name, "is missing now")),
            Some(other) if other == entry => {}
            Some(other) => {
                return of_tensors(name, &worker.context.store.read_tensor(entry)?, &worker.into.read_tensor(other)?);
            }
        }
    }
    if let Some(name) = new.tensors.keys().find(|n| !old.tensors.contains_key(*n)) {
        return Ok(Difference::new(Part::Tensor, name, "is new"));
    }
    let stores = (&**worker.context.store, &**worker.into);
    if let Some(found) = of_folders((stores.0, &old.state), (stores.1, &new.state))? {
        return Ok(found);
    }
    let names = old.files.keys().chain(new.files.keys());
    if let Some(name) = names.into_iter().find(|name| old.files.get(*name) != new.files.get(*name)) {
        let size = |files: &BTreeMap<String, crate::artifact::BlobEntry>| {
            files.get(name).map_or_else(|| "nothing".to_owned(), |blob| format!("{} bytes", blob.size))
        };
        let how = format!("has different bytes ({} before, {} now)", size(&old.files), size(&new.files));
        return Ok(Difference::new(Part::File, name, how));
    }
    let names = old.metrics.keys().chain(new.metrics.keys());
    let bits = |manifest: &Manifest, name: &str| manifest.metrics.get(name).map(|metric| metric.to_bits());
    if let Some(name) = names.into_iter().find(|name| bits(old, name) != bits(new, name)) {
        let (before, now) = (old.metrics.get(name), new.metrics.get(name));
        let word = |v: Option<&f64>| v.map_or_else(|| "nothing".to_owned(), f64::to_string);
        let mut difference = Difference::new(Part::Metric, name, format!("was {}, is {} now", word(before), word(now)));
        difference.max_abs = before.zip(now).map(|(a, b)| (a - b).abs());
        return Ok(difference);
    }
    let names = old.facts.keys().chain(new.facts.keys());
    let name = names.into_iter().find(|name| old.facts.get(*name) != new.facts.get(*name));
    Ok(Difference::new(Part::Fact, name.map_or("", String::as_str), "changed"))
}

/// The first difference between two stored folders, if there is one.
pub(super) fn of_folders(old: (&Store, &Folder), new: (&Store, &Folder)) -> Result<Option<Difference>> {
    let ((old_store, old), (new_store, new)) = (old, new);
    let named = |file: &str| format!("{STATE_FOLDER}/{file}");
    for (file, before) in &old.tensor_files {
        let Some(now) = new.tensor_files.get(file) else {
            return Ok(Some(Difference::new(Part::File, &named(file), "is missing now")));
        };
        for (name, entry) in &before.tensors {
            let in_file = format!("{}: {name}", named(file));
            match now.tensors.get(name) {
                None => return Ok(Some(Difference::new(Part::Tensor, &in_file, "is missing now"))),
                Some(other) if other == entry => {}
                Some(other) => {
                    return of_tensors(&in_file, &old_store.read_tensor(entry)?, &new_store.read_tensor(other)?)
                        .map(Some);
                }
            }
        }
        if let Some(name) = now.tensors.keys().find(|name| !before.tensors.contains_key(*name)) {
            return Ok(Some(Difference::new(Part::Tensor, &format!("{}: {name}", named(file)), "is new")));
        }
        if before.metadata != now.metadata {
            return Ok(Some(Difference::new(Part::File, &named(file), "has other metadata")));
        }
    }
    let names: BTreeSet<&String> = old.files.keys().chain(new.files.keys()).chain(new.tensor_files.keys()).collect();
    let differs = |name: &&&String| old.files.get(**name) != new.files.get(**name);
    let is_new = |name: &&&String| new.tensor_files.contains_key(**name) && !old.tensor_files.contains_key(**name);
    let different = names.iter().find(|name| differs(name) || is_new(name));
    Ok(different.map(|name| Difference::new(Part::File, &named(name), "has different bytes")))
}

/// The first difference between two states, if there is one.
pub(super) fn of_states(
    stored: &BTreeMap<String, Tensor>,
    again: &BTreeMap<String, Tensor>,
) -> Result<Option<Difference>> {
    for (name, old) in stored {
        match again.get(name) {
            None => return Ok(Some(Difference::new(Part::Tensor, name, "is missing now"))),
            Some(new) if new == old => {}
            Some(new) => return of_tensors(name, old, new).map(Some),
        }
    }
    let new = again.keys().find(|n| !stored.contains_key(*n));
    Ok(new.map(|name| Difference::new(Part::Tensor, name, "is new")))
}

/// Compares elements by their bits, but measures the largest difference by their numeric values.
fn of_tensors(name: &str, a: &Tensor, b: &Tensor) -> Result<Difference> {
    if a.shape() != b.shape() || a.element() != b.element() {
        return Ok(Difference::new(Part::Tensor, name, format!("was {a:?}, is {b:?} now")));
    }
    // Elements of less than a byte are compared byte by byte.
    let size = (a.element().bitsize() / 8).max(1);
    let differs = a.bytes().chunks_exact(size).zip(b.bytes().chunks_exact(size)).map(|(a, b)| a != b);
    let differing = differs.clone().filter(|differs| *differs).count() as u64;
    let elements = a.len() as u64;
    let mut difference = Difference::new(Part::Tensor, name, format!("differs in {differing} of {elements} elements"));
    difference.elements = Some(elements);
    difference.differing = Some(differing);
    let Some((numbers_a, numbers_b)) = numbers(a).zip(numbers(b)) else { return Ok(difference) };
    let pairs = numbers_a.iter().zip(&numbers_b).zip(differs).filter(|(_, differs)| *differs);
    let distances: Vec<f64> = pairs.map(|((a, b), _)| (a - b).abs()).collect();
    if distances.iter().all(|distance| distance.is_finite()) {
        let most = distances.into_iter().fold(0.0, f64::max);
        difference.how += &format!(", by {most:e} at most");
        difference.max_abs = Some(most);
    } else {
        difference.how += ", some of them not finite";
    }
    Ok(difference)
}

/// The elements as numbers. `None` for a type that Rust has no numbers for.
fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    fn each<const N: usize>(tensor: &Tensor, number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        tensor.bytes().as_chunks().0.iter().map(|bytes| number(*bytes)).collect()
    }
    Some(match tensor.element() {
        ElementType::F16 => each(tensor, |bytes| f16::from_le_bytes(bytes).into()),
        ElementType::BF16 => each(tensor, |bytes| bf16::from_le_bytes(bytes).into()),
        ElementType::F32 => each(tensor, |bytes| f32::from_le_bytes(bytes).into()),
        ElementType::F64 => each(tensor, f64::from_le_bytes),
        ElementType::BOOL | ElementType::U8 => each(tensor, |bytes| u8::from_le_bytes(bytes).into()),
        ElementType::I8 => each(tensor, |bytes| i8::from_le_bytes(bytes).into()),
        ElementType::I16 => each(tensor, |bytes| i16::from_le_bytes(bytes).into()),
        ElementType::U16 => each(tensor, |bytes| u16::from_le_bytes(bytes).into()),
        ElementType::I32 => each(tensor, |bytes| i32::from_le_bytes(bytes).into()),
        ElementType::U32 => each(tensor, |bytes| u32::from_le_bytes(bytes).into()),
        ElementType::I64 => each(tensor, |bytes| i64::from_le_bytes(bytes) as f64),
        ElementType::U64 => each(tensor, |bytes| u64::from_le_bytes(bytes) as f64),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(a: &[f32], b: &[f32]) -> String {
        of_tensors("w", &Tensor::vector(a), &Tensor::vector(b)).unwrap().to_string()
    }

    #[test]
    fn difference_of_tensors_has_a_size() {
        assert_eq!(
            difference(&[1.0, 2.0, 3.0], &[1.0, 2.5, 2.75]),
            "tensor w differs in 2 of 3 elements, by 5e-1 at most"
        );
        // Equal numbers with different bytes.
        assert_eq!(difference(&[0.0], &[-0.0]), "tensor w differs in 1 of 1 elements, by 0e0 at most");
        assert_eq!(
            difference(&[1.0, f32::NAN], &[2.0, f32::NAN]),
            "tensor w differs in 1 of 2 elements, by 1e0 at most"
        );
        assert_eq!(difference(&[1.0], &[f32::NAN]), "tensor w differs in 1 of 1 elements, some of them not finite");
        assert_eq!(difference(&[1.0], &[1.0, 2.0]), "tensor w was Tensor(F32 [1]), is Tensor(F32 [2]) now");
    }

    #[test]
    fn states_are_compared_tensor_by_tensor() {
        let state = |tensors: &[(&str, &[f32])]| -> BTreeMap<String, Tensor> {
            tensors.iter().map(|(name, values)| ((*name).to_owned(), Tensor::vector(values))).collect()
        };
        let stored = state(&[("a", &[1.0]), ("b", &[2.0])]);
        let first = |again: &[(&str, &[f32])]| of_states(&stored, &state(again)).unwrap().map(|d| d.to_string());
        assert_eq!(first(&[("a", &[1.0]), ("b", &[2.0])]), None);
        assert_eq!(first(&[("a", &[1.0])]).unwrap(), "tensor b is missing now");
        assert_eq!(first(&[("a", &[1.0]), ("b", &[2.0]), ("c", &[])]).unwrap(), "tensor c is new");
        assert_eq!(
            first(&[("b", &[2.0]), ("a", &[3.0])]).unwrap(),
            "tensor a differs in 1 of 1 elements, by 2e0 at most"
        );
    }
}
