//! The `[pipeline]` section.

use super::errors::check_name;
use super::include::INCLUDE;
use super::pipeline::{DeviceChoice, Header};
use crate::diagnostic::{Diagnostics, Origin};
use crate::stage::Precision;
use crate::stage::{Bound, Params};
use crate::value::Table;

const PRECISIONS: &[(&str, Precision)] =
    &[("f32", Precision::F32), ("tf32", Precision::Tf32), ("bf16", Precision::Bf16)];

/// A year in seconds: the longest time between checkpoints. The bound keeps computations with it from overflowing.
const YEAR: f64 = 31_536_000.0;

/// Reads the section. `place` is where its header is written.
pub(super) fn read(section: &Table, place: &Origin, diagnostics: &mut Diagnostics) -> Header {
    let mut params = Params::new(section, place.clone(), &[], diagnostics);
    let name = params.text("name");
    let seed = params.int("seed", 0, i64::MIN..=i64::MAX);
    let device = params.text("device").map_or(Ok(DeviceChoice::Auto), |d| d.parse());
    let precision = params.choice("precision", "f32", PRECISIONS);
    let checkpoint_seconds = params.float("checkpoint_seconds", 60.0, Bound::Between(0.0, YEAR));
    if let Err(message) = &device {
        params.error("device", message.as_str(), "`auto` uses a GPU if there is one");
    }
    if !params.is_given("name") {
        params.error("name", "the pipeline has no `name`", "add `name = \"…\"` to [pipeline]");
    }
    if params.node(INCLUDE).is_some() {
        params.error(INCLUDE, "`include` is not a field of [pipeline]", "write it above the first table of this file");
    }
    params.finish();
    if let (Some(name), Some(node)) = (&name, section.get("name")) {
        check_name("a pipeline", name, &node.origin, diagnostics);
    }
    Header { name: name.unwrap_or_default(), seed, device: device.unwrap_or_default(), precision, checkpoint_seconds }
}
