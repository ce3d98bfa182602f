//! The curves of trainings and fits: a chart for each metric, with a line for each stage or the mean of
//! several.

use std::collections::{BTreeMap, BTreeSet};

use super::groups::{groups, note};
use super::item::Item;
use crate::artifact::Capability;
use crate::report::chart::{Caption, Series, lines};
use crate::report::colours::Colours;
use crate::report::html::{Html, html};
use crate::stage::StageError;

const PREFIX: &str = "history.";
/// Metrics in the order of reading, with their captions and their quantities; others follow by name.
const MEASURES: [(&str, &str, &str); 5] = [
    ("loss", "Loss", "loss"),
    ("reconstruction", "Reconstruction loss", "reconstruction loss"),
    ("kl", "KL per latent dimension", "KL, nats per dimension"),
    ("rmse", "RMSE", "RMSE, grey levels"),
    ("psnr", "PSNR", "PSNR, dB"),
];

/// Histories other than those of fits, by kind.
pub(super) fn trainings(items: &[&Item<'_>], over: &[String], colours: &Colours) -> Result<Html, StageError> {
    let mut kinds: BTreeMap<&str, Vec<&Item<'_>>> = BTreeMap::new();
    for item in items.iter().filter(|i| !i.provides(Capability::FITTED_LATENTS) && !measures(i).is_empty()) {
        kinds.entry(item.kind()).or_default().push(item);
    }
    let chart = |members: &Vec<&Item<'_>>| {
        let first = members[0];
        // The heading of a command's results is about its figures, not about a history that it happens to have.
        let title = if first.declares() { first.input.heading() } else { first.kind() };
        Ok(html!("<h3>{}</h3>\n{}", title, charts(members, over, colours)?))
    };
    kinds.values().map(chart).collect()
}

/// Fitted latents, a row of charts per split.
pub(super) fn fits(items: &[&Item<'_>], over: &[String], colours: &Colours) -> Result<Html, StageError> {
    let mut splits: BTreeMap<String, Vec<&Item<'_>>> = BTreeMap::new();
    for item in items.iter().filter(|i| !measures(i).is_empty()) {
        splits.entry(item.fact("split").unwrap_or_default()).or_default().push(item);
    }
    let chart = |(split, members): (&String, &Vec<&Item<'_>>)| {
        let title = if split.is_empty() { Html::default() } else { html!("<h3>The {} split</h3>\n", split) };
        Ok(html!("{}{}", title, charts(members, over, colours)?))
    };
    splits.iter().map(chart).collect()
}

fn measures(item: &Item<'_>) -> BTreeSet<String> {
    let histories = item.manifest().tensors.iter().filter(|(_, t)| t.shape.len() == 1);
    histories.filter_map(|(name, _)| name.strip_prefix(PREFIX)).map(str::to_owned).collect()
}

/// The metrics that any of these inputs has a history of.
pub(super) fn measures_of(items: &[&Item<'_>]) -> BTreeSet<String> {
    items.iter().flat_map(|item| measures(item)).collect()
}

fn charts(items: &[&Item<'_>], over: &[String], colours: &Colours) -> Result<Html, StageError> {
    let all = measures_of(items);
    let known = MEASURES.iter().map(|(name, _, _)| *name).filter(|name| all.contains(*name));
    let others = all.iter().map(String::as_str).filter(|name| MEASURES.iter().all(|(n, _, _)| n != name));
    let mut out = note(over);
    out.push(Html::constant("<div class=\"multiples\">\n"));
    for measure in known.chain(others) {
        out.push(chart(items, measure, over, colours)?);
    }
    out.push(Html::constant("</div>\n"));
    Ok(out)
}

/// The chart of a metric, with a line for each input that has it.
pub(super) fn chart(
    items: &[&Item<'_>],
    measure: &str,
    over: &[String],
    colours: &Colours,
) -> Result<Html, StageError> {
    let tensor = format!("{PREFIX}{measure}");
    let mut series = Vec::new();
    for group in groups(items, over) {
        let curves = group.members.iter().filter(|i| i.has(&tensor)).map(|i| i.floats(&tensor));
        let curves = curves.collect::<Result<Vec<_>, _>>()?;
        if !curves.is_empty() {
            series.push(Series::logged(group.name, &[], curves));
        }
    }
    let names: Vec<&str> = series.iter().map(|series| series.name.as_str()).collect();
    Ok(lines(&caption(measure), &series, &colours.paint(&names)))
}

fn caption(measure: &str) -> Caption {
    match MEASURES.iter().find(|(name, _, _)| *name == measure) {
        Some((_, title, y)) => Caption { title: (*title).to_owned(), y: (*y).to_owned() },
        None => Caption::of(measure),
    }
}
