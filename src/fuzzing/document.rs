//! TOML documents for comparisons: read in the order of the text by a separate reader, changed, and written in a
//! canonical form that keeps nothing of the original layout.

use std::fmt::Write as _;

use toml::de::{DeTable, DeValue};

use crate::diagnostic::Origin;
use crate::value::{Data, Entry, Node, Table};

/// Reads a document. `None` if it is not TOML, or has a value that a pipeline can't hold.
pub(super) fn read(text: &str) -> Option<Table> {
    table(DeTable::parse(text).ok()?.get_ref())
}

fn table(written: &DeTable<'_>) -> Option<Table> {
    let entry = |(name, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let name: &toml::Spanned<std::borrow::Cow<'_, str>> = name;
        Some((name.span().start, entry(name.get_ref(), data(value.get_ref())?)))
    };
    let mut entries: Vec<(usize, Entry)> = written.iter().map(entry).collect::<Option<_>>()?;
    entries.sort_by_key(|(start, _)| *start);
    Some(Table(entries.into_iter().map(|(_, entry)| entry).collect()))
}

/// An entry without a place.
fn entry(name: &str, data: Data) -> Entry {
    let nowhere = Origin { source: 0, span: 0..0 };
    Entry { name: name.to_owned(), name_origin: nowhere.clone(), node: Node { data, origin: nowhere } }
}

fn data(value: &DeValue<'_>) -> Option<Data> {
    Some(match value {
        DeValue::String(v) => Data::Text(v.to_string()),
        DeValue::Boolean(v) => Data::Bool(*v),
        DeValue::Integer(v) => Data::Int(i64::from_str_radix(v.as_str(), v.radix()).ok()?),
        DeValue::Float(v) => Data::Float(v.as_str().parse().ok().filter(|v: &f64| v.is_finite())?),
        DeValue::Datetime(_) => return None,
        DeValue::Array(items) => {
            let node = |item: &toml::Spanned<DeValue<'_>>| Some(entry("", data(item.get_ref())?).node);
            Data::List(items.iter().map(node).collect::<Option<_>>()?)
        }
        DeValue::Table(entries) => Data::Table(table(entries)?),
    })
}

/// Applies `change` to a document, as an override does. `None` if it changes more than one value, or if its path leads
/// through a value that is not a table.
pub(super) fn set(document: &mut Table, change: &Table) -> Option<()> {
    let [Entry { name, node, .. }] = change.0.as_slice() else { return None };
    let into = document.entry(name).map(|e| &e.node.data);
    match (&node.data, into) {
        (Data::Table(below), _) if below.0.is_empty() => None,
        (Data::Table(below), None | Some(Data::Table(_))) => {
            if into.is_none() {
                document.set(entry(name, Data::Table(Table::default())));
            }
            let found = document.0.iter_mut().find(|e| e.name == *name)?;
            let Data::Table(into) = &mut found.node.data else { return None };
            set(into, below)
        }
        (Data::Table(_), Some(_)) => None,
        (data, _) => {
            document.set(entry(name, data.clone()));
            Some(())
        }
    }
}

/// The document as text: each top-level name on a line with its inline value, no comments, all names and texts in
/// double quotes, numbers in decimal.
pub(super) fn write(document: &Table) -> String {
    let mut text = String::new();
    for Entry { name, node, .. } in &document.0 {
        write_text(name, &mut text);
        text.push_str(" = ");
        write_data(&node.data, &mut text);
        text.push('\n');
    }
    text
}

fn write_data(data: &Data, text: &mut String) {
    match data {
        Data::Bool(v) => text.push_str(if *v { "true" } else { "false" }),
        Data::Int(v) => text.push_str(&v.to_string()),
        Data::Float(v) => text.push_str(&format!("{v:?}")),
        Data::Text(v) => write_text(v, text),
        Data::List(items) => {
            text.push('[');
            for item in items {
                write_data(&item.data, text);
                text.push(',');
            }
            text.push(']');
        }
        Data::Table(table) => {
            text.push('{');
            for (i, Entry { name, node, .. }) in table.0.iter().enumerate() {
                text.push_str(if i > 0 { ", " } else { " " });
                write_text(name, text);
                text.push('=');
                write_data(&node.data, text);
            }
            text.push('}');
        }
    }
}

fn write_text(written: &str, text: &mut String) {
    text.push('"');
    for c in written.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}
