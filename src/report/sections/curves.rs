//! The curves of trainings and fits: a chart for each metric, with a line for each stage or the mean of
//! several.

use std::collections::{BTreeMap, BTreeSet};

use super::groups::{groups, note};
use super::item::Item;
use crate::artifact::Capability;
use crate::report::chart::{Series, lines};
use crate::report::html::{Html, html};
use crate::report::request::Spec;
use crate::stage::StageError;

const PREFIX: &str = "history.";
/// Metrics in the order of reading, with their captions; others follow by name.
const MEASURES: [(&str, &str); 5] = [
    ("loss", "Loss"),
    ("reconstruction", "Reconstruction loss"),
    ("kl", "KL per latent dimension"),
    ("rmse", "RMSE, grey levels"),
    ("psnr", "PSNR, dB"),
];

/// Histories other than those of fits, by kind.
pub(super) fn trainings(items: &[&Item<'_>], spec: &Spec) -> Result<Html, StageError> {
    let mut kinds: BTreeMap<&str, Vec<&Item<'_>>> = BTreeMap::new();
    for item in items.iter().filter(|i| !i.provides(Capability::FITTED_LATENTS) && !measures(i).is_empty()) {
        kinds.entry(item.kind()).or_default().push(item);
    }
    let chart = |members: &Vec<&Item<'_>>| {
        let first = members[0];
        // The heading of a command's results is about its figures, not about a history that it happens to have.
        let title = if first.declares() { first.input.heading() } else { first.kind() };
        Ok(html!("<h3>{}</h3>\n{}", title, charts(members, spec)?))
    };
    kinds.values().map(chart).collect()
}

/// Fitted latents, a row of charts per split.
pub(super) fn fits(items: &[&Item<'_>], spec: &Spec) -> Result<Html, StageError> {
    let mut splits: BTreeMap<String, Vec<&Item<'_>>> = BTreeMap::new();
    for item in items.iter().filter(|i| !measures(i).is_empty()) {
        splits.entry(item.fact("split").unwrap_or_default()).or_default().push(item);
    }
    let chart = |(split, members): (&String, &Vec<&Item<'_>>)| {
        let title = if split.is_empty() { Html::default() } else { html!("<h3>The {} split</h3>\n", split) };
        Ok(html!("{}{}", title, charts(members, spec)?))
    };
    splits.iter().map(chart).collect()
}

fn measures(item: &Item<'_>) -> BTreeSet<String> {
    let histories = item.manifest().tensors.iter().filter(|(_, t)| t.shape.len() == 1);
    histories.filter_map(|(name, _)| name.strip_prefix(PREFIX)).map(str::to_owned).collect()
}

fn charts(items: &[&Item<'_>], spec: &Spec) -> Result<Html, StageError> {
    let all: BTreeSet<String> = items.iter().flat_map(|i| measures(i)).collect();
    let known =
        MEASURES.iter().filter(|(name, _)| all.contains(*name)).map(|(n, c)| ((*n).to_owned(), (*c).to_owned()));
    let others = all.iter().filter(|name| MEASURES.iter().all(|(n, _)| n != name)).map(|n| (n.clone(), n.clone()));
    let groups = groups(items, &spec.over);
    let mut out = note(&spec.over);
    out.push(Html::constant("<div class=\"multiples\">\n"));
    for (measure, caption) in known.chain(others) {
        let tensor = format!("{PREFIX}{measure}");
        let mut series = Vec::new();
        for (colour, group) in groups.iter().enumerate() {
            let curves = group.members.iter().filter(|i| i.has(&tensor)).map(|i| i.floats(&tensor));
            let curves = curves.collect::<Result<Vec<_>, _>>()?;
            if curves.is_empty() {
                continue;
            }
            let name = group.name.clone();
            // Pages of earlier versions leave a gap where a metric was not logged.
            series.push(match spec.outputs {
                true => Series::logged(name, colour, &[], curves),
                false => Series::mean(name, colour, curves),
            });
        }
        out.push(lines(&caption, &series));
    }
    out.push(Html::constant("</div>\n"));
    Ok(out)
}
