//! The report's sections. Results that a reader compares are in the same section.

mod curves;
mod figures;
mod groups;
mod images;
mod item;
mod other;
mod outputs;
mod scatters;
mod sweeps;

use std::collections::BTreeSet;

use self::item::Item;
use self::outputs::Outputs;
use super::html::Html;
use super::request::Spec;
use crate::artifact::Capability;
use crate::stage::{Cancel, Inputs, StageError};

/// A section. It is left out if it has no content.
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) html: Html,
}

/// The names under which a report shows its inputs. References use them.
pub fn names(inputs: &Inputs) -> Vec<String> {
    items(inputs).into_iter().map(|item| item.name).collect()
}

fn items(inputs: &Inputs) -> Vec<Item<'_>> {
    let mut items: Vec<Item<'_>> = Vec::new();
    let mut seen = BTreeSet::new();
    for (role, members) in &inputs.0 {
        for member in members {
            let plain = if members.len() == 1 { role.as_str() } else { member.label() };
            let digest = member.manifest().digest();
            if !seen.insert((plain.to_owned(), digest)) {
                // The same artifact under the same name through two roles.
                continue;
            }
            let taken = items.iter().any(|i| i.name == plain);
            let name = if taken { format!("{plain} ({role})") } else { plain.to_owned() };
            items.push(Item { name, input: &**member });
        }
    }
    items
}

/// All sections that have something to show, in the order of reading.
pub(super) fn all(spec: &Spec, inputs: &Inputs, cancel: &Cancel) -> Result<Vec<Section>, StageError> {
    let items = items(inputs);
    groups::check(&items, &spec.over)?;
    let mut sections = vec![Section { id: "figures", title: "Figures", html: figures::render(spec, &items)? }];
    type Items<'a> = [&'a Item<'a>];
    type Render<'a> = &'a dyn Fn(&Items<'_>) -> Result<Html, StageError>;
    let sweeps = |items: &Items<'_>| sweeps::render(items, &spec.over);
    let trainings = |items: &Items<'_>| curves::trainings(items, spec);
    let fits = |items: &Items<'_>| curves::fits(items, spec);
    let read = match spec.outputs {
        true => Some(Outputs::read(&items, &spec.over, cancel)?),
        false => None,
    };
    let outputs = |_: &Items<'_>| Ok(read.as_ref().map(|outputs| outputs.html.clone()).unwrap_or_default());
    let others = |items: &Items<'_>| other::render(items, read.as_ref());
    let rest: [(&'static str, &'static str, Option<Capability>, Render<'_>); 10] = [
        ("sweeps", "Sweeps", None, &sweeps),
        ("data", "Data", Some(Capability::EXAMPLES), &images::data),
        ("training", "Training", Some(Capability::HISTORY), &trainings),
        ("fitting", "Fitting latents", Some(Capability::FITTED_LATENTS), &fits),
        ("reconstructions", "Reconstructions", Some(Capability::RECONSTRUCTIONS), &images::reconstructions),
        ("samples", "Samples and magnitudes", Some(Capability::SAMPLES), &images::samples),
        ("interpolations", "Interpolations", Some(Capability::INTERPOLATION), &images::interpolations),
        ("embeddings", "Embeddings", Some(Capability::EMBEDDING), &scatters::render),
        ("outputs", "Outputs", None, &outputs),
        ("other", "Other results", None, &others),
    ];
    for (id, title, shown, render) in rest {
        cancel.check()?;
        let items: Vec<&Item<'_>> = items.iter().filter(|i| shown.is_none_or(|what| i.shows(what))).collect();
        sections.push(Section { id, title, html: render(&items)? });
    }
    sections.retain(|s| !s.html.is_empty());
    Ok(sections)
}
