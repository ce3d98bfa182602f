//! Metrics as JSON, which has no number for NaN and the infinities: they are the strings `nan`, `inf` and `-inf`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number, or the name of one that is not finite.
struct Figure(f64);

/// The name of a number that is not finite.
pub(crate) fn nonfinite_name(value: f64) -> Option<&'static str> {
    match value {
        _ if value.is_finite() => None,
        _ if value.is_nan() => Some("nan"),
        _ if value > 0.0 => Some("inf"),
        _ => Some("-inf"),
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match nonfinite_name(self.0) {
            Some(name) => to.serialize_str(name),
            None => to.serialize_f64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Figure {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(FigureVisitor).map(Self)
    }
}

struct FigureVisitor;

impl Visitor<'_> for FigureVisitor {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, `nan`, `inf` or `-inf`")
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<f64, E> {
        Ok(v)
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<f64, E> {
        Ok(v as f64)
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<f64, E> {
        Ok(v as f64)
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<f64, E> {
        let all = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        let named = all.into_iter().find(|value| nonfinite_name(*value) == Some(v));
        named.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(v), &self))
    }
}

pub(crate) fn serialize<S: Serializer>(metrics: &BTreeMap<String, f64>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(metrics.iter().map(|(name, value)| (name, Figure(*value))))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let figures = BTreeMap::<String, Figure>::deserialize(from)?;
    Ok(figures.into_iter().map(|(name, Figure(value))| (name, value)).collect())
}

/// The metrics as JSON with `NaN` and `Infinity`, as Python reads and writes it.
pub(crate) fn python_json(metrics: &BTreeMap<String, f64>) -> String {
    let value = |value: f64| match nonfinite_name(value) {
        Some("nan") => "NaN".to_owned(),
        Some("inf") => "Infinity".to_owned(),
        Some(_) => "-Infinity".to_owned(),
        None => serde_json::json!(value).to_string(),
    };
    let line = |(name, metric): (&String, &f64)| format!("  {}: {}", serde_json::json!(name), value(*metric));
    let lines: Vec<String> = metrics.iter().map(line).collect();
    if lines.is_empty() { "{}".to_owned() } else { format!("{{\n{}\n}}", lines.join(",\n")) }
}
