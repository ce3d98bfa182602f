//! `vadpipe kinds`.

use clap::Args;
use serde_json::json;

use super::Global;
use super::ui::Ui;
use crate::diagnostic::{Diagnostics, Origin, nearest};
use crate::error::{Error, Result};
use crate::stage::{Capability, Params, Role, Roles, StageKind};
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
        let all: Vec<_> = shown.map(|k| object(&**k)).collect();
        return ui.object(&json!({ "kinds": all }));
    }
    let texts: Vec<_> = shown.map(|kind| text(&**kind)).collect();
    ui.text(&texts.join("\n\n"));
    Ok(())
}

fn object(kind: &dyn StageKind) -> serde_json::Value {
    let parameters = parameters(kind).into_iter();
    let parameters: serde_json::Map<_, _> =
        parameters.map(|(name, value)| (name.to_owned(), json!(value.map(|v| v.to_string())))).collect();
    let names = |capabilities: &[Capability]| capabilities.iter().map(Capability::name).collect::<Vec<_>>();
    let role = |role: &Role| json!({ "name": role.name, "optional": role.optional, "needs": names(role.needs) });
    // No list: any inputs.
    let about = kind.about();
    let inputs = match about.roles {
        Roles::Fixed(roles) => Some(roles.iter().map(role).collect::<Vec<_>>()),
        Roles::Any => None,
    };
    json!({
        "name": about.name, "version": about.version, "summary": about.summary, "inputs": inputs,
        "provides": names(about.provides), "parameters": parameters,
    })
}

fn text(kind: &dyn StageKind) -> String {
    let about = kind.about();
    let mut lines = vec![format!("{}: {}", about.name, about.summary)];
    let names = |capabilities: &[Capability]| capabilities.iter().map(Capability::name).collect::<Vec<_>>().join(", ");
    if !about.provides.is_empty() {
        lines.push(format!("  provides    {}", names(about.provides)));
    }
    match about.roles {
        Roles::Any => lines.push("  inputs      any names, single or lists".to_owned()),
        Roles::Fixed(roles) => lines.extend(roles.iter().map(|role| {
            let optional = if role.optional { " (optional)" } else { "" };
            let needs = if role.needs.is_empty() { String::new() } else { format!(": needs {}", names(role.needs)) };
            format!("  input       {}{optional}{needs}", role.name)
        })),
    }
    lines.extend(parameters(kind).into_iter().map(|(name, default)| match default {
        Some(value) => format!("  parameter   {name} = {value}"),
        None => format!("  parameter   {name}"),
    }));
    lines.join("\n")
}

/// The parameters of a kind in the order in which it reads them, with their defaults: what it reads from an empty
/// table.
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
    fn every_parameter_is_listed_once() {
        let registry = builtin();
        insta::assert_snapshot!(text(&*registry.get("command").unwrap()), @r"
        command: run your own program, in any language; inputs and outputs are files
          provides    outputs
          inputs      any names, single or lists
          parameter   argv
          parameter   outputs
          parameter   sources
          parameter   env
          parameter   pass_env
          parameter   timeout_seconds
          parameter   shell = false
        ");
        insta::assert_snapshot!(text(&*registry.get("train-vad").unwrap()), @r#"
        train-vad: train a variational auto-decoder: a decoder and one posterior for each train image
          provides    decoder, latents, history, reconstructions
          input       data: needs images
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
