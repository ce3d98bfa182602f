//! Inputs that differ only in axes such as a seed. A report with `over` shows them together, by mean and deviation.

use std::collections::{BTreeMap, BTreeSet};

use super::item::Item;
use crate::diagnostic::nearest;
use crate::id::PointName;
use crate::report::html::{Cell, Html, html, number};
use crate::report::summary::Summary;
use crate::stage::StageError;

/// Inputs with the same name, apart from the axes of `over`. Without `over`, each input is a group.
pub(super) struct Group<'a> {
    /// The name without these axes.
    pub(super) name: String,
    /// At least one, in the order of the inputs.
    pub(super) members: Vec<&'a Item<'a>>,
}

/// The groups in the order of their first members.
pub(super) fn groups<'a>(items: &[&'a Item<'a>], over: &[String]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for item in items {
        let name = without(&item.name, over);
        match name.as_ref().and_then(|name| places.get(name)) {
            Some(place) => groups[*place].members.push(item),
            None => {
                places.extend(name.clone().map(|name| (name, groups.len())));
                groups.push(Group { name: name.unwrap_or_else(|| item.name.clone()), members: vec![item] });
            }
        }
    }
    groups
}

/// The name of a point without some axes. `None` if it has none of them.
fn without(name: &str, over: &[String]) -> Option<String> {
    let PointName { stage, coordinates } = PointName::parse(name);
    let all: Vec<(&str, &str)> = axes(coordinates?);
    let rest: Vec<(&str, &str)> = all.iter().copied().filter(|(axis, _)| !is_over(axis, over)).collect();
    (rest.len() < all.len()).then(|| PointName::write(stage, rest.into_iter()))
}

fn axes(coordinates: &str) -> Vec<(&str, &str)> {
    PointName::split_coordinates(coordinates).filter_map(PointName::split_coordinate).collect()
}

/// Whether this axis is one that the report summarizes.
pub(super) fn is_over(axis: &str, over: &[String]) -> bool {
    over.iter().any(|name| name == axis)
}

/// Checks that the inputs have the axes of `over`.
///
/// # Errors
/// If none has an axis of this name.
pub(super) fn check(items: &[Item<'_>], over: &[String]) -> Result<(), StageError> {
    let coordinates = items.iter().filter_map(|item| PointName::parse(&item.name).coordinates);
    let known: BTreeSet<&str> = coordinates.flat_map(axes).map(|(axis, _)| axis).collect();
    let Some(wrong) = over.iter().find(|axis| !known.contains(axis.as_str())) else { return Ok(()) };
    let hint = match nearest(wrong, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "no input is a list of points with axes".to_owned(),
        None => format!("the axes are: {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Err(StageError::bad_input(format!("`over` names the axis `{wrong}`, which no input of the report has"), hint))
}

/// The summary of a metric of these inputs. `None` if none has it.
pub(super) fn metric(members: &[&Item<'_>], name: &str) -> Option<Summary> {
    let values: Vec<f64> = members.iter().filter_map(|i| i.manifest().metrics.get(name).copied()).collect();
    (!values.is_empty()).then(|| Summary::of(&values))
}

/// A cell with a mean and its deviation, if there is one. It is sorted by the mean.
pub(super) fn cell(summary: Option<Summary>) -> Cell {
    match summary {
        Some(Summary { mean, deviation: Some(deviation), count }) if mean.is_finite() => {
            let exact = format!("{mean} ± {deviation}, n = {count}");
            let html = html!("<span title=\"{}\">{} ± {}</span>", exact, number(mean), number(deviation));
            Cell::html(html, mean.to_string())
        }
        other => Cell::number(other.map(|summary| summary.mean)),
    }
}

/// What lines, bands and figures mean. Empty if there are no groups.
pub(super) fn note(over: &[String]) -> Html {
    if over.is_empty() {
        return Html::default();
    }
    let axes = over.iter().map(|axis| html!("<b>{}</b>", axis));
    html!(
        "<p class=\"note\">Lines and figures are means over {}, bands and ± the standard deviation (n − 1).</p>\n",
        Html::join(axes, ", ")
    )
}
