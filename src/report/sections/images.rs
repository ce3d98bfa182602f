//! Images: examples of the data, reconstructions below their originals, samples, interpolations.

use std::collections::BTreeMap;

use super::item::Item;
use crate::artifact::Capability;
use crate::key::Digest;
use crate::report::html::{Html, html, name, number, round_number};
use crate::report::image::{Stack, data_uri};
use crate::stage::StageError;

/// Images in a row of a strip.
const ACROSS: usize = 10;
/// The maximum number of images of an input; the others are left out.
const MOST: usize = 100;

/// An `<img>` of some images of a stack, at twice their size.
fn picture(stack: &Stack, first: usize, count: usize, columns: usize, alt: &str) -> Result<Html, StageError> {
    let png = stack.grid(first, count, columns, 1)?;
    let columns = columns.min(count).max(1);
    let width = (columns * (stack.width + 1) - 1) * 2;
    let height = (count.div_ceil(columns) * (stack.height + 1) - 1) * 2;
    let source = data_uri(&png);
    Ok(html!("<img width=\"{}\" height=\"{}\" alt=\"{}\" src=\"{}\">", width, height, alt, source))
}

/// A line of images with its title before it.
fn strip(title: &str, detail: &str, picture: Html) -> Html {
    let detail = if detail.is_empty() { Html::default() } else { html!(" <small>{}</small>", detail) };
    html!("<div class=\"strip\"><div class=\"name\">{}{}</div>{}</div>\n", name(title), detail, picture)
}

fn strips(strips: Html) -> Html {
    html!("<div class=\"strips\">{}</div>\n", strips)
}

fn cut_short(stack: &Stack) -> String {
    if stack.count > MOST { format!("the first {MOST} of {}", stack.count) } else { String::new() }
}

/// Examples of each data set, a line per class if they are ordered by class.
pub(super) fn data(items: &[&Item<'_>]) -> Result<Html, StageError> {
    let mut out = Html::default();
    for item in items {
        let stack = item.images("examples")?;
        if stack.count == 0 {
            continue;
        }
        let classes = item.classes();
        let source = item.fact("source").map(|s| html!(" <small>{}</small>", s)).unwrap_or_default();
        out.push(html!("<h3>{}{}</h3>\n", item.name, source));
        let per_class = item.fact("examples_per_class").and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        if per_class > 0 && classes.len() * per_class == stack.count {
            let line = |(at, class): (usize, &String)| {
                let alt = format!("examples of {class}");
                Ok(strip(class, "", picture(&stack, at * per_class, per_class, per_class, &alt)?))
            };
            let lines = classes.iter().enumerate().map(line).collect::<Result<Html, StageError>>()?;
            out.push(html!("<div class=\"strips classes\">{}</div>\n", lines));
        } else {
            let shown = stack.count.min(MOST);
            let picture = picture(&stack, 0, shown, ACROSS, "examples of the data")?;
            out.push(strip("examples", &cut_short(&stack), picture));
        }
    }
    Ok(out)
}

/// Reconstructions below their originals, by model.
pub(super) fn reconstructions(items: &[&Item<'_>]) -> Result<Html, StageError> {
    let mut groups: BTreeMap<(bool, Digest), Vec<&Item<'_>>> = BTreeMap::new();
    for item in items {
        if let Some(originals) = item.manifest().tensors.get("originals") {
            groups.entry((is_held_out(item), originals.blob.digest)).or_default().push(item);
        }
    }
    // Sorted by name for the reader, not by digest.
    let mut groups: Vec<((bool, Digest), Vec<&Item<'_>>)> = groups.into_iter().collect();
    groups.sort_by(|a, b| (a.0.0, &a.1[0].name).cmp(&(b.0.0, &b.1[0].name)));
    let mut out = Html::default();
    for ((held_out, _), members) in groups {
        let originals = members[0].images("originals")?;
        let stacks = members.iter().map(|i| i.images("reconstructions")).collect::<Result<Vec<Stack>, _>>()?;
        let title = if held_out { "Images held out" } else { "Training images" };
        out.push(html!("<h3>{}</h3>\n", title));
        let shown = originals.count.min(MOST);
        for first in (0..shown).step_by(ACROSS) {
            let count = ACROSS.min(shown - first);
            let mut lines = strip("original", "", picture(&originals, first, count, ACROSS, "originals")?);
            for (item, stack) in members.iter().zip(&stacks) {
                let here = count.min(stack.count.saturating_sub(first));
                if here == 0 {
                    continue;
                }
                let rmse = item.manifest().metrics.get("rmse").map(|v| format!("rmse {}", number(*v)));
                let alt = format!("reconstructions by {}", item.name);
                let picture = picture(stack, first, here, ACROSS, &alt)?;
                lines.push(strip(&item.name, &rmse.unwrap_or_default(), picture));
            }
            out.push(strips(lines));
        }
    }
    Ok(out)
}

fn is_held_out(item: &Item<'_>) -> bool {
    item.provides(Capability::FITTED_LATENTS) && item.fact("split").as_deref() != Some("train")
}

/// Decoded latents: first samples of the prior, then chosen ones, by scale.
pub(super) fn samples(items: &[&Item<'_>]) -> Result<Html, StageError> {
    const WHAT: [(&str, &str); 4] = [
        ("prior", "Samples of the prior"),
        ("ones", "All ones"),
        ("zeros", "All zeros"),
        ("latents", "Given latents, scaled"),
    ];
    let mut out = Html::default();
    for (what, title) in WHAT.into_iter().chain([("", "Others")]) {
        let is_what = |i: &Item<'_>| match i.fact("what") {
            Some(fact) if WHAT.iter().any(|(w, _)| *w == fact) => fact == what,
            _ => what.is_empty(),
        };
        let mut members: Vec<&Item<'_>> = items.iter().copied().filter(|i| is_what(i)).collect();
        let scale = |i: &Item<'_>| i.fact("scale").and_then(|s| s.parse::<f64>().ok()).unwrap_or(1.0);
        members.sort_by(|a, b| scale(a).total_cmp(&scale(b)));
        if members.is_empty() {
            continue;
        }
        let mut lines = Html::default();
        for item in members {
            let stack = item.images("images")?;
            let detail = match (what, scale(item)) {
                ("zeros", _) | (_, 1.0) if what != "latents" => cut_short(&stack),
                (_, scale) => format!("× {} {}", round_number(scale), cut_short(&stack)),
            };
            let shown = stack.count.min(MOST);
            let picture = picture(&stack, 0, shown, ACROSS, &format!("images decoded by {}", item.name))?;
            lines.push(strip(&item.name, detail.trim(), picture));
        }
        out.push(html!("<h3>{}</h3>\n{}", title, strips(lines)));
    }
    Ok(out)
}

/// Interpolations, a strip each.
pub(super) fn interpolations(items: &[&Item<'_>]) -> Result<Html, StageError> {
    let mut lines = Html::default();
    for item in items {
        let stack = item.images("images")?;
        let fact = |name: &str| item.fact(name).unwrap_or_else(|| "?".to_owned());
        let detail = format!("{} → {}, {}", fact("from"), fact("to"), fact("mode"));
        let shown = stack.count.min(MOST);
        let picture = picture(&stack, 0, shown, ACROSS.max(stack.count.min(16)), &format!("{}: {detail}", item.name))?;
        lines.push(strip(&item.name, &detail, picture));
    }
    if lines.is_empty() { Ok(lines) } else { Ok(strips(lines)) }
}
