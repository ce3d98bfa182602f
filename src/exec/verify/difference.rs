//! The first difference between two results, or between two states of a training.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use half::{bf16, f16};

use crate::artifact::{ElementType, Folder, Manifest, Tensor, TensorEntry};
use crate::error::Result;
use crate::exec::worker::Worker;
use crate::stage::STATE_FOLDER;
use crate::store::{Difference, Part, ResultRecord, Store};

/// The size of the pieces in which tensors are compared. A multiple of the size of every element.
const PIECE: usize = 1 << 16;

/// The first difference between two results. Their digests must differ.
pub(super) fn of_results(worker: &Worker<'_>, stored: &ResultRecord, again: &ResultRecord) -> Result<Difference> {
    let (old, new) = (&stored.manifest, &again.manifest);
    for (name, entry) in &old.tensors {
        match new.tensors.get(name) {
            None => return Ok(Difference::new(Part::Tensor, name, "is missing now")),
            Some(other) if other == entry => {}
            Some(other) => {
                return of_stored(name, (worker.context.store, entry), (worker.into, other));
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
                Some(other) => return of_stored(&in_file, (old_store, entry), (new_store, other)).map(Some),
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
            Some(new) => return Ok(Some(of_tensors(name, old, new))),
        }
    }
    let new = again.keys().find(|n| !stored.contains_key(*n));
    Ok(new.map(|name| Difference::new(Part::Tensor, name, "is new")))
}

/// The difference between two stored tensors, which are not held in memory.
fn of_stored(name: &str, old: (&Store, &TensorEntry), new: (&Store, &TensorEntry)) -> Result<Difference> {
    let (shape_of_old, shape_of_new) = ((old.1.element, &*old.1.shape), (new.1.element, &*new.1.shape));
    let (mut before, mut now) = (old.0.tensor_elements(old.1)?, new.0.tensor_elements(new.1)?);
    match compare(name, (shape_of_old, &mut before), (shape_of_new, &mut now)) {
        Ok(difference) => Ok(difference),
        // A blob is damaged, which the store then reports, or a collection moved its pieces.
        Err(_) => Ok(of_tensors(name, &old.0.read_tensor(old.1)?, &new.0.read_tensor(new.1)?)),
    }
}

fn of_tensors(name: &str, old: &Tensor, new: &Tensor) -> Difference {
    let shape = |tensor: &Tensor| (tensor.element(), tensor.shape().to_vec());
    let ((a, shape_of_a), (b, shape_of_b)) = (shape(old), shape(new));
    let compared = compare(name, ((a, &shape_of_a), &mut old.bytes()), ((b, &shape_of_b), &mut new.bytes()));
    // Reading from memory does not fail.
    compared.unwrap_or_else(|error| Difference::new(Part::Tensor, name, format!("can't be read: {error}")))
}

/// The type and the shape of a tensor, and its elements.
type Elements<'a> = ((ElementType, &'a [usize]), &'a mut dyn Read);

/// Compares elements by their bits, but measures the largest difference by their numeric values.
fn compare(name: &str, (old, a): Elements<'_>, (now, b): Elements<'_>) -> io::Result<Difference> {
    if old != now {
        let word = |(element, shape): (ElementType, &[usize])| format!("Tensor({element:?} {shape:?})");
        return Ok(Difference::new(Part::Tensor, name, format!("was {}, is {} now", word(old), word(now))));
    }
    let (element, elements) = (old.0, old.1.iter().map(|size| *size as u64).product::<u64>());
    // Elements of less than a byte are compared byte by byte.
    let size = (element.bitsize() / 8).max(1);
    let (mut differing, mut largest) = (0, Some(0.0));
    let (mut before, mut now) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE));
    loop {
        before.clear();
        now.clear();
        (&mut *a).take(PIECE as u64).read_to_end(&mut before)?;
        (&mut *b).take(PIECE as u64).read_to_end(&mut now)?;
        if before.is_empty() && now.is_empty() {
            break;
        }
        if before.len() != now.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if before == now {
            continue;
        }
        let pairs = before.chunks_exact(size).zip(now.chunks_exact(size)).filter(|(a, b)| a != b);
        for (a, b) in pairs {
            differing += 1;
            let distance = number(element, a).zip(number(element, b)).map(|(a, b)| (a - b).abs());
            largest = largest.zip(distance).map(|(largest, distance): (f64, f64)| {
                if largest.is_finite() && distance.is_finite() { largest.max(distance) } else { f64::INFINITY }
            });
        }
    }
    let mut difference = Difference::new(Part::Tensor, name, format!("differs in {differing} of {elements} elements"));
    (difference.elements, difference.differing) = (Some(elements), Some(differing));
    match largest {
        Some(largest) if largest.is_finite() => {
            difference.how += &format!(", by {largest:e} at most");
            difference.max_abs = Some(largest);
        }
        Some(_) => difference.how += ", some of them not finite",
        // Rust has no numbers for this type.
        None => {}
    }
    Ok(difference)
}

/// An element as a number. `None` for a type that Rust has no numbers for.
fn number(element: ElementType, bytes: &[u8]) -> Option<f64> {
    Some(match element {
        ElementType::F16 => f16::from_le_bytes(bytes.try_into().ok()?).into(),
        ElementType::BF16 => bf16::from_le_bytes(bytes.try_into().ok()?).into(),
        ElementType::F32 => f32::from_le_bytes(bytes.try_into().ok()?).into(),
        ElementType::F64 => f64::from_le_bytes(bytes.try_into().ok()?),
        ElementType::BOOL | ElementType::U8 => u8::from_le_bytes(bytes.try_into().ok()?).into(),
        ElementType::I8 => i8::from_le_bytes(bytes.try_into().ok()?).into(),
        ElementType::I16 => i16::from_le_bytes(bytes.try_into().ok()?).into(),
        ElementType::U16 => u16::from_le_bytes(bytes.try_into().ok()?).into(),
        ElementType::I32 => i32::from_le_bytes(bytes.try_into().ok()?).into(),
        ElementType::U32 => u32::from_le_bytes(bytes.try_into().ok()?).into(),
        ElementType::I64 => i64::from_le_bytes(bytes.try_into().ok()?) as f64,
        ElementType::U64 => u64::from_le_bytes(bytes.try_into().ok()?) as f64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(a: &[f32], b: &[f32]) -> String {
        of_tensors("w", &Tensor::vector(a), &Tensor::vector(b)).to_string()
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
        // Longer than a piece.
        let (zeros, mut ones) = (vec![0.0; PIECE], vec![0.0; PIECE]);
        (ones[1], ones[PIECE - 1]) = (0.25, 2.0);
        assert_eq!(difference(&zeros, &ones), "tensor w differs in 2 of 65536 elements, by 2e0 at most");
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
