//! `vadpipe kinds`.

use clap::Args;
use serde_json::json;

use super::Global;
use super::ui::Ui;
use crate::diagnostic::{Diagnostics, Origin, nearest};
use crate::error::{Error, Result};
use crate::stage::{Params, Roles, StageKind};
use crate::value::{Table, Value};

/// Arguments of `kinds`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vadpipe kinds\n  vadpipe kinds train-vad")]
pub(super) struct KindsArgs {
    /// Only this kind
    kind: Option<String>,
}

/// Prints the stage kinds.
pub(super) fn kinds(args: &KindsArgs, global: &Global, ui: &Ui) -> Result<()> {
    let registry = &global.kinds.0;
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
            let parameters = parameters(kind).into_iter();
            let parameters: serde_json::Map<_, _> =
                parameters.map(|(name, value)| (name.to_owned(), json!(value.map(|v| v.to_string())))).collect();
            json!({ "name": kind.name(), "version": kind.version(), "summary": kind.summary(), "parameters": parameters })
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
    lines.extend(parameters(kind).into_iter().map(|(name, default)| match default {
        Some(value) => format!("  parameter   {name} = {value}"),
        None => format!("  parameter   {name}"),
    }));
    lines.join("\n")
}

/// The parameters of a kind in the order in which it reads them, each with its default if it has one: what it reads from a
/// table that says nothing.
fn parameters(kind: &dyn StageKind) -> Vec<(&'static str, Option<Value>)> {
    let (table, mut ignored) = (Table::default(), Diagnostics::default());
    let mut params = Params::new(&table, Origin { source: 0, span: 0..0 }, &[], &mut ignored);
    let stage = kind.parse(&mut params);
    let names = params.known().to_vec();
    let mut defaults = params.finish();
    if let Some(epochs) = stage.epochs() {
        defaults.insert("epochs".to_owned(), Value::Int(epochs.total() as i64));
        defaults.extend(epochs.segments.into_iter().flat_map(|s| s.params));
    }
    names.into_iter().map(|name| (name, defaults.remove(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::builtin;
    use std::collections::BTreeSet;

    #[test]
    fn every_parameter_is_told_once_with_or_without_a_default() {
        let registry = builtin();
        insta::assert_snapshot!(text(&*registry.get("command").unwrap()), @r"
        command: run your own program, in any language; inputs and outputs are files
          inputs      any names, single or lists
          parameter   argv
          parameter   outputs
          parameter   sources
          parameter   env
          parameter   timeout_seconds
          parameter   shell = false
        ");
        insta::assert_snapshot!(text(&*registry.get("train-vad").unwrap()), @r#"
        train-vad: train a variational auto-decoder: a decoder and one posterior for each train image
          input       data: load-data
          parameter   distribution = "gaussian"
          parameter   latent_dim = 128
          parameter   channels = [2048, 512, 256, 128]
          parameter   init_std = 1.0
          parameter   segments
          parameter   epochs = 100
          parameter   keep
          parameter   keep_every
          parameter   batch = 16
          parameter   lr = 0.001
          parameter   latent_lr = 0.01
          parameter   kl_weight = 1.0
          parameter   noise
        "#);
        for kind in registry.iter() {
            let names: Vec<&str> = parameters(&**kind).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{}: {names:?}", kind.name());
        }
    }
}
