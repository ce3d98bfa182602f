//! Turns TOML text into a tree of nodes with places. Reports all syntax errors, not only the first.

use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostics, Origin};
use crate::value::{Data, Entry, Node, Table};

/// The tables of a pipeline file.
pub(super) const SECTIONS: [&str; 5] = ["pipeline", "params", "groups", "matrix", "stages"];

/// A name in a dotted path, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// The name.
    pub(super) name: String,
    /// Its bytes in the text.
    pub(super) span: std::ops::Range<usize>,
}

/// The origin of a TOML text: a source, and an offset in it.
#[derive(Clone, Copy)]
pub(super) struct Text {
    /// Index in `Sources`.
    pub(super) source: usize,
    /// Byte at which the TOML begins.
    pub(super) offset: usize,
}

impl Text {
    fn origin(self, span: std::ops::Range<usize>) -> Origin {
        Origin { source: self.source, span: span.start + self.offset..span.end + self.offset }
    }
}

/// Reads a whole document. After a syntax error the tree holds everything that could still be parsed.
pub(super) fn document(text: &str, source: usize, diagnostics: &mut Diagnostics) -> Table {
    let place = Text { source, offset: 0 };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        diagnostics.error(&place.origin(span), format!("invalid TOML: {}", error.message()));
    }
    self::table(table.get_ref(), place, diagnostics)
}

/// Reads a single value, such as the right side of an override. `None` if it is not a TOML value, or is of a type that
/// a pipeline can't hold.
pub(super) fn value(text: &str, place: Text) -> Option<Node> {
    let (value, errors) = DeValue::parse_recoverable(text);
    if !errors.is_empty() {
        return None;
    }
    let mut diagnostics = Diagnostics::default();
    let origin = place.origin(value.span());
    let node = node(value.get_ref(), origin, place, &mut diagnostics)?;
    diagnostics.is_empty().then_some(node)
}

/// Restores the order of the text, which is the order of axes and points. The `toml` crate sorts a table by name.
fn table(table: &DeTable<'_>, place: Text, diagnostics: &mut Diagnostics) -> Table {
    let mut entries: Vec<Entry> = table
        .iter()
        .filter_map(|(name, value)| {
            let node = node(value.get_ref(), place.origin(value.span()), place, diagnostics)?;
            Some(Entry { name: name.get_ref().to_string(), name_origin: place.origin(name.span()), node })
        })
        .collect();
    entries.sort_by_key(|e| e.name_origin.span.start);
    Table(entries)
}

fn node(value: &DeValue<'_>, origin: Origin, place: Text, diagnostics: &mut Diagnostics) -> Option<Node> {
    let data = match value {
        DeValue::String(v) => Data::Text(v.to_string()),
        DeValue::Boolean(v) => Data::Bool(*v),
        DeValue::Integer(v) => match i64::from_str_radix(v.as_str(), v.radix()) {
            Ok(v) => Data::Int(v),
            Err(_) => {
                diagnostics.error(&origin, "this integer does not fit in 64 bits");
                return None;
            }
        },
        DeValue::Float(v) => match v.as_str().parse::<f64>() {
            Ok(v) if v.is_finite() => Data::Float(v),
            _ => {
                diagnostics.error(&origin, format!("`{}` is not a finite number", v.as_str()));
                return None;
            }
        },
        DeValue::Datetime(_) => {
            diagnostics.error(&origin, "a pipeline can't hold dates").help("write it as a string, in quotes");
            return None;
        }
        DeValue::Array(items) => {
            let items = items.iter();
            Data::List(items.filter_map(|i| node(i.get_ref(), place.origin(i.span()), place, diagnostics)).collect())
        }
        DeValue::Table(entries) => Data::Table(table(entries, place, diagnostics)),
    };
    Some(Node { data, origin })
}
