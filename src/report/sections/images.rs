//! Images: examples of the data, reconstructions below their originals, samples, interpolations.

use std::collections::BTreeMap;

use super::Item;
use crate::key::Digest;
use crate::report::html::{Text, name, number, round_number};
use crate::report::image::{Stack, data_uri};
use crate::stage::StageError;

/// Images beside each other before a strip breaks.
const ACROSS: usize = 10;
/// More images of one input than this are left out.
const MOST: usize = 100;

/// An image element of some of a stack's images, twice as large as they are.
fn picture(stack: &Stack, first: usize, count: usize, columns: usize, alt: &str) -> Result<String, StageError> {
    let png = stack.grid(first, count, columns, 1)?;
    let columns = columns.min(count).max(1);
    let width = (columns * (stack.width + 1) - 1) * 2;
    let height = (count.div_ceil(columns) * (stack.height + 1) - 1) * 2;
    let source = data_uri(&png);
    Ok(format!("<img width=\"{width}\" height=\"{height}\" alt=\"{}\" src=\"{source}\">", Text(alt)))
}

/// A line of images with its title before it.
fn strip(title: &str, detail: &str, picture: &str) -> String {
    let detail = if detail.is_empty() { String::new() } else { format!(" <small>{}</small>", Text(detail)) };
    format!("<div class=\"strip\"><div class=\"name\">{}{detail}</div>{picture}</div>\n", name(title))
}

fn cut_short(stack: &Stack) -> String {
    if stack.count > MOST { format!("the first {MOST} of {}", stack.count) } else { String::new() }
}

/// Examples of each data set, a line per class where they are ordered so.
pub(super) fn data(items: &[Item<'_>]) -> Result<String, StageError> {
    let mut out = String::new();
    for item in items.iter().filter(|i| i.kind() == "load-data" && i.has("examples")) {
        let stack = item.images("examples")?;
        if stack.count == 0 {
            continue;
        }
        let classes = item.classes();
        let source = item.fact("source").map(|s| format!(" <small>{}</small>", Text(&s))).unwrap_or_default();
        out.push_str(&format!("<h3>{}{source}</h3>\n", Text(&item.name)));
        let per_class = item.fact("examples_per_class").and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        if per_class > 0 && classes.len() * per_class == stack.count {
            out.push_str("<div class=\"strips classes\">");
            for (at, class) in classes.iter().enumerate() {
                let alt = format!("examples of {class}");
                out.push_str(&strip(class, "", &picture(&stack, at * per_class, per_class, per_class, &alt)?));
            }
            out.push_str("</div>\n");
        } else {
            let shown = stack.count.min(MOST);
            let detail = cut_short(&stack);
            out.push_str(&strip("examples", &detail, &picture(&stack, 0, shown, ACROSS, "examples of the data")?));
        }
    }
    Ok(out)
}

/// Reconstructions of the same originals below these, by model.
pub(super) fn reconstructions(items: &[Item<'_>]) -> Result<String, StageError> {
    let mut groups: BTreeMap<(bool, Digest), Vec<&Item<'_>>> = BTreeMap::new();
    for item in items.iter().filter(|i| i.has("reconstructions")) {
        if let Some(originals) = item.manifest().tensors.get("originals") {
            groups.entry((!of_training(item), originals.blob.digest)).or_default().push(item);
        }
    }
    // By name and not by digest, which is no order for readers.
    let mut groups: Vec<((bool, Digest), Vec<&Item<'_>>)> = groups.into_iter().collect();
    groups.sort_by(|a, b| (a.0.0, &a.1[0].name).cmp(&(b.0.0, &b.1[0].name)));
    let mut out = String::new();
    for ((held_out, _), members) in groups {
        let originals = members[0].images("originals")?;
        let stacks = members.iter().map(|i| i.images("reconstructions")).collect::<Result<Vec<Stack>, _>>()?;
        let title = if held_out { "Images held out" } else { "Training images" };
        out.push_str(&format!("<h3>{title}</h3>\n"));
        let shown = originals.count.min(MOST);
        for first in (0..shown).step_by(ACROSS) {
            let count = ACROSS.min(shown - first);
            out.push_str("<div class=\"strips\">");
            let original = picture(&originals, first, count, ACROSS, "originals")?;
            out.push_str(&strip("original", "", &original));
            for (item, stack) in members.iter().zip(&stacks) {
                let here = count.min(stack.count.saturating_sub(first));
                if here == 0 {
                    continue;
                }
                let rmse = item.manifest().metrics.get("rmse").map(|v| format!("rmse {}", number(*v)));
                let alt = format!("reconstructions by {}", item.name);
                let picture = picture(stack, first, here, ACROSS, &alt)?;
                out.push_str(&strip(&item.name, &rmse.unwrap_or_default(), &picture));
            }
            out.push_str("</div>\n");
        }
    }
    Ok(out)
}

fn of_training(item: &Item<'_>) -> bool {
    item.kind() != "fit-latents" || item.fact("split").as_deref() == Some("train")
}

/// Decoded latents: samples of the prior first, then chosen ones, by scale.
pub(super) fn samples(items: &[Item<'_>]) -> Result<String, StageError> {
    const WHAT: [(&str, &str); 4] = [
        ("prior", "Samples of the prior"),
        ("ones", "All ones"),
        ("zeros", "All zeros"),
        ("latents", "Given latents, scaled"),
    ];
    let decoded = || items.iter().filter(|i| i.kind() == "decode" && i.has("images"));
    let mut out = String::new();
    for (what, title) in WHAT.into_iter().chain([("", "Others")]) {
        let is_what = |i: &&Item<'_>| match i.fact("what") {
            Some(fact) if WHAT.iter().any(|(w, _)| *w == fact) => fact == what,
            _ => what.is_empty(),
        };
        let mut members: Vec<&Item<'_>> = decoded().filter(is_what).collect();
        let scale = |i: &Item<'_>| i.fact("scale").and_then(|s| s.parse::<f64>().ok()).unwrap_or(1.0);
        members.sort_by(|a, b| scale(a).total_cmp(&scale(b)));
        if members.is_empty() {
            continue;
        }
        out.push_str(&format!("<h3>{title}</h3>\n<div class=\"strips\">"));
        for item in members {
            let stack = item.images("images")?;
            let detail = match (what, scale(item)) {
                ("zeros", _) | (_, 1.0) if what != "latents" => cut_short(&stack),
                (_, scale) => format!("× {} {}", round_number(scale), cut_short(&stack)),
            };
            let shown = stack.count.min(MOST);
            let picture = picture(&stack, 0, shown, ACROSS, &format!("images decoded by {}", item.name))?;
            out.push_str(&strip(&item.name, detail.trim(), &picture));
        }
        out.push_str("</div>\n");
    }
    Ok(out)
}

/// Interpolations, a strip each.
pub(super) fn interpolations(items: &[Item<'_>]) -> Result<String, StageError> {
    let mut out = String::new();
    for item in items.iter().filter(|i| i.kind() == "interpolate" && i.has("images")) {
        let stack = item.images("images")?;
        let fact = |name: &str| item.fact(name).unwrap_or_else(|| "?".to_owned());
        let detail = format!("{} → {}, {}", fact("from"), fact("to"), fact("mode"));
        let shown = stack.count.min(MOST);
        let picture = picture(&stack, 0, shown, ACROSS.max(stack.count.min(16)), &format!("{}: {detail}", item.name))?;
        out.push_str(&strip(&item.name, &detail, &picture));
    }
    if out.is_empty() { Ok(out) } else { Ok(format!("<div class=\"strips\">{out}</div>\n")) }
}
