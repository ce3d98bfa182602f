//! `vadpipe kinds`.

use clap::Args;
use serde_json::json;

use super::Global;
use super::ui::{Ui, columns};
use crate::diagnostic::nearest;
use crate::error::{Error, Result};
use crate::stage::{Capability, Parameter, Role, Roles, StageKind};

/// Arguments of `kinds`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe kinds                list all kinds
  vadpipe kinds train-vad      describe a kind and its parameters")]
pub(super) struct KindsArgs {
    /// Describe this kind, with the type, the default and the choices of each parameter
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
    let form = |kind: &dyn StageKind| if args.kind.is_some() { described(kind, ui.width()) } else { short(kind) };
    let texts: Vec<_> = shown.map(|kind| form(&**kind)).collect();
    ui.text(&texts.join("\n\n"));
    Ok(())
}

fn object(kind: &dyn StageKind) -> serde_json::Value {
    let parameters = kind.parameters();
    let defaults: serde_json::Map<_, _> =
        parameters.iter().map(|p| (p.name.to_owned(), json!(p.default.as_ref().map(ToString::to_string)))).collect();
    let field = |p: &Parameter| {
        json!({
            "name": p.name, "description": p.description, "type": p.takes, "choices": p.choices,
            "default": p.default.as_ref().map(ToString::to_string), "required": p.is_required,
            "in_segments": p.is_in_segments,
        })
    };
    let fields: Vec<_> = parameters.iter().map(field).collect();
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
        "provides": names(about.provides), "parameters": defaults, "fields": fields,
    })
}

/// Its summary, what it provides and its inputs.
fn head(kind: &dyn StageKind) -> Vec<String> {
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
    lines
}

/// A kind with the defaults of its parameters.
fn short(kind: &dyn StageKind) -> String {
    let mut lines = head(kind);
    lines.extend(kind.parameters().into_iter().map(|p| match p.default {
        Some(value) => format!("  parameter   {} = {value}", p.name),
        None => format!("  parameter   {}", p.name),
    }));
    lines.join("\n")
}

/// A kind with all that is known about its parameters.
fn described(kind: &dyn StageKind, width: Option<usize>) -> String {
    let mut rows = Vec::new();
    for p in kind.parameters() {
        let default = match &p.default {
            _ if p.is_required => "[required]".to_owned(),
            Some(value) => format!("[default: {value}]"),
            None => "[optional]".to_owned(),
        };
        let segments = if p.is_in_segments { " [also in segments]" } else { "" };
        let takes = if p.takes.is_empty() { String::new() } else { format!("{} ", p.takes) };
        let lines = [p.description.to_owned(), format!("{takes}{default}{segments}")];
        let lines = lines.into_iter().filter(|line| !line.is_empty());
        let names = std::iter::once(format!("  {}", p.name)).chain(std::iter::repeat(String::new()));
        rows.extend(names.zip(lines).map(|(name, line)| vec![name, line]));
    }
    let parameters = if rows.is_empty() { String::new() } else { format!("\n\n{}", columns(&rows, width)) };
    head(kind).join("\n") + &parameters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::builtin;
    use std::collections::BTreeSet;

    #[test]
    fn every_parameter_is_listed_once() {
        let registry = builtin();
        insta::assert_snapshot!(short(&*registry.get("command").unwrap()), @r#"
        command: run your own program, in any language; inputs and outputs are files
          provides    outputs
          inputs      any names, single or lists
          parameter   argv
          parameter   python
          parameter   outputs
          parameter   paths
          parameter   sources
          parameter   env
          parameter   pass_env
          parameter   gpus = 0
          parameter   timeout_seconds = 0
          parameter   retries = 0
          parameter   shell = false
          parameter   home = "scratch"
          parameter   values
        "#);
        insta::assert_snapshot!(short(&*registry.get("train-vad").unwrap()), @r#"
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
          parameter   keep_every = 0
          parameter   batch = 16
          parameter   lr = 0.001
          parameter   latent_lr = 0.01
          parameter   kl_weight = 1.0
          parameter   noise = 1.0
        "#);
        for kind in registry.iter() {
            let names: Vec<&str> = kind.parameters().into_iter().map(|p| p.name).collect();
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{}: {names:?}", kind.name());
        }
    }
}
