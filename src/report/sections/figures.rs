//! The figures: ours beside those from elsewhere, and all metrics of all inputs, in a table for each kind.

use std::collections::{BTreeMap, BTreeSet};

use super::groups::{self, Group};
use super::item::Item;
use crate::artifact::Capability;
use crate::diagnostic::nearest;
use crate::report::html::{Cell, Html, Table, html};
use crate::stage::StageError;

/// Metrics in the order of reading; others follow by name.
const ORDER: [&str; 9] =
    ["loss_first", "loss", "loss_sampled", "reconstruction", "kl", "rmse", "psnr", "knn_purity", "knn_recall"];
/// Facts that tell inputs of one kind apart.
const FACTS: [&str; 10] =
    ["source", "distribution", "split", "latent_dim", "what", "scale", "from", "to", "mode", "perplexity"];
/// Capabilities in the order of an experiment. A table is placed by the first of them that its kind provides.
const STEPS: [Capability; 8] = [
    Capability::IMAGES,
    Capability::DECODER,
    Capability::FITTED_LATENTS,
    Capability::HISTORY,
    Capability::EMBEDDING,
    Capability::SAMPLES,
    Capability::INTERPOLATION,
    Capability::OUTPUTS,
];
const READING: &str = "<p class=\"note\"><b>loss</b> is ‖x − x̂‖<sub>F</sub> divided by the number of elements of a batch, \
    averaged over batches (grey levels 0–255); it falls with the square root of the batch size. <b>rmse</b>, in grey \
    levels, and <b>psnr</b>, in dB, do not. <b>kl</b> is a mean over samples and latent dimensions.</p>\n";

/// Tables of all metrics. Kinds whose points are all in the tables of sweeps are left out.
pub(super) fn render(over: &[String], items: &[Item<'_>], in_sweeps: &BTreeSet<String>) -> Html {
    let mut kinds: BTreeMap<(usize, &str), Vec<&Item<'_>>> = BTreeMap::new();
    for item in items {
        kinds.entry((step(item), item.kind())).or_default().push(item);
    }
    kinds.retain(|_, members| {
        members.iter().any(|i| !i.manifest().metrics.is_empty()) && !members.iter().all(|i| in_sweeps.contains(&i.name))
    });
    let tables: Html = kinds.values().map(|members| table(members[0].input.heading(), members, over)).collect();
    let losses = kinds.values().flatten().any(|i| i.manifest().metrics.contains_key("rmse"));
    let reading = Html::constant(if losses { READING } else { "" });
    let note = if tables.is_empty() { Html::default() } else { groups::note(over) };
    html!("{}{}{}", note, tables, reading)
}

/// The place of an input in the order of an experiment.
pub(super) fn step(item: &Item<'_>) -> usize {
    STEPS.iter().position(|step| item.provides(*step)).unwrap_or(STEPS.len())
}

/// The metrics of these results in the order of reading.
pub(super) fn metrics<'a>(items: impl Iterator<Item = &'a Item<'a>>) -> Vec<&'a str> {
    let names: BTreeSet<&str> = items.flat_map(|i| i.manifest().metrics.keys()).map(String::as_str).collect();
    let known = ORDER.into_iter().filter(|name| names.contains(name));
    known.chain(names.iter().copied().filter(|name| !ORDER.contains(name))).collect()
}

fn table(title: &str, items: &[&Item<'_>], over: &[String]) -> Html {
    let metrics = metrics(items.iter().copied());
    let facts: Vec<&str> = FACTS.into_iter().filter(|f| items.iter().any(|i| i.fact(f).is_some())).collect();
    let mut table = Table::default();
    table.column("stage", false);
    if !over.is_empty() {
        table.column("n", true);
    }
    facts.iter().for_each(|fact| {
        table.column(&fact.replace('_', " "), false);
    });
    metrics.iter().for_each(|metric| {
        table.column(&metric.replace('_', " "), true);
    });
    for Group { name, members } in groups::groups(items, over) {
        let mut cells = vec![Cell::name(&name)];
        if !over.is_empty() {
            cells.push(Cell::number(Some(members.len() as f64)));
        }
        let fact = |fact: &&str| {
            let first =
                members[0].fact(fact).filter(|first| members.iter().all(|i| i.fact(fact).as_ref() == Some(first)));
            Cell::text(&first.unwrap_or_default())
        };
        cells.extend(facts.iter().map(fact));
        cells.extend(metrics.iter().map(|metric| groups::cell(groups::metric(&members, metric))));
        table.row(cells);
    }
    table.render(title)
}

/// The value of `NAME.METRIC`. A name may hold dots, a metric of ours does not.
pub(super) fn find(wanted: &str, items: &[Item<'_>]) -> Result<f64, StageError> {
    let named = |name: fn(&Item<'_>) -> String| {
        let metrics = move |i: &Item<'_>| {
            let name = name(i);
            i.manifest().metrics.iter().map(|(m, v)| (format!("{name}.{m}"), *v)).collect::<Vec<_>>()
        };
        items.iter().flat_map(metrics).collect::<Vec<_>>()
    };
    let shown = named(|i| i.name.clone());
    if let Some((_, value)) = shown.iter().find(|(name, _)| name == wanted) {
        return Ok(*value);
    }
    // A stage that is alone in its role may also be called by its own name.
    if let Some((_, value)) = named(|i| i.input.label().to_owned()).iter().find(|(name, _)| name == wanted) {
        return Ok(*value);
    }
    let hint = match nearest(wanted, shown.iter().map(|(name, _)| name.as_str())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "write NAME.METRIC, with the name of a stage in the report's inputs".to_owned(),
    };
    Err(StageError::bad_input(
        format!("`reference` names the figure `{wanted}`, which no input of the report has"),
        hint,
    ))
}
