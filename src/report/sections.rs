//! The report's sections. Results that a reader compares are in the same section.

mod curves;
mod dataset;
mod figures;
mod findings;
mod groups;
mod images;
mod item;
mod other;
mod outputs;
mod scatters;
mod sweeps;

use std::collections::BTreeSet;

use self::dataset::DataSets;
use self::findings::Found;
use self::item::Item;
use self::outputs::Outputs;
use super::colours::Colours;
use super::html::Html;
use super::request::Spec;
use super::step::by_values;
use crate::artifact::Capability;
use crate::id::PointName;
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
        let mut stages: Vec<&str> = Vec::new();
        for member in members {
            let stage = PointName::parse(member.label()).stage;
            if !stages.contains(&stage) {
                stages.push(stage);
            }
        }
        let place = |label: &str| stages.iter().position(|stage| *stage == PointName::parse(label).stage);
        let mut sorted: Vec<_> = members.iter().collect();
        // Labels are sorted as text, so that 16 comes before 8.
        sorted.sort_by(|a, b| {
            let ((a, b), order) = ((a.label(), b.label()), |label| place(label));
            order(a).cmp(&order(b)).then_with(|| by_values(a, b))
        });
        for member in sorted {
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
    let over = &spec.over;
    groups::check(&items, over)?;
    let colours = Colours::of(items.iter().map(|item| item.name.as_str()));
    let data = DataSets::read(&items)?;
    let read = Outputs::read(&items, over, &colours, cancel)?;
    type Items<'a> = [&'a Item<'a>];
    type Render<'a> = &'a dyn Fn(&Items<'_>) -> Result<Html, StageError>;
    let found = Found { spec, all: &items, colours: &colours, data: &data, cover: read.cover.as_ref() };
    let findings = |items: &Items<'_>| found.render(items);
    let sweeps = |items: &Items<'_>| Ok(sweeps::render(items, over, &colours));
    let trainings = |items: &Items<'_>| curves::trainings(items, over, &colours);
    let fits = |items: &Items<'_>| curves::fits(items, over, &colours);
    let reconstructions = |items: &Items<'_>| images::reconstructions(items, &data);
    let interpolations = |items: &Items<'_>| images::interpolations(items, &data);
    let embeddings = |items: &Items<'_>| scatters::render(items, &data);
    let outputs = |_: &Items<'_>| Ok(read.html.clone());
    let figures = |shown: &Items<'_>| Ok(figures::render(over, &items, &sweeps::in_tables(shown, over)));
    let others = |items: &Items<'_>| other::render(items, &read);
    let sections: [(&'static str, &'static str, Option<Capability>, Render<'_>); 12] = [
        ("findings", "Findings", None, &findings),
        ("training", "Training", Some(Capability::HISTORY), &trainings),
        ("fitting", "Fitting latents", Some(Capability::FITTED_LATENTS), &fits),
        ("sweeps", "Sweeps", None, &sweeps),
        ("reconstructions", "Reconstructions", Some(Capability::RECONSTRUCTIONS), &reconstructions),
        ("samples", "Samples and magnitudes", Some(Capability::SAMPLES), &images::samples),
        ("interpolations", "Interpolations", Some(Capability::INTERPOLATION), &interpolations),
        ("embeddings", "Embeddings", Some(Capability::EMBEDDING), &embeddings),
        ("outputs", "Outputs", None, &outputs),
        ("metrics", "All metrics", None, &figures),
        ("data", "Data", Some(Capability::EXAMPLES), &images::data),
        ("other", "Other results", None, &others),
    ];
    let mut shown = Vec::new();
    for (id, title, capability, render) in sections {
        cancel.check()?;
        let items: Vec<&Item<'_>> = items.iter().filter(|i| capability.is_none_or(|what| i.shows(what))).collect();
        shown.push(Section { id, title, html: render(&items)? });
    }
    shown.retain(|s| !s.html.is_empty());
    Ok(shown)
}
