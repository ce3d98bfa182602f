//! Amounts in settings, written as in a pipeline: `8 GB`, `1h30m`.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::spec::{parse_memory, parse_time};

/// Bytes of memory.
pub(in crate::cli) fn memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    parse_memory(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

/// A time.
pub(in crate::cli) fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    required_time(from).map(Some)
}

/// A time that is never absent.
pub(in crate::cli) fn required_time<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_time(&String::deserialize(from)?).map_err(D::Error::custom)
}
