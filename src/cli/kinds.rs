//! `vadpipe kinds`.

use clap::Args;
use serde_json::json;

use super::ui::Ui;
use crate::diagnostic::{Diagnostics, Origin, nearest};
use crate::error::{Error, Result};
use crate::stage::{Params, Roles, StageKind};
use crate::stages::builtin;
use crate::value::{Table, Values};

/// Arguments of `kinds`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vadpipe kinds\n  vadpipe kinds train-vad")]
pub(super) struct KindsArgs {
    /// Only this kind
    kind: Option<String>,
}

/// Prints the stage kinds.
pub(super) fn kinds(args: &KindsArgs, ui: &Ui) -> Result<()> {
    let registry = builtin();
    if let Some(name) = &args.kind
        && registry.get(name).is_none()
    {
        let near = nearest(name, registry.iter().map(|k| k.name()));
        let hint = near.map_or("`vadpipe kinds` lists them".to_owned(), |n| format!("did you mean `{n}`?"));
        return Err(Error::bad_input(format!("there is no stage kind `{name}`")).hint(hint));
    }
    let shown = registry.iter().filter(|k| args.kind.as_deref().is_none_or(|name| name == k.name()));
    if ui.json {
        let object = |kind: &dyn StageKind| {
            let defaults: serde_json::Map<_, _> =
                defaults(kind).iter().map(|(n, v)| (n.clone(), json!(v.to_string()))).collect();
            json!({ "name": kind.name(), "version": kind.version(), "summary": kind.summary(), "parameters": defaults })
        };
        let all: Vec<_> = shown.map(|k| object(&**k)).collect();
        return ui.object(&json!({ "kinds": all }));
    }
    let texts: Vec<_> = shown.map(|kind| text(&**kind)).collect();
    ui.out(&texts.join("\n\n"));
    Ok(())
}

fn text(kind: &dyn StageKind) -> String {
    let mut lines = vec![format!("{}: {}", kind.name(), kind.summary())];
    match kind.roles() {
        Roles::Any => lines.push("  inputs      any names, single or lists".to_owned()),
        Roles::Fixed(roles) => lines.extend(roles.iter().map(|role| {
            let optional = if role.optional { " (optional)" } else { "" };
            let kinds = if role.kinds.is_empty() { String::new() } else { format!(": {}", role.kinds.join(", ")) };
            format!("  input       {}{optional}{kinds}", role.name)
        })),
    }
    lines.extend(defaults(kind).iter().map(|(name, value)| format!("  parameter   {name} = {value}")));
    lines.join("\n")
}

/// The parameters of a kind with their defaults: what it reads from a table that says nothing.
fn defaults(kind: &dyn StageKind) -> Values {
    let (table, mut ignored) = (Table::default(), Diagnostics::default());
    let mut params = Params::new(&table, Origin { source: 0, span: 0..0 }, &[], &mut ignored);
    let stage = kind.parse(&mut params);
    let mut values = params.finish();
    if let Some(epochs) = stage.epochs() {
        values.insert("epochs".to_owned(), crate::value::Value::Int(epochs.total() as i64));
        values.extend(epochs.segments.into_iter().flat_map(|s| s.params));
    }
    values
}
