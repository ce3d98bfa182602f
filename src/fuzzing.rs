//! Properties that must hold for any input. Compiled for tests and for the fuzz targets only.
//!
//! Each fuzz target in `tests/campaign/fuzz/` passes the bytes that the fuzzer made to [`check`], which panics if a
//! property does not hold. The unit test below passes every file of the committed corpus to the same functions, so an
//! input that once failed is tried again by `cargo test`, without a fuzzer and without a nightly toolchain.

mod data;
mod document;
mod pipeline;
#[cfg(test)]
mod tests;

use crate::filter::fuzz as filter;
use crate::store::fuzz as store;

/// Runs a closure and returns the most bytes that it had allocated at any one time.
pub type Peak = fn(&mut dyn FnMut()) -> u64;

/// Checks the properties of one target for one input.
type Check = fn(&[u8], Peak);

/// Every target by its name, which is also the name of its corpus folder.
const TARGETS: [(&str, Check); 9] = [
    ("filter", |bytes, _| filter::check(bytes)),
    ("format", |bytes, _| store::format(bytes)),
    ("idx", data::idx),
    ("journal", |bytes, _| store::journal(bytes)),
    ("overrides", |bytes, _| pipeline::overrides(bytes)),
    ("packs", store::packs),
    ("pipeline", |bytes, _| pipeline::text(bytes)),
    ("records", |bytes, _| store::records(bytes)),
    ("tensors", data::tensors),
];

/// Checks the properties of the target of this name.
///
/// # Panics
/// If a property does not hold for these bytes, or if there is no such target.
pub fn check(target: &str, bytes: &[u8], peak: Peak) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let Some((_, check)) = found else { panic!("there is no fuzz target `{target}`") };
    check(bytes, peak);
}
