//! Values that a program reads from a JSON file.

use serde_json::Value as JsonValue;

use crate::stage::Params;
use crate::value::{Data, Node, Table, Values};

/// The values of a table. Reports anything else.
pub(in crate::stages) fn value_table(params: &mut Params<'_>, name: &str, node: &Node) -> Values {
    if let Data::Table(Table(entries)) = &node.data {
        return entries.iter().map(|entry| (entry.name.clone(), entry.node.data.value())).collect();
    }
    let message = format!("`{name}` must be a table, not {}", node.data.describe());
    params.error_at(&node.origin, message, format!("write `{name} = {{ width = 256 }}`"));
    Values::new()
}

/// The values as a JSON object.
pub(in crate::stages) fn as_json(values: &Values) -> JsonValue {
    values.iter().map(|(name, value)| (name.clone(), JsonValue::from(value))).collect()
}
