//! Compares the inputs of each stage with the roles of its kind. Every role needs capabilities, and the kinds of its
//! input stages must provide them.

use std::sync::Arc;

use super::errors::{is_late, suggest};
use super::stages::{Draft, DraftInput};
use crate::diagnostic::Diagnostics;
use crate::stage::{Capability, Registry, Role, Roles, StageKind};

/// Reports missing inputs, unknown roles, and inputs that do not provide what their role needs.
pub(super) fn check(drafts: &[Draft<'_>], registry: &Registry, diagnostics: &mut Diagnostics) {
    for draft in drafts.iter().filter(|d| !d.unreadable) {
        let Some(kind) = &draft.kind else { continue };
        let Roles::Fixed(roles) = kind.about().roles else { continue };
        for role in roles.iter().filter(|r| !r.optional) {
            if !draft.inputs.iter().any(|i| i.role == role.name) {
                let message = format!("stage `{}` has no input `{}`", draft.name, role.name);
                let form = format!("inputs = {{ {} = \"…\" }}", role.name);
                let providers = providers(draft, role, drafts, registry);
                let help = providers.map_or_else(|| form.clone(), |names| format!("{form}: {names}"));
                diagnostics.error(draft.origin, message).help(help);
            }
        }
        for input in &draft.inputs {
            match roles.iter().find(|r| r.name == input.role) {
                Some(role) => check_role(draft, input, role, (drafts, registry), diagnostics),
                None if roles.is_empty() => {
                    let message = format!("kind `{}` takes no inputs", draft.kind_name);
                    diagnostics.error(&input.role_origin, message);
                }
                None => {
                    let message = format!("kind `{}` has no role `{}`", draft.kind_name, input.role);
                    suggest(diagnostics, &input.role_origin, message, &input.role, roles.iter().map(|r| r.name));
                }
            }
        }
    }
}

fn check_role(
    draft: &Draft<'_>,
    input: &DraftInput,
    role: &Role,
    (drafts, registry): (&[Draft<'_>], &Registry),
    diagnostics: &mut Diagnostics,
) {
    let (name, kind) = (role.name, &draft.kind_name);
    if input.list {
        let message = format!("role `{name}` of kind `{kind}` takes one stage, not a list");
        diagnostics.error(&input.origin, message).help("name one stage, without brackets");
        return;
    }
    for member in &input.members {
        let given = &drafts[member.stage.index()];
        let Some(found) = &given.kind else { continue };
        let unmet = role.unmet(&**found);
        if unmet.is_empty() {
            continue;
        }
        let (stage, needs) = (given.name, Capability::names(&unmet));
        let message = format!("role `{name}` of kind `{kind}` needs {needs}, which stage `{stage}` does not provide");
        let late = is_late(diagnostics);
        let error = diagnostics.error(&member.origin, message);
        if late {
            continue;
        }
        let provided = match found.provides() {
            [] => "nothing".to_owned(),
            provided => Capability::names(provided),
        };
        let mut help = format!("stage `{stage}`, of kind `{}`, provides {provided}", given.kind_name);
        help.extend(providers(draft, role, drafts, registry).map(|names| format!("; {names}")));
        error.help(help);
    }
}

/// Names the other stages of the pipeline that provide what a role needs, or else the kinds that do. `None` if the role
/// accepts any stage.
fn providers(draft: &Draft<'_>, role: &Role, drafts: &[Draft<'_>], registry: &Registry) -> Option<String> {
    /// The most names in a message.
    const MOST: usize = 10;
    if role.needs.is_empty() {
        return None;
    }
    let fits = |kind: &Arc<dyn StageKind>| role.unmet(&**kind).is_empty();
    let others = drafts.iter().filter(|other| other.name != draft.name);
    let stages: Vec<&str> = others.filter(|d| d.kind.as_ref().is_some_and(fits)).map(|d| d.name).take(MOST).collect();
    let kinds: Vec<&str> = registry.iter().filter(|kind| fits(kind)).map(|kind| kind.name()).take(MOST).collect();
    let needs = Capability::names(role.needs);
    let quoted = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    Some(match (&stages[..], &kinds[..]) {
        ([], []) => format!("no kind provides {needs}"),
        ([], kinds) => format!("kinds that provide {needs}: {}", quoted(kinds)),
        (stages, _) => format!("stages that provide {needs}: {}", quoted(stages)),
    })
}
